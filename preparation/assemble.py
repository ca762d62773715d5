"""From the files of an annotation tool to a data set: images/ labels/ classes.txt.

    convert(root, source)    prepare.py folder --root ROOT --from SOURCE
A source is a function of a folder that returns a Source. Its own files stay as they are: what is
made is put together in a folder of its own and moved to its place in the end, and nothing that is
there is replaced. Train ids are written, 0 being the background, void 255.
"""

import collections
import contextlib
import filecmp
import functools
import os
import re
import shlex
import shutil
from collections.abc import Callable
from typing import NamedTuple

import dataset
from datasets import files, labels, own, pictures
from datasets.layouts import bare_name
from datasets.lists import CONTROL, read_list, share
from datasets.recognise import SPLIT_NAMES
from preparation import archives, lookup
from preparation.convert import save_png, write_lines
from preparation.propose import command, voc_colours
from utils.config import UserError

UPRIGHT = 'upright'  # folder of the pictures that are written turned as EXIF says
LIMIT = 253  # classes of a table
TURNED = 'pictures written upright, as EXIF says, to fit their labels'
NOTHING = 'pictures without an object, all background'


class Sample(NamedTuple):
    """A picture and how its label comes about."""

    image: str  # path
    split: str  # train, val, test; '' = the source does not say
    where: str  # the file that describes its label
    draw: Callable  # (h, w) -> train ids (h, w) uint8, a list of notes
    size: tuple | None = None  # (h, w) that the source gives; None = that of the upright picture
    upright: bool = True  # whether the tool shows pictures as EXIF turns them; False = not known
    content: Callable | None = None  # () -> the bytes of the picture, if there is no such file
    name: str = ''  # of its files below images/ and labels/, without ending


class Source(NamedTuple):
    """What was read from the files of a tool."""

    samples: list
    names: list  # of the classes, the position being the train id
    lines: list  # what to tell the user
    colours: list | None = None  # (red, green, blue) of the classes; None = those of PASCAL VOC
    judge: Callable | None = None  # (notes) -> raises UserError if they do not go together


class Names:
    """Class names and their train ids, in the order in which they are added."""

    def __init__(self, *names):
        self.names = []
        for name in names:
            self.add(name)

    def add(self, name):
        """Return the train id of a name, a new one if need be; 255 for a name of void."""
        name = ' '.join(CONTROL.sub(' ', str(name)).split())[:200] or 'nameless'
        if name.strip('_').lower() in ('void', 'ignore', 'ignored'):
            return 255
        if name.strip('_').lower() == 'background':
            name = 'background'
        if name not in self.names:
            self.names.append(name)
        return self.names.index(name)


def convert(root, read):
    """Write images/ labels/ classes.txt and the lists of the splits from what `read` gives."""
    root = os.path.abspath(root)
    if not os.path.isdir(root):
        raise UserError(f'{root}: there is no such folder')
    source = read(root)
    if not source.samples:
        raise UserError(f'{root}: there are no images with labels; is this the folder?')
    if not source.names:
        raise UserError(f'{root}: no class is named; all labels are void')
    if len(source.names) > LIMIT:
        raise UserError(f'{root}: {len(source.names)} classes; there may be {LIMIT}')
    colours = source.colours or voc_colours(len(source.names))
    samples = divide(with_names(root, one_split(source.samples)))
    with archives.staging(root) as work:
        made, table = os.path.join(work, 'made'), os.path.join(work, 'table')
        write_table(os.path.join(table, 'classes.txt'), source.names, colours)
        check_free(root, samples, archives.taken(table, root) or taken(root, samples))
        check_free(root, samples, first_label(root, samples, os.path.join(work, 'one'), colours))
        written, notes = write_samples(root, samples, made, colours)
        if source.judge:
            source.judge(notes)
        write_lists(samples, written, made)
        check_free(root, samples, archives.taken(made, root))
        for part in (made, table):  # the table comes last: nothing trains without it
            archives.merge(part, root)
    if source.names[0] != 'background':
        notes.pop(NOTHING, None)
    print('\n'.join(source.lines + describe(notes) + summary(root, samples, source.names, written)))


# ------------------------------------------------------------------------- what is there already


def check_free(root, samples, path):
    """Raise UserError about a file in whose place another one would be written, if there is one.

    It names all that is in the way of the files of Samples.
    """
    if not path:
        return
    table = os.path.join(root, 'classes.txt')
    if path == table and own.listed_names(table):
        raise UserError(
            f'{path}: this is a list of names, where the class table goes; rename it to names.txt '
            '(labels.txt, which labelme reads) and give the same command again'
        )
    names = [os.path.relpath(path, root)]
    lists = sorted({f'{sample.split}.txt' for sample in samples})
    for name in ('classes.txt', *lists):
        if name not in names and os.path.lexists(os.path.join(root, name)):
            names.append(name)
    labels = [name for name in map(label_of, samples) if os.path.lexists(os.path.join(root, name))]
    if labels:
        names.append(f'labels/ ({len(labels):,} of the files there)')
    raise UserError(
        f'{path}: this file is there, and another one would be written in its place; move away '
        f'{", ".join(names)}, and give the same command again'
    )


