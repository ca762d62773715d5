"""MXNet's files of arrays, read without MXNet: .params in all its forms, and .npz.

The layout (src/ndarray/ndarray.cc of MXNet 1.x), little-endian:
    list   u64 0x112, u64 reserved, u64 number of arrays, arrays, u64 number of names (0 = none),
           names as u64 length and UTF-8
    array  u32 magic, i32 storage type (not in V1), number of dimensions, their sizes, i32 device
           type, i32 device number, i32 element type, values in C order. A first number that is no
           magic is the number of dimensions, of the oldest form.
"""

import math
import struct
import zipfile

import numpy as np
import torch
from numpy.lib import format as npy

from utils.arrays import DIMENSIONS, MANY, Source, damaged
from utils.config import UserError
from utils.printable import shown_name

FIRST_BYTES = struct.pack('<Q', 0x112)
V1, V2, V3 = 0xF993FAC8, 0xF993FAC9, 0xF993FACA
STORAGE = {1: 'row-sparse', 2: 'sparse (CSR)'}
TYPES = (
    torch.float32, torch.float64, torch.float16, torch.uint8, torch.int32, torch.int8, torch.int64,
    torch.bool, torch.int16, torch.uint16, torch.uint32, torch.uint64, torch.bfloat16,
)  # fmt: skip


def read_params(path):
    """Return the arrays of a .params file, {name: tensor}; names are '0', '1', ... if it has none.

    The prefixes arg: and aux: of exported networks are left out.
    """
    with open(path, 'rb') as f:
        source = Source(f, path)
        source.bytes(16, 'its header')
        count = source.number('Q', 'its header')
        if count > MANY:
            raise damaged(path, f'it says that it holds {count:,} arrays')
        arrays = [read_array(source, f'array {i}') for i in range(count)]
        named = source.number('Q', 'the number of names')
        if named not in (0, count):
            raise damaged(path, f'it has {count} arrays and {named:,} names')
        names = [read_name(source) for _ in range(named)]
        if source.left:
            raise damaged(path, f'{source.left:,} bytes follow its end')
    return together(path, names or map(str, range(count)), arrays)


def together(path, names, arrays):
    """Return {name: array} of names as a file has them; UserError if one comes twice."""
    state = {}
    for name, array in zip(names, arrays, strict=True):
        if name.startswith(('arg:', 'aux:')):
            name = name[4:]
        if name in state:
            raise UserError(
                f'{path}: this file has {shown_name(name)} twice; it is not one network'
            )
        state[name] = array
    return state


def read_name(source):
    data = source.bytes(source.number('Q', 'a name'), 'a name')
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise damaged(source.path, 'a name in it is no UTF-8') from None


def read_array(source, what):
    """Return the next array of a .params file; one without values is an empty tensor."""
    version = source.number('I', what)
    if version in (V2, V3):
        storage = source.number('i', what)
        if storage in STORAGE:
            raise UserError(
                f'{source.path}: {what} in this file is {STORAGE[storage]}, but weights are dense; '
                "save it with tostype('default')"
            )
        if storage != 0:
            raise damaged(source.path, f'{what} has the storage type {storage}')
        n, kind = source.number('i', what), 'q'
    elif version == V1:
        n, kind = source.number('I', what), 'q'
    else:
        n, kind = version, 'I'
    if n == -1 or (n == 0 and version != V3):
        return torch.empty(0)
    if not 0 <= n <= DIMENSIONS:
        raise damaged(source.path, f'{what} has {n:,} dimensions')
    shape = source.numbers(kind, what, n)
    _, _, element = source.numbers('i', what, 3)
    if not 0 <= element < len(TYPES):
        raise damaged(source.path, f'{what} has the element type {element}')
    return source.tensor(TYPES[element], shape, what)


# ---------------------------------------------------------------------------------------------- npz


def is_npz(path):
    """Tell whether a zip archive holds arrays of numpy and nothing else."""
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
    return bool(names) and all(name.endswith('.npy') for name in names)


def read_npz(path):
    """Return the arrays of a .npz file, {name: tensor}. Python objects in it are refused."""
    names, arrays = [], []
    with zipfile.ZipFile(path) as archive:
        for entry in archive.infolist():
            with archive.open(entry) as f:
                arrays.append(read_npy(f, path, entry))
            names.append(entry.filename.removesuffix('.npy'))
    return together(path, names, arrays)


def read_npy(f, path, entry):
    """Return the array in a file of numpy's format, which is an entry of the archive `path`."""
    what = shown_name(entry.filename)
    try:
        version = npy.read_magic(f)
        read_header = npy.read_array_header_2_0
        if version == (1, 0):
            read_header = npy.read_array_header_1_0
        shape, by_columns, dtype = read_header(f)
    except ValueError:  # SyntaxError and TokenError are turned into it
        raise damaged(path, f'{what} is no array of numpy') from None
    if dtype.kind not in 'fiub' or dtype.itemsize > 8 or not dtype.isnative:
        raise UserError(
            f'{path}: {what} in this file is of type {shown_name(dtype)}, but weights are plain '
            'numbers; save them as float32'
        )
    size = math.prod(shape) * dtype.itemsize
    if min(shape, default=0) < 0 or size != entry.file_size - f.tell():
        raise damaged(path, f'{what} has another size than it says')
    values = np.frombuffer(bytearray(f.read()), dtype)
    return torch.from_numpy(values.reshape(shape, order='F' if by_columns else 'C'))
