"""safetensors files, read without that package.

A u64 gives the length of a JSON header: {name: {dtype, shape, data_offsets}}, offsets from the
header's end; then the values, little-endian. Nothing in such a file is code.
"""

import json
import math

import torch

from utils.arrays import DIMENSIONS, MANY, Source, damaged
from utils.config import UserError
from utils.printable import shown_name

HEADER = 2**22  # bytes of the longest header; networks have less than 2**20
TYPES = {
    'F64': torch.float64, 'F32': torch.float32, 'F16': torch.float16, 'BF16': torch.bfloat16,
    'I64': torch.int64, 'I32': torch.int32, 'I16': torch.int16, 'I8': torch.int8,
    'U64': torch.uint64, 'U32': torch.uint32, 'U16': torch.uint16, 'U8': torch.uint8,
    'BOOL': torch.bool,
}  # fmt: skip


def is_header(start):
    """Tell whether a file that begins with these bytes is one: a length, and then JSON."""
    return start[8:9] == b'{' and int.from_bytes(start[:8], 'little') <= HEADER


def read(path):
    """Return the tensors of a safetensors file, {name: tensor}."""
    with open(path, 'rb') as f:
        source = Source(f, path)
        header = source.bytes(source.number('Q', 'its header'), 'its header')
        entries = read_header(path, header, source.left)
        state = {}
        for name, (dtype, shape, start, _) in entries.items():
            f.seek(8 + len(header) + start)
            state[name] = source.tensor(dtype, shape, shown_name(name))
    return state


def read_header(path, header, size):
    """Return {name: (dtype, shape, start, end)} of a header before `size` bytes of values."""
    try:
        content = json.loads(header.decode(), object_pairs_hook=unique)
        content.pop('__metadata__', None)
        entries = {name: entry(path, name, value) for name, value in content.items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise damaged(path, 'its header is not valid, or has a name twice') from None
    if len(entries) > MANY:
        raise damaged(path, f'it says that it holds {len(entries):,} tensors')
    end = 0
    for name, (_, _, start, stop) in sorted(entries.items(), key=by_place):
        if start != end:
            raise damaged(path, f'{shown_name(name)} does not begin where the one before it ends')
        end = stop
    if end != size:
        raise damaged(path, f'its tensors have {end:,} bytes, and there are {size:,}')
    return entries


def by_place(item):
    return item[1][2:]


def unique(pairs):
    """Return pairs of a JSON object as a dict; ValueError if a name comes twice."""
    values = dict(pairs)
    if len(values) != len(pairs):
        raise ValueError('a name twice')
    return values


def entry(path, name, value):
    """Return (dtype, shape, start, end) of an entry of a header."""
    if value['dtype'] not in TYPES:
        raise UserError(
            f'{path}: {shown_name(name)} in this file is of type {shown_name(value["dtype"])}, but '
            'weights are plain floating-point numbers; save the network as it was trained'
        )
    dtype, shape = TYPES[value['dtype']], tuple(value['shape'])
    start, end = value['data_offsets']
    numbers = *shape, start, end
    if len(shape) > DIMENSIONS or not all(type(n) is int and 0 <= n < 2**63 for n in numbers):
        raise ValueError('no sizes')
    if end - start != math.prod(shape) * dtype.itemsize:
        raise ValueError('another size')
    return dtype, shape, start, end