def label_of(sample):
    return os.path.join('labels', sample.name + '.png')


def taken(root, samples):
    """Return the path of a list or picture in whose place another one would be written, or ''."""
    labels = {}
    for sample in samples:
        labels.setdefault(sample.split, set()).add(label_of(sample))
    for split, names in labels.items():
        path = os.path.join(root, f'{split}.txt')
        lines = read_list(path) if os.path.lexists(path) else []
        if lines and {line.rpartition('\t')[2] for line in lines} != names:
            return path
    for sample in samples:
        ending = os.path.splitext(sample.image)[1]
        path = os.path.join(root, 'images', sample.name + ending)
        is_placed = not sample.content and not inside_images(root, sample.image)
        if is_placed and os.path.isfile(path) and not filecmp.cmp(sample.image, path, False):
            return path
    return ''


def first_label(root, samples, folder, colours):
    """Draw, in `folder`, the first label whose place is taken; return its path if it differs."""
    for i, sample in enumerate(samples):
        if os.path.lexists(os.path.join(root, label_of(sample))):
            write_sample(samples, root, folder, colours, i)
            return archives.taken(os.path.join(folder, 'labels'), os.path.join(root, 'labels'))
    return ''


def describe(notes):
    """Return notes {note: images} as lines."""
    lines = []
    for note, images in sorted(notes.items()):
        lines.append(f'{note}: {len(images):,}, the first in {images[0]}')
    return lines


def summary(root, samples, names, written):
    """Return what has been made, and the next commands, as lines."""
    counts = collections.Counter(sample.split for sample in samples)
    splits = ', '.join(f'{split} {count:,}' for split, count in sorted(counts.items()))
    pairs = zip(samples, written, strict=True)
    sizes = collections.Counter(one.size for sample, one in pairs if sample.split == 'train')
    lines = [] if counts['val'] else [f'{len(samples)} picture: there is none to validate on']
    return [
        *lines,
        f'{root}: {len(samples):,} images with labels ({splits}); classes: {", ".join(names)}',
        f'Next: python prepare.py folder --root {shlex.quote(root)} --check',
        f'then: {command(root, sizes, counts["val"] > 0)}',
    ]


# ------------------------------------------------------------------------------ names and splits


def with_names(root, samples):
    """Return Samples with names: paths below images/, where the pictures lie already or will."""
    outside = [os.path.dirname(s.image) for s in samples if not inside_images(root, s.image)]
    common = os.path.commonpath(outside) if outside else root
    named, owners = [], {}
    for sample in samples:
        path = os.path.relpath(sample.image, common).replace(os.sep, '/')
        if inside_images(root, sample.image):
            path = os.path.relpath(sample.image, os.path.join(root, 'images'))
        else:
            path = target_of(path, sample.split)
        folder, _, file = path.replace(os.sep, '/').rpartition('/')
        name = os.path.join(folder, bare_name(file))
        if CONTROL.search(name) or '\t' in name or '\n' in name:
            raise UserError(f'{sample.image!r}: this name cannot stand in a list; rename the file')
        if name in owners:
            raise UserError(
                f'{owners[name]} and {sample.image}: two images of one name, {name}; '
                'rename one of them, in the annotations too'
            )
        owners[name] = sample.image
        named.append(sample._replace(name=name))
    return named


def inside_images(root, path):
    return path.startswith(os.path.join(root, 'images') + os.sep)


def target_of(path, split):
    """Return where below images/ a picture goes whose path in the source is `path`."""
    folders = [part for part in path.split('/')[:-1] if part != 'images']
    if split:
        names = '|'.join(SPLIT_NAMES[split])
        if folders and re.fullmatch(rf'({names})(_images|\d{{4}})?', folders[0]):
            folders = folders[1:]
        folders = [split, *folders]
    return '/'.join([*folders, path.rpartition('/')[2]])


def one_split(samples):
    """Return Samples without their split, if it is the same for all: nothing is divided then."""
    if len({sample.split for sample in samples}) > 1:
        return samples
    return [sample._replace(split='') for sample in samples]


def divide(samples):
    """Return Samples with splits: without any to validate on, val is a share of those to train on.

    The share follows from the names alone: lists.share.
    """
    if any(sample.split == 'val' for sample in samples):
        return [sample._replace(split=sample.split or 'train') for sample in samples]
    to_share = [sample.name for sample in samples if sample.split in ('', 'train')]
    val = set(share(to_share)['val'])
    divided = []
    for sample in samples:
        if sample.name in val:
            sample = sample._replace(split='val')
        divided.append(sample._replace(split=sample.split or 'train'))
    return divided


