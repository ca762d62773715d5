"""Masks that tools export as pictures: CVAT and PASCAL VOC, Roboflow."""

import csv
import functools
import glob
import os

import numpy as np

from datasets import files, layouts, own, pictures, recognise
from preparation import lookup
from preparation.assemble import Names, Sample, Source, read_mask
from preparation.propose import voc_colours
from utils.config import UserError

# ---------------------------------------------------------------------------- CVAT, PASCAL VOC


def voc(root):
    """Return the Source of SegmentationClass/ with labelmap.txt or class_names.txt, or VOC's own.

    CVAT's "Segmentation mask 1.1" and labelme2voc.py write the first two. The lists train.txt and
    val.txt in ImageSets/Segmentation/ divide the pictures.
    """
    folder = mask_folder(root)
    base = os.path.dirname(folder)
    path = os.path.join(base, 'labelmap.txt')
    colours, by_value, names = class_colours(base, path)
    splits = lists_of(base)
    is_divided = {'train', 'val'} <= set(splits.values())
    photos, samples, unlisted = lookup.Pictures(root), [], 0
    is_cvat = os.path.isfile(path)
    for mask in lookup.walk(folder, layouts.LABELS[:-1]):
        name = os.path.splitext(os.path.relpath(mask, folder))[0].replace(os.sep, '/')
        split = splits.get(list_key(name)) or splits.get(list_key(os.path.basename(name)), '')
        if is_divided and not split:
            unlisted += 1
            continue
        image = photos.get(name, mask)
        if not image:
            continue
        draw = functools.partial(read_colours, path=mask, colours=colours, by_value=by_value)
        samples.append(Sample(image, split, mask, draw, mask_size(mask), is_cvat))
    shown = [(0, 0, 0)] * len(names.names)
    for colour, train_id in reversed(colours.items()):
        if train_id < len(shown):
            shown[train_id] = colour
    lines = photos.lines()
    if unlisted and not samples:
        raise UserError(
            f'{base}: the lists in ImageSets/Segmentation/ name none of the {unlisted:,} masks in '
            f'{os.path.basename(folder)}/, such as {name}; mend the lists or move them away'
        )
    if unlisted:
        lines.append(f'{unlisted:,} masks are in no list of ImageSets/, and left out')
    return Source(samples, names.names, lines, shown)


def mask_folder(root):
    """Return the folder of the masks, in `root` or as VOCdevkit has it one or two levels down."""
    folder = layouts.first(root, 'SegmentationClassPNG', 'SegmentationClass')
    if os.path.isdir(folder):
        return folder
    bases = set()
    for pattern in ('*/SegmentationClass*/', '*/*/SegmentationClass*/'):
        for path in glob.glob(pattern, root_dir=root):
            bases.add(os.path.join(root, os.path.dirname(path.rstrip(os.sep))))
    if not bases:
        raise UserError(
            f'{folder}: there is no such folder; {lookup.other_source(root, "voc", "cvat")}'
        )
    bases = sorted(bases)
    if len(bases) > 1:
        raise UserError(f'{root}: masks in {bases[0]} and {bases[1]}; give one of them as --root')
    return layouts.first(bases[0], 'SegmentationClassPNG', 'SegmentationClass')


def class_colours(root, path):
    """Return {colour: train id} of the classes, the train ids of grey values, and Names."""
    if os.path.isfile(path):
        rows = read_labelmap(path)
    else:
        listed = os.path.join(root, 'class_names.txt')
        if os.path.isfile(listed):
            words = files.read_table(listed).split('\n')
            words = [
                word.strip() for word in words if word.strip() and word.strip() != '__ignore__'
            ]
        else:
            here = os.path.dirname(os.path.abspath(files.__file__))
            words = files.read_classes(os.path.join(here, 'classes', 'voc.txt')).names
        rows = list(zip(words, voc_colours(len(words)), strict=True))
    colours, by_value = {files.BORDER: 255}, []
    names = background_first(name for name, _ in rows)
    for name, colour in rows:
        train_id = names.add(name)
        by_value.append(train_id)
        if colours.get(colour, train_id) not in (train_id, 255):
            raise UserError(f'{path}: two labels have the colour {colour}; change one in the tool')
        colours[colour] = train_id
    return colours, by_value, names


def background_first(listed):
    """Return Names that begin with the background, if one of those that are listed is it."""
    has_background = any('background' in Names(name).names for name in listed)
    return Names('background') if has_background else Names()


