"""eval.py: what it writes for the eye, for servers and for later; scores of pictures that others saved; views; mistakes."""

import json
import os
import shutil

import numpy as np
import pytest
import torch
from helpers import make_camvid
from PIL import Image
from standins import palette, stand_in

import dataset
import metric
from datasets import predictions
from datasets.files import read_classes
from utils import config, visualize
from utils.config import UserError

pytest.register_assert_rewrite('scripts', 'answers')
from answers import alike, answers, assert_told, inside, loaded, random_net  # noqa: E402, F401
from scripts import Room, snapshot, torchrun  # noqa: E402

pytest_plugins = 'scripts'
KEYS = ('mIoU', 'fIoU', 'pAcc', 'mAcc', 'absent', 'class_iou', 'class_acc')
NAMES = [f'{i:02d}.png' for i in range(5)]


def read(path):
    with Image.open(path) as picture:
        return np.array(picture)


def scores(room, name='scores.json'):
    found = json.loads((room.logs / 'tiny' / name).read_text())
    return {k: found[k] for k in KEYS}


@pytest.fixture(scope='module')
def kept(data, tmp_path_factory):
    """A room with a network, evaluated, with pictures in `out`."""
    room = Room(tmp_path_factory.mktemp('kept'), data)
    random_net(room)
    room.out = room.folder / 'out'
    room.text = room.ok('eval.py', f'SAVE_DIR={room.out}')
    yield room
    shutil.rmtree(room.models)


# ------------------------------------------------------------------------------------------------- pictures and charts


def test_pictures_and_charts(kept):
    assert sorted(os.listdir(kept.out)) == [
        'best.png',
        'classes.png',
        'colour',
        'confusion.png',
        'index',
        'overlay',
        'worst.png',
    ]
    net, data = loaded(kept), dataset.Dataset('val', train=False)
    for i, pred in enumerate(answers(net, [data.read(i)[0] for i in range(5)])):
        found = read(kept.out / 'index' / NAMES[i])
        assert alike(found, pred)
        assert (read(kept.out / 'colour' / NAMES[i]) == data.classes.colours[found]).all()
    for kind in ('index', 'colour', 'overlay'):
        assert sorted(os.listdir(kept.out / kind)) == NAMES
    worst, best = read(kept.out / 'worst.png'), read(kept.out / 'best.png')
    assert worst.shape[1] == best.shape[1] == 4 * 304 and not np.array_equal(worst, best)
    assert (
        min(read(kept.out / 'confusion.png').shape[:2]) > 300
        and min(read(kept.out / 'classes.png').shape[:2]) > 100
    )
    assert (
        f'pictures in {kept.out}: index/ colour/ overlay/ worst.png best.png confusion.png classes.png'
        in kept.text
    )