# --------------------------------------------------------------------------------------- writing


class Written(NamedTuple):
    """The files of a sample, from the folder of the data set on, and what was noticed."""

    image: str
    label: str
    notes: list
    size: tuple  # (h, w)


def write_samples(root, samples, folder, colours):
    """Write the labels of Samples and the pictures that need a place; return Written and notes."""
    task = functools.partial(write_sample, samples, root, folder, colours)
    written, notes = [], {}
    with contextlib.closing(dataset.parallel_map(task, range(len(samples)), 'labels')) as done:
        for one in done:
            for note in one.notes:
                notes.setdefault(note, []).append(samples[len(written)].image)
            written.append(one)
    return written, notes


def write_sample(samples, root, folder, colours, index):
    """Write label and, if need be, picture of a Sample below `folder`; return Written."""
    sample = samples[index]
    path, image = sample.image, os.path.relpath(sample.image, root)
    ending = os.path.splitext(path)[1]
    if sample.content or not inside_images(root, path):
        image = os.path.join('images', sample.name + ending)
        path = place(sample, os.path.join(folder, image))
    pictures.check_single(sample.image, pictures.count(path))
    size, orientation = size_of(path)
    label, notes = draw(sample, path, size, orientation)
    if notes[:1] == [TURNED]:
        image = os.path.join(UPRIGHT, sample.name + '.png')
        turned = files.read_image(path, upright=True)
        if path != sample.image:
            os.unlink(path)
        write_png(os.path.join(folder, image), turned)
    target = label_of(sample)
    write_png(os.path.join(folder, target), label, colours)
    if not label.any():
        notes = [*notes, NOTHING]
    return Written(image, target, notes, label.shape)


def place(sample, path):
    """Give the picture of a Sample a second name, or write a copy, at `path`; return that."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    if sample.content:
        with open(path, 'wb') as f:
            f.write(sample.content())
        return path
    try:
        os.link(os.path.realpath(sample.image), path)
    except OSError:  # another disk, or one without links
        shutil.copyfile(sample.image, path)
    return path


def write_png(path, pixels, colours=None):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    save_png(path, pixels, colours)


def size_of(path):
    """Return (h, w) of a picture's pixels as stored, and the orientation of EXIF or TIFF, or 1."""
    picture, tag = pictures.open_picture(path)
    orientation = tag or picture.getexif().get(pictures.ORIENTATION)
    width, height = picture.size
    return (height, width), orientation if orientation in range(2, 9) else 1


def draw(sample, path, stored, orientation):
    """Return the label of a Sample and notes; the first is TURNED if the picture has to be turned.

    UserError if the label is not of the size of the picture, or if it is not known which way up.
    """
    upright = stored[::-1] if orientation > 4 else stored
    if sample.size and sample.size not in (upright, stored):
        raise other_size(sample, sample.size, stored)
    try:
        label, notes = sample.draw(sample.size or upright)
    except lookup.BROKEN as e:
        raise UserError(
            f'{sample.where}: the label of {sample.image} cannot be drawn '
            f'({type(e).__name__}: {e}); mend or remove it'
        ) from None
    if label.shape not in (upright, stored):
        raise other_size(sample, label.shape, stored)
    if orientation == 1 or label.shape != upright:
        return label, notes
    if not sample.upright and (upright == stored or not sample.size):
        raise UserError(
            f'{sample.image}: EXIF turns this picture, and {sample.where} does not say whether its '
            'label is of the picture turned or as stored; save it without that entry'
        )
    return label, [TURNED, *notes]


def other_size(sample, size, stored):
    return UserError(
        f'{sample.where}: the label of {sample.image} is {size[1]}x{size[0]}, the picture '
        f'{stored[1]}x{stored[0]}; is it the picture that was labelled?'
    )


def write_lists(samples, written, folder):
    """Write SPLIT.txt with lines of image and label; what is in the folders beside them is left."""
    lists = {}
    for sample, one in zip(samples, written, strict=True):
        lists.setdefault(sample.split, []).append(f'{one.image}\t{one.label}')
    for split, lines in lists.items():
        write_lines(os.path.join(folder, split + '.txt'), sorted(lines))


def write_table(path, names, colours):
    """Write the class table: a line a class, and one for void."""
    lines = []
    for i, (name, colour) in enumerate(zip(names, colours, strict=True)):
        lines.append(' '.join(map(str, [i, *colour, name])))
    if files.BORDER not in [tuple(colour) for colour in colours]:
        lines.append(' '.join(map(str, [255, *files.BORDER, 'void'])))
    write_lines(path, lines)


def read_mask(path):
    """Return the values (h, w) or colours (h, w, 3) of a label file, and its palette or None."""
    return labels.read_label(path, colours=True)
