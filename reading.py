"""Pictures and labels as arrays, whatever their makers wrote them as; class tables; the cache of decoded pixels."""

import functools
import hashlib
import os
import tempfile
from typing import NamedTuple

import cv2
import numpy as np
import scipy.io
from PIL import Image, ImageOps

from layouts import Segments
from settings import UserError

UNKNOWN = 254  # train id of raw values that the table does not know
VALUES = 65536  # raw label values have 16 bits at most

# -------------------------------------------------------------------------------------------------------- class tables


class Classes(NamedTuple):
    raw: list  # label value in the files, per class; None = all values that are named nowhere
    colours: np.ndarray  # (n, 3) uint8 RGB
    names: list
    void: list  # raw values of rows named `void`; None = all that are named nowhere
    void_colours: list
    path: str


@functools.lru_cache
def read_classes(path):
    """The table in a file: lines `raw red green blue name`, the order is that of the train ids. A raw value * stands for all that no line names, the
    name void for no class."""
    rows, void = [], []
    try:
        with open(path, encoding='utf-8-sig') as f:
            lines = f.read().splitlines()
    except (OSError, UnicodeDecodeError) as e:
        raise UserError(
            f'{path}: this class table cannot be read ({getattr(e, "strerror", None) or e}); a line per class: value red green blue name'
        ) from None
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                raw, *colour, name = line.split(maxsplit=4)
                row = None if raw == '*' else int(raw), tuple(map(int, colour)), name.strip()
                if (
                    len(row[1]) < 3
                    or not all(0 <= c < 256 for c in row[1])
                    or not 0 <= (row[0] or 0) < VALUES
                ):
                    raise ValueError
            except ValueError:
                raise UserError(
                    f'{path}, line {number}: {line.strip()!r} is not `value red green blue name`, such as `7 128 64 128 road`'
                ) from None
            if row[0] in [r[0] for r in rows + void]:
                raise UserError(f'{path}, line {number}: the value {raw} is named twice')
            (void if row[2] == 'void' else rows).append(row)
    if not 0 < len(rows) < UNKNOWN:
        raise UserError(f'{path}: {len(rows)} classes; there must be 1 to {UNKNOWN - 1}')
    return Classes(
        [r[0] for r in rows],
        np.array([r[1] for r in rows], np.uint8),
        [r[2] for r in rows],
        [r[0] for r in void],
        [r[1] for r in void],
        path,
    )


