"""What is written and printed: never over the user's files, whole or not at all, and neither a broken pipe nor a strange name ends a script."""

import errno
import io
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
import warnings
import zipfile

import cv2
import numpy as np
import pytest
import torch
from helpers import blocks, colour_of, make_camvid, write
from PIL import Image
from standins import stand_in

import compare
import dataset
import metric
import predict
import settings
from datasets import predictions
from utils import fonts, quiet, script, visualize
from utils.config import UsageError, UserError
from utils.files import atomic_path, atomic_write, check_writable, protect
from utils.printable import printable, shell_word
from utils.runs import read_runs
from utils.table import LONGEST, table

pytest.register_assert_rewrite('scripts', 'answers')
from answers import assert_told, random_net  # noqa: E402
from scripts import ROOT, Room, snapshot, wait_for  # noqa: E402, F401

pytest_plugins = 'scripts'


# ------------------------------------------------------------------------------------------------ all or nothing


def test_planted_links_and_leftovers_are_not_followed(tmp_path):
    precious = tmp_path / 'precious'
    precious.write_text('mine')
    for name in ('a.pth.part', 'a.part', 'a.pth.tmp'):
        (tmp_path / name).symlink_to(precious)
    with atomic_write(str(tmp_path / 'a.pth')) as f:
        f.write(b'new')
    assert precious.read_text() == 'mine' and (tmp_path / 'a.pth').read_text() == 'new'
    assert len(os.listdir(tmp_path)) == 5


def test_a_link_at_the_place_itself_is_replaced_not_followed(tmp_path):
    (tmp_path / 'precious').write_text('mine')
    (tmp_path / 'a').symlink_to(tmp_path / 'precious')
    with atomic_write(str(tmp_path / 'a')) as f:
        f.write(b'new')
    assert (tmp_path / 'precious').read_text() == 'mine' and not (tmp_path / 'a').is_symlink()


def test_two_writers_of_one_path_do_not_collide(tmp_path):
    path = str(tmp_path / 'a')
    with atomic_write(path) as first, atomic_write(path) as second:
        first.write(b'1' * 10)
        second.write(b'2' * 20)
    assert (tmp_path / 'a').read_bytes() == b'1' * 10 and os.listdir(tmp_path) == ['a']


