"""Unpack archives, completely or not at all, and never outside their folder."""

import contextlib
import glob
import gzip
import lzma
import os
import re
import shutil
import stat
import tarfile
import tempfile
import zipfile
import zlib

from utils.config import UserError
from utils.distributed import World

BROKEN = (  # what the readers of archives raise
    zipfile.BadZipFile,
    tarfile.TarError,
    gzip.BadGzipFile,
    EOFError,
    zlib.error,
    lzma.LZMAError,
    RuntimeError,
    NotImplementedError,
)


def progress_bar(**options):
    return World([]).bar(unit='B', unit_scale=True, **options)


def contains(folder, paths):
    """Tell whether a folder has all paths; each may be several, 'this|that'. No paths: False."""
    if not paths:
        return False
    for path in paths:
        if not any(os.path.exists(os.path.join(folder, one)) for one in path.split('|')):
            return False
    return True


@contextlib.contextmanager
def staging(folder):
    """Make a new folder in `folder`; in the end it is removed, and `folder` too if it is empty."""
    os.makedirs(folder, exist_ok=True)
    work = tempfile.mkdtemp(prefix='.prepare-', dir=folder)
    try:
        yield work
    finally:
        shutil.rmtree(work, ignore_errors=True)
        with contextlib.suppress(OSError):
            os.rmdir(folder)


def merge(source, target):
    """Move the contents of folder `source` to folder `target`; existing files are replaced."""
    for entry in sorted(os.scandir(source), key=lambda e: e.name):
        path = os.path.join(target, entry.name)
        if entry.is_dir() and os.path.isdir(path):
            merge(entry.path, path)
        else:
            os.replace(entry.path, path)


def unpack(path, folder, holds):
    """Unpack a zip or tar archive.

    However deep in it, the folder that has all paths `holds` is what becomes (part of) `folder`.
    """
    with staging(folder) as work:
        try:
            if zipfile.is_zipfile(path):
                extract_zip(path, work)
            else:
                extract_tar(path, work)
        except BROKEN as e:
            raise UserError(
                f'{path}: this archive is broken or not whole ({e}); delete it and fetch it again'
            ) from None
        except OSError as e:
            target = e.filename or folder
            raise UserError(
                f'{target}: {path} could not be unpacked there ({e.strerror or e})'
            ) from None
        top = find_top(work, holds)
        if not top:
            raise UserError(
                f'{path}: this archive does not hold {", ".join(holds)}; is it the right one?'
            )
        merge(top, folder)


def find_top(work, holds):
    """Return the folder, at most three levels down, that has all paths `holds`, or None."""
    for depth in range(4):
        pattern = os.path.join(glob.escape(work), *['*'] * depth, '')
        for folder in sorted(glob.glob(pattern)):
            if contains(folder, holds):
                return folder
    return None


def extract_zip(path, folder):
    """Write the files of a zip archive below `folder`; UserError if one would be written elsewhere.

    shutil and zipfile rename or leave out such entries without a word. Links are an error as well.
    """
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        for member in members:
            member.filename = safe_name(path, member.filename)
        total = sum(member.compress_size for member in members)
        with progress_bar(total=total, desc='unpacking ' + os.path.basename(path)) as bar:
            for member in members:
                if member.is_dir() or is_litter(member.filename):
                    continue
                if stat.S_ISLNK(member.external_attr >> 16):
                    raise not_a_file(path, member.filename)
                archive.extract(member, folder)
                bar.update(member.compress_size)


def extract_tar(path, folder):
    """Write the files of a tar archive below `folder`; UserError if one would be written elsewhere.

    Links are never written: the file in the archive that a link points to is written in its place.
    """
    name = 'unpacking ' + os.path.basename(path)
    with (
        open(path, 'rb') as raw,
        progress_bar(total=os.path.getsize(path), desc=name) as bar,
        tarfile.open(fileobj=raw) as archive,
    ):
        for member in archive:
            member.name = safe_name(path, member.name)
            member.linkname = member.linkname.replace('\\', '/')
            if member.isdir() or is_litter(member.name):
                continue
            if member.isreg():
                archive.extract(member, folder, filter='data')
            else:
                copy_target(path, archive, member, os.path.join(folder, member.name))
            bar.update(max(0, raw.tell() - bar.n))


def copy_target(path, archive, link, target):
    """Write what a link in a tar archive points to; UserError if that is no file of the archive."""
    try:
        source = archive.extractfile(link)
    except (KeyError, RecursionError):
        source = None
    if source is None:
        raise not_a_file(path, link.name)
    os.makedirs(os.path.dirname(target), exist_ok=True)
    with source, open(target, 'wb') as f:
        shutil.copyfileobj(source, f)


def safe_name(path, name):
    """Return an entry's name with / as separator; UserError if it leads out of the folder."""
    parts = name.replace('\\', '/').split('/')
    if '..' in parts or not parts[0] or re.match('[A-Za-z]:', name):
        raise UserError(
            f'{path}: the entry {name!r} leads out of the folder; nothing is unpacked. '
            'Does the archive come from its makers?'
        )
    return '/'.join(parts)


def is_litter(name):
    """Tell whether an entry is what macOS leaves in archives."""
    parts = name.split('/')
    return parts[0] == '__MACOSX' or parts[-1].startswith(('._', '.DS_Store'))


def not_a_file(path, name):
    return UserError(
        f'{path}: the entry {name!r} is a link that leads out of the archive, or no file; '
        'nothing is unpacked'
    )
