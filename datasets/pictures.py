"""Picture files: what their headers say, before anything is decoded, and their pixels as stored."""

import io
import struct

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError

import settings
from utils import quiet
from utils.config import UserError

FORMATS = (
    'PNG', 'JPEG', 'MPO', 'TIFF', 'WEBP', 'BMP', 'DIB', 'GIF', 'PPM', 'JPEG2000', 'AVIF', 'HEIF',
)  # fmt: skip
ORIENTATION = 274  # tag of TIFF and EXIF
SUBFILE = 254  # tag of TIFF: 1 = a smaller copy, 4 = a mask
BITS = 258  # tag of TIFF: of each channel
SHORT = 3  # number of TIFF for 16-bit integers
HEIC = b'heic', b'heix', b'hevc', b'heim', b'heis'  # in the first box of such files
TIFF = b'II*\0', b'MM\0*', b'II+\0', b'MM\0+'  # how such files begin


# -------------------------------------------------------------------------------------- headers


def plain_size(data):
    """Return (width, height) of an ordinary JPEG or PNG, the bytes of a file; None for the rest."""
    start = data[:16].tobytes()
    try:
        if start.startswith(b'\xff\xd8'):
            return jpeg_size(data)
        if start.startswith(b'\x89PNG\r\n\x1a\n') and start.endswith(b'IHDR'):
            return png_size(data)
    except struct.error:  # it is cut off
        pass
    return None


def jpeg_size(data):
    at = 2
    while True:
        mark, kind, length, height, width = struct.unpack_from('>BBHxHH', data, at)
        if mark != 0xFF:
            return None
        if 0xC0 <= kind <= 0xCF and kind not in (0xC4, 0xC8, 0xCC):
            return width, height
        at += 2 + length


def png_size(data):
    at, kind = 8, b''
    while kind != b'IDAT':
        length, kind = struct.unpack_from('>I4s', data, at)
        if kind == b'acTL':  # it is animated
            return None
        at += length + 12
    return struct.unpack_from('>II', data, 16)


def check_size(path, size):
    """Raise UserError if a picture of `size` (width, height) is too large to be decoded."""
    width, height = size
    if width * height > settings.MAX_PIXELS:
        raise UserError(
            f'{path}: by its header this picture has {width:,}x{height:,} pixels, more than '
            f'MAX_PIXELS = {settings.MAX_PIXELS:,}; if that is right, raise MAX_PIXELS'
        )
    if width < 1 or height < 1:
        raise UserError(f'{path}: this picture has no pixels; fetch or convert it again')


def open_picture(path):
    """Return a picture file as a Pillow image that is not decoded yet, and a TIFF's orientation.

    Its pixels will be as stored. UserError if it does not exist, is no picture or too large.
    """
    Image.init()
    try:
        with open(path, 'rb') as f:
            content = bytearray(f.read())
        orientation = None
        if content[4:8] == b'ftyp' and any(brand in content[8 : content[3]] for brand in HEIC):
            read_heic(path)
        if content[:4] in TIFF:
            orientation = take_orientation(content)
        picture = open_bytes(content, [name for name in FORMATS if name in Image.OPEN])
    except UserError:
        raise
    except FileNotFoundError:
        raise UserError(f'{path}: this file is missing') from None
    except UnidentifiedImageError:
        raise unreadable(path, 'it has no format that is known here') from None
    except Exception as e:  # Pillow's decoders raise many kinds
        raise unreadable(path, getattr(e, 'strerror', None) or e) from None
    check_size(path, picture.size)
    return picture, orientation


def open_bytes(content, formats):
    """Return the bytes of a picture file as a Pillow image that is not decoded yet."""
    Image.MAX_IMAGE_PIXELS = None  # check_size has another limit: aerial pictures are large
    with quiet.decoding():
        return Image.open(io.BytesIO(content), formats=formats)


def read_heic(path):
    """Let Pillow read HEIC, the pictures of many telephones; UserError if no package does."""
    try:
        import pillow_heif
    except ImportError:
        raise UserError(
            f'{path}: HEIC pictures need a package of their own: pip install pillow-heif; '
            'or save it as JPEG'
        ) from None
    pillow_heif.register_heif_opener()


def unreadable(path, reason):
    """Return the UserError about a picture that cannot be decoded."""
    return UserError(f'{path}: this picture cannot be read ({reason}); fetch or convert it again')