def test_many_writers_leave_one_whole_file(tmp_path):
    path, errors = str(tmp_path / 'a'), []

    def writer(number):
        try:
            for _ in range(20):
                with atomic_write(path) as f:
                    f.write(bytes([number]) * 1000)
        except Exception as e:
            errors.append(e)

    threads = [threading.Thread(target=writer, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    content = (tmp_path / 'a').read_bytes()
    assert not errors and len(content) == 1000 and len(set(content)) == 1
    assert os.listdir(tmp_path) == ['a']


def test_permissions_are_those_of_the_umask(tmp_path):
    mask = os.umask(0o027)
    try:
        with atomic_write(str(tmp_path / 'a')):
            pass
    finally:
        os.umask(mask)
    assert (tmp_path / 'a').stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize('name', ['x' * 255, 'ü' * 127, 'a.part', '-', 'a b\n'])
def test_names_of_any_length(tmp_path, name):
    with atomic_write(str(tmp_path / name)) as f:
        f.write(b'1')
    assert os.listdir(tmp_path) == [name]


@pytest.mark.parametrize(
    'error', [OSError(28, 'No space left on device'), OSError('encoder error -2'), ValueError('x')]
)
def test_a_failed_write_leaves_what_was_there(tmp_path, error):
    """An OSError of a file that is not named gets its name."""
    (tmp_path / 'a').write_text('old')
    with pytest.raises(type(error)) as e, atomic_write(str(tmp_path / 'a')) as f:
        f.write(b'half')
        raise error
    assert os.listdir(tmp_path) == ['a'] and (tmp_path / 'a').read_text() == 'old'
    if isinstance(error, OSError):
        reason = error.strerror or 'encoder error -2'
        assert script.sentence(e.value) == f'{tmp_path}/a: {reason}'


def test_a_folder_at_the_place_is_named(tmp_path):
    (tmp_path / 'a').mkdir()
    with pytest.raises(OSError) as e, atomic_write(str(tmp_path / 'a')):
        pass
    assert script.sentence(e.value) == f'{tmp_path}/a: Is a directory'
    assert os.listdir(tmp_path) == ['a']


def test_a_path_to_write_to_keeps_its_ending(tmp_path):
    with atomic_path(str(tmp_path / 'new' / 'a.mp4'), '.part.mp4') as part:
        assert part.endswith('.part.mp4') and os.path.getsize(part) == 0
        with open(part, 'wb') as f:
            f.write(b'film')
    assert snapshot(tmp_path) == {'new/a.mp4': b'film'}


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    check_writable(str(tmp_path / 'a' / 'b'))
    assert os.listdir(tmp_path / 'a' / 'b') == []
    (tmp_path / 'file').write_text('')
    for folder in ('file', 'file/inner', 'a/b/' + 'x' * 300):
        with pytest.raises(OSError) as e:
            check_writable(str(tmp_path / folder))
        assert str(tmp_path) in script.sentence(e.value)


def test_a_full_folder_is_named():
    if not os.path.isdir('/proc/self'):
        pytest.skip('needs /proc')
    with pytest.raises(OSError) as e:
        check_writable('/proc/self')
    assert script.sentence(e.value).startswith('/proc/self: ')


# ---------------------------------------------------------------------------------------- what is not replaced


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """mine/ with labels and images, links to them, and the working folder next to it."""
    for name in ('mine/labels/test/a.png', 'mine/images/test/a.jpg', 'store/b.png', 'mine/net.pth'):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text('mine')
    (tmp_path / 'link').symlink_to(tmp_path / 'mine' / 'labels')
    (tmp_path / 'mine' / 'images' / 'test' / 'b.png').symlink_to(tmp_path / 'store' / 'b.png')
    monkeypatch.chdir(tmp_path)
    return tmp_path


INPUTS = [
    'mine/labels/test/a.png',
    'mine/images/test/a.jpg',
    'mine/images/test/b.png',
    'mine/net.pth',
]


@pytest.mark.parametrize(
    'target',
    [
        'mine/labels/test/a.png',
        'mine/labels/test/new.png',
        './mine/../mine/labels//test/a.png',
        '{}/mine/labels/test/a.png',
        'link/test/a.png',
        'link/test/../test/new.png',
        'mine/images/test/b.png',
        'store/b.png',
        'store/new.png',
        'mine/worst.png',
        'mine/deep/x/y.png',
        'mine/deep/new.png',
    ],
)
def test_nothing_is_written_among_inputs(tree, target):
    with pytest.raises(UsageError) as e:
        protect([f'out/{0}.png', target.format(tree)], INPUTS, ['mine/deep'])
    assert target.format(tree) in str(e.value) and 'SAVE_DIR' in str(e.value)
    assert '\n' not in str(e.value) and e.value.code == 2


@pytest.mark.parametrize(
    'target',
    ['out/a.png', 'mine/out/a.png', 'mine/labels/a.png', 'mine/deeper/a.png', 'labels/test/a.png'],
)
def test_what_lies_next_to_inputs_is_written(tree, target):
    protect([target], INPUTS, ['mine/deep'])
    assert not os.path.exists('out')


def test_a_target_that_links_to_an_input_is_none(tree):
    os.makedirs('out/index')
    os.symlink('../../mine/labels/test/a.png', 'out/index/a.png')
    with pytest.raises(UsageError):
        protect(['out/index/a.png'], INPUTS)


def test_a_loop_of_links_is_no_endless_loop(tree):
    os.symlink('round', 'round')
    assert protect(['round/a.png', 'out/a.png'], INPUTS) is None


def on_image(save_dir, split, **values):
    values = {'VAL_SPLIT': split, 'SAVE_DIR': str(save_dir), 'NAME': 'x'} | values
    vars(settings).update(values)
    data = dataset.Dataset(split, train=False)
    return predictions.writer(data, metric.image_iou, 'net.pth')


def own_data(folder):
    """Data of one's own whose split test has no labels."""
    stand_in('folder', folder, 2, splits=('train', 'val', 'test'))
    layout = 'images' if (folder / 'images').is_dir() else ''
    if layout:
        shutil.rmtree(folder / 'labels' / 'test')
    else:
        shutil.rmtree(folder / 'testannot')
    return layout


@pytest.mark.parametrize('split', ['val', 'test'])
@pytest.mark.parametrize(
    'where',
    ['images/val', 'labels/val', 'labels/train', 'labels/test', 'images/test', 'labels', 'images'],
)
def test_eval_writes_nothing_over_own_data(tmp_path, where, split):
    """Not over the labels of other splits either; nor where labels would be read from next time."""
    own_data(tmp_path)
    before = snapshot(tmp_path)
    (tmp_path / 'link').symlink_to(tmp_path / where)
    for save_dir in (tmp_path / where, tmp_path / 'x' / '..' / where, tmp_path / 'link'):
        with pytest.raises(UsageError, match='SAVE_DIR'):
            on_image(save_dir, split)
    (tmp_path / 'link').unlink()
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize('where', ['out', 'predictions/of test', '../elsewhere', 'labels2'])
def test_eval_writes_into_a_folder_next_to_own_data(tmp_path, where):
    root = tmp_path / 'mine'
    own_data(root)
    for split in ('val', 'test', 'val', 'test'):  # again, over its own files
        writer = on_image(root / where, split)
        data = writer.data if split == 'val' else dataset.Dataset(split, train=False)
        image, label, _ = data[0]
        writer(0, image, label, torch.zeros(image.shape[1:], dtype=torch.uint8))
    assert snapshot(root / where)


def test_eval_writes_no_pictures_over_labels_that_a_list_names(tmp_path):
    """They lie in mine/index, or in mine itself."""
    stand_in('folder', tmp_path / 'mine', 1, splits=('val',))
    for folder in ('index', ''):
        root = tmp_path / f'lists{folder}'
        os.makedirs(root / folder)
        shutil.copy(tmp_path / 'mine' / 'classes.txt', root)
        lines = []
        for i in range(2):
            write(str(root / folder / f'p{i}.png'), colour_of(blocks(40, 56, i, 3)))
            write(str(root / folder / f'l{i}.png'), np.zeros((40, 56), np.uint8))
            lines.append(
                os.path.join(folder, f'p{i}.png') + ' ' + os.path.join(folder, f'l{i}.png')
            )
        (root / 'other.txt').write_text('\n'.join(lines))
        (root / 'val.txt').write_text('\n'.join(lines[:1]))
        before = snapshot(root)
        with pytest.raises(UsageError, match='SAVE_DIR'):
            on_image(root, 'val', DATA_ROOT=str(root), TRAIN_SPLIT='val')
        assert snapshot(root) == before
        on_image(root / 'out', 'val')


@pytest.mark.parametrize(
    'name, split, where',
    [
        ('camvid', 'val', 'camvid/test'),
        ('camvid', 'val', 'camvid/valannot'),
        ('camvid', 'val', 'camvid/trainannot'),
        ('voc', 'test', 'VOCdevkit/VOC2012/SegmentationClass'),
        ('voc', 'test', 'VOCdevkit/VOC2012/JPEGImages'),
        ('cityscapes', 'test', 'cityscapes/leftImg8bit/val'),
        ('cityscapes', 'test', 'cityscapes/gtFine'),
        ('ade20k', 'test', 'ADEChallengeData2016/annotations/validation'),
        ('nyuv2', 'val', 'nyuv2/labels40'),
        ('coco_stuff', 'val', 'coco/train2017'),
    ],
)
def test_eval_writes_nothing_over_known_data(tmp_path, name, split, where):
    splits = {'voc': ('train', 'val', 'test'), 'camvid': ('train', 'val', 'test')}.get(name)
    stand_in(name, tmp_path, 1, splits=splits)
    data_root = tmp_path / where.split('/')[0]
    if not data_root.is_dir():
        pytest.skip(f'the stand-in of {name} lies elsewhere')
    before = snapshot(tmp_path)
    with pytest.raises(UsageError, match='SAVE_DIR'):
        on_image(tmp_path / where, split)
    assert snapshot(tmp_path) == before
    on_image(tmp_path / 'out', split)


def test_eval_writes_nothing_into_the_folder_of_its_checkpoint(tmp_path):
    for split in ('train', 'val'):
        make_camvid(tmp_path, split, sizes=[(40, 56)])
    vars(settings).update(VAL_SPLIT='val', SAVE_DIR=str(tmp_path / 'nets'))
    data = dataset.Dataset('val', train=False)
    with pytest.raises(UsageError, match='SAVE_DIR'):
        predictions.writer(data, metric.image_iou, str(tmp_path / 'nets' / 'net.pth'))
    assert not (tmp_path / 'nets').exists()


def test_eval_ends_before_the_first_byte(tmp_path):
    """As it is started; the split val has labels, the other none."""
    own_data(tmp_path / 'mine')
    room = Room(tmp_path, tmp_path / 'mine')
    random_net(room, 'DATASET=folder')
    before = snapshot(tmp_path / 'mine')
    for split, where in (('test', 'labels/test'), ('val', 'images/val'), ('test', 'images/test')):
        args = 'DATASET=folder', f'VAL_SPLIT={split}', f'SAVE_DIR={tmp_path}/mine/{where}'
        assert_told(room.run('eval.py', *args), 2, f'mine/{where}', 'SAVE_DIR')
        assert snapshot(tmp_path / 'mine') == before
    shutil.rmtree(room.models)


class Flags:
    compare = probabilities = bases = None


@pytest.mark.parametrize(
    'pictures, save_dir, fine',
    [
        (['photos/a.png'], 'photos', True),
        (['photos/a.png'], 'photos/out', True),
        (['photos/index/a.png'], 'photos', False),
        (['photos/index/a.png', 'photos/b.png'], 'photos', False),
        (['photos/overlay/c.png'], 'link', False),
        (['link/overlay/c.png'], 'photos', False),
        (['photos/index/a.png'], 'photos/index', True),
    ],
)
def test_predict_writes_nothing_over_its_inputs(tmp_path, monkeypatch, pictures, save_dir, fine):
    for name in ('photos/a.png', 'photos/index/a.png', 'photos/b.png', 'photos/overlay/c.png'):
        write(str(tmp_path / name), colour_of(blocks(40, 56, 1)))
    (tmp_path / 'net.pth').write_text('')
    (tmp_path / 'link').symlink_to(tmp_path / 'photos')
    monkeypatch.chdir(tmp_path)
    vars(settings).update(DATA_ROOT=str(tmp_path / 'nowhere'), CHECKPOINT='net.pth')
    files = predict.list_inputs(pictures)
    before = snapshot(tmp_path)
    predictor = predict.Predictor(None, [], save_dir, Flags())
    if fine:
        predictor.prepare(files, [])
    else:
        with pytest.raises(UsageError, match='SAVE_DIR'):
            predictor.prepare(files, [])
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize('kind, ending', [('probabilities', '.npy'), ('overlay', '.mp4')])
def test_predict_writes_no_arrays_or_films_over_others(tmp_path, monkeypatch, kind, ending):
    monkeypatch.chdir(tmp_path)
    os.makedirs(kind)
    film = os.path.join(kind, 'a' + ending)
    (tmp_path / film).write_text('mine')
    vars(settings).update(DATA_ROOT=str(tmp_path / 'nowhere'), CHECKPOINT=film)
    flags = Flags()
    flags.probabilities = True
    predictor = predict.Predictor(None, [], '.', flags)
    with pytest.raises(UsageError, match='SAVE_DIR'):
        predictor.prepare([('x/a.png', 'a')], [('x/a.mp4', 'a')])


def test_predict_writes_nothing_over_the_data_set(tmp_path, monkeypatch):
    own_data(tmp_path / 'mine')
    monkeypatch.chdir(tmp_path)
    vars(settings).update(CHECKPOINT='net.pth')
    predictor = predict.Predictor(None, [], 'mine/labels', Flags())
    with pytest.raises(UsageError, match='SAVE_DIR'):
        predictor.prepare([('photo.png', 'photo')], [])
    predict.Predictor(None, [], 'mine/out', Flags()).prepare([('photo.png', 'photo')], [])


def test_its_own_output_is_no_input_through_a_link(tmp_path):
    for name in ('pics/a.png', 'pics/out/overlay/a.png'):
        write(str(tmp_path / name), colour_of(blocks(40, 56, 1)))
    (tmp_path / 'link').symlink_to(tmp_path / 'pics' / 'out')
    for output in ('link', 'pics/../link', 'pics/out'):
        files = predict.list_inputs([str(tmp_path / 'pics')], str(tmp_path / output))
        assert [name for _, name in files] == ['a']


def make_run(folder, **values):
    folder.mkdir(parents=True)
    entries = [{'step': 20, 'loss': 1.0}, {'step': 40, 'val/mIoU': 0.5, 'val/IoU/hut': 0.5}]
    (folder / 'log.jsonl').write_text(''.join(json.dumps(entry) + '\n' for entry in entries))
    (folder / 'settings.py').write_text(''.join(f'{k} = {v!r}\n' for k, v in values.items()))
    return folder


def compared(*args):
    return compare.main(compare.parser().read([str(arg) for arg in args]))


def test_compare_draws_over_its_own_charts_alone(tmp_path, capsys):
    run = make_run(tmp_path / 'a')
    for path in ('photo.png', 'text.png'):
        (tmp_path / path).write_text('precious')
    write(str(tmp_path / 'photo.png'), colour_of(blocks(40, 56, 1)))
    (tmp_path / 'link.png').symlink_to('photo.png')
    before = snapshot(tmp_path)
    for path in ('photo.png', 'text.png', 'link.png'):
        with pytest.raises(UsageError, match='no chart of compare.py'):
            compared(run, '--plot', tmp_path / path)
    assert snapshot(tmp_path) == before
    (tmp_path / 'empty.png').write_text('')
    for path in ('empty.png', 'empty.png', 'new.png', 'new.png'):
        assert compared(run, '--plot', tmp_path / path) == 0


# ---------------------------------------------------------------------------------------------- half an environment


PRINT = """
import sys
sys.path.insert(0, {root!r})
from utils import script
def main(flags):
    print('Größe', '道', '\\U0001f600', '\\x1b[31mred\\r\\x07')
    print('one\\n' * 100_000)
    print('ü', file=sys.stderr)
    open({done!r}, 'w').close()
script.run(main, script.Parser('', reads_settings=False))
"""


def printing(tmp_path, ending='', **env):
    """Runs a script that prints much, then leaves a file `done`."""
    (tmp_path / 'job.py').write_text(PRINT.format(root=ROOT, done=str(tmp_path / 'done')))
    command = f'"{sys.executable}" "{tmp_path}/job.py" {ending}'
    result = subprocess.run(
        ['bash', '-o', 'pipefail', '-c', command],
        capture_output=True,
        timeout=60,
        env=os.environ | {'PYTHONDONTWRITEBYTECODE': '1'} | env,
    )
    assert (tmp_path / 'done').exists() and b'Traceback' not in result.stderr, result.stderr
    assert b'Exception ignored' not in result.stderr and b'\x1b' not in result.stdout
    return result


@pytest.mark.parametrize('encoding', ['ascii', 'latin-1', 'ascii:strict', 'cp1252'])
def test_streams_that_are_not_utf_8(tmp_path, encoding):
    result = printing(tmp_path, PYTHONIOENCODING=encoding)
    assert result.returncode == 0 and b'\\u9053' in result.stdout and b'one' in result.stdout
    assert b'\\x1b[31mred\\r\\x07\n' in result.stdout


def test_a_locale_without_utf_8(tmp_path):
    result = printing(tmp_path, LC_ALL='C', PYTHONUTF8='0', PYTHONCOERCECLOCALE='0')
    assert result.returncode == 0 and b'one' in result.stdout


@pytest.mark.parametrize('ending', ['| head -1', '2>&1 | head -1', '| true', '2>&1 | true'])
def test_readers_that_leave(tmp_path, ending):
    result = printing(tmp_path, ending)
    assert result.returncode == 0 and b'job.py' not in result.stderr


@pytest.mark.parametrize('ending', ['>&-', '2>&-', '>&- 2>&-', '<&- >&- 2>&-', '2>/dev/full'])
def test_streams_that_are_closed(tmp_path, ending):
    assert printing(tmp_path, ending).returncode == 0


def test_a_full_disk_under_stdout_is_said(tmp_path):
    result = printing(tmp_path, '>/dev/full')
    assert result.returncode == 0
    assert b'job.py: stdout: No space left on device' in result.stderr


def test_compare_has_failed_if_its_tables_are_lost(tmp_path):
    make_run(tmp_path / 'a')
    command = f'"{sys.executable}" "{ROOT}/compare.py" "{tmp_path}/a" > /dev/full'
    found = subprocess.run(['bash', '-c', command], capture_output=True, text=True, timeout=60)
    assert found.returncode == 1 and 'Traceback' not in found.stderr
    assert found.stderr.startswith('compare.py: stdout: No space left')


@pytest.fixture(scope='module')
def kept(data, tmp_path_factory):
    """A room with a network."""
    room = Room(tmp_path_factory.mktemp('kept'), data)
    random_net(room)
    yield room
    shutil.rmtree(room.models)


def full_stdout():
    os.dup2(os.open('/dev/full', os.O_WRONLY), 1)


def gone_reader():
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    reading, writing = os.pipe()
    os.close(reading)
    os.dup2(writing, 1)


@pytest.mark.parametrize('before', [full_stdout, gone_reader])
def test_scores_are_on_disk_whatever_becomes_of_stdout(again, before):
    found = again.run('eval.py', before=before)
    assert found.status == 0 and 'Traceback' not in found.err
    assert again.scores()['images'] == 5


def no_charts():
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    def fail(self):
        raise RuntimeError('In FT2Font: Could not set the fontsize')

    FigureCanvasAgg.draw = fail


def test_charts_that_cannot_be_drawn_stop_nothing(again):
    found = again.run('eval.py', f'SAVE_DIR={again.folder}/out', before=no_charts)
    assert found.status == 0 and 'Traceback' not in found.err
    lines = [line for line in found.err.splitlines() if 'is not drawn' in line]
    assert len(lines) == 2 and all(line.startswith('eval.py: ') for line in lines)
    assert again.scores()['images'] == 5
    assert {'worst.png', 'best.png', 'index'} <= set(os.listdir(again.folder / 'out'))


def full_at_the_second_picture():
    save, calls = visualize_save(), []

    def full(path, *args):
        calls.append(path)
        if len(calls) > 4:
            raise OSError(errno.ENOSPC, 'No space left on device', path)
        save(path, *args)

    import utils.visualize

    utils.visualize.save = full


def visualize_save():
    import utils.visualize

    return utils.visualize.save


def test_scores_survive_pictures_that_cannot_be_written(again):
    found = again.run('eval.py', f'SAVE_DIR={again.folder}/out', before=full_at_the_second_picture)
    assert_told(found, 1, f'{again.folder}/out/', 'No space left')
    assert again.scores()['images'] == 5 and 'mIoU' in found.out


def test_a_folder_for_pictures_that_cannot_be_made_is_said_first(again):
    found = again.run('eval.py', 'SAVE_DIR=/proc/nowhere')
    assert_told(found, 1, '/proc/nowhere')
    assert 'evaluating' not in found.err and not (again.logs / 'tiny' / 'scores.json').exists()


def test_a_planted_link_is_not_followed_by_eval(again):
    precious = again.folder / 'precious'
    precious.write_text('mine')
    (again.logs / 'tiny').mkdir(parents=True)
    (again.logs / 'tiny' / 'scores.json.part').symlink_to(precious)
    (again.logs / 'tiny' / 'scores.json').symlink_to(precious)
    again.ok('eval.py')
    assert precious.read_text() == 'mine' and again.scores()['images'] == 5


def small_files():
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (3000,) * 2)


def film(path, count=12):
    sink = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*'mp4v'), 10, (64, 48))
    if not sink.isOpened():
        pytest.skip('this OpenCV cannot write MP4')
    for i in range(count):
        sink.write(np.random.default_rng(i).integers(0, 256, (48, 64, 3), np.uint8))
    sink.release()
    return path


