"""Fetching and unpacking archives: resumed where it broke off, held against its checksum, and never taken for whole before it is."""

import contextlib
import glob
import gzip
import hashlib
import http.client
import lzma
import os
import re
import shutil
import stat
import tarfile
import tempfile
import time
import urllib.error
import urllib.request
import zipfile
import zlib

from launch import Place
from settings import UserError

WAIT = 1  # seconds before a transfer that broke off goes on
BROKEN = (
    zipfile.BadZipFile,
    tarfile.TarError,
    gzip.BadGzipFile,
    EOFError,
    zlib.error,
    lzma.LZMAError,
    RuntimeError,
    NotImplementedError,
)


def bar(**facts):
    return Place([]).bar(unit='B', unit_scale=True, **facts)


def digest_fits(path, digest):
    """Whether a file has this MD5 (32 digits), or a SHA-256 or SHA-1 that begins so."""
    sums = [hashlib.md5()] if len(digest) == 32 else [hashlib.sha256(), hashlib.sha1()]
    with open(path, 'rb') as f:
        while block := f.read(1 << 20):
            for s in sums:
                s.update(block)
    return any(s.hexdigest().startswith(digest) for s in sums)


def fetch(url, path, digest=''):
    """Fetches `url` to the file `path`. What has come is kept in PATH.part, from which the next call goes on; UserError says how else to get it."""
    part = path + '.part'
    elsewhere = f'fetch {os.path.basename(path)} elsewhere, put it at {path}, and give the same command again'
    os.makedirs(os.path.dirname(path) or '.', exist_ok=True)
    while True:
        before = os.path.getsize(part) if os.path.exists(part) else 0
        try:
            wanted, reason = receive(url, part, before), 'the connection broke off'
        except (urllib.error.URLError, http.client.HTTPException, OSError) as e:
            wanted, reason = (
                -1,
                f'{e.code} {e.reason}'
                if isinstance(e, urllib.error.HTTPError)
                else str(getattr(e, 'reason', e) or type(e).__name__),
            )
        have = os.path.getsize(part) if os.path.exists(part) else 0
        if have and wanted in (None, have):
            break
        if have <= before and wanted != 0:  # nothing new came
            if not have:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(part)
            kept = (
                f'{have / 1e6:.1f} MB that came are kept, and the same command goes on from there; or '
                if have
                else ''
            )
            raise UserError(f'{url} could not be fetched ({reason}); {kept}{elsewhere}')
        time.sleep(WAIT)
    if digest and not digest_fits(part, digest):
        os.unlink(part)
        raise UserError(
            f'{url}: what came does not have the checksum {digest} and is removed; give the same command again, or {elsewhere}'
        )
    os.replace(part, path)


def receive(url, part, have):
    """Receives what follows the first `have` bytes, which are in the file `part` and dropped if the server takes no ranges. Returns the number of
    bytes the whole file has, None where the server does not tell; 0: the part was of no use and is removed."""
    request = urllib.request.Request(
        url, headers={'User-Agent': 'EMANet'} | ({'Range': f'bytes={have}-'} if have else {})
    )
    try:
        answer = urllib.request.urlopen(request, timeout=30)
    except urllib.error.HTTPError as e:
        if e.code != 416 or not have:
            raise
        if e.headers['Content-Range'] == f'bytes */{have}':  # it is whole
            return have
        os.unlink(part)
        return 0
    with answer:
        if answer.headers.get_content_type() == 'text/html':
            raise OSError('the answer is a web page, not the file')
        if answer.status == 206 and not (answer.headers['Content-Range'] or '').startswith(
            f'bytes {have}-'
        ):
            os.unlink(part)
            return 0
        have *= answer.status == 206
        length = answer.headers['Content-Length']
        if length == '0':
            raise OSError('the answer is empty')
        total = have + int(length) if length else None
        free = shutil.disk_usage(os.path.dirname(part) or '.').free
        if total and total - have > free:
            raise UserError(
                f'{part}: {(total - have) / 1e9:.1f} GB are still to come, {free / 1e9:.1f} GB are free; make room'
            )
        with (
            open(part, 'r+b' if have else 'wb') as f,
            bar(total=total, initial=have, desc=os.path.basename(part)[:-5]) as shown,
        ):
            f.seek(have)
            while block := answer.read(1 << 18):
                try:
                    f.write(block)
                    f.flush()
                except OSError as e:
                    raise UserError(
                        f'{part}: could not be written ({e.strerror}); the same command goes on from here'
                    ) from None
                shown.update(len(block))
    return total


