"""bench.py: what it prints parses; what it compares with computes the same. No timing is asserted."""

import contextlib
import importlib.util
import os
import re
import subprocess
import sys
import time
from types import SimpleNamespace

import helpers
import numpy as np
import pytest
import torch

import bench
import dataset
import network
from benchmarks import (
    gpu,
    gpu_checks,
    loader,
    measure,
    peers,
    reference,
    rivals,
    scenes,
    steps,
    views,
)
from datasets import shapes
from eval import Protocol, scores
from heads.fapn import Deformable
from utils import config, distributed
from utils.config import UsageError, UserError
from utils.table import table

SMALL = [
    'N_LAYERS=18',
    'STEM=plain',
    'PRETRAINED=',
    'CROP_SIZE=65',
    'EM_CHANNELS=64',
    'EM_BASES=8',
    'HEAD_CHANNELS=16',
    'DATASET=shapes',
    'TRAIN_SPLIT=train',
    'BATCH_SIZE=2',
    'TEST_BATCH=1',
    'DEVICES=cpu',
]
ROOT = os.path.dirname(os.path.abspath(bench.__file__))
FIGURES = r'([\d.]+) \(([\d.]+) - ([\d.]+)\)'  # median (min - max)


def flags(*words):
    return bench.parser().read(list(words))


def run(*arguments, status=0):
    """The standard output of bench.py or, by -m, of a benchmark; standard error if it is to fail."""
    words = arguments if arguments[0] == '-m' else ['bench.py', *arguments]
    done = subprocess.run(
        [sys.executable, *words],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=ROOT,
        env=os.environ | {'OMP_NUM_THREADS': '1'},
    )
    assert done.returncode == status, done.stdout + done.stderr
    return done.stderr if status else done.stdout


def assert_figures(text, line):
    """The median after the start of a line, which must lie between its minimum and its maximum."""
    found = re.search('^' + line + ' +' + FIGURES, text, re.M)
    assert found, f'no line {line!r} in\n{text}'
    middle, low, high = map(float, found.groups())
    assert 0 <= low <= middle <= high
    return middle


