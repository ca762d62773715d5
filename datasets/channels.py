"""Images of any number of channels: TIFF, arrays (.npy), and grey or transparent pictures."""

import os
import struct

import cv2
import numpy as np

from datasets import pictures, tiff
from datasets.labels import LOSSLESS
from utils.config import UserError

ARRAY = b'\x93NUMPY'  # how .npy files begin
CHANNELS = {'L': 1, 'LA': 2, 'RGB': 3, 'RGBA': 4}  # modes of Pillow, as they are stored
PLAIN = (0, 1, 2, 5)  # what the channels of a TIFF are: grey, colours, inks
DIFFERENCES = (5, 8, 32946, 34925, 50000)  # ways to pack a TIFF that know predictors
NUMBERS = '8 or 16 bits a channel without a sign'


def read(path, n, upright=False):
    """Return an image of n channels as stored, (h, w, n) uint8; of 16 bits the upper 8.

    upright  turn it as EXIF says, as files.read_image does
    UserError if it has another number of channels, or values that are not of 8 or 16 bits.
    """
    with open(path, 'rb') as f:
        start = f.read(4)
    if is_array(path):
        pixels = read_array(path, n)
    elif start in pictures.TIFF:
        pixels = read_tiff(path, n, upright)
    else:
        pixels = read_picture(path, n, upright)
    return pictures.with_8_bits(path, pixels)


def is_array(path):
    return path.lower().endswith('.npy')


def check_number(path, has, n):
    """Raise UserError unless an image has n channels."""
    if has != n:
        channels, numbers = f'{has} channels', f'{has} numbers'
        if has == 1:
            channels, numbers = '1 channel', 'one number'
        raise UserError(
            f'{path}: this image has {channels}, but MEAN and STD are of {n}; give each of them '
            f'{numbers}, or convert it'
        )


# ---------------------------------------------------------------------------------- arrays


def read_array(path, n):
    """Return the array (h, w, n), uint8 or uint16, in a .npy file; (h, w) is one channel, too."""
    try:
        with open(path, 'rb') as f:
            if f.read(len(ARRAY)) != ARRAY:
                raise ValueError('it is no .npy file')
        array = np.load(path, mmap_mode='r', allow_pickle=False)
    except (OSError, ValueError, EOFError, SyntaxError, TypeError, OverflowError) as e:
        reason = str(getattr(e, 'strerror', None) or e).split('\n')[0]
        raise UserError(f'{path}: this array cannot be read ({reason}); save it again') from None
    if array.ndim == 2 and n == 1:
        array = array[..., None]
    if array.ndim != 3 or (array.shape[2] != n and array.shape[0] == n):
        raise UserError(
            f'{path}: this array is of shape {array.shape}; expected (height, width, {n}), the '
            'channels last'
        )
    check_number(path, array.shape[2], n)
    if array.dtype.kind != 'u' or array.dtype.itemsize > 2:
        raise UserError(
            f'{path}: this array has {array.dtype} values, not {NUMBERS}; scale them to 0..255 and '
            'save them as uint8, or to 0..65535 as uint16'
        )
    pictures.check_size(path, array.shape[1::-1])
    return np.array(array, array.dtype.newbyteorder('='), order='C')


# ---------------------------------------------------------------------------------- pictures


def read_picture(path, n, upright):
    """Return the pixels (h, w, n), 8 or 16 bits, of a picture that is no TIFF."""
    picture, _ = pictures.open_picture(path)
    count, orientation = pictures.load(path, picture)
    if not upright:
        pictures.check_single(path, count)
    pixels = deep_alpha(path) if picture.format == 'PNG' else None
    if pixels is None:
        pixels = as_stored(path, picture)
    check_number(path, pixels.shape[2], n)
    return pictures.turn(pixels, orientation) if upright else pixels


def as_stored(path, picture):
    """Return the pixels (h, w, n), 8 or 16 bits, of a decoded Pillow image."""
    if picture.mode == '1':
        picture = picture.convert('L')
    if picture.mode.startswith('I;16') or (picture.mode, picture.format) == ('I', 'PPM'):
        pixels = np.asarray(picture).astype(np.uint16)
    elif picture.mode in CHANNELS:
        pixels = np.array(picture)
    else:
        raise UserError(
            f'{path}: this picture has {picture.mode} pixels, which are no channels of {NUMBERS}; '
            'save its channels as PNG, TIFF or .npy'
        )
    return pixels if pixels.ndim == 3 else pixels[..., None]


def deep_alpha(path):
    """Return the pixels (h, w, 2 or 4) of a PNG of 16 bits with alpha, of which Pillow keeps 8.

    None if it is another PNG.
    """
    data = np.fromfile(path, np.uint8)
    bits, kind = data[24:26].tolist()
    if bits != 16 or kind not in (4, 6):  # grey and alpha, colours and alpha
        return None
    deep = pictures.decode(data, cv2.IMREAD_UNCHANGED | cv2.IMREAD_IGNORE_ORIENTATION)
    if deep is None or deep.ndim != 3 or deep.dtype != np.uint16:
        raise pictures.unreadable(path, 'its 16 bits a channel cannot be decoded')
    return deep[..., [2, 1, 0, 3] if kind == 6 else [0, -1]]


# ---------------------------------------------------------------------------------- TIFF