class Legend:
    """From what label files hold to train ids.

    classes  Classes
    void     raw values that stand for void, beside those of the table
    ignore   train id of void
    ready    (part of a label's folder/name, 'id' or 'id + 1') of files that hold train ids, see layouts.Entry
    colours  whether colour pictures are labels, by the colours of the table
    """

    def __init__(self, classes, void, ignore, ready=(), colours=False):
        self.source, self.ready, n = (
            os.path.join(*classes.path.split(os.sep)[-2:]),
            ready,
            len(classes.raw),
        )
        raw, ids, shifted = np.full((3, VALUES), UNKNOWN, np.uint8)
        if None in classes.raw + classes.void:
            raw[:] = classes.raw.index(None) if None in classes.raw else ignore
        raw[[*void, *(v for v in classes.void if v is not None)]] = ignore
        raw[[v for v in classes.raw if v is not None]] = [
            i for i, v in enumerate(classes.raw) if v is not None
        ]
        ids[:n], shifted[1 : n + 1] = range(n), range(n)
        ids[255] = shifted[[0, 255]] = ignore
        self.tables = {'raw': raw, 'id': ids, 'id + 1': shifted}
        self.colours = None
        if colours:
            pairs = {
                (r << 16) + (g << 8) + b: i
                for i, (r, g, b) in reversed([*enumerate(classes.colours.tolist())])
            }
            pairs |= {(r << 16) + (g << 8) + b: ignore for r, g, b in classes.void_colours}
            self.colours = [np.array(column) for column in zip(*sorted(pairs.items()))]
        self.key = hashlib.sha256(
            repr((ignore, [t.tobytes() for t in self.tables.values()], self.colours)).encode()
        ).digest()

    def read(self, label):
        """(h, w) uint8 train ids of a label path or Segments; UserError for files and values that will not do."""
        path = label.path if isinstance(label, Segments) else label
        raw = (
            read_segments(label)
            if isinstance(label, Segments)
            else read_mat(path)
            if path.endswith('.mat')
            else read_indices(path, self.colours)
        )
        if raw.ndim == 3:
            return self.of_colours(raw, path)
        kind = (
            self.ready[1]
            if self.ready and self.ready[0] in os.path.join(*path.split(os.sep)[-2:])
            else 'raw'
        )
        table = self.tables[kind]
        found = cv2.LUT(raw, table[:256]) if raw.dtype == np.uint8 else table[raw]
        unknown = found == UNKNOWN
        if unknown.any():
            raise UserError(
                f'{path}: label value {", ".join(map(str, np.unique(raw[unknown])[:5]))} is not in {self.source}'
                f'{"" if kind == "raw" else " as a train id"}; is DATASET right, and are these the labels that come with it?'
            )
        return found

    def of_colours(self, picture, path):
        codes = picture.astype(np.int32) @ np.array([1 << 16, 1 << 8, 1], np.int32)
        known, ids = self.colours
        at = known.searchsorted(codes).clip(max=len(known) - 1)
        if (lost := known[at] != codes).any():
            raise UserError(
                f'{path}: the colour {tuple(picture[lost][0].tolist())} is not in {self.source}; add its line (name void: no class), '
                'or save the label without smoothing, as PNG'
            )
        return ids[at].astype(np.uint8)


# ------------------------------------------------------------------------------------------------------------- files


def read_image(path, upright=False):
    """(h, w, 3) uint8 RGB, pixels as stored, for labels are drawn on stored pixels; `upright`: turned as EXIF says."""
    data = np.fromfile(path, np.uint8) if os.path.isfile(path) else None
    if data is None:
        raise UserError(f'{path}: this image is missing')
    tail = data[-64:].tobytes()
    whole = (
        b'\xff\xd9' in tail or b'IEND' in tail
    )  # OpenCV fills up what a cut file lacks; Pillow refuses it
    if not whole:
        open_with_pillow(path).load()
        if data[:2].tobytes() == b'\xff\xd8' and b'\xff\xd9' not in data.tobytes():
            raise UserError(f'{path}: this picture is cut off; fetch it again')
    try:
        image = (
            cv2.imdecode(data, cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION * (not upright))
            if len(data)
            else None
        )
    except cv2.error:  # more pixels than it takes
        image = None
    if image is not None:
        return image
    picture = open_with_pillow(path)
    if picture.mode[0] in 'IF':
        raise UserError(
            f'{path}: this picture has {picture.mode} values, not 8 bits a channel; convert it'
        )
    return np.array((ImageOps.exif_transpose(picture) if upright else picture).convert('RGB'))


def open_with_pillow(path):
    """The whole picture, decoded; UserError if there is none or the file is cut off."""
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


def read_indices(path, colours):
    """The values of a grey or palette picture, (h, w) uint8 or int32; (h, w, 3) of a colour picture, where labels may be such."""
    picture = open_with_pillow(path)
    if picture.mode in ('P', 'L', '1'):
        return np.asarray(picture, np.uint8)
    if picture.mode.startswith('I'):
        return np.asarray(picture).astype(np.int32).clip(0, VALUES - 1)
    if colours and picture.mode in ('RGB', 'RGBA'):
        return np.asarray(picture.convert('RGB'))
    raise UserError(
        f'{path}: a label must hold class indices (grey or palette PNG), this one holds {picture.mode} pixels, colours; convert it'
        + ('' if colours else ', or take DATASET=folder, which reads colours by classes.txt')
    )


