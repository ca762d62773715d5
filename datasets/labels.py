"""Label files as values: pictures, whose format must keep values as they are, MATLAB, panoptic."""

import math
import os
import struct

import numpy as np
import scipy.io

import settings
from datasets import pictures
from utils.config import UserError

VALUES = 65536  # raw label values have 16 bits at most
# tags of TIFF: how it is packed, whether white is zero, whether numbers have a sign
COMPRESSION, PHOTOMETRIC, SAMPLE_FORMAT = 259, 262, 339
STRUCT_BYTES = 2**20  # of SBD's .mat files, packed; they have less than a tenth of it
NO_NUMBERS = 'cell', 'object', 'char', 'function', 'opaque'  # kinds of MATLAB variables
LOSSLESS = (1, 2, 3, 4, 5, 8, 32773, 32946, 34925, 50000)  # LZW, deflate and the like


# ------------------------------------------------------------------------------------- pictures


def read_label(path, colours):
    """Return what files.read_indices does of a picture, and its palette (n, 3) uint8 or None."""
    picture, _ = pictures.open_picture(path)
    reason = why_not_a_label(path, picture)
    if reason:
        raise UserError(f'{path}: not accepted as a label: {reason}')
    count, _ = pictures.load(path, picture)
    if count > 1:
        raise UserError(
            f'{path}: not accepted as a label: it holds {count} pictures; save one of them as PNG'
        )
    palette = None
    if picture.mode in ('P', 'L', '1'):
        values = np.asarray(picture, np.uint8)
    elif picture.mode.startswith('I'):
        values = whole_numbers(path, picture)
    else:
        values = label_colours(path, picture, colours)
    if picture.mode == 'P':
        palette = np.frombuffer(bytes(picture.getpalette('RGB')), np.uint8).reshape(-1, 3)
    return values, palette


def whole_numbers(path, picture):
    """Return the values (h, w) int32 of a Pillow image of 16 or 32 bits."""
    values = np.asarray(picture).astype(np.int32)
    if values.min() < 0 or values.max() >= VALUES:
        raise UserError(
            f'{path}: the values of this label go from {values.min()} to {values.max()}; save them '
            f'as numbers from 0 to {VALUES - 1}, void too'
        )
    return values


def label_colours(path, picture, colours):
    """Return the colours (h, w, 3) uint8 of a Pillow image; UserError unless `colours` are read."""
    mode = picture.mode
    expected = f'{path}: a label must hold class indices (grey or palette PNG)'
    if mode not in ('RGB', 'RGBA'):
        if colours:
            expected += ' or RGB colours'
        raise UserError(f'{expected}, this one holds {mode} pixels; convert it to PNG of 8 bits')
    pixels = np.asarray(picture)
    if not colours and equal_channels(pixels[..., :3]):
        raise UserError(
            f'{expected}, this one holds {mode} pixels, colours, with three equal channels; '
            'convert it to a grey PNG of one channel'
        )
    if not colours:
        raise UserError(
            f'{expected}, this one holds {mode} pixels, colours; convert it, or use '
            'DATASET=folder, which reads colours by classes.txt'
        )
    if 'transparency' in picture.info or (mode == 'RGBA' and pixels[..., 3].min() < 255):
        raise UserError(
            f'{path}: this label has transparent pixels, whose colour is not certain; paint them '
            'in a colour of the table and save it as RGB PNG'
        )
    return np.ascontiguousarray(pixels[..., :3])


def equal_channels(picture):
    """Tell whether the channels of a picture (h, w, 3) are equal, as of indices saved as RGB."""
    return (picture == picture[..., :1]).all()


