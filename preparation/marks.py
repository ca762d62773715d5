"""What annotation tools draw, as pixels: polygons, discs, run lengths, brush strokes.

    draw(size, marks)    the train ids (h, w) of a picture, later marks over earlier ones, and notes
A pixel belongs to an outline if its centre lies in it; pixel (0, 0) covers 0 to 1.
"""

from typing import NamedTuple

import cv2
import numpy as np

from datasets import pictures
from preparation.convert import fill, run_lengths

VOID = 255  # in labels that are written
OUTSIDE = 'objects outside their picture, not drawn'
EMPTY = 'objects that cover no pixel'


class Mark(NamedTuple):
    """One object: a class, how it is described, and the description."""

    value: int  # train id
    kind: str  # a name in PAINT
    data: object


def draw(size, marks):
    """Return the label (h, w) uint8 of marks on background, and a list of notes.

    ValueError and the like if a mark is not what its kind says.
    """
    label, notes = np.zeros(size, np.uint8), []
    for mark in marks:
        note = PAINT[mark.kind](label, mark.data, mark.value)
        if note:
            notes.append(note)
    return label, notes


def polygons(label, outlines, value):
    """Fill outlines, a list of (n, 2) arrays of x, y in pixels; each by itself."""
    notes = [fill_one(label, np.asarray(one, float), value) for one in outlines]
    return next((note for note in notes if note), None)


def shares(label, outlines, value):
    """Fill the same in shares of the width and height."""
    h, w = label.shape
    return polygons(label, [np.asarray(one, float) * (w, h) for one in outlines], value)


def fill_one(label, corners, value):
    h, w = label.shape
    if corners.ndim != 2 or corners.shape[1] != 2 or not np.isfinite(corners).all():
        raise ValueError('a corner of an outline that is not two numbers')
    if len(corners) < 3:
        return EMPTY
    if is_outside(label, corners.min(0), corners.max(0)):
        return OUTSIDE
    left, top = np.floor(corners.min(0))
    right, bottom = np.ceil(corners.max(0))
    left, top = int(max(0, left)), int(max(0, top))
    right, bottom = int(min(w, right)), int(min(h, bottom))
    drawn = fill(label[top:bottom, left:right], corners - (left, top), value)
    return None if drawn else EMPTY


def is_outside(label, first, last):
    """Tell whether a box from (x, y) to (x, y) has nothing in common with a label."""
    h, w = label.shape
    return last[0] <= 0 or last[1] <= 0 or first[0] >= w or first[1] >= h


def disc(label, data, value):
    """Fill the pixels whose centres lie within a radius of (x, y); data is (x, y, radius)."""
    x, y, radius = data
    return ellipse(label, (x, y, radius, radius, 0), value)


def ellipse(label, data, value):
    """Fill an ellipse: data is (x, y, radius in x, radius in y, degrees clockwise)."""
    if not np.isfinite(data).all() or min(data[2:4]) < 0:
        raise ValueError('an ellipse without a size')
    if min(data[2:4]) == 0:
        return EMPTY
    x, y, radius_x, radius_y, degrees = data
    rows, columns = np.mgrid[: label.shape[0], : label.shape[1]] + 0.5
    angle = np.deg2rad(degrees)
    along = (columns - x) * np.cos(angle) + (rows - y) * np.sin(angle)
    across = (rows - y) * np.cos(angle) - (columns - x) * np.sin(angle)
    inside = (along / radius_x) ** 2 + (across / radius_y) ** 2 <= 1
    label[inside] = value
    if inside.any():
        return None
    reach = max(radius_x, radius_y)
    is_far = is_outside(label, (x - reach, y - reach), (x + reach, y + reach))
    return OUTSIDE if is_far else EMPTY


def runs(label, shape, value):
    """Fill COCO's run lengths {'size': [h, w], 'counts': list or text}."""
    if tuple(shape['size']) != label.shape:
        raise ValueError('run lengths of another size')
    mask = run_lengths(shape)
    label[mask] = value
    return None if mask.any() else EMPTY