def test_worst_and_best_are_ordered_by_the_image_iou(tmp_path, monkeypatch):
    """Of twelve images, one of them void: the eight worst from the worst on, the eight best from the best on, with label, prediction and errors."""
    make_camvid(tmp_path, sizes=[(40, 56)] * 12)
    data, wrong = (
        dataset.Dataset('train', train=False),
        [7, 3, 11, 0, 9, 5, 1, 10, 6, 2, 8, 4],
    )  # of forty rows
    labels = [torch.from_numpy(np.array(data.read(i)[1])) for i in range(12)]
    labels[4][:] = 255
    saver, total = predictions.Saver(str(tmp_path / 'out'), data, metric.image_iou), 0
    for i in reversed(range(12)):
        pred = torch.where(labels[i] == 255, 0, labels[i])
        pred[: 3 * wrong[i]] = (pred[: 3 * wrong[i]] + 1) % 11
        saver(i, torch.zeros(3, 40, 56, dtype=torch.uint8), labels[i], pred.byte())
        total = total + metric.confusion(pred, labels[i], 11)
    iou = {i: value for value, i in saver.scores}
    assert set(iou) == set(range(12)) - {4} and iou[3] == 1
    assert (
        iou[7]
        == metric.scores(
            metric.confusion(
                torch.from_numpy(read(tmp_path / 'out' / 'index' / '0007.png')), labels[7], 11
            )
        )['mIoU']
    )
    sheets = []
    monkeypatch.setattr(
        visualize,
        'sheet',
        lambda tiles, columns: sheets.append((tiles, columns)) or np.zeros((4, 4, 3), np.uint8),
    )
    saver.charts(metric.scores(total) | {'confusion': total}, saver.scores)
    (worst, columns), (best, _) = sheets
    order = sorted(iou, key=iou.get)
    assert columns == 4 and len(set(iou.values())) == 11
    assert [name for name, _ in worst[::4]] == [f'{i:04d}' for i in order[:8]] and [
        name for name, _ in best[::4]
    ] == [f'{i:04d}' for i in order[::-1][:8]]
    assert [caption for caption, _ in best[:4]] == [
        '0003',
        'label',
        'prediction, mIoU 100.0',
        'errors',
    ]
    image, label, pred, errors = (tile for _, tile in worst[:4])
    assert (image == data.read(order[0])[0]).all() and (
        label == data.classes.colours[data.read(order[0])[1]]
    ).all()
    assert ((errors == visualize.RIGHT).all(2) == (label == pred).all(2)).all() and not (
        label == pred
    ).all()
    assert all(
        (tmp_path / 'out' / f'{name}.png').exists()
        for name in ('worst', 'best', 'confusion', 'classes')
    )


def test_two_processes_leave_the_same(kept, again):
    """Pictures, the worst and the best, charts and scores."""
    found = torchrun(2, 'eval.py', *again.args(f'SAVE_DIR={again.folder}/out'))
    assert found.status == 0, found.err
    assert scores(again) == scores(kept)
    wanted, found = snapshot(kept.out), snapshot(again.folder / 'out')
    assert wanted.keys() == found.keys() and [k for k in wanted if wanted[k] != found[k]] == []


# ------------------------------------------------------------------------------------------------------ other modes


@pytest.mark.parametrize(
    'name, folder, low, high',
    [
        ('voc', 'results/VOC2012/Segmentation/comp6_test_cls', 0, 20),
        ('cityscapes', '', 7, 33),
        ('ade20k', '', 1, 150),
    ],
)
def test_files_for_the_server(tmp_path, name, folder, low, high):
    """Palette PNG of the values that label files have, and nothing else."""
    stand_in(name, tmp_path, 3, splits=('test', 'val'))
    if name == 'cityscapes':
        shutil.rmtree(tmp_path / 'cityscapes' / 'gtFine')  # labels are not looked at
    room, args = Room(tmp_path, tmp_path), (f'DATASET={name}', 'STRIDE=8')
    random_net(room, *args)
    out = room.ok('eval.py', *args, 'VAL_SPLIT=test', f'SAVE_DIR={tmp_path}/out')
    assert f'3 files for the server in {os.path.join(tmp_path / "out", folder)}' in out
    net, data = loaded(room, *args), dataset.Dataset('test', train=False)
    stems = [os.path.splitext(os.path.basename(image))[0] for image, _ in data.pairs]
    assert sorted(snapshot(tmp_path / 'out')) == sorted(
        os.path.join(folder, stem + '.png') for stem in stems
    )
    seen = set()
    for stem, pred in zip(stems, answers(net, [data.read(i)[0] for i in range(3)])):
        with Image.open(tmp_path / 'out' / folder / f'{stem}.png') as picture:
            values, shown = np.array(picture), np.array(picture.convert('RGB'))
            assert picture.mode == 'P' and values.dtype == np.uint8
        seen |= {*values.ravel().tolist()}
        ids = np.array(
            [data.classes.raw.index(v) for v in range(256) if v in data.classes.raw]
        )  # by rank of the value
        found = ids[np.searchsorted(sorted(data.classes.raw), values)]
        assert alike(found, pred) and (shown == data.classes.colours[found]).all()
    assert (
        seen <= set(data.classes.raw) and low <= min(seen) and max(seen) <= high and len(seen) > 5
    )
    assert not (room.logs / 'tiny').exists()


