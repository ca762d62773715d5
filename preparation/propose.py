"""A class table to begin with, counted from labels that have none, or from what theirs lacks."""

import collections
import functools
import os

import numpy as np

import dataset
import settings
from conversion.sentences import as_argument
from datasets import files, labels, own, recognise
from datasets.lists import Missing
from utils.config import UserError

BATCH = 8  # BATCH_SIZE of recipes/own.py
MOST = 300  # values or colours that are counted; labels with more are no labels


def check_table():
    """Print a table to begin with and raise UserError, if DATASET='folder' has labels but none."""
    root = os.path.abspath(settings.DATA_ROOT)
    path = os.path.join(root, 'classes.txt')
    if os.path.isfile(path) and own.listed_names(path):
        print(f'{path}: as a class table, if the labels have 0 for the first of its names:\n')
        names = own.listed_names(path)
        for i, (name, colour) in enumerate(zip(names, voc_colours(len(names)), strict=True)):
            print(line(i, colour, name))
        raise UserError(f'{path}: this is a list of names; put the lines above into it instead')
    if os.path.exists(path) or not os.path.isdir(root):
        return
    paths = []
    for split in ('train', 'val', 'test'):
        try:
            listings = own.folder(root, split)
        except Missing:
            continue
        for listing in listings:
            paths += list((listing.labels or {}).values())
    paths = sorted(set(paths))  # what nothing divides is train and val
    if not paths:
        return
    print(f'{path} does not exist. From the values of {len(paths):,} labels, to begin with:\n')
    print('\n'.join(lines_for(paths)))
    hint = recognise.hint(root)
    if hint:
        raise UserError(f'{path}: this class table is missing; {hint}')
    raise UserError(
        f'{path}: this class table is missing; put the lines above into it, and give the classes '
        'their names'
    )


def lines_for(paths, classes=None):
    """Return the lines of a class table for label files; with Classes, those that these lack."""
    counts, colours = collections.Counter(), {}
    task = functools.partial(count, paths)
    for of_file, palette in dataset.parallel_map(task, range(len(paths)), 'counting'):
        counts.update(of_file)
        colours.update(palette)
        if len(counts) > MOST:
            raise UserError(
                f'the labels have more than {MOST} values or colours, such as '
                f'{next(iter(counts))}: are they labels? JPEG or smoothing leaves such'
            )
    keys = sorted(counts, key=lambda key: (isinstance(key, tuple), key))
    if classes:
        return lacking(keys, colours, classes)
    lines = []
    for i, key in enumerate(keys):
        value = i if isinstance(key, tuple) else key
        lines.append(line(value, colour_of(key, colours), name_of(value, key, keys)))
    return lines


def lacking(keys, colours, classes):
    """Return lines for what a table of Classes does not have."""
    taken = {value for value in [*classes.raw, *classes.void] if value is not None}
    known = {tuple(colour) for colour in [*classes.colours.tolist(), *classes.void_colours]}
    lines, free = [], 0
    for key in keys:
        if key in known or key in taken:
            continue
        value = key
        if isinstance(key, tuple):
            while free in taken:
                free += 1
            value = free
            taken.add(free)
        lines.append(line(value, colour_of(key, colours), f'class {value}'))
    return lines


def line(value, colour, name):
    return ' '.join(map(str, [value, *colour, name]))


def colour_of(key, colours):
    """Return the colour to show for a value or colour: its own, that of a palette, or VOC's."""
    if isinstance(key, tuple):
        return key
    return colours.get(key) or voc_colours(256)[key % 256]


def name_of(value, key, keys):
    """Return a name for a value: it is to be replaced, but what it may mean is tried."""
    if key in (0, (0, 0, 0)):
        return 'background'
    if key == files.BORDER or (key == 255 and len(keys) > 2):
        return 'void'
    return f'class {value}'


def count(paths, index):
    """Return {value or (red, green, blue): pixels} of a label, and {value: colour} of its palette.

    A palette of greys says nothing.
    """
    path = paths[index]
    if path.lower().endswith('.mat'):
        values, palette = labels.read_mat(path), None
    else:
        values, palette = labels.read_label(path, colours=True)
    if values.ndim == 3:
        codes, counts = np.unique(files.codes_of(values), return_counts=True)
        keys = [(code >> 16, code >> 8 & 255, code & 255) for code in codes.tolist()]
        return dict(zip(keys[: MOST + 1], counts.tolist(), strict=False)), {}
    keys, counts = np.unique(values, return_counts=True)
    keys, colours = keys.tolist(), {}
    if palette is not None and (palette != palette[:, :1]).any():
        colours = {key: tuple(palette[key].tolist()) for key in keys if key < len(palette)}
    return dict(zip(keys[: MOST + 1], counts.tolist(), strict=False)), colours


def voc_colours(count):
    """Return the first colours of PASCAL VOC: bits of the number, spread over the channels."""
    colours = []
    for number in range(count):
        colour = [0, 0, 0]
        for place in range(8):
            for channel in range(3):
                colour[channel] |= (number >> (3 * place + channel) & 1) << (7 - place)
        colours.append(tuple(colour))
    return colours


def command(root, sizes, has_val=True):
    """Return the command that trains on one's own data, with settings that fit it.

    CROP_SIZE is the usual short side, at most 513; ITER_MAX 40 epochs with recipes/own.py, within
    1,000 and 30,000 steps; BATCH_SIZE is that of the recipe, or all images if they are fewer.
    sizes    Counter of (h, w) of the images to train on
    has_val  whether there are others to validate on
    """
    sides = sorted(min(size) for size in sizes.elements())
    crop = min(513, max(33, sides[len(sides) // 2] // 8 * 8 + 1))
    steps = min(30_000, max(1000, 40 * len(sides) // BATCH // 100 * 100))
    where = as_argument('DATA_ROOT', os.path.abspath(root))
    every = steps // 10 if has_val else 0
    words = f'{where} CROP_SIZE={crop} ITER_MAX={steps} ITER_VAL={every}'
    if len(sides) < BATCH:
        words += f' BATCH_SIZE={len(sides)}'
    return f'python train.py recipes/own.py {words}'