def kaggle(label, text, value):
    """Fill Kaggle's run lengths: start and length, ..., down the columns, the first pixel is 1."""
    numbers = np.array([int(word) for word in text.split()], np.int64)
    if len(numbers) % 2:
        raise ValueError('run lengths: a start without a length')
    starts, lengths = numbers[::2] - 1, numbers[1::2]
    if len(starts) and (starts.min() < 0 or lengths.min() < 1):
        raise ValueError('run lengths: starts count from 1, lengths are 1 or more')
    if len(starts) and (starts + lengths).max() > label.size:
        h, w = label.shape
        end = (starts + lengths).max()
        raise ValueError(f'run lengths up to pixel {end:,}, the picture of {w}x{h} has {w * h:,}')
    mask = np.zeros(label.size, bool)
    for start, length in zip(starts, lengths, strict=True):
        mask[start : start + length] = True
    label[mask.reshape(label.shape[::-1]).T] = value


def patch(label, data, value):
    """Fill a mask (h, w) of bool whose upper left corner is at (x, y): data is (x, y, mask)."""
    x, y, mask = data
    part = label[max(0, y) : y + mask.shape[0], max(0, x) : x + mask.shape[1]]
    cut = mask[max(0, -y) :, max(0, -x) :][: part.shape[0], : part.shape[1]]
    part[cut] = value
    if cut.any():
        return None
    is_far = is_outside(label, (x, y), (x + mask.shape[1], y + mask.shape[0]))
    return OUTSIDE if is_far else EMPTY


def png(label, data, value):
    """Fill what is not 0 in a PNG file: data is (x, y, its bytes)."""
    x, y, content = data
    content = np.frombuffer(content, np.uint8)
    size = pictures.plain_size(content)
    if size is None:
        raise ValueError('a mask that is no PNG file')
    if size[0] > label.shape[1] or size[1] > label.shape[0]:
        raise ValueError(f'a mask of {size[0]}x{size[1]}, larger than its picture')
    mask = pictures.decode(content, cv2.IMREAD_GRAYSCALE)
    if mask is None:
        raise ValueError('a mask that is no PNG file, or only part of one')
    return patch(label, (x, y, mask > 0), value)


def brush(label, numbers, value):
    """Fill Label Studio's run lengths of a brush: a list of bytes, of RGBA pixels."""
    mask = decode_brush(numbers, label.size * 4).reshape(*label.shape, 4)[..., 3] > 0
    label[mask] = value
    return None if mask.any() else EMPTY


def decode_brush(numbers, expected):
    """Return the values uint8 that the bytes of a brush stand for; ValueError if not `expected`.

    Format (rle-pack): 32 bits count of values, 5 bits size of a value - 1, 4 times 4 bits sizes of
    run lengths - 1; then per run: 1 bit same value or not, 2 bits which size, length - 1, values.
    """
    bits = ''.join(f'{byte:08b}' for byte in bytes(numbers))
    at = 0

    def read(size):
        nonlocal at
        at += size
        if at > len(bits):
            raise ValueError('run lengths of a brush that are cut off')
        return int(bits[at - size : at], 2)

    count, size = read(32), read(5) + 1
    sizes = [read(4) + 1 for _ in range(4)]
    if count != expected or size != 8:
        raise ValueError(f'run lengths of a brush for {count:,} values, not {expected:,} of 8 bits')
    values, i = np.zeros(count, np.uint8), 0
    while i < count:
        is_same = read(1)
        end = i + 1 + read(sizes[read(2)])
        if end > count:
            raise ValueError('run lengths of a brush that are too long')
        if is_same:
            values[i:end] = read(8)
        else:
            values[i:end] = [read(8) for _ in range(end - i)]
        i = end
    return values


PAINT = {
    'polygons': polygons,
    'shares': shares,
    'disc': disc,
    'ellipse': ellipse,
    'runs': runs,
    'kaggle': kaggle,
    'png': png,
    'brush': brush,
}


def area(outlines):
    """Return the area of a list of outlines (n, 2), in squares of their unit."""
    total = 0.0
    for corners in outlines:
        x, y = np.asarray(corners, float).reshape(-1, 2).T
        total += abs(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2
    return total
