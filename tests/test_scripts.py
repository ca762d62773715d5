"""The scripts end to end: what they write and print, resuming, processes, checkpoints of others, shell scripts."""

import glob
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import zipfile

import helpers
import numpy as np
import pytest
import torch
import torchvision
from helpers import build
from PIL import Image

import checkpoint
import dataset
import settings
from datasets.table import DATASETS
from utils import config

pytest.register_assert_rewrite('scripts')
from scripts import ENV, ROOT, Room, double, finish, start, tensors, torchrun, wait_for  # noqa: E402

pytest_plugins = 'scripts'
MEANS = ('mIoU', 'fIoU', 'pAcc', 'mAcc')


# ------------------------------------------------------------------------------------------------- one run, looked at


@pytest.fixture(scope='module')
def trained(data, tmp_path_factory):
    """A room in which the run `tiny` is trained (4 steps, validated and saved every second) and scored, by processes of their own."""
    room = Room(tmp_path_factory.mktemp('trained'), data)
    for script, args in (
        ('train.py', ['ITER_MAX=4', 'ITER_VAL=2', 'ITER_SAVE=2']),
        ('eval.py', [f'SAVE_DIR={room.folder}/pictures']),
    ):
        found = finish(start(script, *room.args(*args)))
        assert found.status == 0, found.err
        setattr(room, script[:-3], found)
    yield room
    shutil.rmtree(room.models)


def test_files(trained):
    assert set(os.listdir(trained.models / 'tiny')) == {
        'latest.pth',
        'best.pth',
        'step_2.pth',
        'final.pth',
    }
    files = set(os.listdir(trained.logs / 'tiny'))
    events = {f for f in files if f.startswith('events.out.tfevents')}
    assert len(events) == 1 and files - events == {
        'log.jsonl',
        'machine.json',
        'scores.json',
        'scores_classes.csv',
        'scores_confusion.csv',
        'scores_inside.csv',
        'settings.py',
        'source.zip',
    }


def test_start_up_lines(trained):
    parameters = sum(
        v.numel()
        for k, v in trained.checkpoint('final')['net'].items()
        if not k.endswith(('mu', 'running_mean', 'running_var', 'tracked'))
    )
    for words in (
        f'camvid: 12 images in train, 5 in val, 11 classes, in {trained.data}/camvid',
        f'ema on ResNet-18 at stride 16: {parameters / 1e6:.2f} M parameters',
        'batch 4 = 4 per device x 1 devices (cpu, one device) x 1 accumulated; float32; 1.3 epochs',
        'trunk weights: none',
        'BATCH_SIZE = 4\n',
        "NAME = 'tiny'\n",
        f'all else as in settings.py; all of it in {trained.logs}/tiny/settings.py\n',
        'images/s: a few seconds to go',
        'step 2: loss',
        'finished: 4 steps',
    ):
        assert words in trained.train.out
    assert 'EM_MOM' not in trained.train.out  # as in settings.py
    bar = trained.train.err
    assert 'it/s' in bar and 'loss=' in bar and 'lr=' in bar
    assert bar.replace('\n', '').isprintable()  # no control codes in a file
    assert all(line.strip() for line in bar.splitlines())


def test_scores_of_training_and_evaluation_agree(trained):
    logged = {line['step']: line for line in trained.log() if 'val/mIoU' in line}
    step = max(logged, key=lambda s: logged[s]['val/mIoU'])
    found = trained.scores()
    assert {k: found[k] for k in MEANS} == {k: logged[step]['val/' + k] for k in MEANS}
    best = trained.checkpoint('best')
    assert best['step'] == found['step'] == step and {k: best['scores'][k] for k in MEANS} == {
        k: found[k] for k in MEANS
    }
    trained.ok(
        'eval.py',
        'CHECKPOINT=' + str(trained.models / 'tiny' / 'final.pth'),
        f'LOG_DIR={trained.folder}/again',
    )
    again = Room(trained.folder, trained.data)
    again.logs = trained.folder / 'again'
    assert {k: again.scores()[k] for k in MEANS} == {k: logged[4]['val/' + k] for k in MEANS}


