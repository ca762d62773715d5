"""Masks of two levels, 0 and another, in any format: prepare.py folder --from binary."""

import functools
import os

import cv2
import numpy as np

from datasets import files, layouts, own, pictures, recognise
from preparation import lookup
from preparation.assemble import Sample, Source
from preparation.masks import mask_size
from utils.config import UserError

ENDINGS = (*layouts.LABELS[:-1], *recognise.MASKS)
HALF = 128  # level from which on a pixel of a mask with greys is foreground
BETWEEN = 0.05  # share of greys up to which they are soft edges
DARK = 32  # level up to which JPEG may make greys of 0
SPREAD = 64  # levels by which it may change a colour away from its edges
FEW = 16  # levels up to which classes are counted
LEVEL = 'masks whose foreground is '
SOFT = f'masks with soft edges, of which {HALF} and above is foreground'
JPEG = f'masks that are JPEG, of which {HALF} and above is foreground'
CLASSES = 'these are classes; write classes.txt for them'


def binary(root):
    """Return the Source of masks of two levels, in folders as DATASET=folder has them.

    What is 0 (or black, or transparent) is background. A mask may be of 1 bit, 0 and 1, 0 and 255,
    grey, in one colour, with alpha, a GIF or a JPEG. Folders may also be of cases, as of splits.
    """
    samples, lines = read_folders(root, recognise.SPLIT_NAMES)
    if not samples:
        below = recognise.folders_below(root).values()
        samples, lines = read_folders(root, sorted({os.path.basename(path) for path in below}))
    if not samples:
        labels = os.path.join(root, 'labels')
        if lookup.walk(labels, ENDINGS):
            raise UserError(
                f'{labels}: the new labels go there; rename it to masks and give the same command '
                'again'
            )
        raise UserError(
            f'{root}: there are no images with masks: images/ and masks/ with files of one name, '
            f'or images with NAME_mask beside them; {own.contents(root)}'
        )
    return Source(samples, ['background', 'foreground'], lines, judge=judge)


def read_folders(root, parts):
    """Return the Samples of the folders of splits or cases, and lines about what they lack.

    labels/ is where the new labels go.
    """
    samples, lines, seen = [], [], set()
    for part in parts:
        image_dir, label_dir, is_part = own.folders(
            root, part, recognise.LABEL_FOLDERS, ENDINGS, skip='labels'
        )
        if (image_dir, label_dir) in seen or not os.path.isdir(image_dir):
            continue
        seen.add((image_dir, label_dir))
        images, masks = own.find_pairs(image_dir, label_dir, ENDINGS)
        is_split = is_part and part in recognise.SPLIT_NAMES
        if not masks:
            if images and is_split and part != 'test':
                lines.append(f'warning: the {len(images):,} images in {image_dir} have no masks')
            continue
        names, of_part = lookup.pairs(images, masks, image_dir, label_dir)
        lines += of_part
        for name in names:
            mask = masks[name]
            draw = functools.partial(read, path=mask)
            split = part if is_split else ''
            samples.append(Sample(images[name], split, mask, draw, mask_size(mask), False))
    return samples, lines


def read(size, path):
    """Return the label of a mask of two levels: 0 and 1; and notes, its level of 1 among them."""
    picture, _ = pictures.open_picture(path)
    count, _ = pictures.load(path, picture)
    if count > 1:
        raise ValueError(f'{count} pictures in one file')
    if picture.mode[0] in 'IF':
        levels = colours = deep_levels(path, picture)
        there = np.unique(levels[levels > 0])
        if len(there) < 2:
            return (levels > 0).astype(np.uint8), [LEVEL + shown(level) for level in there]
        levels = colours = pictures.with_8_bits(path, levels)
    else:
        levels, colours = levels_of(picture)
    if picture.format in ('JPEG', 'MPO'):
        check_jpeg(levels, picture)
        return (levels >= HALF).astype(np.uint8), [JPEG]
    there = np.unique(levels[levels > 0])
    check_classes(levels, colours, there)
    if len(there) < 2:
        return (levels > 0).astype(np.uint8), [LEVEL + shown(level) for level in there]
    return (levels >= HALF).astype(np.uint8), [SOFT]