def why_not_a_label(path, picture):
    """Return why values may not come out of a Pillow image as they went in, and a way out; or ''.

    It looks at the header alone.
    """
    if picture.format in ('JPEG', 'MPO', 'JPEG2000', 'AVIF'):
        return f'{picture.format} changes values to save space; export it again as PNG'
    if picture.format == 'GIF':
        return 'programs that write GIF renumber its values; export it again as PNG'
    if picture.format == 'WEBP' and is_lossy_webp(path):
        return 'lossy WebP changes values to save space; export it again as PNG'
    if picture.format == 'TIFF':
        return why_not_tiff(picture)
    decoder, *_, args = picture.tile[0] if picture.tile else ('', '')
    if decoder.startswith('ppm') and args[1] not in (255, 65535):
        return f'values up to {args[1]} in a PGM or PPM file are scaled; save it as PNG'
    if picture.format == 'PNG' and picture.mode == 'L' and args != 'L':
        return f'grey of {str(args)[-1]} bits may be scaled or not; save it with 8 bits'
    if picture.format == 'PNG' and '16' in str(args) and picture.mode not in ('I', 'I;16'):
        return 'colours of 16 bits are cut to 8; save it with 8 bits'
    return ''


def why_not_tiff(picture):
    """Return the same of a TIFF."""
    tags = picture.tag_v2
    bits, signs = tags.get(pictures.BITS, (1,)), tags.get(SAMPLE_FORMAT, (1,))
    if tags.get(COMPRESSION, 1) not in LOSSLESS:
        return 'a TIFF packed like this may change values to save space; save it as PNG'
    if tags.get(PHOTOMETRIC) == 0:
        return 'in this TIFF white is 0, which may invert values; save it as PNG'
    if picture.mode == 'L' and (bits[0] != 8 or signs[0] != 1):
        return f'grey of {bits[0]} bits in a TIFF may be scaled or signed; save it as PNG of 8 bits'
    if len(bits) > 1 and max(bits) > 8:
        return 'colours of more than 8 bits are cut to 8; save it with 8 bits'
    return ''


def is_lossy_webp(path):
    """Tell whether a WebP file, still or animated, has a lossy picture."""
    with open(path, 'rb') as f:
        f.seek(12)
        while len(chunk := f.read(8)) == 8:
            kind, length = struct.unpack('<4sI', chunk)
            if kind == b'VP8 ':
                return True
            f.seek(length + length % 2, 1)
    return False


# ------------------------------------------------------------------------------- MATLAB, panoptic


def read_mat(path):
    """Return the values (h, w) int64 of a MATLAB label.

    SBD has GTcls, PASCAL Context LabelMap, COCO-Stuff 10k S, from which 1 is subtracted, as in its
    PNG files.
    """
    try:
        name = label_variable(path)
        content = scipy.io.loadmat(path, variable_names=[name])
        if name == 'GTcls':
            return as_values(content['GTcls']['Segmentation'][0, 0])
        values = as_values(content[name])
        if name == 'S':
            return np.where(values == 0, 255, values - 1)
        return values
    except FileNotFoundError:
        raise UserError(f'{path}: this file is missing') from None
    except Exception as e:  # scipy raises many kinds
        raise UserError(
            f'{path}: this MATLAB file cannot be read as a label ({type(e).__name__}: {e}); '
            'it must have GTcls, S or LabelMap; unpack it again'
        ) from None


def label_variable(path):
    """Return the name of the variable of a MATLAB file that is the label; ValueError if it is none.

    Its header alone is read. What lies in SBD's struct is not known from it; all are small files.
    """
    for name, shape, kind in sorted(scipy.io.whosmat(path)):
        if name in ('GTcls', 'LabelMap', 'S'):
            if kind in NO_NUMBERS or (kind == 'struct') != (name == 'GTcls'):
                raise ValueError(f'{name} is a {kind}')
            if math.prod(shape) > settings.MAX_PIXELS:
                raise ValueError(f'{name} has more than MAX_PIXELS = {settings.MAX_PIXELS:,}')
            if kind == 'struct' and os.path.getsize(path) > STRUCT_BYTES:
                raise ValueError(f'{name} has more than {STRUCT_BYTES:,} bytes')
            return name
    raise ValueError('no such variable')


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
    picture, _ = read_label(label.path, colours=True)
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