# --------------------------------------------------------------------------------------------------------- unpacking


def there(folder, paths):
    """Whether all paths, of which each may be several, 'this|that', are in the folder; False for no paths."""
    return bool(paths) and all(
        any(os.path.exists(os.path.join(folder, p)) for p in path.split('|')) for path in paths
    )


@contextlib.contextmanager
def workshop(folder):
    """A new folder in `folder` that is removed in the end, and `folder` with it if it is empty."""
    os.makedirs(folder, exist_ok=True)
    work = tempfile.mkdtemp(prefix='.prepare-', dir=folder)
    try:
        yield work
    finally:
        shutil.rmtree(work, ignore_errors=True)
        with contextlib.suppress(OSError):
            os.rmdir(folder)


def merge(source, target):
    """Moves all that is in folder `source` to folder `target`; files that are there already are replaced."""
    for entry in sorted(os.scandir(source), key=lambda e: e.name):
        path = os.path.join(target, entry.name)
        if entry.is_dir() and os.path.isdir(path):
            merge(entry.path, path)
        else:
            os.replace(entry.path, path)


def unpack(path, folder, holds):
    """Unpacks a zip or tar archive. However deep in it, the folder that has all paths `holds` is what becomes (part of) `folder`."""
    with workshop(folder) as work:
        try:
            extract(path, work)
        except BROKEN as e:
            raise UserError(
                f'{path}: this archive is broken or not whole ({e}); delete it and fetch it again'
            ) from None
        except OSError as e:
            raise UserError(
                f'{e.filename or folder}: {path} could not be unpacked there ({e.strerror})'
            ) from None
        levels = [
            glob.glob(os.path.join(glob.escape(work), *'*' * depth, '')) for depth in range(4)
        ]
        found = next((f for level in levels for f in sorted(level) if there(f, holds)), None)
        if not found:
            raise UserError(
                f'{path}: this archive does not hold {", ".join(holds)}; is it the right one?'
            )
        merge(found, folder)


def extract(path, folder):
    """Writes the files of an archive below `folder`; UserError if one would get anywhere else. Links are written as the files they stand for."""
    with (
        open(path, 'rb') as raw,
        bar(total=os.path.getsize(path), desc='unpacking ' + os.path.basename(path)) as shown,
    ):
        for name, read in zipped(raw) if zipfile.is_zipfile(path) else tarred(raw):
            parts = name.replace('\\', '/').split('/')
            if '..' in parts or not parts[0] or re.match('[A-Za-z]:', name):
                raise UserError(
                    f'{path}: the entry {name!r} leads out of the folder; nothing is unpacked. Does the archive come from its makers?'
                )
            if not read or parts[0] == '__MACOSX' or parts[-1].startswith(('._', '.DS_Store')):
                continue
            source = read()
            if source is None:
                raise UserError(
                    f'{path}: the entry {name!r} is a link that leads out of the archive, or no file; nothing is unpacked'
                )
            target = os.path.join(folder, *parts)
            os.makedirs(os.path.dirname(target), exist_ok=True)
            with source, open(target, 'wb') as f:
                shutil.copyfileobj(source, f, 1 << 20)
            shown.update(max(0, raw.tell() - shown.n))


def zipped(raw):
    """(name, function that opens it, or None for a folder) of the entries of a zip archive; links do not open."""
    with zipfile.ZipFile(raw) as archive:
        for info in archive.infolist():
            link = stat.S_ISLNK(info.external_attr >> 16)
            yield (
                info.filename,
                None
                if info.is_dir()
                else lambda info=info, link=link: None if link else archive.open(info),
            )


def tarred(raw):
    """The same of a tar archive; links open if they point to a file in it."""

    def follow(member):
        try:
            return archive.extractfile(member)
        except (KeyError, RecursionError):
            return None

    with tarfile.open(fileobj=raw) as archive:
        for member in archive:
            yield member.name, None if member.isdir() else lambda member=member: follow(member)