def test_a_film_on_a_full_disk(again):
    """OpenCV says nothing; a film that is not whole is none."""
    path = film(again.folder / 'a.mp4')
    found = again.run('predict.py', path, f'SAVE_DIR={again.folder}/out', before=small_files)
    assert_told(found, 1, 'out/overlay/a.mp4')
    assert not snapshot(again.folder / 'out')


def test_frames_that_are_too_large(again):
    path = film(again.folder / 'a.mp4', 2)
    found = again.run('predict.py', path, f'SAVE_DIR={again.folder}/out', 'MAX_PIXELS=3000')
    assert found.status == 1 and 'a.mp4: frames of 64x48' in found.err and 'MAX_PIXELS' in found.err


# ----------------------------------------------------------------------------------------------- fonts and charts


def test_letters_of_many_languages_are_drawn():
    pictures = [visualize.text(word, 60, 20).tobytes() for word in 'abÄßЖЯΩπ']
    assert len(set(pictures)) == 8  # boxes would be alike


def test_what_no_font_has_is_an_escape(monkeypatch):
    monkeypatch.setattr(fonts.font_manager.fontManager, 'ttflist', [])
    fonts.best.cache_clear()
    _, (cjk, private, plain, lines) = fonts.fit(['道 road', '\ue123', 'Жук', 'a\x1b[1m\nb'])
    fonts.best.cache_clear()
    assert (cjk, private) == ('\\u9053 road', '\\ue123')
    assert (plain, lines) == ('Жук', 'a\\x1b[1m\\nb')


