"""TIFF files of any number of channels, which neither Pillow nor OpenCV has: their header.

directories(content)  the tags of each picture in a file
as_grey(...)          the file of a picture in another form, in which Pillow unpacks it

A picture of n channels that lie next to each other is, to an unpacker, a grey one n times as wide.
"""

import struct

SUBFILE, WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC = 254, 256, 257, 258, 259, 262
FILL_ORDER, SAMPLES, ROWS, PLANAR, PREDICTOR, FORMAT = 266, 277, 278, 284, 317, 339
EXTRA = 338  # of each channel beyond colours: 0 = unspecified, 1 and 2 = alpha
STRIPS, STRIP_BYTES = 273, 279  # where the packed strips of rows lie, and how long they are
TILE_WIDTH, TILE_HEIGHT, TILES, TILE_BYTES = 322, 323, 324, 325
TAGS = (
    SUBFILE, WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC, FILL_ORDER, SAMPLES, ROWS, PLANAR,
    PREDICTOR, FORMAT, STRIPS, STRIP_BYTES, TILE_WIDTH, TILE_HEIGHT, TILES, TILE_BYTES,
)  # fmt: skip
DEFAULTS = {
    SUBFILE: (0,), BITS: (1,), COMPRESSION: (1,), PHOTOMETRIC: (1,), SAMPLES: (1,), PLANAR: (1,),
    PREDICTOR: (1,), FORMAT: (1,),
}  # fmt: skip
NUMBERS = {1: 'B', 3: 'H', 4: 'I', 16: 'Q'}  # types of TIFF, as struct has them
SHORT, LONG = 3, 4
MOST = 4096  # pictures in a file


def byte_order(content):
    return '<' if content[:2] == b'II' else '>'


def directories(content):
    """Return [{tag: numbers}] of the pictures in the bytes of a TIFF, or of a BigTIFF.

    struct.error or ValueError if they are damaged.
    """
    order = byte_order(content)
    _, version, at = struct.unpack_from(order + '2sHI', content)
    count, pointer, inside = 'H', 'I', 4  # numbers of so many bytes stand in the entry itself
    if version == 43:
        (at,) = struct.unpack_from(order + 'Q', content, 8)
        count, pointer, inside = 'Q', 'Q', 8
    seen, pictures, total = set(), [], 0
    while at:
        if at in seen or len(seen) == MOST:
            raise ValueError('its pictures have no end')
        seen.add(at)
        (entries,) = struct.unpack_from(order + count, content, at)
        at += struct.calcsize(order + count)
        total += entries * (4 + inside)
        tags = dict(DEFAULTS)
        for _ in range(entries):
            tag, kind = struct.unpack_from(order + 'HH', content, at)
            if tag in TAGS and kind in NUMBERS:
                kind = order + NUMBERS[kind]
                form, where = form_of(content, at + 4, kind, order + pointer, inside)
                total += struct.calcsize(form)
                if total > len(content):  # some overlap
                    raise ValueError('its tags are longer than it')
                tags[tag] = struct.unpack_from(form, content, where)
            at += 4 + struct.calcsize(order + pointer) + inside
        (at,) = struct.unpack_from(order + pointer, content, at)
        pictures.append(tags)
    return pictures


def form_of(content, at, kind, pointer, inside):
    """Return the format of the numbers of a tag, whose count is at `at`, and where they are.

    kind, pointer  formats of struct
    """
    (count,) = struct.unpack_from(pointer, content, at)
    at += struct.calcsize(pointer)
    form = f'{kind[0]}{count}{kind[1]}'
    if struct.calcsize(form) > inside:
        (at,) = struct.unpack_from(pointer, content, at)
    return form, at


def as_grey(content, tags, n, plane):
    """Return the bytes of a grey TIFF of one plane of a picture, n channels that lie side by side.

    Its rows are n times as wide. What a predictor did to them is not undone.
    """
    values = {tag: tags[tag][:1] for tag in (HEIGHT, COMPRESSION, FILL_ORDER, ROWS) if tag in tags}
    values |= {WIDTH: (n * tags[WIDTH][0],), BITS: tags[BITS][:1], PHOTOMETRIC: (1,), SAMPLES: (1,)}
    places, lengths = STRIPS, STRIP_BYTES
    if TILES in tags:
        places, lengths = TILES, TILE_BYTES
        values |= {TILE_WIDTH: (n * tags[TILE_WIDTH][0],), TILE_HEIGHT: tags[TILE_HEIGHT][:1]}
    count = len(tags[places])
    if tags[PLANAR][0] == 2:
        count //= tags[SAMPLES][0]
    for tag in (places, lengths):
        values[tag] = tags[tag][plane * count : (plane + 1) * count]
    start = len(content) + len(content) % 2
    order = byte_order(content)
    first = content[:2] + struct.pack(order + 'HI', 42, start)
    blank = bytes(start - len(content))
    return b''.join([first, content[8:], blank, directory(order, values, start)])


def directory(order, values, start):
    """Return {tag: numbers} as the bytes of a directory of a TIFF that lies at `start`."""
    entries, further = [struct.pack(order + 'H', len(values))], b''
    after = start + 2 + 12 * len(values) + 4
    for tag, several in sorted(values.items()):
        kind, data = LONG, struct.pack(f'{order}{len(several)}I', *several)
        if len(several) == 1 and several[0] < 2**16:
            kind, data = SHORT, struct.pack(order + 'HH', *several, 0)
        elif len(several) > 1:
            further, data = further + data, struct.pack(order + 'I', after + len(further))
        entries.append(struct.pack(order + 'HHI', tag, kind, len(several)) + data)
    return b''.join([*entries, bytes(4), further])