def test_classes_without_a_value_have_no_server_files(tmp_path):
    """The pictures of a split without labels are in train ids then."""
    stand_in('folder', tmp_path, 2, splits=('test', 'val'))
    (tmp_path / 'classes.txt').write_text('* 10 20 30 ground\n1 200 0 0 hut\n2 9 9 9 tree\n')
    read_classes.cache_clear()
    shutil.rmtree(tmp_path / 'labels' / 'test', ignore_errors=True)
    shutil.rmtree(tmp_path / 'testannot', ignore_errors=True)
    room, args = Room(tmp_path, tmp_path), ('DATASET=folder', 'VAL_SPLIT=test')
    random_net(room, *args)
    out = room.ok('eval.py', *args, f'SAVE_DIR={tmp_path}/out')
    assert 'mIoU' not in out and out.endswith(
        f'pictures in {tmp_path}/out: index/ colour/ overlay/\n'
    )
    assert sorted(os.listdir(tmp_path / 'out')) == ['colour', 'index', 'overlay']
    net, data = loaded(room, *args), dataset.Dataset('test', train=False)
    assert not data.labelled
    for i, pred in enumerate(answers(net, [data.read(i)[0] for i in range(2)])):
        name = os.path.basename(os.path.splitext(data.pairs[i][0])[0])
        assert (read(tmp_path / 'out' / 'index' / f'{name}.png') == pred).mean() > 0.999
    assert not room.logs.exists()


# -------------------------------------------------------------------------------------------------------- --rescore


@pytest.mark.parametrize(
    'where, args', [('index', []), ('', ['NUM_WORKERS=1', 'CHECKPOINT=none.pth'])]
)
def test_saved_pictures_have_the_scores_of_the_network(kept, again, where, args):
    """No checkpoint is needed."""
    out = again.ok('eval.py', '--rescore', kept.out / where, *args)
    assert (
        scores(again, 'rescore.json') == scores(kept)
        and f'mIoU {100 * scores(kept)["mIoU"]:.2f}' in out
    )
    assert not (again.logs / 'tiny' / 'scores.json').exists()


@pytest.mark.parametrize('name', ['cityscapes', 'ade20k'])
def test_values_of_label_files_are_rescored(tmp_path, name):
    """Grey PNG, in folders and under another program's wing: the sum of the confusion matrices is that of the train ids."""
    ids = stand_in(name, tmp_path, 3, splits=('val',))['val']
    data = dataset.Dataset('val', train=False)
    rng, wanted = np.random.default_rng(0), 0
    for (image, _), label in zip(data.pairs, ids):
        pred = np.where(
            rng.random(label.shape) < 0.5,
            label % len(data.names),
            rng.integers(0, len(data.names), label.shape),
        )
        stem = os.path.splitext(os.path.basename(image))[0]
        path = tmp_path / 'theirs' / stem[-1] / f'{stem}.png'
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.array(data.classes.raw, np.uint8)[pred]).save(path)
        wanted = wanted + metric.confusion(
            torch.from_numpy(pred), torch.from_numpy(label), len(data.names)
        )
    task = predictions.Predictions(str(tmp_path / 'theirs'), data, True)
    n = len(data.names)
    assert torch.equal(sum(metric.confusion(*task.read(i), n) for i in range(3)), wanted)
    room = Room(tmp_path, tmp_path)
    room.ok('eval.py', f'DATASET={name}', '--raw', f'--rescore={tmp_path}/theirs')
    assert scores(room, 'rescore.json') == {k: metric.scores(wanted)[k] for k in KEYS}
    if name == 'cityscapes':
        with pytest.raises(
            UserError, match=r'the value \d+ is no class of cityscapes; if these are .*say --raw'
        ):
            task = predictions.Predictions(str(tmp_path / 'theirs'), data, False)
            [task.read(i) for i in range(3)]


