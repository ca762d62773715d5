"""Unpack archives, completely or not at all, and never outside their folder."""

import contextlib
import filecmp
import glob
import gzip
import lzma
import os
import re
import shutil
import stat
import struct
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
    ValueError,  # names with a zero byte, or in no known encoding
    ArithmeticError,  # dates that no clock has
    struct.error,
    MemoryError,
)
UNPACKED = 100  # an archive unpacks to at most this many times its size, and SMALL more
SMALL = 16 * 2**20  # bytes
ENTRIES = 1_000_000  # the largest data set here has 120,000 files
NAME = 2**16  # bytes of the name of an entry, and of what else describes it
DESCRIPTIONS = (  # entries of a tar archive that hold the name of the next one
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
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


def add(source, target):
    """Move the contents of folder `source` to folder `target`, where nothing is replaced.

    UserError, before the first file is moved, if another file of one name is there.
    """
    path = taken(source, target)
    if path:
        raise UserError(
            f'{path}: this file is there, and another one would be written in its place; move it '
            'away and give the same command again'
        )
    merge(source, target)


def taken(source, target):
    """Return the path of a file in `target` that has the name of another one in `source`, or ''."""
    for folder, _, names in os.walk(source):
        for name in sorted(names):
            path = os.path.join(target, os.path.relpath(folder, source), name)
            is_same = os.path.isfile(path) and filecmp.cmp(os.path.join(folder, name), path, False)
            if os.path.lexists(path) and not is_same:
                return os.path.normpath(path)
    return ''


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
                f'{path}: this archive is broken or not whole ({first_line(e)}); '
                'delete it and fetch it again'
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


def first_line(error):
    return (str(error) or type(error).__name__).splitlines()[0]


def find_top(work, holds):
    """Return the folder, at most three levels down, that has all paths `holds`, or None."""
    for depth in range(4):
        pattern = os.path.join(glob.escape(work), *['*'] * depth, '')
        for folder in sorted(glob.glob(pattern)):
            if contains(folder, holds):
                return folder
    return None


class Allowance:
    """What an archive may still unpack to, so that a small one cannot fill the disk.

    Sizes in its headers count before they are believed, and so does every entry.
    """

    def __init__(self, path, folder):
        self.path = path
        self.size = os.path.getsize(path)
        self.free = shutil.disk_usage(folder).free
        self.bytes = 0
        self.names = set()

    def add_bytes(self, size):
        """Count bytes that are to be written; UserError if they are too many."""
        self.bytes += max(0, size)
        if self.bytes > self.free:
            raise UserError(
                f'{self.path}: this archive unpacks to {self.bytes / 1e9:.1f} GB or more, '
                f'{self.free / 1e9:.1f} GB are free; make room'
            )
        if self.bytes > UNPACKED * self.size + SMALL:
            raise UserError(
                f'{self.path}: this archive of {self.size:,} bytes unpacks to {self.bytes:,} or '
                'more, which no data set does; nothing is unpacked. '
                'Does the archive come from its makers?'
            )

    def add(self, name):
        """Count an entry; UserError if there are too many, or two of one name."""
        if name in self.names:
            raise UserError(
                f'{self.path}: the entry {name!r} is there twice; nothing is unpacked. '
                'Does the archive come from its makers?'
            )
        self.names.add(name)
        if len(self.names) > ENTRIES:
            raise UserError(
                f'{self.path}: this archive has more than {ENTRIES:,} entries; nothing is '
                'unpacked. Does the archive come from its makers?'
            )


def extract_zip(path, folder):
    """Write the files of a zip archive below `folder`; UserError if one would be written elsewhere.

    shutil and zipfile rename or leave out such entries without a word. Links are an error as well.
    """
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        allowance = Allowance(path, folder)
        for member in members:
            member.filename = safe_name(path, member.filename)
            if not member.is_dir():
                allowance.add(member.filename)
            allowance.add_bytes(member.file_size)  # zipfile never writes more than it states
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
    allowance = Allowance(path, folder)
    with (
        open(path, 'rb') as raw,
        progress_bar(total=os.path.getsize(path), desc=name) as bar,
        tarfile.open(fileobj=raw, tarinfo=Entry) as archive,
    ):
        for member in archive:
            allowance.add_bytes(member.size)
            member.name = safe_name(path, member.name)
            member.linkname = member.linkname.replace('\\', '/')
            if member.isdir():
                continue
            allowance.add(member.name)
            if is_litter(member.name):
                continue
            if member.isreg():
                archive.extract(member, folder, filter='data')
            else:
                copy_target(archive, member, os.path.join(folder, member.name), allowance)
            bar.update(max(0, raw.tell() - bar.n))


class Entry(tarfile.TarInfo):
    """An entry of a tar archive, whose name is no longer than a name can be."""

    @classmethod
    def frombuf(cls, buf, encoding, errors):
        entry = super().frombuf(buf, encoding, errors)
        if entry.type in DESCRIPTIONS and not 0 <= entry.size <= NAME:
            raise tarfile.ReadError(f'a name of {entry.size:,} bytes')  # is read into memory
        return entry


def copy_target(archive, link, target, allowance):
    """Write what a link in a tar archive points to; UserError if that is no file of the archive."""
    try:
        source = archive.extractfile(link)
    except (KeyError, RecursionError):
        source = None
    if source is None:
        raise not_a_file(allowance.path, link.name)
    os.makedirs(os.path.dirname(target), exist_ok=True)
    with source, open(target, 'wb') as f:
        while block := source.read(2**20):
            allowance.add_bytes(len(block))
            f.write(block)


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
