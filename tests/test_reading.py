"""Pictures and labels have one reading: format x mode x depth x orientation; layouts; hostile files."""

import io
import json
import os
import pickle
import struct
import warnings
import zlib

import numpy as np
import pytest
import scipy.io
from helpers import blocks, colour_of, make_camvid, put, write
from PIL import Image, features
from scripts import run
from standins import SIZE, mat, palette, stand_in, text

import dataset
from dataset import Dataset
from datasets import cache, layouts, pictures
from datasets.files import LabelMap, UnknownValues, read_classes, read_image, read_indices
from utils.config import UserError

H, W = 6, 9
GREY = np.arange(H * W, dtype=np.uint8).reshape(H, W)  # 0..53, no symmetry
RGB = np.stack([4 * GREY, 255 - 4 * GREY, 3 * GREY], 2)
WIDE = GREY.astype(np.uint16) * 1200  # to 63,600
WIDE_RGB = np.stack([WIDE, WIDE // 2, WIDE // 3], 2)
AVIF = pytest.mark.skipif(not features.check('avif'), reason='this Pillow has no AVIF')


# --------------------------------------------------------------------------------- files made by hand


def saved(picture, form, **options):
    """The bytes of a picture file."""
    if isinstance(picture, np.ndarray):
        picture = Image.fromarray(picture)
    with io.BytesIO() as f:
        picture.save(f, form, **options)
        return f.getvalue()


def turned_file(form, orientation, **options):
    """RGB with an orientation in its EXIF data or tags."""
    if form == 'TIFF':
        return saved(RGB, form, tiffinfo={274: orientation}, **options)
    exif = Image.Exif()
    exif[274] = orientation
    return saved(RGB, form, exif=exif, **options)


def tiff(pixels, order='<', pages=1, photometric=None, subfile=None, tags=()):
    """An uncompressed TIFF of any type of numbers; `tags` are more of them, (number, value)."""
    pixels = np.ascontiguousarray(pixels)
    channels = 1 if pixels.ndim == 2 else pixels.shape[2]
    kind = {'u': 1, 'i': 2, 'f': 3, 'b': 1}[pixels.dtype.kind]
    body = pixels.astype(pixels.dtype.newbyteorder(order)).tobytes()
    out = bytearray((b'II' if order == '<' else b'MM') + struct.pack(order + 'HI', 42, 8))
    for page in range(pages):
        entries = [
            (256, 4, pixels.shape[1]),
            (257, 4, pixels.shape[0]),
            (258, 3, 8 * pixels.itemsize),
            (259, 3, 1),
            (262, 3, (1 if channels == 1 else 2) if photometric is None else photometric),
            (273, 4, 0),
            (277, 3, channels),
            (278, 4, pixels.shape[0]),
            (279, 4, len(body)),
            (339, 3, kind),
            *[(number, 3, value) for number, value in tags],
        ]
        if page and subfile:
            entries.append((254, 4, subfile))
        entries.sort()
        ifd = len(out)
        bits_at = ifd + 2 + 12 * len(entries) + 4
        start = bits_at + 4 * channels
        out += struct.pack(order + 'H', len(entries))
        for number, form, value in entries:
            count = channels if number in (258, 339) else 1
            if number == 273:
                value = start
            if count > 2:  # behind the directory
                where = bits_at + (0 if number == 258 else 2 * channels)
                out += struct.pack(order + 'HHII', number, form, count, where)
            elif form == 3:
                out += struct.pack(order + 'HHI', number, form, count)
                out += struct.pack(order + 'HH', value, value if count == 2 else 0)
            else:
                out += struct.pack(order + 'HHII', number, form, count, value)
        end = start + len(body)
        out += struct.pack(order + 'I', end if page + 1 < pages else 0)
        out += struct.pack(order + f'{channels}H', *[8 * pixels.itemsize] * channels)
        out += struct.pack(order + f'{channels}H', *[kind] * channels)
        out += body
    return bytes(out)


def png(pixels, bits, kind, extra=b'', size=None):
    """A PNG of 1 to 16 bits and any colour type: 0 grey, 2 RGB, 3 palette."""

    def chunk(name, data):
        crc = zlib.crc32(name + data)
        return struct.pack('>I', len(data)) + name + data + struct.pack('>I', crc)

    rows = b''
    for row in pixels.reshape(len(pixels), -1):
        digits = ''.join(format(value, f'0{bits}b') for value in row.tolist())
        digits += '0' * (-len(digits) % 8)
        rows += b'\0' + int(digits, 2).to_bytes(len(digits) // 8, 'big')
    h, w = size or pixels.shape[:2]
    header = chunk(b'IHDR', struct.pack('>IIBBBBB', w, h, bits, kind, 0, 0, 0))
    if kind == 3:
        extra += chunk(b'PLTE', bytes(range(3 << min(bits, 6))))
    data = b'\x89PNG\r\n\x1a\n' + header + extra
    return data + chunk(b'IDAT', zlib.compress(rows)) + chunk(b'IEND', b'')


def interlaced(pixels):
    """An Adam7 PNG of grey values, 8 bits."""
    rows = b''
    for y, x, dy, dx in (
        (0, 0, 8, 8),
        (0, 4, 8, 8),
        (4, 0, 8, 4),
        (0, 2, 4, 4),
        (2, 0, 4, 2),
        (0, 1, 2, 2),
        (1, 0, 2, 1),
    ):
        part = pixels[y::dy, x::dx]
        if part.size:
            rows += b''.join(b'\0' + row.tobytes() for row in part)
    whole = png(pixels, 8, 0)
    header = struct.pack('>IIBBBBB', pixels.shape[1], pixels.shape[0], 8, 0, 0, 0, 1)
    data = zlib.compress(rows)
    return (
        whole[:8]
        + struct.pack('>I', 13)
        + b'IHDR'
        + header
        + struct.pack('>I', zlib.crc32(b'IHDR' + header))
        + struct.pack('>I', len(data))
        + b'IDAT'
        + data
        + struct.pack('>I', zlib.crc32(b'IDAT' + data))
        + whole[-12:]
    )


def ycck():
    """A CMYK JPEG whose Adobe marker says that it is YCCK."""
    data = bytearray(saved(Image.fromarray(RGB).convert('CMYK'), 'JPEG', quality=100))
    at = data.index(b'Adobe')
    assert data[at + 11] == 0
    data[at + 11] = 2
    return bytes(data)


def moving(form, **options):
    frames = [Image.fromarray(np.roll(RGB, i, 1)) for i in range(3)]
    if form == 'GIF':
        frames = [frame.quantize(64, dither=Image.Dither.NONE) for frame in frames]
    return saved(frames[0], form, save_all=True, append_images=frames[1:], **options)


def grey_palette(values=GREY, form='PNG', colours=None, **options):
    picture = Image.fromarray(values)
    picture.putpalette(colours or [c for k in range(256) for c in (k, 255 - k, 7)])
    return saved(picture, form, **options)


def three(values):
    return np.repeat(values[..., None], 3, 2)


# ------------------------------------------------------------------------------------------- images

PALETTE_RGB = np.stack([GREY, 255 - GREY, np.full_like(GREY, 7)], 2)
ALPHA = np.dstack([RGB, 5 * GREY])
NEARLY_BLACK = 'end at 3975, so it would be nearly black; if it has 12 bits, multiply them by 16'
SEVERAL = 'this image file holds 3 pictures; save the one to use by itself'

# {name: (bytes, pixels (h, w, 3) or sentence, largest difference)}
IMAGES = {
    'png 8 grey': (saved(GREY, 'PNG'), three(GREY), 0),
    'png 8 rgb': (saved(RGB, 'PNG'), RGB, 0),
    'png 8 rgba': (saved(ALPHA, 'PNG'), RGB, 0),
    'png 8 grey + alpha': (saved(ALPHA[..., 2:], 'PNG'), three(RGB[..., 2]), 0),
    'png 8 palette': (grey_palette(), PALETTE_RGB, 0),
    'png 8 palette, transparent': (
        grey_palette(transparency=bytes(range(200))),
        PALETTE_RGB,
        0,
    ),
    'png 1': (saved(Image.fromarray((GREY % 2).astype(bool)), 'PNG'), three(255 * (GREY % 2)), 0),
    'png 4 grey': (png(GREY % 16, 4, 0), three(17 * (GREY % 16)), 0),
    'png 16 grey': (saved(WIDE, 'PNG'), three((WIDE >> 8).astype(np.uint8)), 1),
    'png 16 rgb': (png(WIDE_RGB, 16, 2), (WIDE_RGB >> 8).astype(np.uint8), 1),
    'png 16 grey + alpha': (
        png(np.stack([WIDE, WIDE[::-1]], 2), 16, 4),
        three((WIDE >> 8).astype(np.uint8)),
        0,
    ),
    'png 16 rgba': (
        png(np.dstack([WIDE_RGB, WIDE[::-1]]), 16, 6),
        (WIDE_RGB >> 8).astype(np.uint8),
        0,
    ),
    'png 16, all black': (saved(np.zeros_like(WIDE), 'PNG'), three(np.zeros_like(GREY)), 0),
    'png 16 of 12 bits': (saved(GREY.astype(np.uint16) * 75, 'PNG'), NEARLY_BLACK, 0),
    'png 16 of 10 bits': (saved(GREY.astype(np.uint16) * 19, 'PNG'), '10 bits, multiply .* 64', 0),
    'png 16 of 14 bits': (saved(GREY.astype(np.uint16) * 300, 'PNG'), '14 bits, multiply .* 4,', 0),
    'png 16 rgb of 12 bits': (png(three(GREY.astype(np.uint16) * 75), 16, 2), NEARLY_BLACK, 0),
    'png interlaced': (interlaced(GREY), three(GREY), 0),
    'apng': (moving('PNG'), SEVERAL, 0),
    'jpeg grey': (saved(GREY, 'JPEG', quality=100), three(GREY), 3),
    'jpeg rgb': (saved(RGB, 'JPEG', quality=100, subsampling=0), RGB, 4),
    'jpeg cmyk': (
        saved(Image.fromarray(RGB).convert('CMYK'), 'JPEG', quality=100),
        RGB,
        4,
    ),
    'jpeg ycck': (ycck(), 'pillow', 4),
    'jpeg progressive': (saved(RGB, 'JPEG', quality=100, subsampling=0, progressive=True), RGB, 4),
    'tiff 8 grey': (tiff(GREY), three(GREY), 0),
    'tiff 8 rgb, big-endian': (tiff(RGB, '>'), RGB, 0),
    'tiff 8 rgb, lzw': (saved(RGB, 'TIFF', compression='tiff_lzw'), RGB, 0),
    'tiff 8 palette': (grey_palette(form='TIFF'), PALETTE_RGB, 0),
    'tiff 8 rgba': (saved(ALPHA, 'TIFF'), RGB, 0),
    'tiff cmyk': (saved(Image.fromarray(RGB).convert('CMYK'), 'TIFF'), RGB, 3),
    'tiff 16 grey': (tiff(WIDE), three((WIDE >> 8).astype(np.uint8)), 1),
    'tiff 16 grey, big-endian': (tiff(WIDE, '>'), three((WIDE >> 8).astype(np.uint8)), 1),
    'tiff 16 rgb': (tiff(WIDE_RGB), (WIDE_RGB >> 8).astype(np.uint8), 1),
    'tiff 16 of 12 bits': (tiff(GREY.astype(np.uint16) * 75), NEARLY_BLACK, 0),
    'tiff 16 rgb of 12 bits': (tiff(three(GREY.astype(np.uint16) * 75)), NEARLY_BLACK, 0),
    'tiff 16 signed': (tiff(GREY.astype(np.int16) * 100 - 500), 'values, not 8 or 16 bits', 0),
    'tiff 32 integers': (tiff(GREY.astype(np.int32)), 'values, not 8 (or 16 )?bits', 0),
    'tiff 32 float': (tiff(GREY.astype(np.float32)), 'values, not 8 (or 16 )?bits', 0),
    'tiff 64 float': (tiff(GREY.astype(np.float64)), 'cannot be read', 0),
    'tiff 16 rgba': (
        tiff(np.dstack([WIDE_RGB, WIDE[::-1]]), tags=[(338, 2)]),
        (WIDE_RGB >> 8).astype(np.uint8),
        0,
    ),
    'tiff of 3 pages': (tiff(GREY, pages=3), SEVERAL, 0),
    'tiff with smaller copies': (tiff(GREY, pages=3, subfile=1), three(GREY), 0),
    'webp lossless': (saved(RGB, 'WEBP', lossless=True), RGB, 0),
    'webp lossy': (saved(RGB, 'WEBP', quality=100), RGB, 60),
    'webp, moving': (moving('WEBP', lossless=True), SEVERAL, 0),
    'gif': (saved(GREY, 'GIF'), three(GREY), 0),
    'gif, moving': (moving('GIF'), SEVERAL, 0),
    'bmp 8 rgb': (saved(RGB, 'BMP'), RGB, 0),
    'bmp 8 palette': (grey_palette(form='BMP'), PALETTE_RGB, 0),
    'ppm': (saved(RGB, 'PPM'), RGB, 0),
    'pgm to 15': (b'P5 9 6 15\n' + (GREY % 16).tobytes(), three(17 * (GREY % 16)), 0),
    'pgm to 4095': (
        b'P5 9 6 4095\n' + (GREY.astype(np.uint16) * 75).astype('>u2').tobytes(),
        three((75 * GREY.astype(int) * 255 // 4095).astype(np.uint8)),
        1,
    ),
    'pgm to 65535': (
        b'P5 9 6 65535\n' + WIDE.astype('>u2').tobytes(),
        three((WIDE >> 8).astype(np.uint8)),
        0,
    ),
    'jpeg 2000': (saved(RGB, 'JPEG2000'), RGB, 1),
    'text': (b'no picture', 'cannot be read', 0),
    'empty': (b'', 'cannot be read', 0),
    'eps': (b'%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 6\n%%EndComments\n', 'cannot be', 0),
}


@pytest.mark.parametrize('name', IMAGES)
def test_images(name, tmp_path, capfd):
    """The pixels as stored, or one sentence that names the file, whatever its ending."""
    data, wanted, near = IMAGES[name]
    path = str(tmp_path / 'picture.png')
    with open(path, 'wb') as f:
        f.write(data)
    if isinstance(wanted, str) and wanted != 'pillow':
        with pytest.raises(UserError, match=wanted) as e:
            read_image(path)
        assert str(e.value).startswith(f'{path}: ') and '\n' not in str(e.value)
    else:
        if isinstance(wanted, str):
            wanted = np.array(Image.open(path).convert('RGB'))
        with warnings.catch_warnings():
            warnings.simplefilter('error')
            pixels = read_image(path)
        assert pixels.dtype == np.uint8 and pixels.shape == (H, W, 3)
        assert np.abs(pixels.astype(int) - wanted).max() <= near
    assert not capfd.readouterr().err  # libraries say nothing


@pytest.mark.parametrize('name', [name for name in IMAGES if IMAGES[name][1] is SEVERAL])
def test_the_first_of_several_pictures_is_predicted(name, tmp_path):
    (tmp_path / 'a.png').write_bytes(IMAGES[name][0])
    pixels = read_image(str(tmp_path / 'a.png'), upright=True)
    wanted = three(GREY) if 'tiff' in name else RGB
    assert np.abs(pixels.astype(int) - wanted).max() <= 40  # the colours of a GIF


UPRIGHT = {  # what orientations mean
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: np.rot90(a, 2),
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: np.rot90(a, 2).swapaxes(0, 1),
    8: lambda a: np.rot90(a, 1),
}


@pytest.mark.parametrize('orientation', UPRIGHT)
@pytest.mark.parametrize(
    'form, options, near',
    [
        ('JPEG', {'quality': 100, 'subsampling': 0}, 4),
        ('PNG', {}, 0),
        ('WEBP', {'lossless': True}, 0),
        ('TIFF', {}, 0),
        ('TIFF', {'compression': 'tiff_lzw'}, 0),
        pytest.param('AVIF', {'quality': 100}, 40, marks=AVIF),
    ],
)
def test_orientations(form, options, near, orientation, tmp_path):
    """Training sees the pixels as stored, predict.py the upright picture."""
    path = str(tmp_path / 'a')
    with open(path, 'wb') as f:
        f.write(turned_file(form, orientation, **options))
    assert np.abs(read_image(path).astype(int) - RGB).max() <= near
    upright = read_image(path, upright=True)
    wanted = UPRIGHT[orientation](RGB)
    assert upright.shape == wanted.shape and np.abs(upright.astype(int) - wanted).max() <= near


@pytest.mark.parametrize('orientation', UPRIGHT)
@pytest.mark.parametrize('order', '<>')
@pytest.mark.parametrize('kind', ['8', '16', '16 rgb'])
def test_orientation_tags_of_tiff(kind, order, orientation, tmp_path):
    """... of all depths: images and labels alike come as they are stored."""
    pixels = {'8': GREY, '16': WIDE, '16 rgb': WIDE_RGB}[kind]
    path = str(tmp_path / 'a.tif')
    with open(path, 'wb') as f:
        f.write(tiff(pixels, order, tags=[(274, orientation)]))
    wanted = pixels if kind == '8' else pixels >> 8
    wanted = wanted if wanted.ndim == 3 else three(wanted)
    assert np.abs(read_image(path).astype(int) - wanted).max() <= 1
    upright = read_image(path, upright=True)
    assert np.abs(upright.astype(int) - UPRIGHT[orientation](wanted)).max() <= 1
    if kind != '16 rgb':
        assert (read_indices(path) == pixels).all()


# ------------------------------------------------------------------------------------------- labels

LOSSY = 'not accepted as a label: .* changes values .*; export it again as PNG'
INDICES = '{}: a label must hold class indices .grey or palette PNG., this one holds '

# {name: (bytes, values or sentence)}; of data whose labels are indices
LABELS = {
    'png 8 grey': (saved(GREY, 'PNG'), GREY),
    'png 8 palette': (grey_palette(), GREY),
    'png 8 palette, transparent': (grey_palette(transparency=bytes(200)), GREY),
    'png 4 palette': (png(GREY % 16, 4, 3), GREY % 16),
    'png 2 palette': (png(GREY % 4, 2, 3), GREY % 4),
    'png 1 palette': (png(GREY % 2, 1, 3), GREY % 2),
    'png 1 grey': (png(GREY % 2, 1, 0), GREY % 2),
    'png 2 grey': (png(GREY % 4, 2, 0), 'grey of 2 bits may be scaled or not; save it with 8 bits'),
    'png 4 grey': (png(GREY % 16, 4, 0), 'grey of 4 bits may be scaled or not'),
    'png 16 grey': (saved(WIDE, 'PNG'), WIDE),
    'png 16 rgb': (png(three(WIDE), 16, 2), 'colours of 16 bits are cut to 8; save it with 8'),
    'png interlaced': (interlaced(GREY), GREY),
    'png rgb': (saved(RGB, 'PNG'), 'RGB pixels, colours; convert it, or use DATASET=folder'),
    'png rgb, equal channels': (saved(three(GREY), 'PNG'), 'equal channels; convert it to a grey'),
    'png rgba, equal channels': (
        saved(np.dstack([three(GREY), GREY * 0 + 255]), 'PNG'),
        'this one holds RGBA pixels, colours, with three equal channels; convert it to a grey PNG',
    ),
    'png grey + alpha': (saved(ALPHA[..., 2:], 'PNG'), 'this one holds LA pixels; convert it to'),
    'apng': (moving('PNG'), 'it holds 3 pictures; save one of them as PNG'),
    'jpeg grey': (saved(GREY, 'JPEG', quality=100), LOSSY),
    'jpeg rgb': (saved(RGB, 'JPEG'), LOSSY),
    'jpeg 2000': (saved(GREY, 'JPEG2000'), LOSSY),
    'webp lossy': (saved(RGB, 'WEBP'), LOSSY),
    'webp lossy with EXIF': (turned_file('WEBP', 3), LOSSY),
    'webp lossless': (saved(RGB, 'WEBP', lossless=True), 'RGB pixels, colours; convert it, or'),
    'gif': (saved(GREY, 'GIF'), 'programs that write GIF renumber its values'),
    'bmp grey': (saved(GREY, 'BMP'), GREY),
    'bmp palette': (grey_palette(form='BMP'), GREY),
    'pgm': (saved(GREY, 'PPM'), GREY),
    'pgm to 53': (
        b'P5 9 6 53\n' + GREY.tobytes(),
        'values up to 53 in a PGM or PPM file are scaled',
    ),
    'plain pgm to 53': (
        b'P2 9 6 53\n' + ' '.join(map(str, GREY.ravel())).encode() + b'\n',
        'values up to 53 in a PGM or PPM file are scaled; save it as PNG',
    ),
    'pgm to 65535': (b'P5 9 6 65535\n' + WIDE.astype('>u2').tobytes(), WIDE),
    'tiff 8': (tiff(GREY), GREY),
    'tiff 8, deflated': (saved(GREY, 'TIFF', compression='tiff_adobe_deflate'), GREY),
    'tiff 8, as JPEG': (saved(GREY, 'TIFF', compression='jpeg'), 'may change values'),
    'tiff 8 signed': (tiff(GREY.astype(np.int8)), 'grey of 8 bits in a TIFF may be scaled or sig'),
    'tiff 8, white is 0': (tiff(GREY, photometric=0), 'in this TIFF white is 0'),
    'tiff 1, white is 0': (
        saved(Image.fromarray((GREY % 2).astype(bool)), 'TIFF', tiffinfo={262: 0}),
        'in this TIFF white is 0',
    ),
    'tiff 8 palette': (grey_palette(form='TIFF'), GREY),
    'tiff 16': (tiff(WIDE), WIDE),
    'tiff 16, big-endian': (tiff(WIDE, '>'), WIDE),
    'tiff 16 signed': (tiff(GREY.astype(np.int16)), GREY),
    'tiff 16 negative': (
        tiff(GREY.astype(np.int16) - 5),
        'the values of this label go from -5 to 48; save them as numbers from 0 to 65535, void too',
    ),
    'tiff 32': (tiff(GREY.astype(np.int32)), GREY),
    'tiff 32 too large': (tiff(GREY.astype(np.int32) * 2000), 'go from 0 to 106000'),
    'tiff 32 float': (tiff(GREY.astype(np.float32)), 'this one holds F pixels; convert it to PNG'),
    'tiff 64 float': (tiff(GREY.astype(np.float64)), 'cannot be read'),
    'tiff 16 rgb': (tiff(three(WIDE)), 'colours of more than 8 bits are cut to 8'),
    'tiff cmyk': (saved(Image.fromarray(RGB).convert('CMYK'), 'TIFF'), 'holds CMYK pixels; conv'),
    'tiff of 3 pages': (tiff(GREY, pages=3), 'it holds 3 pictures'),
    'tiff with smaller copies': (tiff(GREY, pages=3, subfile=1), GREY),
    'text': (b'no picture', 'cannot be read'),
    'empty': (b'', 'cannot be read'),
}
if features.check('avif'):
    LABELS['avif'] = saved(RGB, 'AVIF'), LOSSY


@pytest.mark.parametrize('name', LABELS)
def test_labels(name, tmp_path, capfd):
    data, wanted = LABELS[name]
    path = str(tmp_path / 'label.png')
    with open(path, 'wb') as f:
        f.write(data)
    if isinstance(wanted, str):
        with pytest.raises(UserError, match=wanted) as e:
            read_indices(path)
        assert str(e.value).startswith(f'{path}: ') and '\n' not in str(e.value)
    else:
        values = read_indices(path)
        assert values.shape == (H, W) and (values == wanted).all()
    assert not capfd.readouterr().err


# of data whose labels may be colours
COLOURS = {
    'png rgb': (saved(RGB, 'PNG'), RGB),
    'png rgba, opaque': (saved(np.dstack([RGB, GREY * 0 + 255]), 'PNG'), RGB),
    'png rgba, transparent': (saved(ALPHA, 'PNG'), 'has transparent pixels, whose colour is not'),
    'webp lossless': (saved(RGB, 'WEBP', lossless=True), RGB),
    'webp lossless with EXIF': (turned_file('WEBP', 3, lossless=True), RGB),
    'webp lossy': (saved(RGB, 'WEBP'), LOSSY),
    'bmp': (saved(RGB, 'BMP'), RGB),
    'ppm': (saved(RGB, 'PPM'), RGB),
    'tiff': (tiff(RGB), RGB),
    'tiff turned': (tiff(RGB, tags=[(274, 6)]), RGB),
    'tiff 16 rgb': (tiff(three(WIDE)), 'colours of more than 8 bits are cut to 8'),
    'tiff cmyk': (saved(Image.fromarray(RGB).convert('CMYK'), 'TIFF'), 'or RGB colours, this one'),
    'jpeg': (saved(RGB, 'JPEG'), LOSSY),
    'png grey': (saved(GREY, 'PNG'), GREY),
}


@pytest.mark.parametrize('name', COLOURS)
def test_labels_of_colours(name, tmp_path):
    data, wanted = COLOURS[name]
    path = str(tmp_path / 'label.png')
    with open(path, 'wb') as f:
        f.write(data)
    if isinstance(wanted, str):
        with pytest.raises(UserError, match=wanted):
            read_indices(path, colours=True)
    else:
        values = read_indices(path, colours=True)
        assert values.shape == wanted.shape and (values == wanted).all()


def test_image_and_label_of_one_orientation_tag_stay_aligned(tmp_path):
    """... though a decoder turns the one, and not the other."""
    root = make_camvid(tmp_path, sizes=[(40, 56)])
    label = blocks(40, 56, seed=0)
    os.unlink(f'{root}/train/0000.png')
    picture = Image.fromarray(colour_of(label)[..., ::-1])
    for orientation in (3, 6):
        picture.save(f'{root}/train/0000.tif', tiffinfo={274: orientation})
        image, read = Dataset('train', train=False).read(0)
        assert (image == colour_of(label)[..., ::-1]).all() and (read == label).all()
        Image.fromarray(label).save(f'{root}/trainannot/0000.tif', tiffinfo={274: orientation})
        os.unlink(f'{root}/trainannot/0000.png')
        assert (Dataset('train', train=False).read(0)[1] == label).all()
        os.rename(f'{root}/trainannot/0000.tif', tmp_path / 'away.tif')
        write(f'{root}/trainannot/0000.png', label)


# ------------------------------------------------------------------------------------------ palettes

OWN = ['0 10 20 30 ground', '1 200 0 0 hut', '2 0 0 200 tree', '3 90 90 90 road', '255 9 9 9 void']


def own(folder, lines=OWN, **values):
    put(DATASET='folder', DATA_ROOT=str(folder), TRAIN_SPLIT='train', NUM_WORKERS=0, **values)
    text(f'{folder}/classes.txt', lines)


def one_label(folder, values, colours):
    """A pair with a palette label."""
    write(f'{folder}/images/train/a.png', np.zeros((*values.shape, 3), np.uint8))
    palette(f'{folder}/labels/train/a.png', values, np.array(colours, np.uint8).ravel().tolist())


def read():
    return Dataset('train', train=False).read(0)[1]


def optimised(values, colours):
    """What an image optimiser makes of a palette label: the same colours, numbered afresh."""
    used = np.unique(values)[::-1]
    renumbered = np.zeros(256, np.uint8)
    renumbered[used] = range(len(used))
    return renumbered[values], np.array(colours, np.uint8)[used]


def voc_palette():
    colours = np.full((256, 3), 224, np.uint8)
    colours[:, 2] = 192
    here = os.path.join(os.path.dirname(dataset.__file__), 'datasets', 'classes', 'voc.txt')
    colours[:21] = read_classes(here).colours
    return colours


@pytest.mark.parametrize(
    'values', [[[0, 15, 255]], [[0, 0, 0, 20]], [[1, 2, 3, 255]], [[7, 255]], [[5]]]
)
def test_optimised_labels_of_voc(values, tmp_path):
    """They are refused; VOC's own are read."""
    stand_in('voc', tmp_path, 1, splits=['train'])
    colours, path = voc_palette(), Dataset('train', train=False).pairs[0][1]
    label_map = Dataset('train', train=False).label_map
    values = np.array(values, np.uint8)
    palette(path, values, colours.ravel().tolist())
    assert (label_map.read(path) == values).all()
    palette(
        path,
        *[
            part.ravel().tolist() if i else part
            for i, part in enumerate(optimised(values, colours))
        ],
    )
    with pytest.raises(
        UserError,
        match='its palette has the colours of classes/voc.txt at other indices, as image optimisers '
        'leave it; use the labels as their makers wrote them',
    ):
        label_map.read(path)


def test_optimised_labels_of_ones_own(tmp_path):
    """... and the way out works."""
    own(tmp_path)
    values = np.array([[1, 2, 3, 255], [3, 2, 1, 1]], np.uint8)
    colours = np.zeros((256, 3), np.uint8)
    colours[[0, 1, 2, 3, 255]] = [[10, 20, 30], [200, 0, 0], [0, 0, 200], [90, 90, 90], [9, 9, 9]]
    one_label(tmp_path, values, colours)
    assert (read() == values).all()
    one_label(tmp_path, *optimised(values, colours))
    with pytest.raises(UserError, match='at other indices.*; save it as RGB PNG, which is read by'):
        read()
    path = f'{tmp_path}/labels/train/a.png'
    Image.open(path).convert('RGB').save(path)
    assert (read() == values).all()


def test_optimised_grey_labels(tmp_path):
    """An optimiser makes palettes of grey pictures, too; converted as it says, they are read."""
    make_camvid(tmp_path)
    path = f'{tmp_path}/camvid/trainannot/0000.png'
    values = np.full((40, 56), 3, np.uint8)
    values[:9], values[20:] = 7, 11
    greys = np.repeat(np.arange(256, dtype=np.uint8)[:, None], 3, 1)
    renumbered, colours = optimised(values, greys)
    palette(path, renumbered, colours.ravel().tolist())
    with pytest.raises(UserError, match='as greys at other indices.*; convert it to a grey PNG'):
        read()
    Image.open(path).convert('L').save(path)
    assert (read() == np.where(values == 11, 255, values)).all()
    palette(path, values, greys.ravel().tolist())
    assert (read() == np.where(values == 11, 255, values)).all()


@pytest.mark.parametrize(
    'colours',
    [
        [[k, k, k] for k in range(256)],
        [[60 * k % 256] * 3 for k in range(256)],  # greys that are no values
        [[7, 7, 7]] * 256,
        [[200, 0, 0]] * 256,
        [[k, 255 - k, 77] for k in range(256)],
        [[10, 20, 30], [0, 0, 200], [1, 2, 3], [4, 5, 6]],  # one entry has the colour of another
        [[10, 20, 30], [200, 0, 0], [0, 0, 200], [90, 90, 90]],
    ],
)
def test_palettes_that_are_merely_for_display(colours, tmp_path):
    own(tmp_path)
    values = np.array([[0, 1, 2, 3], [3, 2, 1, 0]], np.uint8)
    one_label(tmp_path, values, colours)
    assert (read() == values).all()


def test_classes_that_share_a_colour(tmp_path):
    own(tmp_path, ['0 1 1 1 a', '1 1 1 1 b', '2 8 8 8 c'])
    values = np.array([[1, 1, 2, 2]], np.uint8)
    one_label(tmp_path, values, [[1, 1, 1], [1, 1, 1], [8, 8, 8]])
    assert (read() == values).all()


def test_index_pictures_written_here_are_read(tmp_path):
    """Palettes that prepare.py and eval.py write agree with the values."""
    own(tmp_path)
    from utils import visualize

    colours = dataset.classes().colours
    values = np.array([[0, 1, 2, 3], [3, 2, 1, 0]], np.uint8)
    write(f'{tmp_path}/images/train/a.png', np.zeros((2, 4, 3), np.uint8))
    os.makedirs(tmp_path / 'labels/train')
    visualize.save(f'{tmp_path}/labels/train/a.png', values, colours)
    assert (read() == values).all()


def test_indices_in_three_channels_of_ones_own_data(tmp_path):
    """The sentence no longer asks for the colour (1, 1, 1) as a class."""
    own(tmp_path)
    write(f'{tmp_path}/images/train/a.png', np.zeros((2, 3, 3), np.uint8))
    values = np.array([[0, 1, 2], [2, 1, 0]], np.uint8)
    write(f'{tmp_path}/labels/train/a.png', three(values))
    with pytest.raises(
        UnknownValues, match='its channels are equal: convert it to a grey PNG'
    ) as e:
        read()
    assert 'add its line' not in str(e.value)
    path = f'{tmp_path}/labels/train/a.png'
    Image.open(path).convert('L').save(path)
    assert (read() == values).all()


# --------------------------------------------------------------------------- lists, endings, layouts


def a_pair(folder, image='images/train/a.png', label='labels/train/a.png', value=1):
    write(f'{folder}/{image}', np.full((4, 5, 3), 99, np.uint8))
    if label:
        write(f'{folder}/{label}', np.full((4, 5), value, np.uint8))


def test_jpeg_label_in_a_list(tmp_path):
    own(tmp_path)
    a_pair(tmp_path, 'a.jpg', 'a_label.jpg')
    text(f'{tmp_path}/train.txt', ['a.jpg a_label.jpg'])
    with pytest.raises(
        UserError, match='a_label.jpg: not accepted as a label: JPEG changes values'
    ):
        read()


@pytest.mark.parametrize(
    'ending', ['.png', '.jpg', '.JPEG', '.bmp', '.tif', '.TIFF', '.webp', '.jp2']
)
@pytest.mark.parametrize('layout', ['images/train', 'train', 'list', 'camvid'])
def test_images_of_all_endings_in_all_layouts(layout, ending, tmp_path):
    own(tmp_path)
    data = saved(RGB, Image.registered_extensions()[ending.lower()])
    image_dir = {'list': 'some', 'camvid': 'camvid/train'}.get(layout, layout)
    label_dir = {
        'images/train': 'labels/train', 'train': 'trainannot', 'list': 'some/labels',
        'camvid': 'camvid/trainannot',
    }[layout]  # fmt: skip
    write(f'{tmp_path}/{label_dir}/a.png', np.ones((H, W), np.uint8))
    os.makedirs(tmp_path / image_dir, exist_ok=True)
    (tmp_path / image_dir / f'a{ending}').write_bytes(data)
    if layout == 'list':
        text(f'{tmp_path}/train.txt', [f'some/a{ending} some/labels/a.png'])
    if layout == 'camvid':
        put(DATASET='camvid')
    image, label = Dataset('train', train=False).read(0)
    assert image.shape == (H, W, 3) and (label == 1).all()


@pytest.mark.parametrize('ending', ['.png', '.bmp', '.tif', '.tiff', '.PNG', '.pgm', '.mat'])
@pytest.mark.parametrize('layout', ['images', 'annot'])
def test_labels_of_all_endings(layout, ending, tmp_path):
    own(tmp_path)
    image, label = (
        ('images/train', 'labels/train') if layout == 'images' else ('train', 'trainannot')
    )
    a_pair(tmp_path, f'{image}/a.jpg', None)
    path = f'{tmp_path}/{label}/a{ending}'
    os.makedirs(os.path.dirname(path))
    if ending == '.mat':
        mat(path, LabelMap=np.full((4, 5), 2, np.uint8))
    else:
        Image.fromarray(np.full((4, 5), 2, np.uint8)).save(path)
    assert (read() == 2).all()


@pytest.mark.parametrize('name', ['ade20k', 'nyuv2', 'voc', 'cityscapes', 'coco_stuff'])
def test_other_endings_in_makers_layouts(name, tmp_path):
    """Images that were converted to BMP are there."""
    stand_in(name, tmp_path, 2, splits=['train'])
    before = Dataset('train', train=False)
    wanted = [before.read(i) for i in range(2)]
    for image, _ in before.pairs:
        Image.open(image).save(os.path.splitext(image)[0] + '.bmp')
        os.unlink(image)
    after = Dataset('train', train=False)
    for i in range(2):
        image, label = after.read(i)
        assert np.abs(image.astype(int) - wanted[i][0]).max() <= 3 and (label == wanted[i][1]).all()


@pytest.mark.parametrize(
    'file, kind',
    [
        ('labels/train/a.jpg', 'label'),
        ('labels/train/a.json', 'label'),
        ('labels/train/a.jpg.png', 'label'),
        ('labels/train/a.gif', 'label'),
        ('images/train/b.xcf', 'image'),
    ],
)
def test_there_but_not_accepted(file, kind, tmp_path):
    own(tmp_path)
    if kind == 'label':
        a_pair(tmp_path, label=None)
    else:
        a_pair(tmp_path)
        write(f'{tmp_path}/labels/train/b.png', np.zeros((4, 5), np.uint8))
    path = tmp_path / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b'x')
    with pytest.raises(UserError, match=f'{file}: this {kind} is there, but not accepted') as e:
        Dataset('train', train=False)
    assert 'missing' not in str(e.value)
    stem = os.path.basename(file)[0]
    assert str(e.value).endswith(f'export it again as {stem}.png')


def test_no_image_that_is_accepted(tmp_path):
    own(tmp_path)
    (tmp_path / 'images/test').mkdir(parents=True)
    (tmp_path / 'images/test/a.xcf').write_bytes(b'x')
    with pytest.raises(UserError, match='images/test/a.xcf: this image is there, but not accepted'):
        Dataset('test', train=False)


@pytest.mark.parametrize('layout', ['images', 'annot', 'list', 'camvid'])
def test_test_split_without_labels(layout, tmp_path):
    own(tmp_path)
    folder = {'images': 'images/test', 'annot': 'test', 'list': 'my pictures'}.get(
        layout, 'camvid/test'
    )
    for name in ('a', 'b c'):
        write(f'{tmp_path}/{folder}/{name}.png', np.full((4, 5, 3), 99, np.uint8))
    if layout == 'list':
        text(f'{tmp_path}/test.txt', ['my pictures/b c.png', f'{tmp_path}/my pictures/a.png'])
    if layout == 'camvid':
        put(DATASET='camvid')
        os.makedirs(tmp_path / 'camvid/trainannot')
    data = Dataset('test', train=False)
    assert len(data) == 2 and not data.labelled
    image, label = data.read(1)
    assert image.shape == (4, 5, 3) and label is None
    if layout == 'list':
        assert data.pairs[0][0].endswith('b c.png')
        text(f'{tmp_path}/test.txt', ['my pictures/a.png', 'gone.png'])
        with pytest.raises(UserError, match='gone.png: this image is missing; .*test.txt names it'):
            Dataset('test', train=False)


def test_test_split_with_labels_is_as_before(tmp_path):
    """test.txt may still name some of the files, and labels that are there count."""
    own(tmp_path)
    for name in ('a', 'b'):
        a_pair(tmp_path, f'images/test/{name}.png', f'labels/test/{name}.png')
    text(f'{tmp_path}/test.txt', ['images/test/b.png'])
    data = Dataset('test', train=False)
    assert len(data) == 1 and data.labelled
    text(f'{tmp_path}/test.txt', ['images/test/b.png labels/test/b.png'])
    assert Dataset('test', train=False).labelled


# ------------------------------------------------------------------------------- two files of one stem


@pytest.mark.parametrize('other', ['p4.jpg', 'p4.PNG', 'p4.tif', 'p4.JPG'])
@pytest.mark.parametrize('folder', ['images/train', 'labels/train', 'train', 'trainannot'])
def test_two_files_of_one_name(folder, other, tmp_path):
    if 'annot' in folder or folder.startswith('labels'):
        other = other.replace('.jpg', '.bmp').replace('.JPG', '.BMP')
    own(tmp_path)
    if 'images' in folder or 'labels' in folder:
        a_pair(tmp_path, 'images/train/p4.png', 'labels/train/p4.png')
    else:
        a_pair(tmp_path, 'train/p4.png', 'trainannot/p4.png')
    path = tmp_path / folder / other
    if path.exists():
        pytest.skip('this file system knows no capitals')
    path.write_bytes((tmp_path / folder / 'p4.png').read_bytes())
    first, second = sorted([f'{tmp_path}/{folder}/p4.png', str(path)])
    with pytest.raises(UserError, match=f'{first} and {second}: two files of one name; remove or'):
        Dataset('train', train=False)


def test_capitals_make_another_name(tmp_path):
    own(tmp_path)
    for name in ('p4', 'P4'):
        a_pair(tmp_path, f'images/train/{name}.png', f'labels/train/{name}.png')
    if len(os.listdir(tmp_path / 'images' / 'train')) < 2:
        pytest.skip('this file system knows no capitals')
    names = [os.path.basename(image) for image, _ in Dataset('train', train=False).pairs]
    assert {'p4.png', 'P4.png'} <= set(names)


def test_one_name_in_two_cities(tmp_path):
    stand_in('cityscapes', tmp_path, 2, splits=['val'])
    folder = f'{tmp_path}/cityscapes/leftImg8bit/val'
    (file,) = os.listdir(f'{folder}/ulm0')
    write(f'{folder}/ulm1/{file}', np.zeros((*SIZE, 3), np.uint8))
    with pytest.raises(UserError, match=f'ulm0/{file} and .*ulm1/{file}: two files of one name'):
        Dataset('val', train=False)


# ------------------------------------------------------------------------------------- hostile files

GIF = b'GIF89a\xff\xff\xff\xff\0\0\0,\0\0\0\0\xff\xff\xff\xff\0\x02\x02D\x01\0;'
HUGE_JPEG = bytearray(saved(RGB, 'JPEG'))
HUGE_JPEG[HUGE_JPEG.index(b'\xff\xc0') + 5 :][:4] = b''
AT = HUGE_JPEG.index(b'\xff\xc0') + 5
HUGE_JPEG[AT : AT + 4] = b'\xff\xff\xff\xff'
HUGE = {
    'gif': GIF,
    'png': png(GREY, 8, 0, size=(200000, 200000)),
    'jpeg': bytes(HUGE_JPEG),
    'tiff': tiff(GREY).replace(struct.pack('<HHII', 256, 4, 1, W), struct.pack('<HHII', 256, 4, 1, 2**30)),
    'pgm': b'P5 99999 99999 255\n' + bytes(9),
    'bmp': saved(RGB, 'BMP')[:18] + struct.pack('<ii', 60000, 60000) + saved(RGB, 'BMP')[26:],
}  # fmt: skip


@pytest.mark.parametrize('name', HUGE)
def test_pictures_that_ask_for_gigabytes(name, tmp_path):
    path = str(tmp_path / 'a.png')
    with open(path, 'wb') as f:
        f.write(HUGE[name])
    for reader in (read_image, read_indices):
        if (reader, name) in ((read_indices, 'gif'), (read_indices, 'jpeg')):
            continue
        with pytest.raises(
            UserError,
            match=r'a.png: by its header this picture has [\d,x]+ pixels, more than MAX_P',
        ):
            reader(path)


def test_the_limit_is_a_setting(tmp_path):
    own(tmp_path, MAX_PIXELS=H * W)
    for form in ('PNG', 'JPEG', 'TIFF', 'WEBP'):
        (tmp_path / 'a').write_bytes(
            saved(RGB, form, lossless=True) if form == 'WEBP' else saved(RGB, form)
        )
        put(MAX_PIXELS=H * W)
        assert read_image(str(tmp_path / 'a')).shape == (H, W, 3)
        put(MAX_PIXELS=H * W - 1)
        with pytest.raises(UserError, match='more than MAX_PIXELS = 53; if that is right, raise'):
            read_image(str(tmp_path / 'a'))
    (tmp_path / 'a').write_bytes(saved(GREY, 'PNG'))
    with pytest.raises(UserError, match='9x6 pixels, more than MAX_PIXELS = 53'):
        read_indices(str(tmp_path / 'a'))


def test_ordinary_pictures_are_not_opened_twice(tmp_path, monkeypatch):
    """JPEG and PNG of 8 bits cost a look at their first bytes."""
    monkeypatch.setattr(pictures, 'open_picture', lambda path: 1 / 0)
    for form in ('PNG', 'JPEG'):
        (tmp_path / 'a').write_bytes(saved(RGB, form))
        assert read_image(str(tmp_path / 'a')).shape == RGB.shape


def panoptic(folder, change):
    stand_in('coco_panoptic', folder, 1, splits=['val'])
    path = f'{folder}/coco/annotations/panoptic_val2017.json'
    with open(path) as f:
        content = json.load(f)
    change(content['annotations'][0])
    with open(path, 'w') as f:
        json.dump(content, f)
    return path


@pytest.mark.parametrize('number', [-1, 2**24, 2**32 + 1, 10**30, 1.5, '7', None, True, [1]])
@pytest.mark.parametrize('key', ['id', 'category_id'])
def test_json_ids(key, number, tmp_path):
    if (key, number) == ('category_id', True):
        pytest.skip('True is the key 1 of a dict')
    path = panoptic(tmp_path, lambda entry: entry['segments_info'][0].update({key: number}))
    with pytest.raises(UserError, match=f'{path}: this is no panoptic JSON of COCO') as e:
        Dataset('val', train=False)
    assert '\n' not in str(e.value) and len(str(e.value)) < 600


def test_json_with_one_id_twice(tmp_path):
    def change(entry):
        entry['segments_info'].append(entry['segments_info'][0])

    path = panoptic(tmp_path, change)
    with pytest.raises(UserError, match='has two segments of one id'):
        Dataset('val', train=False)
    with open(path) as f:
        content = json.load(f)
    content['annotations'][0]['segments_info'].pop()
    content['annotations'] *= 2
    with open(path, 'w') as f:
        json.dump(content, f)
    with pytest.raises(UserError, match='000000000000.png has two entries'):
        Dataset('val', train=False)


@pytest.mark.parametrize(
    'content',
    [
        '[' * 100000,
        '{"a":' * 100000,
        '[' * 100000 + ']' * 100000,
        '{"categories": 5, "annotations": []}',
        '{"categories": [], "annotations": {"a": 1}}',
        '{"categories": [], "annotations": [7]}',
        '{"categories": [], "annotations": [{"segments_info": [], "file_name": 7}]}',
        '{"categories": [{"id": [], "isthing": 1}], "annotations": []}',
        '9' * 5000,
        'null',
        '\0' * 1000,
        '\ud800',
    ],
)
def test_json_that_is_none(content, tmp_path):
    stand_in('coco_panoptic', tmp_path, 1, splits=['val'])
    path = f'{tmp_path}/coco/annotations/panoptic_val2017.json'
    with open(path, 'w', encoding='utf-8', errors='surrogatepass') as f:
        f.write(content)
    with pytest.raises(UserError, match=f'{path}: this is no panoptic JSON') as e:
        Dataset('val', train=False)
    assert len(str(e.value)) < 600


def test_panoptic_labels_of_other_kinds(tmp_path):
    stand_in('coco_panoptic', tmp_path, 1, splits=['val'])
    data = Dataset('val', train=False)
    path = data.pairs[0][1].path
    for content, said in (
        (saved(ALPHA[..., 2:], 'PNG'), 'LA pixels'),
        (saved(GREY, 'PNG'), 'a panoptic label is a colour PNG of segment ids'),
        (saved(RGB, 'JPEG'), 'JPEG changes values'),
        (png(three(WIDE), 16, 2), 'cut to 8'),
    ):
        with open(path, 'wb') as f:
            f.write(content)
        with pytest.raises(UserError, match=f'{path}: .*{said}'):
            data.read(0)


@pytest.mark.parametrize('end', [0, 1, 7, 8, 9, 50, 3000, 8 + 3 * 40 * 56, -1])
def test_damaged_cache_files_count_as_absent(end, tmp_path):
    stand_in('camvid', tmp_path, 1)
    dataset.cache(Dataset('train', train=False))
    data = Dataset('train', train=False)
    wanted, path = data.decode(0), data.cache_path(0)
    with open(path, 'rb') as f:
        content = f.read()
    with open(path, 'wb') as f:
        f.write(content[:end])
    assert cache.load(path) is None
    for a, b in zip(data.read(0), wanted, strict=True):
        assert (a == b).all()
    with open(path, 'wb') as f:
        f.write(struct.pack('<II', 2**32 - 1, 2**32 - 1) + content[8:])
    assert cache.load(path) is None
    with open(path, 'wb') as f:
        f.write(content + b'x')
    assert cache.load(path) is None
    data.save(0)
    assert (cache.load(path)[1] == wanted[1]).all()


def test_cache_of_unlabelled_images(tmp_path):
    stand_in('voc', tmp_path, 1)
    dataset.cache(Dataset('test', train=False))
    data = Dataset('test', train=False)
    path = data.cache_path(0)
    image, label = cache.load(path)
    assert label is None and (image == data.decode(0)[0]).all()
    with open(path, 'ab') as f:
        f.write(b'x')
    assert cache.load(path) is None


@pytest.mark.parametrize(
    'content, said',
    [
        (b'0 1 2 3 a\x1b[31mred\n', r"line 1: '0 1 2 3 a\\x1b\[31mred' is not"),
        (b'0 1 2 3 a\x07\n', 'line 1'),
        (b'0 1 2 3 ' + b'a' * 100000, 'line 1'),
        (b'x' * 100000, 'line 1'),
        (b'0 1 2 3 a\n' * 300000, 'cannot be read .it has more than'),
        (bytes(range(256)) * 50, 'cannot be read'),
        (b'9' * 5000 + b' 1 2 3 a', 'line 1'),
        (b''.join(b'%d 1 2 3 c%d\n' % (i, i) for i in range(300)), '300 classes; there must be 1'),
    ],
)
def test_hostile_class_tables(content, said, tmp_path):
    own(tmp_path)
    (tmp_path / 'classes.txt').write_bytes(content)
    with pytest.raises(UserError, match=f'classes.txt.*{said}') as e:
        dataset.classes()
    assert len(str(e.value)) < 400 and '\x1b' not in str(e.value)


@pytest.mark.parametrize(
    'content',
    [
        b'x' * 100000,
        b'a b ' * 30000,
        b'images/train/a.png labels/train/a.png\n' + b'\0\1\2' * 5,
        bytes(range(256)),
        b'a\x1b[31m.png\n',
    ],
)
@pytest.mark.parametrize('name', ['folder', 'camvid'])
def test_hostile_lists(name, content, tmp_path):
    own(tmp_path)
    a_pair(tmp_path)
    a_pair(tmp_path, 'train/a.png', 'trainannot/a.png')
    put(DATASET=name)
    (tmp_path / 'train.txt').write_bytes(content)
    with pytest.raises(UserError, match='train.txt: this list of pictures cannot be read') as e:
        Dataset('train', train=False)
    assert len(str(e.value)) < 600 and '\x1b' not in str(e.value)


def test_lists_with_unusual_blanks(tmp_path):
    """Names from macOS and Japanese ones hold blanks that Python does not call printable."""
    own(tmp_path)
    for name in ('10.30\u202fAM', 'a\u3000b', 'c\xa0d'):
        a_pair(tmp_path, f'images/train/{name}.png', f'labels/train/{name}.png')
    text(f'{tmp_path}/train.txt', ['c\xa0d', 'a\u3000b.png', '10.30\u202fAM.png'])
    assert len(Dataset('train', train=False)) == 3


def element(kind, data):
    return struct.pack('<II', kind, len(data)) + data + bytes(-len(data) % 8)


def matrix(name, size, kind=9, numbers=2, data=b'\1' * 8):
    """A MATLAB file with one matrix of a claimed size."""
    parts = element(6, struct.pack('<II', kind, 0)) + element(5, struct.pack('<ii', *size))
    body = element(14, parts + element(1, name) + element(numbers, data))
    return b'MATLAB 5.0 MAT-file'.ljust(124) + struct.pack('<H', 0x0100) + b'IM' + body


@pytest.mark.parametrize(
    'make',
    [
        lambda path: path.write_bytes(matrix(b'S', (60000, 60000))),
        lambda path: path.write_bytes(matrix(b'S', (-5, 7))),
        lambda path: path.write_bytes(matrix(b'S', (2, 3))),
        lambda path: path.write_bytes(matrix(b'S', (2, 2))[:150]),
        lambda path: mat(str(path), S='text'),
        lambda path: mat(str(path), S={'a': 1}),
        lambda path: mat(str(path), S=np.array([[1j]])),
        lambda path: mat(str(path), S=np.array([[np.nan]])),
        lambda path: mat(str(path), S=np.array([['x', 7]], object)),
        lambda path: mat(str(path), S=np.zeros((0, 0))),
        lambda path: mat(str(path), GTcls=np.zeros((3, 3))),
        lambda path: mat(str(path), GTcls={'Other': 1}),
        lambda path: mat(str(path), GTcls={'Segmentation': 'text'}),
        lambda path: mat(str(path), GTcls={'Segmentation': np.random.rand(400, 400)}),
        lambda path: path.write_bytes(saved(RGB, 'PNG')),
    ],
)
def test_hostile_mat_files(make, tmp_path):
    stand_in('coco_stuff_10k', tmp_path / 'data', 1, splits=['train'])
    data = Dataset('train', train=False)
    path = tmp_path / 'a.mat'
    make(path)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        with pytest.raises(
            UserError, match='a.mat: this MATLAB file cannot be read as a label'
        ) as e:
            data.label_map.read(str(path))
    assert '\n' not in str(e.value) and len(str(e.value)) < 500


def test_mat_files_load_only_the_label(tmp_path):
    """Another variable, however large or odd, is left alone."""
    stand_in('coco_stuff_10k', tmp_path, 1, splits=['train'])
    data = Dataset('train', train=False)
    image, path = data.pairs[0]
    wanted = scipy.io.loadmat(path)['S']
    mat(path, S=wanted, captions=np.array([['a', {'b': 2}]], object), regionMap=np.zeros((9, 9)))
    before = Dataset('train', train=False).read(0)[1]
    assert before.shape == wanted.shape
    put(MAX_PIXELS=wanted.size - 1)
    with pytest.raises(UserError, match='MAX_PIXELS'):
        data.label_map.read(path)


def test_label_maps_go_to_workers(tmp_path):
    own(tmp_path)
    one_label(tmp_path, np.zeros((4, 4), np.uint8), [[1, 2, 3]])
    data = pickle.loads(pickle.dumps(Dataset('train', train=False)))
    assert isinstance(data.label_map, LabelMap) and (data.read(0)[1] == 0).all()


def test_one_tuple_of_endings():
    assert set(layouts.LABELS) - {'.mat'} <= set(layouts.IMAGES)
    assert not {'.jpg', '.jpeg', '.jp2', '.avif', '.gif'} & set(layouts.LABELS)


# -------------------------------------------------------------------------------------- as a user does


def spoil_jpeg(folder):
    os.unlink(f'{folder}/labels/train/a.png')
    Image.fromarray(np.ones((4, 5), np.uint8)).save(f'{folder}/labels/train/a.png', 'JPEG')


def spoil_stem(folder):
    write(f'{folder}/images/train/a.jpg', np.zeros((4, 5, 3), np.uint8))


def spoil_size(folder):
    with open(f'{folder}/images/train/a.png', 'wb') as f:
        f.write(HUGE['png'])


def spoil_depth(folder):
    with open(f'{folder}/images/train/a.png', 'wb') as f:
        f.write(saved(GREY.astype(np.uint16)[:4, :5] * 75, 'PNG'))


def spoil_palette(folder):
    values = np.array([[1, 2, 3, 3, 3]] * 4, np.uint8)
    colours = np.array([[10, 20, 30], [200, 0, 0], [0, 0, 200], [90, 90, 90]], np.uint8)
    one_label(folder, *optimised(values, colours))


@pytest.mark.parametrize(
    'spoil, said',
    [
        (spoil_jpeg, 'a.png: not accepted as a label: JPEG changes values'),
        (spoil_stem, 'a.png: two files of one name; remove or rename one of them'),
        (spoil_size, 'a.png: by its header this picture has 200,000x200,000 pixels'),
        (spoil_depth, 'a.png: the values of this 16-bit picture end at'),
        (spoil_palette, 'a.png: its palette has the colours of'),
    ],
    ids=['jpeg', 'stem', 'size', 'depth', 'palette'],
)
def test_check_says_what_is_wrong(spoil, said, tmp_path):
    """prepare.py --check: status 1, one sentence in the end, nothing that libraries say."""
    data = tmp_path / 'mine'
    text(f'{data}/classes.txt', OWN)
    a_pair(data)
    a_pair(data, 'images/train/b.png', 'labels/train/b.png', value=2)
    spoil(str(data))
    result = run('prepare.py', 'folder', '--root', data, '--check', scratch=tmp_path)
    assert result.status == 1 and said in result.err and 'Traceback' not in result.err
    lines = [line for line in result.err.splitlines() if line.strip() and '|' not in line]
    assert len(lines) == 1, lines


BLACK, WHITE = [0, 0, 0], [255, 255, 255]


@pytest.mark.parametrize(
    'colours, palette',
    [
        ([BLACK, WHITE], BLACK + WHITE),
        ([(0, 200, 0), (0, 0, 200)], BLACK + WHITE),
        ([(0, 200, 0), (0, 0, 200)], WHITE + BLACK),
    ],
)
@pytest.mark.parametrize('void', [False, True])
def test_black_and_white_palettes_of_masks(colours, palette, void, tmp_path):
    """They are in any mask and mean nothing: the indices count."""
    rows = [f'{i} {r} {g} {b} c{i}' for i, (r, g, b) in enumerate(colours)]
    if void:
        rows.append('255 128 128 128 void')
    table = tmp_path / 'classes.txt'
    table.write_text('\n'.join(rows) + '\n')
    picture = Image.fromarray(np.array([[0, 1], [1, 1]], np.uint8))
    picture.putpalette(palette)
    picture.save(tmp_path / 'mask.png')
    label_map = LabelMap(read_classes(str(table)), (255,), 255, colours=True)
    assert label_map.read(str(tmp_path / 'mask.png')).tolist() == [[0, 1], [1, 1]]