def test_scores_json_and_table(trained):
    found = trained.scores()
    names = [
        line.split()[4] for line in open(os.path.join(ROOT, 'datasets', 'classes', 'camvid.txt'))
    ]
    assert found['classes'] == names and len(found['class_iou']) == len(found['class_acc']) == 11
    assert (found['dataset'], found['split'], found['images']) == ('camvid', 'val', 5)
    assert found['checkpoint'] == str(trained.models / 'tiny' / 'best.pth')
    there = [v for v in found['class_iou'] if v is not None]
    assert found['mIoU'] == pytest.approx(sum(there) / len(there), abs=1e-12) and found[
        'absent'
    ] == 11 - len(there)
    assert (
        all(name in trained.eval.out for name in names)
        and f'mIoU {100 * found["mIoU"]:.2f}' in trained.eval.out
    )


def test_scores_are_those_of_the_saved_pictures(trained):
    """pAcc once more, from the index pictures and the label files."""
    right = total = 0
    for path in glob.glob(f'{trained.data}/camvid/valannot/*.png'):
        label = np.array(Image.open(path))
        pred = np.array(Image.open(trained.folder / 'pictures' / 'index' / os.path.basename(path)))
        assert pred.shape == label.shape and pred.dtype == np.uint8 and pred.max() < 11
        right, total = right + (pred == label)[label != 11].sum(), total + (label != 11).sum()
    assert trained.scores()['pAcc'] == right / total


def test_pictures(trained):
    table = np.array(
        [
            line.split()[1:4]
            for line in open(os.path.join(ROOT, 'datasets', 'classes', 'camvid.txt'))
        ],
        np.uint8,
    )
    for kind in ('index', 'colour', 'overlay'):
        assert len(os.listdir(trained.folder / 'pictures' / kind)) == 5
    pred, coloured, over = (
        np.array(Image.open(trained.folder / 'pictures' / kind / '03.png'))
        for kind in ('index', 'colour', 'overlay')
    )
    image = np.array(Image.open(trained.data / 'camvid' / 'val' / '03.png'))
    assert (coloured == table[pred]).all()
    assert np.abs(over - (image / 2 + coloured / 2)).max() <= 1


def test_log(trained):
    lines = trained.log()
    assert [line['step'] for line in lines if 'loss' in line] == [1, 2, 3, 4]
    assert [line['step'] for line in lines if 'val/mIoU' in line] == [2, 4]
    assert all(line['loss'] > 0 and line['images_per_s'] > 0 for line in lines if 'loss' in line)
    assert [line['lr'] for line in lines if 'lr' in line] == pytest.approx(
        [0.02 * (1 - s / 4) ** 0.9 for s in range(4)]
    )


def test_settings_in_the_logs_are_a_recipe(trained):
    kept = trained.checkpoint('latest')['settings']
    config.override([str(trained.logs / 'tiny' / 'settings.py')])
    assert config.current() == kept
    assert kept['NAME'] == 'tiny' and kept['ITER_MAX'] == 4 and kept['EM_BASES'] == 4
    assert trained.checkpoint('final')['settings'] == kept


def test_source_in_the_logs(trained):
    with zipfile.ZipFile(trained.logs / 'tiny' / 'source.zip') as z:
        assert {'train.py', 'settings.py', 'heads/fcn.py', 'sync_bn/__init__.py'} <= set(
            z.namelist()
        )
        for name in z.namelist():
            assert z.read(name) == open(os.path.join(ROOT, name), 'rb').read(), name


def test_tensorboard_events(trained):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(trained.logs / 'tiny')).Reload()
    assert {'loss', 'lr', 'images_per_s', 'val/mIoU'} <= set(events.Tags()['scalars'])
    assert [e.step for e in events.Scalars('loss')] == [1, 2, 3, 4] and [
        e.step for e in events.Scalars('val/mIoU')
    ] == [2, 4]
    assert any(tag.startswith('val/IoU/') for tag in events.Tags()['scalars'])
    spread = (0, 1, 2, 4)  # of five
    assert {f'val/{i}_input_truth_prediction_errors' for i in spread} | {
        'val/confusion',
        'val/0_attention',
    } == set(events.Tags()['images'])
    picture = events.Images('val/0_input_truth_prediction_errors')[0]
    with Image.open(trained.data / 'camvid' / 'val' / '00.png') as first:
        assert (picture.width, picture.height) == (4 * first.width, first.height)
    assert b"HEAD = 'ema'" in events.Tensors('settings/text_summary')[0].tensor_proto.string_val[0]