def read_tiff(path, n, upright):
    """Return the pixels (h, w, n), 8 or 16 bits, of a TIFF; its channels may be pages of it."""
    if os.path.getsize(path) >= 2**32:
        raise UserError(f'{path}: this TIFF has more than 4 GB; save it as .npy, or cut it up')
    with open(path, 'rb') as f:
        content = bytearray(f.read())
    orientation = pictures.take_orientation(content)
    content = bytes(content)
    try:
        pages = [tags for tags in tiff.directories(content) if not tags[tiff.SUBFILE][0] & 5]
        shapes = {page_shape(tags) for tags in pages}
    except (struct.error, ValueError, KeyError, IndexError, OverflowError):
        raise pictures.unreadable(path, 'its header is damaged') from None
    if not pages:
        raise pictures.unreadable(path, 'there is no picture in it')
    size, samples, _ = next(iter(shapes))
    if len(pages) > 1 and (len(shapes) > 1 or samples > 1):
        pictures.check_single(path, len(pages))
    pictures.check_size(path, size)
    check_number(path, len(pages) * samples, n)
    parts = []
    for tags in pages:
        check_page(path, tags)
        parts.append(unpack(path, content, tags))
    pixels = np.concatenate(parts, 2)
    return pictures.turn(pixels, orientation) if upright else pixels


def check_extra(path, tags):
    """Raise UserError if a TIFF with these tags has channels beyond RGB or grey but no alpha."""
    if 0 in tags.get(tiff.EXTRA, ()):  # unspecified, such as infrared
        check_number(path, tags[tiff.SAMPLES], 3)


def check_tiff(path, n):
    """Raise UserError if this is a TIFF of more than three, but not n, channels, and is whole."""
    try:
        with open(path, 'rb') as f:
            content = f.read()
        pages = tiff.directories(content) if content[:4] in pictures.TIFF else []
    except (OSError, struct.error, ValueError, OverflowError):
        return
    samples = pages[0][tiff.SAMPLES][0] if pages else n
    if samples > 3:
        check_number(path, samples, n)


def page_shape(tags):
    """Return (width, height), the number of channels and their bits, of a picture in a TIFF."""
    size = tags[tiff.WIDTH][0], tags[tiff.HEIGHT][0]
    return size, tags[tiff.SAMPLES][0], tags[tiff.BITS]


def check_page(path, tags):
    """Raise UserError where the values of a picture in a TIFF are not read here."""
    bits, kinds = set(tags[tiff.BITS]), set(tags[tiff.FORMAT])
    what = None
    if bits not in ({8}, {16}) or kinds != {1}:
        names = {1: 'whole', 2: 'signed', 3: 'floating-point'}
        kind = ', '.join(sorted(names.get(kind, 'other') for kind in kinds))
        what = f'{kind} numbers of {", ".join(map(str, sorted(bits)))} bits'
    elif tags[tiff.COMPRESSION][0] not in LOSSLESS:
        what = f'compression {tags[tiff.COMPRESSION][0]}'
    elif tags[tiff.PHOTOMETRIC][0] not in PLAIN:
        what = f'colours of kind {tags[tiff.PHOTOMETRIC][0]} (palette, YCbCr and the like)'
    elif tags[tiff.PREDICTOR][0] > 2:
        what = f'predictor {tags[tiff.PREDICTOR][0]}'
    if what:
        raise UserError(
            f'{path}: this TIFF has {what}; save it with {NUMBERS}, uncompressed, LZW or deflate'
        )


def unpack(path, content, tags):
    """Return the pixels (h, w, n) of a picture in the bytes of a TIFF."""
    samples = tags[tiff.SAMPLES][0]
    planes, n = (samples, 1) if tags[tiff.PLANAR][0] == 2 else (1, samples)
    parts = []
    for plane in range(planes):
        try:
            grey = tiff.as_grey(content, tags, n, plane)
        except (struct.error, KeyError):
            raise pictures.unreadable(path, 'its header is damaged') from None
        parts.append(undone(decode_grey(path, grey), tags, n))
    pixels = np.concatenate(parts, 2)
    if tags[tiff.PHOTOMETRIC][0] == 0:  # white is zero
        pixels = np.iinfo(pixels.dtype).max - pixels
    return pixels


def decode_grey(path, content):
    """Return the pixels (h, w), 8 or 16 bits, in the bytes of a grey TIFF."""
    try:
        picture = pictures.open_bytes(content, ['TIFF'])
    except Exception as e:  # Pillow's decoders raise many kinds
        raise pictures.unreadable(path, e) from None
    pictures.load(path, picture)
    kind = np.uint8 if picture.mode == 'L' else np.uint16
    return np.asarray(picture).astype(kind)


def undone(pixels, tags, n):
    """Return unpacked rows (h, w n) as pixels (h, w, n), without what a predictor did to them."""
    pixels = pixels.reshape(len(pixels), -1, n)
    if tags[tiff.PREDICTOR][0] == 2 and tags[tiff.COMPRESSION][0] in DIFFERENCES:
        width = pixels.shape[1]
        step = tags.get(tiff.TILE_WIDTH, (width,))[0]
        for x in range(0, width, step):  # each is the difference from the pixel on its left
            tile = pixels[:, x : x + step]
            np.cumsum(tile, axis=1, dtype=pixels.dtype, out=tile)
    return pixels