def take_orientation(content):
    """Return the orientation in the bytearray of a TIFF, and make it 1 there; else None.

    Otherwise decoders turn the pixels, some of them some of the time.
    """
    order = '<' if content[:2] == b'II' else '>'
    try:
        _, version, start = struct.unpack_from(order + '2sHI', content)
        # where the number of tags is, the size of that number and of a tag, where its value is
        number, size, step, value = 'H', 2, 12, 8
        if version == 43:  # BigTIFF
            (start,) = struct.unpack_from(order + 'Q', content, 8)
            number, size, step, value = 'Q', 8, 20, 12
        (count,) = struct.unpack_from(order + number, content, start)
        for at in range(start + size, start + size + count * step, step):
            if struct.unpack_from(order + 'HH', content, at) == (ORIENTATION, SHORT):
                (orientation,) = struct.unpack_from(order + 'H', content, at + value)
                struct.pack_into(order + 'H', content, at + value, 1)
                return orientation
    except struct.error:
        pass
    return None


def frames(picture):
    """Return how many pictures a file holds; smaller copies and masks in a TIFF do not count."""
    count = getattr(picture, 'n_frames', 1)
    if picture.format != 'TIFF' or count == 1:
        return count
    others = 0
    for i in range(1, count):
        picture.seek(i)
        others += not int(picture.tag_v2.get(SUBFILE, 0)) & 5
    picture.seek(0)
    return 1 + others


def check_single(path, count):
    """Raise UserError if the file of an image with a label holds several pictures."""
    if count > 1:
        raise UserError(
            f'{path}: this image file holds {count} pictures; save the one to use by itself'
        )


def count(path):
    """Return how many pictures a file holds; what goes with a JPEG, such as depth, does not count.

    UserError as of open_picture.
    """
    with open(path, 'rb') as f:
        head = np.frombuffer(f.read(2**16), np.uint8)
    if head[:2].tobytes() == b'\xff\xd8' or plain_size(head):
        return 1
    picture, _ = open_picture(path)
    try:
        with quiet.decoding():
            return frames(picture)
    except Exception as e:  # Pillow's decoders raise many kinds
        raise unreadable(path, e) from None


# --------------------------------------------------------------------------------------- pixels


def load(path, picture):
    """Decode a Pillow image; return how many pictures its file holds, and EXIF's orientation."""
    try:
        with quiet.decoding():
            count = frames(picture)
            picture.load()
            return count, picture.getexif().get(ORIENTATION)
    except Exception as e:  # Pillow's decoders raise many kinds
        raise unreadable(path, e) from None


def turn(pixels, orientation):
    """Return pixels (h, w, ...) turned and mirrored as EXIF's orientation 1 to 8 says."""
    if orientation not in range(2, 9):
        return pixels
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)


def decode(data, flags):
    """Return the pixels that OpenCV finds in the bytes of a file; None if it fails."""
    try:
        with quiet.decoding():
            return cv2.imdecode(data, flags)
    except cv2.error:  # more pixels than it decodes
        return None


def decode_plain(data, upright):
    """Return the pixels (h, w, 3) RGB, 8 or 16 bits, of a JPEG or PNG; None if it fails.

    They are as stored, or with `upright` as EXIF says.
    """
    flags = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_ANYDEPTH
    if not upright:
        flags |= cv2.IMREAD_IGNORE_ORIENTATION
    return decode(data, flags)


def decode_wide(path):
    """Return the pixels (h, w, 3) RGB as stored of a TIFF of 16 bits, of which Pillow keeps 8."""
    data = np.fromfile(path, np.uint8)
    take_orientation(data.data)
    pixels = decode(data, cv2.IMREAD_UNCHANGED)
    return None if pixels is None else pixels[..., 2::-1]


def with_8_bits(path, pixels):
    """Return pixels of 8 or 16 bits as uint8; UserError if that would lose what they show."""
    if pixels.dtype == np.uint8:
        return pixels
    if pixels.dtype != np.uint16:
        raise UserError(
            f'{path}: this picture has {pixels.dtype} values, not 8 or 16 bits a channel without a '
            'sign; convert it'
        )
    bits = int(pixels.max()).bit_length()
    if 0 < bits < 15:
        raise UserError(
            f'{path}: the values of this 16-bit picture end at {pixels.max()}, so it would be '
            f'nearly black; if it has {max(bits, 8)} bits, multiply them by '
            f'{65536 >> max(bits, 8)}, or save it with 8 bits'
        )
    return (pixels >> 8).astype(np.uint8)
