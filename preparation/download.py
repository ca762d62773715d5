"""Fetch the archives of data sets, and trunk weights.

A transfer goes on where it broke off, and what arrived is held against its checksum.
"""

import contextlib
import fcntl
import hashlib
import http.client
import os
import shutil
import time
import urllib.error
import urllib.request

import settings
from preparation.archives import contains, progress_bar, staging, unpack
from preparation.sources import as_size
from utils.config import UserError

WAIT = 1  # seconds before a transfer that broke off goes on


class StalePart(Exception):
    """The part of a file that was fetched earlier does not belong to what the server has now."""


def digest_fits(path, digest):
    """Tell whether a file has this MD5 (32 digits), or a SHA-256 or SHA-1 that begins with it."""
    sums = [hashlib.md5()] if len(digest) == 32 else [hashlib.sha256(), hashlib.sha1()]
    with open(path, 'rb') as f:
        while block := f.read(1 << 20):
            for one in sums:
                one.update(block)
    return any(one.hexdigest().startswith(digest) for one in sums)


# ------------------------------------------------------------------------------------ fetching


def fetch(url, path, digest=''):
    """Fetch `url` to the file `path`; UserError says how else to get it.

    What has arrived is kept in PATH.part, from which the next call goes on.
    """
    part = path + '.part'
    elsewhere = (
        f'fetch {os.path.basename(path)} elsewhere, put it at {path}, '
        'and give the same command again'
    )
    os.makedirs(os.path.dirname(path) or '.', exist_ok=True)
    while True:
        before = size_of(part)
        try:
            total = receive(url, part, before)
            have = size_of(part)
            if have and total in (None, have):
                break
            reason = 'the connection broke off'
        except StalePart:
            continue
        except (urllib.error.URLError, http.client.HTTPException, OSError) as e:
            have = size_of(part)
            reason = explain(e)
        if have <= before:  # nothing new arrived
            give_up(f'{url} could not be fetched ({reason})', part, have, elsewhere)
        time.sleep(WAIT)
    if digest and not digest_fits(part, digest):
        os.unlink(part)
        raise UserError(
            f'{url}: what arrived does not have the checksum {digest} and is removed; '
            f'give the same command again, or {elsewhere}'
        )
    os.replace(part, path)


def size_of(path):
    return os.path.getsize(path) if os.path.exists(path) else 0


def explain(error):
    """Return why a transfer failed, in a few words."""
    if isinstance(error, urllib.error.HTTPError):
        return f'{error.code} {error.reason}'
    return str(getattr(error, 'reason', error) or type(error).__name__)


def give_up(sentence, part, have, elsewhere):
    """Raise UserError; `have` bytes in the file `part` stay."""
    if have:
        raise UserError(
            f'{sentence}; {have / 1e6:.1f} MB that arrived are kept, and the same command goes on '
            f'from there; or {elsewhere}'
        )
    with contextlib.suppress(FileNotFoundError):
        os.unlink(part)
    raise UserError(f'{sentence}; {elsewhere}')


def receive(url, part, have):
    """Receive what follows the first `have` bytes, which are in the file `part`.

    A server that cannot begin in the middle sends all of it. Returns the size of the whole file, or
    None where the server does not say; StalePart if the part was useless and is removed.
    """
    headers = {'User-Agent': 'EMANet'}
    if have:
        headers['Range'] = f'bytes={have}-'
    try:
        answer = urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=30)
    except urllib.error.HTTPError as e:
        if e.code != 416 or not have:
            raise
        if e.headers['Content-Range'] == f'bytes */{have}':  # all of it is here
            return have
        os.unlink(part)
        raise StalePart from None
    with answer:
        if answer.headers.get_content_type() == 'text/html':
            raise OSError('the answer is a web page, not the file')
        start = 0
        if answer.status == 206:
            if not (answer.headers['Content-Range'] or '').startswith(f'bytes {have}-'):
                os.unlink(part)
                raise StalePart
            start = have
        length = answer.headers['Content-Length']
        if length == '0':
            raise OSError('the answer is empty')
        total = None
        if length:
            total = start + int(length)
            check_room(part, int(length))
        write_part(answer, part, start, total)
    return total