def test_checkpoints_are_plain(trained):
    latest, final = trained.checkpoint('latest'), trained.checkpoint('final')
    assert latest['step'] == final['step'] == 4 and {
        'net',
        'opt',
        'scaler',
        'best',
        'rng',
        'settings',
    } <= set(latest)
    assert 'opt' not in final and all(
        torch.equal(v, latest['net'][k]) for k, v in final['net'].items()
    )
    assert {'emau.mu', 'extractor.0.weight', 'fc2.weight'} <= set(final['net'])


def test_a_finished_run_says_so(trained):
    before = (
        (trained.models / 'tiny' / 'latest.pth').stat().st_mtime_ns,
        (trained.logs / 'tiny' / 'log.jsonl').read_text(),
    )
    assert 'tiny is finished: 4 of 4 steps' in trained.ok('train.py', 'ITER_MAX=4')
    assert before == (
        (trained.models / 'tiny' / 'latest.pth').stat().st_mtime_ns,
        (trained.logs / 'tiny' / 'log.jsonl').read_text(),
    )


def test_evaluation_takes_best_then_final_then_latest(trained, room):
    (room.models / 'tiny').mkdir(parents=True)
    for name in ('latest', 'final', 'best'):
        os.link(trained.models / 'tiny' / f'{name}.pth', room.models / 'tiny' / f'{name}.pth')
        assert f'tiny/{name}.pth (EMANet): 120 of 120 tensors matched' in room.ok('eval.py')


# ----------------------------------------------------------------------------------------------------------- resuming


def test_four_steps_equal_two_kill_9_and_the_rest(room):
    """Bit for bit, dropout included; validation and loader processes change nothing."""
    args = 'DROPOUT=0.1', 'ITER_MAX=6', 'ITER_SAVE=2'
    room.ok('train.py', *args, 'NAME=straight')
    latest = room.models / 'tiny' / 'latest.pth'
    with start('train.py', *room.args(*args, 'ITER_VAL=1')) as process:
        wait_for(latest, process)
        process.kill()
    killed_at = torch.load(latest, weights_only=True)['step']
    assert process.returncode == -signal.SIGKILL and killed_at < 6
    out = room.ok('train.py', *args, 'ITER_VAL=3', 'NUM_WORKERS=1')
    assert f'resuming tiny at step {killed_at}' in out
    for name in ('latest', 'final'):
        wanted, found = tensors(room.checkpoint(name, 'straight')), tensors(room.checkpoint(name))
        assert wanted.keys() == found.keys() and len(wanted) >= 140
        assert [k for k in wanted if not torch.equal(wanted[k], found[k])] == []