def test_two_sets_of_predictions_in_one_folder(kept, again):
    """The file that lies where its image's name leads is taken; where several others may be meant, none is."""
    shutil.copytree(kept.out / 'index', again.folder / 'sets' / 'a')
    shutil.copytree(kept.out / 'colour', again.folder / 'sets' / 'b')
    assert_told(
        again.run('eval.py', '--rescore', again.folder / 'sets'),
        1,
        'a/00.png',
        'b/00.png',
        'both may be the prediction of 00',
    )
    shutil.copytree(kept.out / 'index', again.folder / 'sets', dirs_exist_ok=True)
    again.ok('eval.py', '--rescore', again.folder / 'sets')
    assert scores(again, 'rescore.json') == scores(kept)


def test_scores_are_printed_before_they_are_written(kept, again):
    found = again.run('eval.py', '--rescore', kept.out, 'LOG_DIR=/proc/nowhere')
    assert found.status == 1 and f'mIoU {100 * scores(kept)["mIoU"]:.2f}' in found.out
    assert_told(again.run('eval.py', 'LOG_DIR=/proc/nowhere'), 1, '/proc/nowhere')


def spoilt(folder, how):
    """Makes 03.png a prediction that cannot be scored."""
    path = folder / '03.png'
    if how == 'missing':
        path.unlink()
    elif how == 'size':
        palette(path, np.zeros((11, 13)))
    elif how == 'value':
        palette(path, np.full_like(read(path), 77))
    elif how == 'void':
        palette(path, np.full_like(read(path), 255))
    elif how == '16 bit':
        Image.fromarray(read(path).astype(np.uint16) + 3000).save(path)
    elif how == 'colour':
        Image.fromarray(read(path)).convert('RGB').save(path)
    elif how == 'cut':
        path.write_bytes(path.read_bytes()[:200])


BAD_PREDICTIONS = [
    ('missing', 'prediction is missing, 1 of 5 are'),
    ('size', 'this prediction is 13x11, the label of its image 72x66'),
    ('value', 'the value 77 is no class of camvid'),
    ('void', 'the value 255 is no class of camvid'),
    ('16 bit', 'the value 30.. is no class of camvid'),
    ('colour', 'RGB pixels, colours'),
    ('cut', 'cannot be read'),
]


@pytest.mark.parametrize('how, words', BAD_PREDICTIONS)
@pytest.mark.parametrize('raw', [False, True])
def test_predictions_that_cannot_be_scored(kept, tmp_path, how, words, raw):
    folder = shutil.copytree(kept.out / 'index', tmp_path / 'theirs')
    spoilt(folder, how)
    config.override(kept.args())
    with pytest.raises(UserError, match=f'{folder}/03.png: .*{words}'):
        task = predictions.Predictions(str(folder), dataset.Dataset('val', train=False), raw)
        [task.read(i) for i in range(5)]


@pytest.mark.parametrize(
    'how, args, words',
    [
        ('size', ['NUM_WORKERS=2'], ['13x11']),
        ('colour', [], ['RGB']),
        ('gone', [], ['no such folder']),
    ],
)
def test_predictions_that_cannot_be_scored_are_told(kept, again, how, args, words):
    folder = again.folder / 'theirs'
    if how != 'gone':
        spoilt(shutil.copytree(kept.out / 'index', folder), how)
    assert_told(
        again.run('eval.py', '--rescore', folder, *args),
        1,
        folder if how == 'gone' else folder / '03.png',
        *words,
    )
    assert not (again.logs / 'tiny').exists()


# ------------------------------------------------------------------------------------------------------------- views


