"""Arrays in binary files: read one after the other, never more than the file holds.

So a size or a count that lies cannot ask for memory: what it says is compared with what is left.
"""

import math
import os
import struct

import torch

from utils.config import UserError

MANY = 100_000  # arrays in a file; networks have thousands
DIMENSIONS = 32


def damaged(path, what):
    """Return the UserError for a file whose bytes cannot be as its writer left them."""
    return UserError(f'{path}: this file is damaged, or only part of one: {what}; fetch it again')


class Source:
    """The bytes of an open file, from its beginning to its end; UserError where they run out."""

    def __init__(self, f, path):
        self.f = f
        self.path = path
        self.left = os.fstat(f.fileno()).st_size

    def claim(self, size, what):
        """Count `size` bytes as read."""
        if not 0 <= size <= self.left:
            raise damaged(
                self.path, f'it says that {what} has {size:,} bytes, {self.left:,} remain'
            )
        self.left -= size

    def bytes(self, size, what):
        """Return the next `size` bytes."""
        self.claim(size, what)
        data = self.f.read(size)
        if len(data) != size:  # it became shorter in the meantime
            raise damaged(self.path, f'it ends within {what}')
        return data

    def numbers(self, code, what, count=1):
        """Return the next numbers, little-endian, `code` as in the module struct."""
        layout = struct.Struct(f'<{count}{code}')
        return layout.unpack(self.bytes(layout.size, what))

    def number(self, code, what):
        return self.numbers(code, what)[0]

    def tensor(self, dtype, shape, what):
        """Return the next values as a tensor of this type and shape, in C order."""
        if len(shape) > DIMENSIONS or min(shape, default=0) < 0 or max(shape, default=0) >= 2**40:
            raise damaged(self.path, f'the shape of {what} is impossible')
        size = math.prod(shape) * dtype.itemsize
        self.claim(size, what)
        values = torch.empty(size, dtype=torch.uint8)
        if self.f.readinto(values.numpy()) != size:
            raise damaged(self.path, f'it ends within {what}')
        if dtype == torch.bool:
            return (values != 0).reshape(shape)
        return values.view(dtype).reshape(shape)