def read_labelmap(path):
    """Return [(name, (red, green, blue))] of a labelmap.txt: lines `name:red,green,blue::`."""
    rows = []
    for number, line in enumerate(files.read_table(path).splitlines(), 1):
        if not line.strip() or line.startswith('#'):
            continue
        try:
            name, colour, *_ = line.rsplit(':', 3) if line.count(':') > 2 else line.split(':')
            red, green, blue = map(int, colour.split(','))
            if not all(0 <= channel < 256 for channel in (red, green, blue)):
                raise ValueError
        except ValueError:
            raise UserError(
                f'{path}, line {number}: {line.strip()[:80]!r} is not `name:red,green,blue::`; '
                'export it again'
            ) from None
        rows.append((name, (red, green, blue)))
    return rows


def lists_of(root):
    """Return {list_key(name): split} of the lists in ImageSets/Segmentation/, named by split."""
    folder, splits = os.path.join(root, 'ImageSets', 'Segmentation'), {}
    for path in lookup.walk(folder, ('.txt',)):
        word = os.path.splitext(os.path.basename(path))[0].lower()
        for split, words in recognise.SPLIT_NAMES.items():
            if word in words:
                splits |= dict.fromkeys(map(list_key, layouts.read_list(path)), split)
    return splits


def list_key(name):
    """Return what a name in a list and that of a mask share: no ending, no capitals, one form."""
    stem, ending = os.path.splitext(name)
    return lookup.fold(stem if ending.lower() in layouts.IMAGES else name)


def mask_size(path):
    """Return (h, w) of a mask, by its header."""
    picture, _ = pictures.open_picture(path)
    return picture.size[::-1]


def read_colours(size, path, colours, by_value):
    """Return the train ids of a mask in colours, or of a grey one whose values are lines."""
    values, palette = read_mask(path)
    if palette is not None:
        table = np.zeros((256, 3), np.uint8)
        table[: len(palette)] = palette
        values = table[values]
    if values.ndim == 2:
        table = np.full(65536, files.UNKNOWN, np.uint8)
        table[: len(by_value)] = by_value
        table[255] = 255
        unknown = table[values] == files.UNKNOWN
        if unknown.any():
            raise ValueError(f'the value {values[unknown][0]}, which no line of the labels has')
        return table[values], []
    codes, label = files.codes_of(values), np.full(values.shape[:2], files.UNKNOWN, np.uint8)
    for colour, train_id in colours.items():
        label[codes == files.codes_of(np.array(colour))] = train_id
    unknown = label == files.UNKNOWN
    if unknown.any():
        raise ValueError(f'the colour {tuple(values[unknown][0].tolist())}, which no label has')
    return label, []


# ------------------------------------------------------------------------------------- Roboflow


def roboflow(root):
    """Return the Source of Roboflow's masks: NAME_mask.png next to the pictures, _classes.csv."""
    tables = {path: read_classes(path) for path in lookup.files_of(root, 'roboflow')}
    listed = []
    for table in tables.values():
        listed += table.values()
    samples, lines, names = [], [], background_first(listed)
    for path, named in tables.items():
        folder = os.path.dirname(path)
        table = {value: names.add(name) for value, name in named.items()}
        images, masks = own.find_pairs(folder, folder)
        whole, of_folder = lookup.pairs(images, masks, folder, folder)
        lines += of_folder
        for name in whole:
            draw = functools.partial(read_values, path=masks[name], table=table)
            split = lookup.split_of(path, root)
            samples.append(Sample(images[name], split, path, draw, mask_size(masks[name])))
    return Source(samples, names.names, lines)


def read_classes(path):
    """Return {value: name} of a _classes.csv."""
    table = {}
    rows = list(csv.reader(files.read_table(path).splitlines(), skipinitialspace=True))
    try:
        for row in rows[1:]:
            if row:
                table[int(row[0])] = row[1].strip()
    except (ValueError, IndexError):
        raise UserError(
            f'{path}: the line {",".join(row)[:80]!r} is not `value, class`; export it again'
        ) from None
    return table


def read_values(size, path, table):
    """Return the train ids of a mask of values {value: train id}, and no notes."""
    values, _ = read_mask(path)
    if values.ndim != 2:
        raise ValueError('a mask of colours, not of values')
    label = np.zeros(values.shape, np.uint8)
    for value in np.unique(values).tolist():
        if value not in table:
            raise ValueError(f'the value {value}, which _classes.csv does not have')
        label[values == value] = table[value]
    return label, []
