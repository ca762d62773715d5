"""Writing files: all of a file, or nothing, and never in place of what the user gave."""

import contextlib
import os
import secrets
import tempfile

from utils.config import UsageError


@contextlib.contextmanager
def atomic_path(path, ending='.part', sync=True):
    """Yield the name of a new, empty file in the folder of `path`, which becomes `path` in the end.

    It goes away if an error is raised; what was at `path` stays until then. Folders are made. Its
    name ends in `ending`, and no other process has it. An OSError without a file name gets `path`.
    """
    folder, name = os.path.split(path)
    os.makedirs(folder or '.', exist_ok=True)
    part = os.path.join(folder, f'{name[:50]}.{secrets.token_hex(4)}{ending}')
    try:
        with open(part, 'xb'):  # x: never through a link, never into a file that is there
            pass
        yield part
        if sync:
            with open(part, 'rb') as f:
                os.fsync(f.fileno())
        os.replace(part, path)
    except OSError as e:
        if e.filename not in (None, part):
            raise
        raise OSError(e.errno, e.strerror or str(e), path) from None
    finally:
        if os.path.lexists(part):
            os.unlink(part)


@contextlib.contextmanager
def atomic_write(path, sync=True):
    """Open a file for bytes that becomes `path` once all is written, and goes away if that fails.

    Folders are made. What was at `path` stays until then; two processes may write it at a time.
    sync  False: do not wait until a power cut could not undo it: of what can be made again
    """
    with atomic_path(path, sync=sync) as part, open(part, 'wb') as f:
        yield f


def check_writable(folder):
    """Make a folder, and raise OSError with its name if no file can be written there."""
    os.makedirs(folder, exist_ok=True)
    try:
        with tempfile.TemporaryFile(dir=folder, prefix='.') as f:
            f.write(b'something')
    except OSError as e:
        raise OSError(e.errno, e.strerror, folder) from None


def protect(targets, inputs, folders=()):
    """Raise UsageError if a file that is to be written would replace the user's own, or join them.

    Files and folders are compared as the file system knows them: through links, by any spelling.
    targets  paths of files that are to be written; nothing needs to exist yet
    inputs   files: no target may be one of them, or lie in the folder of one
    folders  no target may lie in one of them, or in a folder in it
    """
    input_dirs = set()
    for path in inputs:
        input_dirs.add(os.path.dirname(os.path.abspath(path)))
        if os.path.islink(path):
            input_dirs.add(os.path.dirname(os.path.realpath(path)))
    taken = {identity(folder): folder for folder in input_dirs}
    deep = {identity(folder): folder for folder in folders}
    checked = set()
    for target in targets:
        for path in (os.path.abspath(target), os.path.realpath(target)):
            folder = os.path.dirname(path)
            if folder in checked:
                continue
            checked.add(folder)
            owner = taken.get(identity(folder)) or first_above(folder, deep)
            if owner:
                raise UsageError(
                    f'{target} would be written among files that are read, in {owner}; '
                    'choose another SAVE_DIR'
                )


def first_above(folder, folders):
    """Return the value of {identity: value} for a folder or the first one above it, or None."""
    while True:
        if identity(folder) in folders:
            return folders[identity(folder)]
        parent = os.path.dirname(folder)
        if parent == folder:
            return None
        folder = parent


def identity(path):
    """Return what two names of one file or folder share; a missing one's is its real path."""
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return os.path.realpath(path)
    return status.st_dev, status.st_ino
