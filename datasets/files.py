"""Images and labels as arrays, whatever their makers wrote them as, and the class tables."""

import functools
import hashlib
import os
from typing import NamedTuple

import cv2
import numpy as np

from datasets import pictures
from datasets.channels import check_extra, check_tiff, is_array
from datasets.channels import read as read_channels
from datasets.labels import VALUES, equal_channels, read_label, read_mat, read_segments
from datasets.layouts import Segments
from datasets.lists import CONTROL
from utils.config import UserError

UNKNOWN = 254  # train id of raw values that the table does not have
TABLE_BYTES = 2**20  # of a class table, at most
BORDER = 224, 224, 192  # colour of void in the palettes of VOC, labelme and others


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
    return parse_classes(read_table(path), path)


def parse_classes(text, path):
    """Return the Classes of a text, see read_classes; `path` says where it comes from."""
    rows, void, seen = [], [], set()
    for number, line in enumerate(text.splitlines(), 1):
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


def as_text(classes):
    """Return names and colours of Classes as a table with a line per train id."""
    lines = []
    for i, (colour, name) in enumerate(zip(classes.colours.tolist(), classes.names, strict=True)):
        lines.append(f'{i} {" ".join(map(str, colour))} {name}\n')
    return ''.join(lines)


def read_table(path):
    """Return the text of a class table."""
    try:
        with open(path, encoding='utf-8-sig') as f:
            text = f.read(TABLE_BYTES + 1)
            if len(text) > TABLE_BYTES:
                raise ValueError(f'it has more than {TABLE_BYTES:,} characters')
            return text
    except (OSError, ValueError) as e:
        reason = getattr(e, 'strerror', None) or e
        raise UserError(
            f'{path}: this class table cannot be read ({reason}); '
            'write a line per class: value red green blue name'
        ) from None


def read_class(line, where):
    """Return (raw value or None for *, (red, green, blue), name) of a line of a class table."""
    try:
        raw, red, green, blue, name = line.split(maxsplit=4)
        raw = None if raw == '*' else int(raw)
        colour = int(red), int(green), int(blue)
        if min(colour) < 0 or max(colour) > 255 or not 0 <= (raw or 0) < VALUES:
            raise ValueError
        name = name.strip()
        if len(name) > 200 or CONTROL.search(name):
            raise ValueError
    except ValueError:
        line = line.strip()[:80]
        raise UserError(
            f'{where}: {line!r} is not `value red green blue name`, such as `7 128 64 128 road`'
        ) from None
    return raw, colour, name


class LabelMap:
    """The way from what label files hold to train ids.

    classes           Classes
    void              raw values that stand for void, in addition to those of the table
    ignore            train id of void
    stores_train_ids  (part of a label's folder/name, 'id' or 'id + 1') of such files: table.Entry
    colours           whether colour pictures are labels, by the colours of the table
    hint              what labels with values that the table lacks may be
    """

    def __init__(self, classes, void, ignore, stores_train_ids=(), colours=False, hint=''):
        self.source = last_two(classes.path)
        self.stores_train_ids = stores_train_ids
        self.hint = hint
        self.tables = value_tables(classes, void, ignore)
        self.check_palette = PaletteCheck(classes, ignore, self.source)
        self.colours = colour_table(classes, ignore) if colours else None
        tables = [table.tobytes() for table in self.tables.values()]
        self.key = hashlib.sha256(repr((ignore, tables, self.colours)).encode()).digest()

    def read(self, label):
        """Return the train ids (h, w) uint8 of a label: a path or Segments.

        UserError if the file is not a label, UnknownValues if the table lacks its values.
        """
        path, palette = label, None
        if isinstance(label, Segments):
            path, raw = label.path, read_segments(label)
        elif label.lower().endswith('.mat'):
            raw = read_mat(label)
        else:
            raw, palette = read_label(label, self.colours is not None)
        if raw.ndim == 3:
            return self.map_colours(raw, path)
        kind, note = 'raw', ''
        if self.stores_train_ids and self.stores_train_ids[0] in last_two(path):
            kind, note = self.stores_train_ids[1], ' as a train id'
        table = self.tables[kind]
        if palette is not None:
            self.check_palette(path, raw, palette, table, self.colours is not None)
        ids = cv2.LUT(raw, table[:256]) if raw.dtype == np.uint8 else table[raw]
        unknown = ids == UNKNOWN
        if unknown.any():
            values = np.unique(raw[unknown])[:5].tolist()
            hint = self.hint or 'is DATASET right, and are these the labels that come with it?'
            if values == [1] and raw.max() == 1:
                hint = 'masks of 1 bit hold 0 and 1, whatever white is shown as: give 1 a line'
            raise UnknownValues(
                f'{path}: label value {", ".join(map(str, values))} is not in {self.source}{note}; '
                f'{hint}',
                path,
                values,
            )
        return ids

    def map_colours(self, picture, path):
        """Return the train ids (h, w) uint8 of a label (h, w, 3) in the colours of the table."""
        codes = codes_of(picture)
        known, ids = self.colours
        at = known.searchsorted(codes).clip(max=len(known) - 1)
        unknown = known[at] != codes
        if unknown.any():
            colour = tuple(picture[unknown][0].tolist())
            hint = 'add its line (name void: no class), or save the label without smoothing, as PNG'
            if equal_channels(picture):
                hint = 'its channels are equal: convert it to a grey PNG if they are class indices'
            raise UnknownValues(
                f'{path}: the colour {colour} is not in {self.source}; {hint}', path, [colour]
            )
        return ids[at].astype(np.uint8)