def test_a_font_of_the_system_that_has_more(monkeypatch):
    class Font:
        fname = 'big.ttf'

    characters = fonts.characters
    monkeypatch.setattr(fonts.font_manager.fontManager, 'ttflist', [Font])
    monkeypatch.setattr(
        fonts, 'characters', lambda p: frozenset(range(70000)) if p == 'big.ttf' else characters(p)
    )
    fonts.best.cache_clear()
    path, words = fonts.fit(['道', 'a'])
    fonts.best.cache_clear()
    assert (str(path), words) == ('big.ttf', ['道', 'a'])


@pytest.mark.parametrize('broken', ['missing.ttf', __file__])
def test_fonts_that_cannot_be_read(monkeypatch, broken):
    monkeypatch.setattr(fonts, 'DEFAULT', broken)
    monkeypatch.setattr(fonts.font_manager.fontManager, 'ttflist', [])
    fonts.best.cache_clear()
    fonts.load.cache_clear()
    assert visualize.text('abc', 60, 20).shape == (30, 60, 3)
    fonts.best.cache_clear()
    fonts.load.cache_clear()


@pytest.mark.parametrize('names', [['道', 'Жук'], ['a\nb', '$x$'], ['\ud800', '\x00']])
def test_charts_of_any_names_warn_of_nothing(names):
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        charts = [
            visualize.confusion(np.eye(2), names),
            visualize.bars([0.5, 0.25], names, names[0]),
            visualize.legend(np.array([[0, 1]]), names, np.zeros((2, 3), np.uint8), 200),
        ]
    assert all(chart.ndim == 3 and chart.std() > 0 for chart in charts)


