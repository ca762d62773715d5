"""Images and labels as arrays, whatever their makers wrote them as, and the class tables."""

import functools
import hashlib
import os
from typing import NamedTuple

import cv2
import numpy as np
import scipy.io
from PIL import Image, ImageOps

from datasets.layouts import Segments
from utils.config import UserError

UNKNOWN = 254  # train id of raw values that the table does not have
VALUES = 65536  # raw label values have 16 bits at most


class UnknownValues(UserError):
    """A label holds values that its class table does not have.

    .path is its file, .values are up to five numbers or one (red, green, blue). It can be pickled,
    and made from the message alone: a DataLoader does that.
    """

    def __init__(self, message, path='', values=()):
        super().__init__(message)
        self.path = path
        self.values = values


# ---------------------------------------------------------------------------------- class tables


class Classes(NamedTuple):
    """A class table; the train ids are the positions in raw, colours and names."""

    raw: list  # label value in the files, per class; None = all values that no row names
    colours: np.ndarray  # (n, 3) uint8 RGB
    names: list
    void: list  # raw values of rows named `void`; None = all that no row names
    void_colours: list
    path: str


@functools.lru_cache
def read_classes(path):
    """Return the Classes of a file with lines `raw red green blue name` in the order of train ids.

    The raw value * stands for all that no line names, the name void for no class.
    """
    try:
        with open(path, encoding='utf-8-sig') as f:
            lines = f.read().splitlines()
    except (OSError, UnicodeDecodeError) as e:
        reason = getattr(e, 'strerror', None) or e
        raise UserError(
            f'{path}: this class table cannot be read ({reason}); '
            'write a line per class: value red green blue name'
        ) from None
    rows, void, seen = [], [], set()
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        raw, colour, name = read_class(line, f'{path}, line {number}')
        if raw in seen:
            value = '*' if raw is None else raw
            raise UserError(f'{path}, line {number}: the value {value} is named twice; remove one')
        seen.add(raw)
        if name == 'void':
            void.append((raw, colour))
        else:
            rows.append((raw, colour, name))
    if not 0 < len(rows) < UNKNOWN:
        raise UserError(f'{path}: {len(rows)} classes; there must be 1 to {UNKNOWN - 1}')
    raws, colours, names = map(list, zip(*rows, strict=True))
    return Classes(
        raws,
        np.array(colours, np.uint8),
        names,
        void=[raw for raw, _ in void],
        void_colours=[colour for _, colour in void],
        path=path,
    )


def read_class(line, where):
    """Return (raw value or None for *, (red, green, blue), name) of a line of a class table."""
    try:
        raw, red, green, blue, name = line.split(maxsplit=4)
        raw = None if raw == '*' else int(raw)
        colour = int(red), int(green), int(blue)
        if min(colour) < 0 or max(colour) > 255 or not 0 <= (raw or 0) < VALUES:
            raise ValueError
    except ValueError:
        raise UserError(
            f'{where}: {line.strip()!r} is not `value red green blue name`, '
            'such as `7 128 64 128 road`'
        ) from None
    return raw, colour, name.strip()