def read_mat(path):
    """The values of a MATLAB label: SBD (GTcls), COCO-Stuff 10k (S; value - 1, as in its PNG files) or PASCAL Context (LabelMap)."""
    try:
        found = scipy.io.loadmat(path)
        raw = (
            found['GTcls']['Segmentation'][0, 0]
            if 'GTcls' in found
            else found['S']
            if 'S' in found
            else found['LabelMap']
        )
        values = np.ascontiguousarray(raw).astype(np.int64)
        if raw.ndim != 2 or (values != raw).any() or values.min() < 0 or values.max() >= VALUES:
            raise ValueError(
                f'{"x".join(map(str, raw.shape))} values of type {raw.dtype}, not whole numbers of 16 bits'
            )
        return (
            np.where(values == 0, 255, values - 1)
            if 'S' in found and 'GTcls' not in found
            else values
        )
    except FileNotFoundError:
        raise UserError(f'{path}: this file is missing') from None
    except Exception as e:  # scipy raises many kinds
        raise UserError(
            f'{path}: this MATLAB file cannot be read as a label ({type(e).__name__}: {e}); GTcls, S or LabelMap is due; unpack it again'
        ) from None


def read_segments(label):
    """The raw values of a panoptic PNG."""
    picture = np.asarray(open_with_pillow(label.path))
    if picture.ndim != 3:
        raise UserError(
            f'{label.path}: a panoptic label is a colour PNG of segment ids, this one is not; unpack it again'
        )
    codes = (
        picture[..., 0]
        | picture[..., 1].astype(np.uint32) << 8
        | picture[..., 2].astype(np.uint32) << 16
    )
    at = label.ids.searchsorted(codes).clip(max=len(label.ids) - 1)
    if (lost := label.ids[at] != codes).any():
        raise UserError(
            f'{label.path}: the JSON does not tell of segment {codes[lost][0]}; are both of one archive?'
        )
    return label.raw[at]


# --------------------------------------------------------------------------------------------- cache of decoded pixels


def cache_path(folder, image, label, legend):
    """Where the pixels of a pair are kept: a name that changes with the files, their sizes and times, and the class table."""
    key = hashlib.blake2b(legend.key, digest_size=16)
    for path in (image, label.path if isinstance(label, Segments) else label):
        if path:
            facts = os.stat(path)
            key.update(
                repr((os.path.relpath(path, folder), facts.st_size, facts.st_mtime_ns)).encode()
            )
    if isinstance(label, Segments):
        key.update(label.ids.tobytes() + label.raw.tobytes())
    name = key.hexdigest()
    return os.path.join(folder, name[:2], name)


def load_cached(path):
    """Image (h, w, 3) and label (h, w) or None, mapped into memory, or None if they are not kept; only what is used is read."""
    try:
        data = np.asarray(np.memmap(path, np.uint8, 'r'))
    except (OSError, ValueError):
        return None
    h, w = data[:8].view(np.uint32).tolist()
    image = data[8 : 8 + 3 * h * w].reshape(h, w, 3)
    return image, data[8 + 3 * h * w :].reshape(h, w) if len(data) > 8 + 3 * h * w else None


def store_cached(path, image, label):
    """Keeps decoded pixels: the whole file, or none."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    handle, work = tempfile.mkstemp(dir=os.path.dirname(path))
    try:
        with open(handle, 'wb') as f:
            for part in (np.array(image.shape[:2], np.uint32), image, label):
                if part is not None:
                    f.write(np.ascontiguousarray(part))
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(work, 0o666 & ~mask)  # others may read it, too
        os.replace(work, path)
    except OSError as e:
        raise UserError(
            f'{path}: could not be written ({e.strerror}); the cache needs 3 to 4 bytes per pixel of the data set'
        ) from None
    finally:
        if os.path.exists(work):
            os.unlink(work)