# ------------------------------------------------------------------------------------------------- text from outside


@pytest.mark.parametrize(
    'text, shown',
    [
        ('plain ü 道', 'plain ü 道'),
        ('a\x1b[31mb', 'a\\x1b[31mb'),
        ('a\nb\r\t', 'a\\nb\\r\\t'),
        ('\u202egnp.exe', '\\u202egnp.exe'),
        ('\x9b0m', '\\x9b0m'),
        ('\udcff', '\\udcff'),
        ('\u2028\u200b\ufeff', '\\u2028\\u200b\\ufeff'),
        ('it\'s \\ "x"', 'it\'s \\ "x"'),
        (7, '7'),
    ],
)
def test_printable(text, shown):
    assert printable(text) == shown and printable(shown) == shown
    printable(text).encode()


def test_lines_can_stay():
    assert printable('a\nb\x1b', keep='\n') == 'a\nb\\x1b'


@pytest.mark.parametrize('text', ['plain', 'a b', '$(touch x)', "'; rm -r x; '", 'a\nb', '`x`', ''])
def test_shell_words(text):
    words = subprocess.check_output(['bash', '-c', f'printf %s {shell_word(text)}'], text=True)
    assert words == printable(text)


def test_tables_hold_no_control_characters():
    rows = [{'a\x1b': 'x\ny', 'b': 'z' * 5000}]
    for lines in (table(rows), table(rows, markdown=True)):
        assert all(line.isprintable() for line in lines)
        assert max(map(len, lines)) < LONGEST + 100
    result = metric.scores(torch.eye(2)) | {'single': metric.scores(torch.eye(2))}
    assert '\x1b' not in metric.table(result, ['\x1b[31m', 'b\nb'])
    assert len(metric.table(result, ['\x1b[31m', 'b\nb']).splitlines()) == 6