def shown(level):
    """Return a level as text: white is 255, whatever the bits."""
    return '255' if level == 65535 else str(level)


def deep_levels(path, picture):
    """Return the levels (h, w) uint16 of a decoded Pillow image of more than 8 bits."""
    if not picture.mode.startswith('I;16') and picture.format not in ('PNG', 'PPM'):
        raise ValueError('numbers of 32 bits, or floats; save it with 8 bits')
    return np.asarray(picture).astype(np.uint16)


def levels_of(picture):
    """Return the levels (h, w) uint8 of a decoded Pillow image, and codes of its colours.

    A level is the largest channel, or alpha where the colours say nothing; transparent is 0.
    """
    if picture.mode in ('1', 'L'):
        levels = np.asarray(picture).astype(np.uint8)
        return levels, levels
    pixels = np.asarray(picture.convert('RGBA'))
    levels, alpha = pixels[..., :3].max(2), pixels[..., 3]
    if alpha.min() < 255:
        levels = alpha if (levels == levels[0, 0]).all() else cv2.min(levels, alpha)
    return levels, files.codes_of(pixels[..., :3])


def check_classes(levels, colours, there):
    """Raise ValueError unless a mask has one level and colour besides 0, and at most soft edges.

    There are `there` levels. A pixel of a soft edge has a neighbour of a higher level.
    """
    if not len(there):
        return
    if len(there) > 1 and there[0] == 1 and there[-2] < FEW and there[-1] == 255:
        raise ValueError(f'levels {listed(there)} besides 0: is 255 void? {CLASSES}')
    tops = (levels > 0) & (cv2.dilate(levels, np.ones((3, 3), np.uint8)) == levels)
    if colours is not levels:
        codes = np.unique(colours[tops])
        if len(codes) > 1:
            names = [str((code >> 16, code >> 8 & 255, code & 255)) for code in codes.tolist()]
            raise ValueError(f'colours {" and ".join(names[:2])}: {CLASSES}')
    share = ((levels > 0) & (levels < there[-1])).mean()
    if len(there) > 1 and (share > BETWEEN or there[-1] < HALF or len(np.unique(levels[tops])) > 1):
        raise ValueError(f'levels {listed(there)} besides 0, not only at edges: {CLASSES}')


def listed(there):
    """Return the lowest levels and the highest as text."""
    return ', '.join(map(str, [*there[:-1][:4].tolist(), there[-1]]))


def check_jpeg(levels, picture):
    """Raise ValueError unless a JPEG has, but for the traces of packing, 0 and one colour."""
    if 0 < levels.max() < HALF:
        raise ValueError(f'a JPEG of greys up to {levels.max()}: nothing is {HALF} or above')
    pixels = np.asarray(picture.convert('RGB'))[inside(levels >= HALF)].astype(int)
    if len(pixels) and np.abs(pixels - np.median(pixels, 0)).max() > SPREAD:
        raise ValueError(f'a JPEG of several colours or levels: {CLASSES}')
    if inside((levels >= DARK) & (levels < HALF)).any():
        raise ValueError(f'a JPEG with areas of grey: {CLASSES}')


def inside(mask):
    """Return the pixels of a mask (h, w) of bool that are two or more away from its edges."""
    return cv2.erode(mask.astype(np.uint8), np.ones((5, 5), np.uint8)) == 1


def judge(notes):
    """Raise UserError if masks have different levels for the foreground."""
    levels = [int(note.removeprefix(LEVEL)) for note in notes if note.startswith(LEVEL)]
    if len(levels) > 1 and sorted(levels) != [1, 255]:
        raise UserError(
            f'the masks have the levels {", ".join(map(str, sorted(levels)))}, one in each: these '
            'are classes, not masks of one; write classes.txt for them'
        )