def test_scale_1_alone_beside_all_views(kept, again):
    out = again.ok('eval.py', 'TEST_SCALES=0.75,1,1.5', 'TEST_FLIP=True')
    found, wanted = again.scores(), scores(kept)
    assert [found['single'][k] for k in ('mIoU', 'fIoU', 'pAcc', 'mAcc')] == pytest.approx(
        [wanted[k] for k in ('mIoU', 'fIoU', 'pAcc', 'mAcc')], abs=1e-6
    )
    assert all(
        a == b or abs(a - b) < 1e-6
        for a, b in zip(found['single']['class_iou'], wanted['class_iou'])
    )
    assert abs(found['pAcc'] - wanted['pAcc']) > 1e-4 and 'single' not in kept.scores()
    assert 'mirror images' in found['views'] and '0.75, 1, 1.5' in found['views']
    lines = [line for line in out.split('\n') if 'mIoU' in line]
    assert [line.split(': ')[0] for line in lines] == ['all views', 'scale 1 alone']
    assert [f'mIoU {100 * s["mIoU"]:.2f}' in line for s, line in zip((found, wanted), lines)] == [
        True,
        True,
    ]


def test_windows_larger_than_the_images(kept, again):
    """They hold the image among the mean colour: scores of their own."""
    again.ok('eval.py', 'TEST_CROP=(97,129)')
    found = again.scores()
    assert (
        0 < found['mIoU'] < 1
        and 'windows of 129x97' in found['views']
        and found['pAcc'] != scores(kept)['pAcc']
    )


# ---------------------------------------------------------------------------------------------------------- mistakes


@pytest.mark.parametrize(
    'args, words',
    [
        ('VAL_SPLIT=tset', ["camvid has no split 'tset'"]),
        ('--raw', ['--raw needs --rescore DIR']),
        ('--rescore', ['--rescore', 'expected one argument']),
        ('--rescore --raw', ['--rescore', 'expected one argument']),
        ('--raw=1 --rescore {0}', ['--raw', "'1'"]),
        ('--rescor {0}', ['--rescor: there is no such flag', 'did you mean --rescore?']),
        ('TEST_SCALES=0,1', ['TEST_SCALES = 0.0 is out of range', 'above 0']),
        ('TEST_SCALES=0', ['out of range', 'above 0']),
        ('TEST_MODE=test', ['setting TEST_MODE was removed']),
        ('TEST_CROP=15', ['TEST_CROP = 15 is smaller than STRIDE = 16', 'raise']),
        ('TEST_CROP=(65,9)', ['TEST_CROP = (65, 9) is smaller than STRIDE = 16']),
    ],
)
def test_usage(again, inside, args, words):
    assert_told(inside('eval.py', *again.args(*args.format(again.folder).split())), 2, *words)
    assert not again.logs.exists() and not (again.folder / 'out').exists()


def test_a_word_that_is_no_setting(again):
    assert_told(again.run('eval.py', 'README.md'), 2, 'README.md', 'recipe')


def test_scales_that_leave_nothing(again):
    assert_told(
        again.run('eval.py', 'TEST_SCALES=0.1,1'),
        1,
        'scale 0.1 of TEST_SCALES makes 8x6',
        '80x60',
        'STRIDE = 16',
        'leave it out',
        'TEST_BASE_SIZE',
    )


def test_a_split_without_labels(again, inside):
    """It cannot be scored, and its predictions need a place."""
    stand_in('voc', again.folder, 2, splits=('test',))
    for i in range(2):
        palette(str(again.folder / 'theirs' / f'2008_{i:06d}.png'), np.zeros((40, 56)))
    random_net(again, 'DATASET=voc', run='voc')
    args = 'DATASET=voc', f'DATA_ROOT={again.folder}', 'VAL_SPLIT=test', 'NAME=voc'
    words = "the split 'test' of voc has no labels to score"
    theirs = again.folder / 'theirs'
    assert_told(inside('eval.py', *again.args(*args, '--rescore', theirs)), 1, words, 'VAL_SPLIT')
    assert_told(inside('eval.py', *again.args(*args)), 2, words, 'SAVE_DIR=FOLDER')


def test_no_folder_to_rescore(again, inside):
    assert_told(
        inside('eval.py', *again.args('--rescore=')), 1, '--rescore=: there is no such folder'
    )