BAD_LOGS = ['{"step":', '[' * 100_000, '{"step": 1e999}', '\x00', 'x' * 3_000_000, '7', '']


@pytest.mark.parametrize('bad', BAD_LOGS, ids=range(len(BAD_LOGS)))
def test_damaged_lines_of_a_log(tmp_path, bad):
    run, problems = make_run(tmp_path / 'a'), []
    lines = (run / 'log.jsonl').read_text().splitlines()
    (run / 'log.jsonl').write_text('\n'.join([bad, lines[0], bad, lines[1], bad]))
    (found,) = read_runs([str(run)], problems.append)
    assert not problems and (found.steps, len(found.train), len(found.val)) == (40, 1, 1)


def test_names_of_strangers_reach_no_terminal(tmp_path, capsys):
    evil = '\x1b[31mred\nnew'
    run = make_run(tmp_path / 'a\x1b[1m', HEAD=evil, LOSS='x' * 100_000)
    other = make_run(tmp_path / 'b', HEAD='fcn')
    entry = {'step': 60, 'val/mIoU': 0.6, f'val/IoU/{evil}': 0.5}
    with open(run / 'log.jsonl', 'a') as f:
        f.write(json.dumps(entry))
    (run / 'machine.json').write_text(json.dumps({'device': evil}))
    (run / 'scores.json').write_text(
        json.dumps({'mIoU': 0.5, 'split': evil, 'dataset': 'x' * 9999})
    )
    with zipfile.ZipFile(run / 'source.zip', 'w') as archive:
        archive.writestr(f'{evil}.py', '')
    with zipfile.ZipFile(other / 'source.zip', 'w') as archive:
        archive.writestr('a.py', '')
    (other / 'scores.json').write_text('{')
    for flags in (['--classes'], ['--markdown', '--classes']):
        assert compared(run, other, *flags) == 1
        found = capsys.readouterr()
        assert '\x1b' not in found.out + found.err and 'red\nnew' not in found.out
        assert len(found.out) < 60_000