@pytest.mark.parametrize('number, status', [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_signals_save_and_leave(room, number, status):
    with start(
        'train.py',
        *room.args('ITER_MAX=1000', 'ITER_LOG=3', f'NUM_WORKERS={int(number == signal.SIGINT)}'),
        start_new_session=True,
    ) as process:
        log = room.logs / 'tiny' / 'log.jsonl'
        wait_for(log, process)
        while not log.read_text():
            assert process.poll() is None
        if number == signal.SIGINT:
            os.killpg(process.pid, number)  # as Ctrl-C does: loader processes get it too
        else:
            process.send_signal(number)
        found = finish(process)
    assert found.status == status, found.err
    assert 'Traceback' not in found.err
    step = room.checkpoint('latest')['step']
    assert f'stopped at step {step}' in found.out and 3 <= step < 1000
    assert f'resuming tiny at step {step}' in room.ok('train.py', f'ITER_MAX={step + 1}')


def test_other_settings_do_not_resume(trained):
    latest = trained.models / 'tiny' / 'latest.pth'
    before = latest.read_bytes()
    found = trained.run('train.py', 'ITER_MAX=9', 'LR=0.5', 'EM_MOM=0.8')
    assert found.status == 1
    assert (
        'LR was 0.02, is 0.5; EM_MOM was 0.9, is 0.8' in found.err
        or 'EM_MOM was 0.9, is 0.8; LR was 0.02, is 0.5' in found.err
    )
    assert latest.read_bytes() == before


# ------------------------------------------------------------------------- the same numbers, however it is spread


def differences(a, b):
    """{name: largest difference} of the float tensors of two networks, relative to their largest value where that is above 1."""
    a, b = a['net'], b['net']
    assert a.keys() == b.keys()
    return {
        k: ((a[k] - b[k]).abs().max() / a[k].abs().max().clamp(min=1)).item()
        for k in a
        if a[k].is_floating_point()
    }


@pytest.mark.parametrize(
    'args',
    [('LOSS_AVG=valid', 'ACCUMULATE=2'), ('LOSS_AVG=all', 'EM_UPDATE=learnt', 'AUX_WEIGHT=0.4')],
)
def test_two_processes_equal_one(room, args):
    """In float64, after three steps: parameters, running statistics, bases, losses; pictures differ in valid pixels."""
    args = 'DROPOUT=0', 'ITER_MAX=3', *args
    room.ok('train.py', *args, 'NAME=one', before=double)
    wrapper = room.folder / 'double.py'
    wrapper.write_text(
        f'import sys\nsys.path[:0] = {[ROOT]}\nimport runpy, torch\ntorch.set_default_dtype(torch.float64)\n'
        "runpy.run_path('train.py', run_name='__main__')\n"
    )
    found = torchrun(2, wrapper, *room.args(*args, 'NAME=two', 'ITER_VAL=3'))
    assert found.status == 0, found.err
    assert (
        'x 2 devices (cpu, DistributedDataParallel)' in found.out
        and found.out.count('finished:') == 1
    )
    one, two = room.checkpoint('final', 'one'), room.checkpoint('final', 'two')
    assert one['net']['emau.mu'].dtype == two['net']['emau.mu'].dtype == torch.float64
    differ = differences(one, two)
    worst = max(differ, key=differ.get)
    assert differ[worst] <= 1e-9, (worst, differ[worst])
    assert 'emau.mu' in differ and len([k for k in differ if 'running_var' in k]) > 20
    losses = [
        [line['loss'] for line in room.log(name) if 'loss' in line] for name in ('one', 'two')
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-9)


def test_two_processes_leave_together(room):
    """SIGTERM to one of them: both stop at the same step, and one file holds the random states of both."""
    with start(
        '-m',
        'torch.distributed.run',
        '--standalone',
        '--nproc_per_node=2',
        'train.py',
        *room.args('ITER_MAX=1000', 'NAME=pair'),
    ) as process:
        log = room.logs / 'pair' / 'log.jsonl'
        wait_for(log, process)
        while not log.read_text():
            assert process.poll() is None
        children = subprocess.run(
            ['pgrep', '-P', str(process.pid)], capture_output=True, text=True
        ).stdout.split()
        os.kill(int(children[-1]), signal.SIGTERM)
        found = finish(process)
    assert found.status != 0 and 'stopped at step' in found.out
    assert len(room.checkpoint('latest', 'pair')['rng']) == 2
    assert not list(room.models.rglob('*.part'))


def freeze_batch_norm():
    """In the new process: batch norm takes its running statistics in training too; float64."""
    import sync_bn

    double()
    sync_bn.BatchNorm2d.forward = lambda self, x: torch.nn.functional.batch_norm(
        x, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps
    )


@pytest.mark.parametrize('average', ['all', 'valid'])
def test_accumulation_equals_one_batch(room, average):
    for parts in (1, 2, 4):
        room.ok(
            'train.py',
            'DROPOUT=0',
            'ITER_MAX=3',
            f'LOSS_AVG={average}',
            f'ACCUMULATE={parts}',
            f'NAME=parts{parts}',
            before=freeze_batch_norm,
        )
    whole = room.checkpoint('final', 'parts1')
    for parts in (2, 4):
        differ = differences(whole, room.checkpoint('final', f'parts{parts}'))
        assert max(differ.values()) <= 1e-5, max(differ, key=differ.get)
    first = [[line['loss'] for line in room.log(f'parts{parts}')] for parts in (1, 4)]
    assert first[0] == pytest.approx(first[1], rel=1e-5)


@pytest.mark.parametrize(
    'processes, args',
    [
        (1, ['TEST_BATCH=1']),
        (1, ['TEST_BATCH=2', 'NUM_WORKERS=1']),
        (1, ['TEST_BATCH=5']),
        (2, ['TEST_BATCH=2']),
    ],
)
def test_scores_do_not_depend_on_batch_or_processes(trained, tmp_path, processes, args):
    args = trained.args(*args, f'MODEL_DIR={trained.models}', f'LOG_DIR={tmp_path}')
    if processes > 1:
        found = torchrun(processes, 'eval.py', *args)
        assert found.status == 0, found.err
        assert found.out.count('mIoU') == 1
    else:
        trained.ok('eval.py', *args)
    room = Room(tmp_path, trained.data)
    room.logs = tmp_path
    assert room.scores() == trained.scores()


def spawn():
    """In the new process: loader processes start afresh, as on macOS."""
    multiprocessing.set_start_method('spawn', force=True)


def forkserver():
    """... and as on Linux from Python 3.14 on."""
    multiprocessing.set_start_method('forkserver', force=True)


@pytest.mark.parametrize('method', [spawn, forkserver])
def test_loader_processes_started_afresh_see_the_settings(room, method):
    """... which are not those of settings.py: crop, flips, rotation."""
    args = 'CROP_SIZE=(33,49)', 'ROTATE=10', 'FLIP=1', 'SEED=3', 'ITER_MAX=1'
    room.ok('train.py', *args, 'NAME=inside')
    room.ok('train.py', *args, 'NAME=afresh', 'NUM_WORKERS=1', before=method)
    wanted, found = (room.checkpoint('final', name)['net'] for name in ('inside', 'afresh'))
    assert [k for k in wanted if not torch.equal(wanted[k], found[k])] == []


# --------------------------------------------------------------------------------------------------- variants of the run


@pytest.mark.parametrize(
    'args, moves, stays',
    [
        ('HEAD=fcn LR_POLICY=cosine WARMUP=1', ['head.out.2.weight'], []),
        (
            'AUX_WEIGHT=0.4 JITTER=0.3 BLUR=0.5 ROTATE=10 SCALES=(0.5,2.0)',
            ['aux.2.weight', 'emau.mu'],
            ['emau.conv1.weight'],
        ),
        (
            'EM_UPDATE=learnt STAGE_NUM=2 LR_POLICY=(1,2)',
            ['emau.mu', 'emau.conv1.weight'],
            [],
        ),
        (
            'EM_UPDATE=none SECOND_CONV=False EM_NORM=layer',
            ['emau.conv2.0.weight'],
            ['emau.mu', 'emau.conv1.weight'],
        ),
        (
            'EM_GRAD=True AMP=bf16 STEM=deep STRIDE=8 DECAY=all',
            ['emau.mu', 'emau.conv1.weight'],
            [],
        ),
        (
            'N_LAYERS=50 STRIDE=32 HEAD_LR_MULT=10 CROP_SIZE=(49,65) DEVICES=auto',
            ['fc2.weight', 'emau.mu'],
            ['emau.conv1.weight'],
        ),
    ],
)
def test_variants_train_and_score(room, args, moves, stays):
    room.ok('train.py', *args.split(), 'ITER_SAVE=1', 'ITER_VAL=2')
    one, two = room.checkpoint('step_1')['net'], room.checkpoint('final')['net']
    assert all(not torch.equal(one[k], two[k]) for k in moves)
    assert all(torch.equal(one[k], two[k]) for k in stays)
    lines = room.log()
    assert all(0 < line['loss'] < 20 for line in lines if 'loss' in line) and len(lines) == 3
    assert 0 <= lines[-1]['val/mIoU'] <= 1
    room.ok('eval.py', *args.split())
    assert {k: room.scores()[k] for k in MEANS} == {k: lines[-1]['val/' + k] for k in MEANS}


@pytest.mark.parametrize(
    'recipe', [''] + sorted(glob.glob(os.path.join(ROOT, 'recipes', '*.py'))), ids=os.path.basename
)
def test_recipes_build_their_networks(recipe):
    config.override([recipe] if recipe else [])
    assert (os.path.splitext(os.path.basename(recipe))[0] or 'default') == settings.NAME
    if settings.DATASET == 'folder':  # one's own, whose classes test_own.py has
        config.put({'DATASET': 'voc', 'TRAIN_SPLIT': 'trainaug'})
    net = build()
    widths = {m.out_channels for m in net.modules() if isinstance(m, torch.nn.Conv2d)}
    assert len(dataset.classes().names) in widths  # of the classifier
    assert {settings.TRAIN_SPLIT, settings.VAL_SPLIT} <= set(DATASETS[settings.DATASET].splits)


def test_camvid_quick_on_real_pictures(sample_data, tmp_path):
    """Six steps, three pictures to score."""
    folder = tmp_path / 'camvid'
    folder.mkdir()
    for name in ('train', 'trainannot', 'val', 'valannot', 'train.txt'):
        os.symlink(os.path.join(sample_data, 'camvid', name), folder / name)
    names = open(os.path.join(sample_data, 'camvid', 'val.txt')).read().split('\n')
    (folder / 'val.txt').write_text('\n'.join(names[:3]))
    room = Room(tmp_path, tmp_path)
    room.recipe = os.path.join(ROOT, 'recipes', 'camvid_quick.py')
    out = room.ok('train.py', 'ITER_MAX=6', 'ITER_VAL=3', 'ITER_LOG=2', 'DEVICES=cpu', 'AMP=off')
    assert '367 images in train, 3 in val, 11 classes' in out
    lines = room.log('camvid_quick')
    assert all(0 < line['loss'] < 10 for line in lines if 'loss' in line)
    assert (
        all(0 < line['val/mIoU'] < 1 for line in lines if 'val/mIoU' in line)
        and 'val/mIoU' in lines[-1]
    )
    shutil.rmtree(room.models)


# ---------------------------------------------------------------------------------------------- checkpoints of others


def trunk_file(path, stem, layers=18):
    """The trunk of a random network under the names of a ResNet file."""
    helpers.small_net(STEM=stem, N_LAYERS=layers)
    places = {'0': 'conv1', '1': 'bn1', '4': 'layer1', '5': 'layer2', '6': 'layer3', '7': 'layer4'}
    state = {}
    for key, value in build().state_dict().items():
        if key.startswith('extractor.'):
            _, place, rest = key.split('.', 2)
            state[f'{places[place]}.{rest}'] = value
    torch.save(state | {'fc.weight': torch.zeros(1000, 512), 'fc.bias': torch.zeros(1000)}, path)
    return state


@pytest.mark.parametrize('stem', ['deep', 'plain'])
def test_trunk_weights_of_both_families(tmp_path, stem):
    path = tmp_path / 'trunk.pth'
    state = trunk_file(path, stem)
    helpers.small_net(STEM=stem, PRETRAINED=str(path))
    net = build()
    assert not torch.equal(net.extractor[4][0].conv1.weight, state['layer1.0.conv1.weight'])
    report = checkpoint.load_trunk(net)
    assert (
        f'{stem}-stem ResNet trunk' in report.format
        and not report.missing
        and not report.wrong
        and not report.unexpected
    )
    assert torch.equal(net.extractor[4][0].conv1.weight, state['layer1.0.conv1.weight'])
    assert torch.equal(net.extractor[1].running_mean, state['bn1.running_mean'])
    assert len(report.matched) == len([k for k in state if not k.endswith('tracked')])


def test_semsegs_trunk(tmp_path):
    """resnet101_v2.pth and its like: a deep stem under plain names."""
    path = tmp_path / 'resnet18_v2.pth'
    state = trunk_file(path, 'deep')
    stem = {
        'conv1.0': 'conv1',
        'conv1.1': 'bn1',
        'conv1.3': 'conv2',
        'conv1.4': 'bn2',
        'conv1.6': 'conv3',
        'bn1': 'bn3',
    }
    theirs = {}
    for key, value in (
        state | {'fc.weight': torch.zeros(1000, 512), 'fc.bias': torch.zeros(1000)}
    ).items():
        name, _, leaf = key.rpartition('.')
        theirs[f'{stem.get(name, name)}.{leaf}'] = value
    assert {
        'conv1.weight',
        'bn1.running_var',
        'conv2.weight',
        'conv3.weight',
        'bn3.bias',
        'layer1.0.conv1.weight',
    } <= set(theirs)
    torch.save(theirs, path)
    helpers.small_net(STEM='deep', PRETRAINED=str(path))
    net = build()
    report = checkpoint.load_trunk(net)
    assert (
        'deep-stem semseg ResNet trunk' in report.format
        and not report.missing
        and not report.wrong
        and not report.unexpected
    )
    assert torch.equal(net.extractor[0][0].weight, state['conv1.0.weight']) and torch.equal(
        net.extractor[0][6].weight, state['conv1.6.weight']
    )
    assert torch.equal(net.extractor[1].running_mean, state['bn1.running_mean']) and torch.equal(
        net.extractor[0][4].bias, state['conv1.4.bias']
    )
    helpers.small_net(STEM='plain', PRETRAINED=str(path))
    with pytest.raises(config.UserError, match='its trunk does not fit; to use it: STEM=deep'):
        checkpoint.load_trunk(build())


def test_torchvision_trunk_trains(room):
    """Its own state dict, at the place where PRETRAINED=torchvision looks before it fetches."""
    (room.models / 'pretrained').mkdir(parents=True)
    url = torchvision.models.get_model_weights('resnet18')['IMAGENET1K_V1'].url
    path = room.models / 'pretrained' / os.path.basename(url)
    torch.save(torchvision.models.resnet18(weights=None).state_dict(), path)
    for where in ('torchvision', path):
        out = room.ok(
            'train.py', f'PRETRAINED={where}', 'ITER_MAX=1', f'NAME={os.path.basename(where)}'
        )
        assert f'trunk weights: {path} (plain-stem ResNet trunk): 100 of 100 tensors matched' in out


def test_init_says_what_does_not_fit(trained, room):
    source = trained.models / 'tiny' / 'final.pth'
    out = room.ok('train.py', f'INIT={source}', 'N_CLASSES=13', 'ITER_MAX=1', 'LR=0', 'BN_MOM=0')
    assert '118 of 120 tensors matched, 2 of another shape (fc2.weight, fc2.bias)' in out
    old, new = trained.checkpoint('final')['net'], room.checkpoint('final')['net']
    assert (
        torch.equal(old['fc0.conv.weight'], new['fc0.conv.weight'])
        and new['fc2.weight'].shape[0] == 13
    )


@pytest.mark.parametrize('prefix', ['', 'module.'])
def test_official_form_evaluates(trained, tmp_path, prefix):
    state = trained.checkpoint('best')
    path = tmp_path / 'official.pth'
    torch.save(
        {
            'net': {
                prefix + k: v
                for k, v in state['net'].items()
                if not k.endswith('num_batches_tracked')
            },
            'step': 7,
        },
        path,
    )
    room = Room(tmp_path, trained.data)
    out = room.ok('eval.py', f'CHECKPOINT={path}', 'STRIDE=16')
    assert 'STRIDE=16' in out  # kept; the authors' own have 8
    assert room.scores() == trained.scores() | {'checkpoint': str(path), 'step': 7}


def test_a_split_without_labels_is_predicted(tmp_path):
    root = tmp_path / 'VOC2012'
    helpers.write(str(root / 'JPEGImages' / 'a.jpg'), helpers.colour_of(helpers.blocks(40, 50, 0)))
    (root / 'ImageSets' / 'Segmentation').mkdir(parents=True)
    (root / 'ImageSets' / 'Segmentation' / 'test.txt').write_text('a\n')
    room = Room(tmp_path, tmp_path)
    args = 'DATASET=voc', 'VAL_SPLIT=test', f'CHECKPOINT={tmp_path}/net.pth'
    helpers.small_net(DATASET='voc', EM_CHANNELS=16, EM_BASES=4)
    torch.save({'net': build().state_dict()}, tmp_path / 'net.pth')
    found = room.run('eval.py', *args)
    assert found.status == 2 and 'SAVE_DIR=FOLDER' in found.err
    room.ok('eval.py', *args, f'SAVE_DIR={tmp_path}/out')
    folder = tmp_path / 'out' / 'results' / 'VOC2012' / 'Segmentation' / 'comp6_test_cls'
    with Image.open(folder / 'a.png') as picture:
        assert picture.size == (50, 40)
    assert not (room.logs / 'tiny' / 'scores.json').exists()


# ---------------------------------------------------------------------------------------------- the folder and its shell


@pytest.fixture
def copy(tmp_path):
    """A copy of the project's folder."""
    return shutil.copytree(
        ROOT,
        tmp_path / 'copy',
        ignore=shutil.ignore_patterns(
            '.git', '.venv', '.*_cache', '__pycache__', 'logdir', 'models', 'data', 'golden'
        ),
    )


def shell(folder, script, *args):
    return subprocess.run(['sh', script, *args], cwd=folder, text=True, capture_output=True)


def test_modules_import_without_gpu_data_or_weights(copy):
    before = sorted(copy.rglob('*'))
    modules = sorted(p.stem for p in copy.glob('*.py')) + ['heads.fcn', 'sync_bn']
    random.Random(0).shuffle(modules)
    found = subprocess.run(
        [sys.executable, '-B', '-c', 'import ' + ', '.join(modules)],
        cwd=copy,
        env=os.environ | ENV,
        capture_output=True,
        text=True,
    )
    assert (found.returncode, found.stdout, found.stderr) == (0, '', '')
    assert sorted(copy.rglob('*')) == before


def test_clean(copy):
    assert 'nothing to remove' in shell(copy, 'clean.sh').stdout
    for name in ('logdir/a', 'logdir/b c', 'models/a', 'models/pretrained'):
        (copy / name).mkdir(parents=True)
        (copy / name / ('final.pth' if 'models' in name else 'log.jsonl')).touch()
    (copy / 'elsewhere').mkdir()
    (copy / 'logdir' / 'notes').mkdir()  # no run
    assert shell(copy, 'clean.sh', '../elsewhere').returncode == 2 and (copy / 'elsewhere').exists()
    assert 'nothing to remove' in shell(copy, 'clean.sh', 'pretrained').stdout
    assert shell(copy, 'clean.sh', 'a').stdout.split('\n') == [
        'removed ./logdir/a',
        'removed ./models/a',
        '',
    ]
    assert (copy / 'logdir' / 'b c').exists()
    assert shell('/', str(copy / 'clean.sh')).stdout == 'removed ./logdir/b c\n'
    assert os.listdir(copy / 'models') == ['pretrained'] and os.listdir(
        copy / 'models' / 'pretrained'
    ) == ['final.pth']
    assert os.listdir(copy / 'logdir') == ['notes']


def test_tensorboard(copy):
    found = shell(copy, 'tensorboard.sh')
    assert found.returncode == 1 and 'LOG_DIR = ./logdir' in found.stderr
    (copy / 'logdir').mkdir()
    (copy / 'bin').mkdir()
    (copy / 'bin' / 'tensorboard').write_text('#!/bin/sh\necho "$@"\n')
    (copy / 'bin' / 'tensorboard').chmod(0o755)
    found = subprocess.run(
        ['sh', 'tensorboard.sh', '--host', 'x'],
        cwd=copy,
        text=True,
        capture_output=True,
        env=os.environ | {'PATH': f'{copy}/bin:{os.environ["PATH"]}'},
    )
    assert found.stdout == '--logdir ./logdir --host localhost --host x\n'


@pytest.mark.parametrize('script', ['clean.sh', 'tensorboard.sh'])
def test_shell_scripts_parse(script):
    assert shell(ROOT, '-n', script).returncode == 0
