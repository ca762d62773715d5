"""The cache of decoded pixels: one file for each pair of image and label, mapped into memory."""

import hashlib
import os

import numpy as np

from datasets.layouts import Segments
from utils.config import UserError
from utils.files import atomic_write

ALONE = '-image'  # end of the names of images without a label


def cache_path(folder, image, label, label_map, channels=3):
    """Return where the pixels of a pair are kept in the cache `folder`.

    The name changes with the files, their sizes and times, the channels and the class table.
    """
    paths, key = [image], hashlib.blake2b(label_map.key, digest_size=16)
    if channels != 3:
        key.update(repr(channels).encode())
    if isinstance(label, Segments):
        paths.append(label.path)
    elif label is not None:
        paths.append(label)
    for path in paths:
        status = os.stat(path)
        facts = os.path.relpath(path, folder), status.st_size, status.st_mtime_ns
        key.update(repr(facts).encode())
    if isinstance(label, Segments):
        key.update(label.ids.tobytes() + label.raw.tobytes())
    name = key.hexdigest() + ('' if label is not None else ALONE)
    return os.path.join(folder, name[:2], name)


def load(path, channels=3):
    """Return image (h, w, n) and label (h, w) or None, read-only; None if they are not cached.

    Both are mapped into memory: only what is used is read. A damaged file counts as none.
    """
    try:
        data = np.asarray(np.memmap(path, np.uint8, 'r'))
    except (OSError, ValueError):
        return None
    if len(data) <= 8:
        return None
    h, w = data[:8].view(np.uint32).tolist()
    end = 8 + channels * h * w
    if path.endswith(ALONE):
        return (data[8:].reshape(h, w, channels), None) if len(data) == end else None
    if len(data) != end + h * w:
        return None
    return data[8:end].reshape(h, w, channels), data[end:].reshape(h, w)


def store(path, image, label):
    """Write decoded pixels to the cache: the whole file, or none."""
    try:
        with atomic_write(path, sync=False) as f:
            f.write(np.array(image.shape[:2], np.uint32))
            f.write(np.ascontiguousarray(image))
            if label is not None:
                f.write(np.ascontiguousarray(label))
    except OSError as e:
        n = image.shape[2]
        raise UserError(
            f'{path}: could not be written ({e.strerror}); '
            f'the cache needs {n} to {n + 1} bytes per pixel of the data set'
        ) from None