@pytest.mark.parametrize(
    'file, content',
    [
        ('settings.py', 'A = ' + '[' * 100_000),
        ('settings.py', 'A = ' + '-' * 100_000 + '1'),
        ('settings.py', 'A = 1\n' * 200_000),
        ('scores.json', '{"a":' * 100_000),
        ('scores.json', ' ' * 2_000_000),
        ('machine.json', '[]'),
        ('source.zip', 'PK'),
    ],
)
def test_files_of_absurd_size_or_depth_are_left_out(tmp_path, file, content):
    run, problems = make_run(tmp_path / 'a'), []
    (run / file).write_text(content)
    assert read_runs([str(run)], problems.append)[0].steps == 40
    assert len(problems) == 1 and file in problems[0] and '\n' not in problems[0]


@pytest.mark.parametrize('file', ['settings.py', 'scores.json', 'source.zip', 'machine.json'])
def test_a_pipe_in_a_run_folder_does_not_wait(tmp_path, file):
    run, problems = make_run(tmp_path / 'a'), []
    (run / file).unlink(missing_ok=True)
    os.mkfifo(run / file)
    assert read_runs([str(run)], problems.append)[0].steps == 40 and len(problems) == 1


def test_a_zip_is_not_unpacked(tmp_path):
    run, problems = make_run(tmp_path / 'a'), []
    with zipfile.ZipFile(run / 'source.zip', 'w', zipfile.ZIP_DEFLATED) as archive:
        archive.writestr('bomb.py', b'0' * 50_000_000)
    (found,) = read_runs([str(run)], problems.append)
    assert not problems and list(found.code) == ['bomb.py']


# ------------------------------------------------------------------------------------------------------- sentences


@pytest.mark.parametrize(
    'name, there, not_there',
    [
        ('predict.py', ['TEST_CROP', 'TEST_BATCH', 'smaller'], ['BATCH_SIZE', 'ACCUMULATE']),
        ('eval.py', ['TEST_CROP', 'TEST_BATCH'], ['BATCH_SIZE', 'Checkpoints']),
        ('train.py', ['BATCH_SIZE', 'ACCUMULATE', 'CROP_SIZE'], []),
        ('prepare.py', ['NUM_WORKERS'], ['BATCH', 'CROP', 'Checkpoints']),
    ],
)
@pytest.mark.parametrize(
    'error', [MemoryError(), torch.OutOfMemoryError('CUDA out of memory'), OSError(12, 'x')]
)
def test_out_of_memory_talks_of_what_the_script_can_do(monkeypatch, name, there, not_there, error):
    if isinstance(error, OSError):
        error = OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))
    monkeypatch.setattr(sys, 'argv', [f'/x/{name}'])
    words = script.sentence(error).replace('TEST_BATCH', 'TEST-BATCH')
    there = [word.replace('TEST_BATCH', 'TEST-BATCH') for word in there]
    assert words.startswith('out of memory; ') and '\n' not in words
    assert all(word in words for word in there) and not any(w in words for w in not_there)


