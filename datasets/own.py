"""Data of one's own: DATASET='folder', in the ways in which people keep images and labels."""

import os
import re
import shlex

from datasets import recognise
from datasets.files import read_classes
from datasets.files import read_table as read_text
from datasets.layouts import LABELS, Listing, find_files, names_in, parts, with_endings
from datasets.lists import Missing, read_pairs, share
from utils.config import UserError

SHOWN = 8  # folders in a sentence


def folder(root, split):
    """List data of one's own; trainval is train and val, unless it has a list or folder itself."""
    image_dir, _, is_split = folders(root, split)
    has_own = os.path.exists(os.path.join(root, split + '.txt'))
    if has_own or (is_split and os.path.isdir(image_dir)):
        return [list_part(root, split)]
    return [list_part(root, part) for part in parts(split)]


def list_part(root, split):
    """Return the Listing of a split.

    SPLIT.txt with lines of two paths, image and label; or one of the pairs of folders in ways(), in
    which files of one name belong together, and SPLIT.txt may name some of them. Where neither
    folders nor lists divide the files, val is a fixed share: lists.share. Split `test` needs no
    labels: test.txt may have lines of one path, and the folder of its labels may be missing.
    """
    path = os.path.join(root, split + '.txt')
    image_dir, label_dir, is_split = folders(root, split)
    if os.path.exists(path):
        alone = split == 'test' and not (is_split and os.path.isdir(label_dir))
        pairs = read_pairs(root, path, alone)
        if pairs:
            images = dict(enumerate(image for image, _ in pairs))
            labels = dict(enumerate(label for _, label in pairs)) if pairs[0][1] else None
            return Listing(list(images), images, labels, root, root)
    images, labels = find_pairs(image_dir, label_dir)
    if split == 'test' and not (labels or os.path.isdir(label_dir)):
        labels = None
    if labels == {} and (images or split.startswith('train')):
        hint = recognise.hint(root)
        if hint:
            raise UserError(f'{label_dir}: there are no labels; {hint}')
    if split == 'train' and not os.path.isdir(image_dir):
        raise Missing(
            f'{image_dir}: there is no such folder; {contents(root)}; make images/train/ and '
            f'labels/train/, or {path} with lines of an image and its label',
            image_dir,
        )
    names = names_in(path, images, labels)
    if not is_split and not os.path.exists(path):
        names = undivided(root, split, names)
    return Listing(names, images, labels, image_dir, label_dir)


def read_table(root):
    """Return the Classes of classes.txt; UserError, with what may be done, if it is not there."""
    path = os.path.join(root, 'classes.txt')
    command = f'python prepare.py folder --root {shlex.quote(root)} --check'
    if os.path.isdir(root) and not os.path.lexists(path):
        hint = recognise.hint(root) or f'{command} counts the labels and prints one to begin with'
        raise UserError(f'{path}: this class table cannot be read (it does not exist); {hint}')
    names = listed_names(path) if os.path.isfile(path) else []
    if names:
        raise UserError(
            f'{path}: this is a list of names; a class table has lines of the value in the labels, '
            f'a colour and a name, such as `0 128 64 128 {names[0][:40]}`; {command} prints them'
        )
    return read_classes(path)


def listed_names(path):
    """Return the names of a file that is a list of them, a name a line; [] if it has values."""
    lines = [line.strip() for line in read_text(path).splitlines() if line.strip()]
    is_list = all(re.match(r'(?!.*\d\s+\d)[^\d*].{,199}$', line) for line in lines)
    return lines if is_list else []


def ways(part, words):
    """Return [(folder of images, [folders of labels])] of a split whose folder is named `part`."""
    places = []
    for images in recognise.IMAGE_FOLDERS:
        places += [
            (f'{images}/{part}', [f'{word}/{part}' for word in words]),
            (f'{part}/{images}', [f'{part}/{word}' for word in words]),
            (f'{part}_{images}', [f'{part}_{word}' for word in words]),
        ]
    return [*places, (part, [f'{part}annot', *(f'{part}_{word}' for word in words)])]


def folders(root, split, words=recognise.LABEL_FOLDERS, endings=LABELS, skip=''):
    """Return the folders of the images and labels of a split, and whether they are its own.

    The first folder of images, in any capitals, that has one of labels counts, with the first of
    these. Labels named NAME_mask may lie in the folder of the images itself.
    skip  a folder at `root` that holds no labels
    """
    below, bare = recognise.folders_below(root), None
    for part in recognise.SPLIT_NAMES.get(split, (split,)):
        for image_dir, choices in ways(part, words):
            image_dir = at(root, below, image_dir)
            if os.path.isdir(image_dir):
                label_dir = label_folder(root, below, image_dir, choices, endings, skip)
                if os.path.isdir(label_dir):
                    return image_dir, label_dir, True
                bare = bare or (image_dir, label_dir, True)
    if bare:
        return bare
    for image_dir in recognise.IMAGE_FOLDERS:
        image_dir = at(root, below, image_dir)
        if os.path.isdir(image_dir):
            if find_files(image_dir):
                return image_dir, label_folder(root, below, image_dir, words, endings, skip), False
            return os.path.join(image_dir, split), os.path.join(root, 'labels', split), True
    if masks_in(root, endings):
        return root, root, False
    return os.path.join(root, split), os.path.join(root, split + 'annot'), True


def at(root, below, path):
    """Return where a folder lies, as it is written or in other capitals: folders_below."""
    exact = os.path.join(root, path)
    return exact if os.path.isdir(exact) else below.get(path.lower(), exact)


def label_folder(root, below, image_dir, choices, endings, skip):
    """Return the first folder of labels that exists, that of the images if masks lie there."""
    paths = [at(root, below, choice) for choice in choices if choice.split('/')[0] != skip]
    there = [path for path in paths if os.path.isdir(path)]
    if not there and masks_in(image_dir, endings):
        return image_dir
    return there[0] if there else paths[0]


def contents(root):
    """Return a sentence about what folders there are, for those who expect them to be read."""
    paths = recognise.folders_below(root).values()
    names = [os.path.relpath(path, root) + '/' for path in paths]
    others = ', ...' if len(names) > SHOWN else ''
    return f'here are {", ".join(names[:SHOWN])}{others}' if names else 'here are no folders'


def masks_in(folder, endings=LABELS):
    """Return {NAME: path} of the files of a folder that are named NAME_mask."""
    return find_files(folder, with_endings('_mask', endings))


def find_pairs(image_dir, label_dir, endings=LABELS):
    """Return {name: path} of images and of labels, whose names may end in _mask."""
    images, masks = find_files(image_dir), masks_in(label_dir, endings)
    if image_dir == label_dir:
        paths = set(masks.values())
        return {name: path for name, path in images.items() if path not in paths}, masks
    labels = find_files(label_dir, endings)
    if masks and not set(images) & set(labels):
        return images, masks
    return images, labels


def undivided(root, split, names):
    """Return the names of a split of files that no folder divides; Missing if lists do."""
    lists = [os.path.join(root, other + '.txt') for other in ('train', 'val')]
    if split not in ('train', 'val') or any(map(os.path.exists, lists)):
        path = os.path.join(root, split + '.txt')
        raise Missing(f'{path}: this list of pictures is missing', path)
    return share(names)[split]