class PaletteCheck:
    """Refuses labels whose palette says that their indices are not those of the class table.

    Image optimisers renumber the entries of a palette: pixels keep their colours, not their
    indices. Palettes that have nothing to do with the table are the usual case, and fine.
    """

    def __init__(self, classes, ignore, source):
        self.source = source
        self.known, self.ids = colour_table(classes, ignore, BORDER)
        self.n = len(classes.names)
        self.own = np.full(256, -1)  # the colour of each train id, as 0xRRGGBB
        self.own[: len(classes.names)] = codes_of(classes.colours)
        self.harmless = set()  # palettes that contradict no label: those of nearly all data sets

    def __call__(self, path, raw, palette, table, colours):
        """Raise UserError if the colours in use are classes, but other ones than the indices are.

        raw (h, w) uint8, palette (n, 3) uint8, table: train ids of values.
        """
        key = palette.tobytes(), id(table)
        if key in self.harmless:
            return
        codes = codes_of(palette)
        readings = (
            (*self.by_colour(codes, table), self.of_colours(path, colours)),
            (*self.by_grey(palette, codes, table), self.of_greys(path)),
        )
        if not any(differ.any() for _, differ, _ in readings) and len(self.harmless) < 100:
            self.harmless.add(key)
        for ids, differ, sentence in readings:
            if differ.any() and self.mean_it(raw, codes, ids, differ):
                raise UserError(sentence)

    def by_colour(self, codes, table):
        """Return what each entry means by its colour, and whether its index means another class."""
        at = self.known.searchsorted(codes).clip(max=len(self.known) - 1)
        ids = np.where(self.known[at] == codes, self.ids[at], UNKNOWN)
        by_index = table[: len(codes)]
        return ids, (ids != UNKNOWN) & (ids != by_index) & (codes != self.own[by_index])

    def by_grey(self, palette, codes, table):
        """Return the same by the grey level as a value. Black and white are in any mask."""
        is_grey = (palette == palette[:, :1]).all(1)
        ids = np.where(is_grey, table[palette[:, 0]], UNKNOWN)
        by_index = table[: len(codes)]
        is_class = (ids > 0) & (ids < self.n)
        return ids, is_class & (ids != by_index) & (codes != self.own[by_index])

    def of_colours(self, path, colours):
        hint = 'use the labels as their makers wrote them'
        if colours:
            hint = 'save it as RGB PNG, which is read by colours, or mend the colours there'
        return (
            f'{path}: its palette has the colours of {self.source} at other indices, as image '
            f'optimisers leave it; {hint}'
        )

    def of_greys(self, path):
        return (
            f'{path}: its palette has the values of {self.source} as greys at other indices, '
            'as image optimisers leave it; convert it to a grey PNG without a palette'
        )

    @staticmethod
    def mean_it(raw, codes, ids, differ):
        """Tell whether all entries in use mean the classes `ids`, and some of them differ."""
        used = np.flatnonzero(np.bincount(raw.ravel(), minlength=256))
        if used[-1] >= len(codes) or len(np.unique(codes[used])) < len(used):
            return False
        return (ids[used] != UNKNOWN).all() and differ[used].any()