class LabelMap:
    """The way from what label files hold to train ids.

    classes           Classes
    void              raw values that stand for void, in addition to those of the table
    ignore            train id of void
    stores_train_ids  (part of a label's folder/name, 'id' or 'id + 1') of such files: table.Entry
    colours           whether colour pictures are labels, by the colours of the table
    """

    def __init__(self, classes, void, ignore, stores_train_ids=(), colours=False):
        self.source = last_two(classes.path)
        self.stores_train_ids = stores_train_ids
        self.tables = value_tables(classes, void, ignore)
        self.colours = colour_table(classes, ignore) if colours else None
        tables = [table.tobytes() for table in self.tables.values()]
        self.key = hashlib.sha256(repr((ignore, tables, self.colours)).encode()).digest()

    def read(self, label):
        """Return the train ids (h, w) uint8 of a label: a path or Segments.

        UserError if the file is not a label, UnknownValues if the table lacks its values.
        """
        if isinstance(label, Segments):
            path, raw = label.path, read_segments(label)
        elif label.endswith('.mat'):
            path, raw = label, read_mat(label)
        else:
            path, raw = label, read_indices(label, self.colours is not None)
        if raw.ndim == 3:
            return self.map_colours(raw, path)
        kind, note = 'raw', ''
        if self.stores_train_ids and self.stores_train_ids[0] in last_two(path):
            kind, note = self.stores_train_ids[1], ' as a train id'
        table = self.tables[kind]
        ids = cv2.LUT(raw, table[:256]) if raw.dtype == np.uint8 else table[raw]
        unknown = ids == UNKNOWN
        if unknown.any():
            values = np.unique(raw[unknown])[:5].tolist()
            raise UnknownValues(
                f'{path}: label value {", ".join(map(str, values))} is not in {self.source}{note}; '
                'is DATASET right, and are these the labels that come with it?',
                path,
                values,
            )
        return ids

    def map_colours(self, picture, path):
        """Return the train ids (h, w) uint8 of a label (h, w, 3) in the colours of the table."""
        codes = picture.astype(np.int32) @ np.array([1 << 16, 1 << 8, 1], np.int32)
        known, ids = self.colours
        at = known.searchsorted(codes).clip(max=len(known) - 1)
        unknown = known[at] != codes
        if unknown.any():
            colour = tuple(picture[unknown][0].tolist())
            raise UnknownValues(
                f'{path}: the colour {colour} is not in {self.source}; add its line '
                '(name void: no class), or save the label without smoothing, as PNG',
                path,
                [colour],
            )
        return ids[at].astype(np.uint8)


def last_two(path):
    """Return the folder/name at the end of a path."""
    return os.path.join(*path.split(os.sep)[-2:])


def value_tables(classes, void, ignore):
    """Return the train ids (65536,) uint8 of every value of a label file, for each kind of file.

    'raw' files hold the values of the class table, 'id' train ids, 'id + 1' train ids from 1 on.
    """
    n = len(classes.raw)
    raw, ids, shifted = np.full((3, VALUES), UNKNOWN, np.uint8)
    if None in classes.raw:
        raw[:] = classes.raw.index(None)
    elif None in classes.void:
        raw[:] = ignore
    raw[list(void)] = ignore
    raw[[value for value in classes.void if value is not None]] = ignore
    for i, value in enumerate(classes.raw):
        if value is not None:
            raw[value] = i
    ids[:n] = range(n)
    ids[255] = ignore
    shifted[1 : n + 1] = range(n)
    shifted[[0, 255]] = ignore
    return {'raw': raw, 'id': ids, 'id + 1': shifted}


def colour_table(classes, ignore):
    """Return the colours of a class table as sorted numbers 0xRRGGBB, and their train ids.

    Where two classes share a colour, the first one has it; void has its colours before any class.
    """
    table = {}
    for i, (red, green, blue) in enumerate(classes.colours.tolist()):
        table.setdefault((red << 16) + (green << 8) + blue, i)
    for red, green, blue in classes.void_colours:
        table[(red << 16) + (green << 8) + blue] = ignore
    codes = sorted(table)
    return [np.array(codes), np.array([table[code] for code in codes])]


# --------------------------------------------------------------------------------------- readers


def read_image(path, upright=False):
    """Return an image as (h, w, 3) uint8 RGB, its pixels as stored.

    Labels are drawn on stored pixels; `upright` turns them as EXIF says.
    """
    if not os.path.isfile(path):
        raise UserError(f'{path}: this image is missing')
    data = np.fromfile(path, np.uint8)
    tail = data[-64:].tobytes()
    if b'\xff\xd9' not in tail and b'IEND' not in tail:
        # it may be cut off: OpenCV would fill it up in silence, Pillow refuses it
        open_with_pillow(path).load()
        if data[:2].tobytes() == b'\xff\xd8' and b'\xff\xd9' not in data.tobytes():
            raise UserError(f'{path}: this picture is cut off; fetch it again')
    image = decode_with_opencv(data, upright)
    if image is not None:
        return image
    picture = open_with_pillow(path)
    if picture.mode[0] in 'IF':
        raise UserError(
            f'{path}: this picture has {picture.mode} values, not 8 bits a channel; convert it'
        )
    if upright:
        picture = ImageOps.exif_transpose(picture)
    return np.array(picture.convert('RGB'))