@pytest.fixture(scope='module')
def sections(drawn_shapes):
    """{title: text} of what benchmarks/gpu.py writes on the CPU, at sizes that take seconds."""
    done = subprocess.run(
        [sys.executable, 'benchmarks/gpu.py', '--cpu', '--tiny', '--data', str(drawn_shapes)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=os.environ | {'OMP_NUM_THREADS': '1'},
    )
    assert done.returncode == 0 and not done.stderr, done.stdout + done.stderr
    return dict(part.split('\n', 1) for part in done.stdout.split('### ')[1:])


def test_every_part_for_a_gpu_works_without_one(sections):
    left_out = 'compiled', 'heads', 'ceiling', 'peers-training-512x1024', 'peers-inference-513'
    left_out += 'peers-inference-512x1024', 'peers-evaluation-513', 'peers-evaluation-512x1024'
    titles = [part[0] for name, part in gpu.full_parts('', '').items() if name not in left_out]
    assert list(sections) == titles
    run_in_half = sections['A run in half precision']
    assert 'finished: 4 steps' in run_in_half and 'bfloat16; ' in run_in_half
    for title in ('Engines', 'Gradients and the CPU'):
        rows = [line for line in sections[title].splitlines() if line.startswith('| ')][2:]
        assert rows and all(row.endswith('| 0.0e+00 | equal |') for row in rows)
    text = sections['Evaluation of a folder']
    assert '1 x 40 pictures of 64x48 (png), 0 loader processes; views: scale 1' in text
    assert_figures(text, ' +evaluation  saving / scores: time')
    assert 'left out: there is no camvid' in sections['CamVid']


def test_gradients_that_differ_fail(monkeypatch, capsys):
    def shifted(device):
        return [gpu_checks.compare('ema', torch.tensor([1.0, 2.001]), torch.tensor([1.0, 2.0]))]

    monkeypatch.setattr(gpu_checks, 'gradients', shifted)
    helpers.put(DEVICES='cpu')
    with pytest.raises(UserError, match='more than 1e-06 apart: ema'):
        gpu_checks.main(SimpleNamespace(inputs=['gradients']))
    assert '| ema | 5.0e-04 | DIFFERENT |' in capsys.readouterr().out


def test_a_part_that_fails_or_takes_too_long_says_so(capsys, tmp_path):
    """What it printed before is kept, the next command is tried, and its children end with it."""
    child = f"import time; time.sleep(2); open({str(tmp_path / 'late')!r}, 'w')"
    slow = "import subprocess, sys; print('| row |', flush=True); "
    slow += f'subprocess.run([sys.executable, "-c", {child!r}])'
    assert not gpu.run_part('Slow', [['-c', slow]], 1, [])
    broken = [['-c', 'import sys; sys.exit("why")'], ['-c', 'print(2)']]
    assert not gpu.run_part('Broken', broken, 60, [])
    assert gpu.run_part('Fine', [['-c', 'print(1)']], 60, [])
    out = capsys.readouterr().out
    slow, broken, fine = out.split('### ')[1:]
    assert 'failed with status 1: why' in broken and '    2\n' in broken
    assert '| row |\n' in slow and 'Not done within' in slow and '    1\n' in fine
    time.sleep(2)
    assert not (tmp_path / 'late').exists()


def test_peers(sections):
    """A row per precision of both."""
    text = sections['Ours and others: training, 513']
    row = [line for line in text.splitlines() if line.startswith('| fcn (torchvision)')]
    cells = [cell.strip() for cell in row[0].strip('|').split('|')]
    assert len(row) == 1 and cells[1:4] == ['training', '65x65', 'float32 / float32']
    assert re.fullmatch(FIGURES, cells[5]) and re.fullmatch(r'\d+ / \d+', cells[7])


def test_ceiling():
    """The last column is the step, with its products at the rate of the one convolution."""
    words = '--rivals', 'fcn', '--tasks', 'inference', '--rounds', '1', '--markdown'
    text = run('-m', 'benchmarks.ceiling', *words, 'CROP_SIZE=65', 'TEST_BATCH=1')
    rows = [line.strip('| ').split(' | ') for line in text.splitlines() if line.startswith('| fcn')]
    ours, theirs = rows[-2:]
    assert [row[2] for row in (ours, theirs)] == ['float32', 'float32']
    for row in rows:
        share, reached, rate = (float(n) for n in re.findall(r'\d+', row[4] + row[6]))
        assert 0 < share < 100 and reached > 0 and rate > 0
        work = float(row[5]) / rate
        rest = (1 - share / 100) * float(row[3])
        assert float(row[7]) == pytest.approx(rest + work, abs=0.02 * float(row[3]) + 1 / rate)


def test_sizes_of_a_rival_do_not_depend_on_others(tmp_path):
    config.override([*peers.SHARED, 'CROP_SIZE=(129, 129)'])
    alone = peers.prepare(str(tmp_path), ['emanet'])
    assert peers.prepare(str(tmp_path), ['fcn', 'emanet'])['emanet'] == alone['emanet']


def test_rivals_that_are_not_installed_are_left_out(monkeypatch):
    monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
    assert rivals.installed() == ['fcn', 'deeplabv3', 'emanet']
    monkeypatch.setattr(importlib.util, 'find_spec', lambda name: name)
    assert rivals.installed() == list(rivals.RIVALS)


@pytest.mark.parametrize('name', ['fcn', 'deeplabv3'])
def test_networks_of_torchvision_are_ours(name, tmp_path, monkeypatch):
    config.override([*peers.SHARED, 'CROP_SIZE=(65, 65)'])
    assert name in peers.prepare(str(tmp_path), [name])
    monkeypatch.setattr(rivals, 'output', lambda net, x: (net(x)['out'] + 0.01, None))
    with pytest.raises(UserError, match=f'{name}: logits differ from theirs by '):
        peers.prepare(str(tmp_path), [name])


def test_evaluation_of_a_rival_gives_our_score(tmp_path):
    """Of the same weights on the same pictures, so that their times can be compared."""
    reference.draw(str(tmp_path), 64, 48, 'png')
    words = [f'DATA_ROOT={tmp_path}', 'CROP_SIZE=(65, 65)', 'AMP=off', 'NUM_WORKERS=0']
    config.override([*peers.SHARED, *words])
    peers.prepare(str(tmp_path), ['fcn'])
    config.override(rivals.RIVALS['fcn'].words)
    theirs = rivals.RIVALS['fcn'].make(peers.N_CLASSES)
    theirs.load_state_dict(torch.load(tmp_path / 'fcn.pth'))
    world = distributed.World([torch.device('cpu')])
    step = rivals.evaluation_step(world, theirs, peers.data_set(world).pairs)
    own_step = peers.our_step(world, 'evaluation', str(tmp_path / 'fcn.pth'))
    assert step() == own_step() == peers.PICTURES
    assert own_step.score == pytest.approx(step.score, abs=1e-3) and step.score > 0


@pytest.mark.parametrize('amp', ['off', 'bf16'])
def test_steps_of_a_rival(amp):
    """A step of training makes the loss smaller; prediction gives the classes of pixels."""
    config.override([*peers.SHARED, 'CROP_SIZE=33', 'BATCH_SIZE=2', 'TEST_BATCH=1', f'AMP={amp}'])
    torch.manual_seed(0)
    world = distributed.World([torch.device('cpu')])
    net = rivals.RIVALS['fcn'].make(peers.N_CLASSES)
    step = rivals.training_step(world, net)
    first = step()
    assert [step() for _ in range(3)][-1] < first
    found = rivals.inference_step(world, net)()
    assert found.shape == (1, 33, 33) and 0 <= found.min() <= found.max() < peers.N_CLASSES


def test_network_beside_plain(sections):
    text = re.sub('^    ', '', sections['Training step and inference'], flags=re.M)
    assert re.search(r'1 threads; torch \d.*; torch.float32', text)
    assert re.search(r'ema on ResNet-18 at stride 8, 65x65 pixels, 21 classes', text)
    parameters, macs = map(
        float, re.search(r'parameters ([\d.]+) M; MACs ([\d.]+) G', text).groups()
    )
    helpers.small_net(EM_CHANNELS=64, DATASET='voc', DATA_ROOT='./data')
    assert parameters == pytest.approx(bench.parameters(helpers.build()), abs=0.005)
    assert 0.5 < macs < 2
    for kind, batch in (('training', 2), ('inference', 1)):
        for variant in ('tuned', 'plain'):
            assert_figures(text, f'{kind} +{variant} batch {batch}:')
            assert re.search(
                rf'{kind} +{variant} .* s, [\d.]+ images/s, ([\d.]+|nan) MiB, \d+ % of the \d+ GFLOP/s',
                text,
            )
        assert_figures(text, f'{kind} +tuned / plain: time')


def test_unit(sections):
    text = re.sub(
        '^    ', '', sections['The EM unit, the confusion matrix, several views'], flags=re.M
    )
    assert 'EM unit: 64 channels, 8 bases, 3 iterations, 9x9 map, batch 1; GMACs of forward' in text
    for what in ('forward', r'forward\+backward'):
        for name in ('unit', 'textbook', 'dense'):
            assert_figures(text, f'{what}  {name}')
        for name in ('textbook', 'dense'):
            assert_figures(text, f'{what}  {name} / unit: time')


def test_metric():
    text = run('-m', 'benchmarks.metric', 'DEVICES=cpu', '--rounds', '2')
    assert_figures(text, 'confusion  masked / tuned: time')


def test_loader(drawn_shapes):
    data = f'DATA_ROOT={drawn_shapes}'
    text = run('-m', 'benchmarks.loader', *SMALL, data, 'CROP_SIZE=33', '--rounds', '2')
    assert_figures(text, 'loader  plain / tuned: time')
    assert 'cached' not in text
    tuned, plain = map(
        float, re.search(r'MB per sample: tuned ([\d.]+), plain ([\d.]+)', text).groups()
    )
    assert tuned < plain


def test_loader_of_drawn_pictures():
    """They are cached, and what settings say of the data set does not count."""
    words = ['DEVICES=cpu', 'DATASET=voc', 'N_CLASSES=21', 'CROP_SIZE=33', '--synthetic']
    text = run('-m', 'benchmarks.loader', *words, '120x96.png', '--rounds', '1')
    assert 'camvid train, 40 images, crop 33' in text
    for variant in ('tuned', 'cached'):
        assert_figures(text, f'loader  plain / {variant}: time')


def test_views(monkeypatch, capsys):
    monkeypatch.setattr(views, 'SIZE', (72, 96))
    config.override(SMALL)
    views.main(measure.parser('').read(['--rounds', '1']))
    text = capsys.readouterr().out
    for what in ('views, outside the network', 'views, in all'):
        for name in ('whole', 'windows', 'plain'):
            assert_figures(text, f'{what}  {name}')
        for name in ('windows', 'plain'):
            assert_figures(text, f'{what}  {name} / whole: time')
    assert_figures(text, 'views, in all  float32 / whole: time')


@pytest.mark.parametrize(
    'parser, arguments, words',
    [
        (bench.parser, ['--rounds', '0'], 'from 1'),
        (bench.parser, ['--rounds'], '--rounds: expected one argument'),
        (loader.parser, ['--synthetic', '500'], 'WIDTHxHEIGHT'),
        (loader.parser, ['--synthetic', '500x0'], 'WIDTHxHEIGHT'),
        (peers.parser, ['--sizes', '5x5x5'], 'is not a size, such as 513 or 512x1024'),
    ],
)
def test_wrong_usage_is_told(parser, arguments, words):
    with pytest.raises(UsageError, match=re.escape(words)):
        parser().read(arguments)


def test_wrong_usage_is_a_sentence():
    error = run('--plian', status=2)
    assert 'no such flag; did you mean --plain?' in error and len(error.splitlines()) == 1


def test_unknown_head_is_a_sentence():
    error = run(*SMALL, 'HEAD=nothing', status=2)
    assert 'no such head' in error


def test_macs_of_kernels_that_are_not_counted_by_themselves():
    """A transformer's attention, projections included, and a deformable convolution."""
    helpers.small_net(HEAD='fcn', TRUNK='vit_b_16', STRIDE=16)
    trunk = helpers.build().extractor.eval()
    n, c = 4 * 4, 768  # tokens
    block = n * (4 * c * c + 2 * 4 * c * c) + 2 * n * n * c
    wanted = n * 3 * 16 * 16 * c + 12 * block
    assert measure.macs(trunk.maps, torch.zeros(1, 3, 64, 64)) == pytest.approx(wanted / 1e9)
    conv = Deformable(8, 16, 24, gain=1)
    wanted = 5 * 7 * 9 * (8 * 24 + 16 * 216)
    x, guide = torch.zeros(1, 8, 5, 7), torch.zeros(1, 16, 5, 7)
    found = measure.macs(lambda images: conv(images, guide), x)
    assert found == pytest.approx(wanted / 1e9)


def test_children_of_other_trunks_get_no_words_of_resnet(monkeypatch):
    """N_LAYERS=18 TRUNK=vit_b_16 is refused where a user types it, and so is not handed on."""
    commands = []

    @contextlib.contextmanager
    def children(command, variants):
        commands.append(command)
        yield {}

    monkeypatch.setattr(measure, 'children', children)
    monkeypatch.setattr(measure, 'in_turn', lambda *args: {})
    monkeypatch.setattr(sys, 'argv', ['bench.py', 'N_LAYERS=18', 'STEM=plain', 'LR=0.1'])
    bench.time_steps('training', [], 1, ['TRUNK=vit_b_16'])
    bench.time_steps('training', [], 1, ['HEAD=fcn'])
    assert commands[0][1:] == ['LR=0.1', 'TRUNK=vit_b_16', '--child', 'training']
    assert commands[1][1:4] == ['N_LAYERS=18', 'STEM=plain', 'LR=0.1']


def test_textbook_unit_is_the_unit():
    torch.manual_seed(0)
    unit = network.EMAU(16, 4).eval()
    x = torch.randn(2, 16, 5, 7)
    with torch.no_grad():
        for one, two in zip(reference.textbook(unit, x), unit(x), strict=True):
            helpers.assert_close(one, two, 1e-5)


@torch.no_grad()
def test_views_in_numpy_are_those_of_eval():
    helpers.small_net()
    torch.manual_seed(0)
    net = helpers.build().eval()
    protocol = Protocol(scales=(0.75, 1.0, 1.5), flip=True, crop=(65, 49))
    image = torch.randint(256, (60, 90, 3)).byte()
    found = reference.views(net, image.numpy(), protocol.scales, protocol.crop)
    wanted = scores(net, image.permute(2, 0, 1)[None], protocol).softmax(1)[0].permute(1, 2, 0)
    helpers.assert_close(torch.from_numpy(found), wanted, 0.02)


def test_plain_sample_without_scaling_is_the_sample(tmp_path):
    """At scale 1 both pipelines give the same crop, but for the rounding to bytes of the padding."""
    helpers.make_camvid(tmp_path, sizes=((40, 24),), SCALES=(1.0,), CROP_SIZE=32, FLIP=0.0)
    data = dataset.Dataset('train', train=True)
    for position in range(4):
        image, label = data[position, 0]
        plain_image, plain_label = reference.sample(data, position, 0)
        assert torch.equal(plain_label, label.long())
        helpers.small_net()
        helpers.assert_close(
            plain_image[:, :, :24], helpers.build().normalise(image[None])[0, :, :, :24], 1e-5
        )
        assert not plain_image[:, :, 24:].any()


def test_drawn_pictures_make_a_data_set(tmp_path):
    reference.draw(str(tmp_path), 60, 48, 'jpg')
    helpers.put(DATASET='camvid', DATA_ROOT=str(tmp_path), TRAIN_SPLIT='train')
    data = dataset.Dataset('train', train=True)
    data.check()
    assert (
        len(data) == 40
        and data.read(0)[0].shape == (48, 60, 3)
        and len(np.unique(data.read(0)[1])) > 1
    )


def test_size_alone(monkeypatch, capsys):
    """Of the network that settings describe, without timing anything."""
    monkeypatch.setattr(bench, 'time_steps', None)
    helpers.small_net(CROP_SIZE=65, STRIDE=16)
    bench.bench_network(distributed.World([torch.device('cpu')]), flags('--size'))
    out = capsys.readouterr().out.splitlines()
    count = sum(p.numel() for p in steps.build().parameters()) / 1e6
    assert len(out) == 2 and out[1].startswith(f'parameters {count:.2f} M; MACs ')


@pytest.mark.parametrize(
    'words, said', [(['--markdown'], 'goes with --all'), (['--size', '--plain'], 'leave one out')]
)
def test_flags_that_do_not_go_together(words, said):
    with pytest.raises(UsageError, match=said):
        bench.main(flags(*words))


def test_table_of_the_heads(monkeypatch, capsys):
    """The paper's Table 1: parameters over the bare trunk."""
    heads = ('deeplabv3', 'psp', 'psa', 'danet', 'bisenet')
    monkeypatch.setattr(bench, 'HEADS', {name: bench.HEADS[name] for name in heads})
    helpers.put(N_LAYERS=101, N_CLASSES=21, CROP_SIZE=65, PRETRAINED='')
    helpers.put(HEAD='psa', HEAD_ARGS={'shrink': 1})  # the other heads do not know this
    before = config.current()
    bench.bench_all(flags('--all', '--size', '--markdown'))
    assert config.current() == before
    rows = [
        [cell.strip() for cell in line.strip('|').split('|')]
        for line in capsys.readouterr().out.splitlines()
        if line.startswith('|')
    ]
    assert rows[0] == ['HEAD', 'M parameters', 'M over trunk', 'GMACs', 'GMACs over trunk']
    found = {row[0]: row[1:3] for row in rows[2:]}
    assert found['ema'] == ['53.77', '11.15']
    assert found["deeplabv3 HEAD_ARGS={'paper': True}"][1] == '15.54'
    assert found['ema SECOND_CONV=False EM_CHANNELS=512'][1] == '9.97'
    assert found['ema SECOND_CONV=False EM_CHANNELS=256'][1] == '4.86'
    assert 'bisenet STRIDE=32 N_LAYERS=18' in found and len(found) == 19
    for trunk in ('convnext_tiny STRIDE=32', 'densenet121 STRIDE=32', 'vit_b_16 STRIDE=16'):
        assert f'ema TRUNK={trunk}' in found


def test_table_with_times(monkeypatch, capsys):
    """Time and memory of a head, and of the trunk, over which its memory is counted."""
    monkeypatch.setattr(bench, 'HEADS', {})
    monkeypatch.setattr(bench, 'FORMS', ())

    def time_steps(kind, variants, rounds, words=()):
        return {variants[0]: [1.25] * rounds}, {variants[0]: 300.4}

    monkeypatch.setattr(bench, 'time_steps', time_steps)
    config.override(SMALL)
    bench.bench_all(bench.parser().read(['--all', '--rounds', '1']))
    lines = [re.split('  +', line) for line in capsys.readouterr().out.splitlines()[-3:]]
    sizes = ['HEAD', 'M parameters', 'M over trunk', 'GMACs', 'GMACs over trunk']
    assert lines[0] == [*sizes, 'training s', 'training MiB', 'inference s', 'inference MiB']
    assert lines[1][0] == 'ema' and lines[1][5:] == ['1.250', '300', '1.250', '300']
    assert lines[2] == ['the trunk alone', *['-'] * 6, '1.250', '300']


@torch.no_grad()
def test_the_trunk_alone():
    """What the memory of a head is held against: the four maps, and nothing of the head."""
    config.override(SMALL)
    maps = steps.inference_step(measure.one_device(), 'trunk')()
    assert [m.shape[1] for m in maps] == [64, 128, 256, 512] and maps[3].shape[2:] == (9, 9)


def test_text_tables():
    rows = [{'run': 'a|b', 'mIoU': '9.50'}, {'run': '__init__', 'mIoU': '10.25'}]
    assert table(rows, right=['mIoU']) == [
        'run        mIoU',
        'a|b        9.50',
        '__init__  10.25',
    ]
    assert table(rows, markdown=True) == [
        '| run | mIoU |',
        '| --- | --- |',
        r'| a\|b | 9.50 |',
        r'| \_\_init\_\_ | 10.25 |',
    ]


def test_figures_of_the_scenes():
    """Of a pair counts who got the name of either; the local classes' accuracy is of all pixels."""
    matrix = np.diag([10] * 10)
    hut, boat = shapes.HUT, shapes.BOAT
    matrix[hut] = 0
    matrix[hut, [hut, boat, shapes.MEADOW]] = 3, 1, 96  # 75 % of those that got either name
    matrix[shapes.SUN, shapes.WATER] = 30  # 25 % of the sun
    found = scenes.figures(matrix)
    assert found['around'] == pytest.approx((75 + 100) / 2)
    assert found['elsewhere'] == found['pooled'] == 100
    assert found['local'] == pytest.approx((100 + 100 + 100 + 25) / 4)
    iou = [10 / 106, 10 / 40, 1, 3 / 100, 10 / 11, 1, 1, 10 / 40, 1, 1]
    assert found['mIoU'] == pytest.approx(100 * np.mean(iou))


def test_scenes_are_trained_once_and_evaluated(drawn_shapes, tmp_path):
    command = ['-m', 'benchmarks.scenes', str(tmp_path), *SMALL, f'DATA_ROOT={drawn_shapes}']
    command += ['ITER_MAX=2', 'CROP_SIZE=33', 'WARMUP=0', '--heads', 'ema', '--seeds', '1']
    first = run(*command).splitlines()
    assert first[0] == '|  | mIoU | local | around | elsewhere | pooled |'
    assert first[2].startswith('| ema | ') and len(first) == 3
    path = tmp_path / 'models' / 'ema_0' / 'final.pth'
    time = os.stat(path).st_mtime_ns
    assert run(*command).splitlines() == first
    assert time == os.stat(path).st_mtime_ns
    assert scenes.cell([82.0, 84.0]) == '83.00 ± 1.41' and scenes.cell([82.0]) == '82.00'


def test_runs_of_other_settings_are_told_apart(tmp_path):
    scenes.Runs(tmp_path, ['LR=1'], 1)
    with pytest.raises(UsageError, match='words.txt: the runs in this folder had other settings'):
        scenes.Runs(tmp_path, ['LR=2'], 1)


def test_heads_of_the_scenes_get_the_trunk_that_they_work_with():
    config.override([scenes.RECIPE])
    assert scenes.head_words('psp') == ['HEAD=psp']
    assert scenes.head_words('bisenet') == ['HEAD=bisenet', 'STRIDE=32']
    for name in scenes.HEAD_NAMES:
        config.override([scenes.RECIPE, *scenes.head_words(name)])
        helpers.build()