def codes_of(colours):
    """Return colours (..., 3) uint8 as numbers 0xRRGGBB."""
    return colours.astype(np.int32) @ np.array([1 << 16, 1 << 8, 1], np.int32)


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


def colour_table(classes, ignore, void=None):
    """Return the colours of a class table as sorted numbers 0xRRGGBB, and their train ids.

    Where two classes share a colour, the first one has it; void has its colours before any class,
    and the colour `void` if no class has it.
    """
    table = {}
    for i, (red, green, blue) in enumerate(classes.colours.tolist()):
        table.setdefault((red << 16) + (green << 8) + blue, i)
    for red, green, blue in classes.void_colours:
        table[(red << 16) + (green << 8) + blue] = ignore
    if void:
        table.setdefault(int(codes_of(np.array(void))), ignore)
    codes = sorted(table)
    return [np.array(codes), np.array([table[code] for code in codes])]


# --------------------------------------------------------------------------------------- readers


def read_image(path, upright=False, channels=3):
    """Return an image as (h, w, 3) uint8 RGB, its pixels as stored, on which labels are drawn.

    `upright` is for pictures without labels: they are turned as EXIF says, and of several in one
    file the first is read. Of another number of channels it is (h, w, channels): channels.read.
    """
    if not os.path.isfile(path):
        raise UserError(f'{path}: this image is missing')
    if channels != 3 or is_array(path):
        return read_channels(path, channels, upright)
    data = np.fromfile(path, np.uint8)
    size = pictures.plain_size(data)
    pixels = None
    if size:
        pictures.check_size(path, size)
        check_whole(path, data)
        pixels = pictures.decode_plain(data, upright)
    if pixels is None:
        pixels = read_rare(path, upright)
    return pictures.with_8_bits(path, pixels)


def check_whole(path, data):
    """Raise UserError if a JPEG or PNG, the bytes of a file, is cut off.

    OpenCV would fill it up in silence; Pillow refuses it.
    """
    tail = data[-64:].tobytes()
    if b'\xff\xd9' in tail or b'IEND' in tail:
        return
    picture, _ = pictures.open_picture(path)
    pictures.load(path, picture)
    if data[:2].tobytes() == b'\xff\xd8' and b'\xff\xd9' not in data.tobytes():
        raise UserError(f'{path}: this picture is cut off; fetch it again')


def read_rare(path, upright):
    """Return the pixels (h, w, 3), 8 or 16 bits, of a file that is no ordinary JPEG or PNG."""
    try:
        picture, tag = pictures.open_picture(path)
    except UserError:
        check_tiff(path, 3)
        raise
    if picture.format == 'TIFF':
        check_extra(path, picture.tag_v2)
    count, orientation = pictures.load(path, picture)
    if not upright:
        pictures.check_single(path, count)
    pixels = as_rgb(path, picture)
    return pictures.turn(pixels, tag or orientation) if upright else pixels


def as_rgb(path, picture):
    """Return the pixels (h, w, 3), uint8 or uint16, of a decoded Pillow image."""
    if picture.mode.startswith('I;16') or (picture.mode, picture.format) == ('I', 'PPM'):
        return np.stack([np.asarray(picture).astype(np.uint16)] * 3, 2)
    if picture.mode[0] in 'IF':
        raise UserError(
            f'{path}: this picture has {picture.mode} values, not 8 or 16 bits a channel without a '
            'sign; convert it'
        )
    if picture.format == 'TIFF' and max(picture.tag_v2.get(pictures.BITS, (1,))) > 8:
        pixels = pictures.decode_wide(path)
        if pixels is not None:
            return pixels
    try:
        return np.array(picture.convert('RGB'))
    except ValueError as e:
        raise pictures.unreadable(path, e) from None


def read_indices(path, colours=False):
    """Return the values (h, w) uint8 or int32 of a grey or palette picture, as stored.

    With `colours`, a colour picture gives (h, w, 3) uint8; without, UserError. So do formats that
    change values, and values that are negative, fractions or beyond 16 bits.
    """
    return read_label(path, colours)[0]