def decode_with_opencv(data, upright):
    """Return the image (h, w, 3) RGB in the bytes of a file, or None if OpenCV cannot decode it."""
    if not len(data):
        return None
    flags = cv2.IMREAD_COLOR_RGB
    if not upright:
        flags |= cv2.IMREAD_IGNORE_ORIENTATION
    try:
        return cv2.imdecode(data, flags)
    except cv2.error:  # more pixels than it decodes
        return None


def open_with_pillow(path):
    """Return the whole picture, decoded; UserError if it does not exist or cannot be decoded."""
    Image.MAX_IMAGE_PIXELS = None  # aerial pictures are large
    try:
        picture = Image.open(path)
        picture.load()
        return picture
    except FileNotFoundError:
        raise UserError(f'{path}: this file is missing') from None
    except Exception as e:  # Pillow's decoders raise many kinds
        raise UserError(
            f'{path}: this picture cannot be read ({e}); fetch or convert it again'
        ) from None


def read_indices(path, colours=False):
    """Return the values (h, w) uint8 or int32 of a grey or palette picture.

    With `colours`, a colour picture gives (h, w, 3) uint8; without, UserError.
    """
    picture = open_with_pillow(path)
    if picture.mode in ('P', 'L', '1'):
        return np.asarray(picture, np.uint8)
    if picture.mode.startswith('I'):
        return np.asarray(picture).astype(np.int32).clip(0, VALUES - 1)
    if colours and picture.mode in ('RGB', 'RGBA'):
        return np.asarray(picture.convert('RGB'))
    if colours:
        raise UserError(
            f'{path}: a label must hold class indices (grey or palette PNG) or RGB colours, this '
            f'one holds {picture.mode} pixels; convert it'
        )
    raise UserError(
        f'{path}: a label must hold class indices (grey or palette PNG), this one holds '
        f'{picture.mode} pixels, colours; convert it, or use DATASET=folder, which reads colours '
        'by classes.txt'
    )


def read_mat(path):
    """Return the values (h, w) int64 of a MATLAB label.

    SBD has GTcls, PASCAL Context LabelMap, COCO-Stuff 10k S, from which 1 is subtracted, as in its
    PNG files.
    """
    try:
        content = scipy.io.loadmat(path)
        if 'GTcls' in content:
            return as_values(content['GTcls']['Segmentation'][0, 0])
        if 'S' in content:
            values = as_values(content['S'])
            return np.where(values == 0, 255, values - 1)
        return as_values(content['LabelMap'])
    except FileNotFoundError:
        raise UserError(f'{path}: this file is missing') from None
    except Exception as e:  # scipy raises many kinds
        raise UserError(
            f'{path}: this MATLAB file cannot be read as a label ({type(e).__name__}: {e}); '
            'it must have GTcls, S or LabelMap; unpack it again'
        ) from None


def as_values(array):
    """Return an array of a MATLAB file as int64 label values; ValueError if it holds none."""
    values = np.ascontiguousarray(array).astype(np.int64)
    is_whole = (values == array).all()
    if array.ndim != 2 or not is_whole or values.min() < 0 or values.max() >= VALUES:
        shape = 'x'.join(map(str, array.shape))
        raise ValueError(f'{shape} values of type {array.dtype}, not whole numbers of 16 bits')
    return values


def read_segments(label):
    """Return the raw values (h, w) uint8 of a panoptic PNG and its Segments."""
    picture = np.asarray(open_with_pillow(label.path))
    if picture.ndim != 3:
        raise UserError(
            f'{label.path}: a panoptic label is a colour PNG of segment ids, this one is not; '
            'unpack it again'
        )
    red, green, blue = picture[..., 0], picture[..., 1], picture[..., 2]
    codes = red | green.astype(np.uint32) << 8 | blue.astype(np.uint32) << 16
    at = label.ids.searchsorted(codes).clip(max=len(label.ids) - 1)
    unknown = label.ids[at] != codes
    if unknown.any():
        raise UserError(
            f'{label.path}: the JSON has no segment {codes[unknown][0]}; are both from one archive?'
        )
    return label.raw[at]
