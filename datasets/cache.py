"""The cache of decoded pixels: one file for each pair of image and label, mapped into memory."""

import hashlib
import os
import tempfile

import numpy as np

from datasets.layouts import Segments
from utils.config import UserError


def cache_path(folder, image, label, label_map):
    """Return where the pixels of a pair are kept in the cache `folder`.

    The name changes with the files, their sizes and times, and the class table.
    """
    paths, key = [image], hashlib.blake2b(label_map.key, digest_size=16)
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
    name = key.hexdigest()
    return os.path.join(folder, name[:2], name)


def load(path):
    """Return image (h, w, 3) and label (h, w) or None, read-only; None if they are not cached.

    Both are mapped into memory: only what is used is read.
    """
    try:
        data = np.asarray(np.memmap(path, np.uint8, 'r'))
    except (OSError, ValueError):
        return None
    h, w = data[:8].view(np.uint32).tolist()
    end = 8 + 3 * h * w
    image = data[8:end].reshape(h, w, 3)
    if len(data) == end:
        return image, None
    return image, data[end:].reshape(h, w)


def store(path, image, label):
    """Write decoded pixels to the cache: the whole file, or none.

    Several processes may write the same file at once, so each has a temporary file of its own.
    """
    os.makedirs(os.path.dirname(path), exist_ok=True)
    handle, work = tempfile.mkstemp(dir=os.path.dirname(path))
    try:
        with open(handle, 'wb') as f:
            f.write(np.array(image.shape[:2], np.uint32))
            f.write(np.ascontiguousarray(image))
            if label is not None:
                f.write(np.ascontiguousarray(label))
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(work, 0o666 & ~mask)  # others may read it, too
        os.replace(work, path)
    except OSError as e:
        raise UserError(
            f'{path}: could not be written ({e.strerror}); '
            'the cache needs 3 to 4 bytes per pixel of the data set'
        ) from None
    finally:
        if os.path.exists(work):
            os.unlink(work)
