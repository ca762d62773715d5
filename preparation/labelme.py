"""labelme: a JSON file a picture."""

import base64
import binascii
import collections
import contextlib
import functools
import os

import numpy as np

from preparation import lookup, marks
from preparation.assemble import Names, Sample, Source
from utils.config import UserError

LINES = ('line', 'linestrip', 'point', 'points')  # shapes without an inside


def read(root):
    """Return the Source of a folder of labelme's files; later shapes lie over earlier ones.

    `__ignore__` is void, `_background_` the background. The other classes are in the order of
    labels.txt, if it is there, else of the alphabet.
    """
    pictures, contents, placed = lookup.Pictures(root), {}, {}
    for path in all_files(root):
        contents[path] = lookup.read_json(path)
        with reading(path):
            placed[path] = place(contents[path], path, root, pictures)
        if not placed[path]:
            del contents[path]
    used = set()
    for path, content in contents.items():
        with reading(path):
            used |= {label_of(one) for one in content['shapes'] if kind_of(one) not in LINES}
    names, samples = Names('background', *class_names(root, used)), []
    ignored = collections.Counter()
    for path, content in contents.items():
        with reading(path):
            drawn = read_shapes(content['shapes'], path, names, ignored)
        draw = functools.partial(marks.draw, marks=drawn)
        samples.append(placed[path]._replace(draw=draw))
    lines = []
    for kind, count in sorted(ignored.items()):
        lines.append(f'{count:,} shapes are a {kind}, which has no inside: not drawn')
    return Source(samples, names.names, lines + pictures.lines())


@contextlib.contextmanager
def reading(path):
    """Turn what a file that is not labelme's leads to into a UserError."""
    try:
        yield
    except lookup.BROKEN as e:
        raise UserError(
            f'{path}: this is no file of labelme, or only part of one '
            f'({type(e).__name__}: {e}); save it again'
        ) from None


def all_files(root):
    """Return the paths of the JSON files in the folders that have one of labelme."""
    folders = {os.path.dirname(path) for path in lookup.files_of(root, 'labelme')}
    return [path for path in lookup.walk(root, ('.json',)) if os.path.dirname(path) in folders]


def class_names(root, used):
    """Return the names of classes, those that are used among them, in their order."""
    listed = []
    path = os.path.join(root, 'labels.txt')
    if os.path.isfile(path):
        with open(path, encoding='utf-8-sig', errors='replace') as f:
            listed = [line.strip() for line in f if line.strip()]
    return listed + sorted(used - set(listed))


def label_of(shape):
    """Return the label of a shape as text; some tools write numbers."""
    label = shape['label']
    if not isinstance(label, (str, int)):
        raise ValueError(f'a shape whose label is {label!r}')
    return str(label)


def kind_of(shape):
    return shape.get('shape_type') or 'polygon'


def place(content, path, root, pictures):
    """Return the Sample of a labelme file, without what draws it; None if its picture is gone.

    The picture that the file itself holds, which is large, is taken out of the content.
    """
    if not isinstance(content, dict) or not isinstance(content.get('shapes'), list):
        raise UserError(f'{path}: this JSON file is not of labelme; move it away')
    data, name, folder = content.pop('imageData', None), content['imagePath'], os.path.dirname(path)
    stored, split = decode_data(data), lookup.split_of(folder, root)
    size = content.get('imageHeight'), content.get('imageWidth')
    size = None if None in size else (int(size[0]), int(size[1]))
    try:
        image = pictures.find(name, path, folder, split, stored)
    except UserError as e:
        if not stored and isinstance(e, lookup.Gone):
            pictures.gone.append(e)
            return None
        if not stored:
            raise
        image = os.path.splitext(path)[0] + ('.png' if stored[:4] == b'\x89PNG' else '.jpg')
        pictures.owners[image] = name, path
        return Sample(image, split, path, None, size, content=functools.partial(read_data, path))
    return Sample(image, split, path, None, size)


def decode_data(data):
    """Return the bytes that imageData stands for; b'' if there are none."""
    try:
        return base64.b64decode(data or '', validate=True)
    except (binascii.Error, TypeError) as e:
        raise ValueError(f'imageData: {e}') from None


def read_data(path):
    """Return the bytes of the picture that a labelme file holds."""
    return decode_data(lookup.read_json(path)['imageData'])


def read_shapes(shapes, path, names, ignored):
    """Return the Marks of shapes; those without an inside are counted in `ignored`."""
    drawn = []
    for one in shapes:
        if kind_of(one) in LINES:
            ignored[kind_of(one)] += 1
            continue
        drawn.append(as_mark(one, names.add(label_of(one)), path))
    return drawn


def as_mark(shape, value, path):
    """Return the Mark of a shape of labelme; UserError if it is none that is known."""
    kind = kind_of(shape)
    points = np.array(shape['points'], float).reshape(-1, 2)
    if not np.isfinite(points).all():
        raise ValueError('a point that is no number')
    has_corners = kind == 'rectangle' and len(points) == 4  # of later versions and other tools
    if kind in ('polygon', 'oriented_rectangle') or has_corners:
        return marks.Mark(value, 'polygons', [points])
    if kind == 'circle':  # its centre and a point on it
        (x, y), edge = points
        return marks.Mark(value, 'disc', (x, y, float(np.hypot(*(edge - points[0])))))
    if kind == 'rectangle':
        (left, top), (right, bottom) = points
        corners = [(left, top), (right, top), (right, bottom), (left, bottom)]
        return marks.Mark(value, 'polygons', [np.array(corners)])
    if kind == 'mask':  # a PNG file whose upper left pixel is at the first point
        x, y = points[0].round().astype(int).tolist()
        return marks.Mark(value, 'png', (x, y, base64.b64decode(shape['mask'])))
    raise UserError(f'{path}: a shape of the kind {kind!r}; draw it as a polygon')
