"""Writing files: all of a file, or nothing."""

import contextlib
import os


@contextlib.contextmanager
def atomic_write(path):
    """Open a file for bytes that becomes `path` once all is written, and goes away if that fails.

    Folders are made. What was at `path` stays until then.
    """
    os.makedirs(os.path.dirname(path) or '.', exist_ok=True)
    part = path + '.part'
    try:
        with open(part, 'wb') as f:
            yield f
            f.flush()
            os.fsync(f.fileno())
        os.replace(part, path)
    finally:
        if os.path.lexists(part):
            os.unlink(part)