@pytest.mark.parametrize(
    'error, words',
    [
        (OSError(24, 'Too many open files'), 'ulimit -n'),
        (RuntimeError('received 0 items of ancdata'), 'ulimit -n'),
        (RuntimeError('unable to write to file </torch_1_2>: No space left (28)'), '/dev/shm'),
        (RuntimeError('unable to allocate shared memory(shm) for file </torch_1>'), '/dev/shm'),
        (OSError(5, 'Input/output error', 'a.png'), 'a.png: Input/output error'),
        (OSError(5, 'Input/output error'), 'Input/output error'),
        (OSError('Caught OSError\nOriginal\nOSError: [Errno 5] x: y'), '[Errno 5] x: y'),
        (RuntimeError('Connection closed by peer [1.2.3.4]'), 'another process failed'),
        (FileExistsError(17, 'File exists', 'out'), 'out: this is a file, not a folder'),
    ],
)
def test_sentences_of_the_system(error, words):
    sentence = script.sentence(error)
    assert words in sentence and '\n' not in sentence
    assert 'SAVE_DIR' not in sentence and 'LOG_DIR' not in sentence and 'None' not in sentence


def stderr_of(tmp_path, task):
    """What task() leaves in a file that is stderr."""
    with open(tmp_path / 'err', 'w') as f, pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, 'stderr', quiet.Output(f))
        patch.setattr(sys, 'argv', ['/x/eval.py'])
        task()
    return (tmp_path / 'err').read_text()


@pytest.mark.parametrize('leave', [True, False])
@pytest.mark.parametrize('is_closed', [True, False])
def test_a_sentence_is_not_glued_to_a_bar(tmp_path, leave, is_closed):
    from tqdm import tqdm

    def task():
        bar = tqdm(total=10, leave=leave, mininterval=0)
        bar.update(3)
        if is_closed:
            bar.close()
        script.complain('a.png: this is\nwrong')
        if not is_closed:
            bar.update(3)
            script.close_bars()
            script.complain('the end')

    lines = stderr_of(tmp_path, task).split('\n')
    assert 'eval.py: a.png: this is\\nwrong' in lines
    assert is_closed or 'eval.py: the end' in lines


def test_a_sentence_alone_is_all_of_stderr(tmp_path):
    assert stderr_of(tmp_path, lambda: script.complain('x: y\x1b')) == 'eval.py: x: y\\x1b\n'


def test_errors_are_on_a_line_of_their_own_below_the_bar(again):
    """Both where the bar is open and where the loop has closed it."""
    bad = shutil.copytree(again.data, again.folder / 'bad')
    (bad / 'camvid' / 'val' / '03.png').write_bytes(b'junk')
    found = again.run('eval.py', f'DATA_ROOT={bad}')
    assert_told(found, 1, '03.png')
    assert '\neval.py: ' in found.err.replace('\r', '') and '\reval.py' not in found.err


def chatty(path, kind):
    """Writes a picture that makes decoders talk."""
    pixels = Image.fromarray(colour_of(blocks(60, 80, 1)))
    file = io.BytesIO()
    if kind == 'iccp.png':  # libpng
        pixels.save(file, 'PNG', icc_profile=b'junk')
    elif kind == 'extra.jpg':  # libjpeg
        pixels.save(file, 'JPEG')
        file = io.BytesIO(file.getvalue()[:-2] + b'junkjunk\xff\xd9')
    else:  # libtiff
        pixels.save(file, 'TIFF', compression='tiff_deflate')
        content = bytearray(file.getvalue())
        content[40:80:3] = bytes(14)
        file = io.BytesIO(content)
    path.write_bytes(file.getvalue())
    return str(path)


@pytest.mark.parametrize('kind', ['iccp.png', 'extra.jpg', 'broken.tif'])
def test_decoders_keep_quiet(tmp_path, capfd, kind):
    from datasets.files import read_image

    try:
        read_image(chatty(tmp_path / kind, kind))
    except UserError as e:
        assert '\n' not in str(e)
    assert capfd.readouterr().err == ''


def test_decoding_hides_what_is_written_below_python_and_nothing_after(capfd):
    with pytest.raises(ValueError), quiet.decoding():
        os.write(2, b'libpng warning\n')
        warnings.warn('truncated', stacklevel=1)
        raise ValueError
    os.write(2, b'ours\n')
    assert capfd.readouterr().err == 'ours\n'


def test_warnings_of_libraries_are_ignored_ours_are_not():
    with warnings.catch_warnings(record=True) as seen:
        warnings.resetwarnings()
        quiet.ignore_libraries()
        for module in ('PIL.Image', 'torch.utils.data', 'torch', 'utils.logger', 'torchy'):
            warnings.warn_explicit('x', UserWarning, 'file', 1, module)
    wanted = ['x', 'x'] if not sys.warnoptions else ['x'] * 5
    assert [str(w.message) for w in seen] == wanted


@pytest.mark.parametrize('flag', ['--plot', 'folder'])
def test_the_home_folder_in_words_of_compare(tmp_path, monkeypatch, flag):
    monkeypatch.setenv('HOME', str(tmp_path))
    make_run(tmp_path / 'a')
    flags = compare.parser().read(['~/a', '--plot', '~/x.png'])
    assert (flags.inputs, flags.plot) == ([f'{tmp_path}/a'], f'{tmp_path}/x.png')