def check_room(part, size):
    """Raise UserError unless the disk has room for `size` more bytes."""
    free = shutil.disk_usage(os.path.dirname(part) or '.').free
    if size > free:
        raise UserError(
            f'{part}: {size / 1e9:.1f} GB are still to come, {free / 1e9:.1f} GB are free; '
            'make room'
        )


def write_part(answer, part, start, total):
    """Write what the server sends to the file `part`, from byte `start` on."""
    name = os.path.basename(part).removesuffix('.part')
    with open_part(part) as f, progress_bar(total=total, initial=start, desc=name) as bar:
        f.truncate(start)
        f.seek(start)
        while block := answer.read(1 << 18):
            try:
                f.write(block)
                f.flush()
            except OSError as e:
                raise UserError(
                    f'{part}: could not be written ({e.strerror}); '
                    'the same command goes on from here'
                ) from None
            bar.update(len(block))


def open_part(part):
    """Open the file `part` for this process alone; UserError if it is a link, or another has it."""
    if os.path.islink(part):
        raise UserError(f'{part}: this is a link to another file; remove it')
    f = os.fdopen(os.open(part, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666), 'r+b')
    try:
        fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        f.close()
        raise UserError(f'{part}: another process is fetching this file; wait for it') from None
    except OSError:  # a file system without locks
        pass
    return f


def fetch_packed(url, path, digest):
    """Fetch a zip archive and take the file that becomes `path` out of it."""
    folder, file = os.path.split(path)
    archive = os.path.join(folder, os.path.basename(url))
    if not os.path.isfile(archive):
        try:
            fetch(url, archive)
        except UserError as e:
            raise UserError(f'{e}. Without this file: PRETRAINED=torchvision STEM=plain') from None
    with staging(folder) as work:
        unpack(archive, work, (file,))
        unpacked = os.path.join(work, file)
        if not digest_fits(unpacked, digest):
            os.unlink(archive)
            raise UserError(
                f'{archive}: the checksum of what it holds does not begin with {digest}; '
                'it is removed; give the same command again'
            )
        os.replace(unpacked, path)


# -------------------------------------------------------------------- archives of a data set


def provide(name, archives, root):
    """Fetch and unpack the archives of a data set into its folder; what is there is left alone.

    UserError says what must be fetched by hand.
    """
    by_hand = []
    for archive in archives:
        into = archive.into.format(root=root, data=settings.DATA_ROOT)
        if contains(into, archive.holds) or contains(root, archive.made):
            continue
        try:
            if not provide_archive(archive, root, into):
                by_hand.append(archive)
        except UserError as e:
            if not archive.optional:
                raise
            print(f'left out: {e}', flush=True)
    if not by_hand:
        return
    where = f'from {by_hand[0].url} to {root}/'
    needed = ', '.join(str(archive) for archive in by_hand if not archive.optional)
    optional = ', '.join(str(archive) for archive in by_hand if archive.optional)
    if needed and optional:
        raise UserError(
            f'{name} needs an account: fetch {needed}, and if you like {optional}, {where} by '
            'hand; then give the same command again'
        )
    if needed:
        raise UserError(
            f'{name} needs an account: fetch {needed} {where} by hand; '
            'then give the same command again'
        )
    print(f'not needed, and only for those with an account: {optional}, {where}')


def provide_archive(archive, root, into):
    """Fetch an archive and unpack it; False if the user must fetch it.

    A file of its name in the folder of the data set, in DATA_ROOT or in `into` is used.
    """
    paths = [os.path.join(folder, archive.file) for folder in (root, settings.DATA_ROOT, into)]
    path = next((path for path in paths if os.path.isfile(path)), None)
    if path is None:
        if archive.by_hand:
            return False
        if not archive.url:
            raise UserError(
                f'{into}: neither {archive.file} nor what it holds is there; delete the folder '
                'and give the same command again'
            )
        path = paths[1] if archive.holds else paths[0]
        print(f'fetching {archive.url} ({as_size(archive.gb)})', flush=True)
        fetch(archive.url, path, archive.md5)
    elif archive.md5 and not digest_fits(path, archive.md5):
        raise UserError(
            f'{path}: its MD5 is not {archive.md5}: it is incomplete, or another archive; '
            'delete it, and the same command fetches it'
        )
    if archive.holds:
        unpack(path, into, archive.holds)
        print(f'{path} is unpacked to {into}', flush=True)
    return True
