"""bench.py: what it prints parses; what it compares with computes the same. No timing is asserted."""

import contextlib
import os
import re
import subprocess
import sys

import helpers
import numpy as np
import pytest
import torch

import bench
import dataset
import network
from benchmarks import measure, reference, scenes, views
from datasets import shapes
from eval import Protocol, scores
from heads.fapn import Deformable
from utils import config, distributed
from utils.config import UsageError
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


def test_network_beside_plain():
    text = run(*SMALL, 'AMP=off', '--plain', '--rounds', '1')
    assert re.search(r'1 threads; torch \d.*; torch.float32', text.splitlines()[0])
    assert re.search(r'ema on ResNet-18 at stride 8, 65x65 pixels, 10 classes', text)
    parameters, macs = map(
        float, re.search(r'parameters ([\d.]+) M; MACs ([\d.]+) G', text).groups()
    )
    helpers.small_net(EM_CHANNELS=64)
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


def test_unit():
    text = run('-m', 'benchmarks.unit', *SMALL, 'CROP_SIZE=33', '--rounds', '2')
    assert 'EM unit: 64 channels, 8 bases, 3 iterations, 5x5 map, batch 1; GMACs of forward' in text
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


@pytest.mark.parametrize(
    'arguments, words',
    [
        (['--plian'], 'no such flag; did you mean --plain?'),
        (['--rounds', '0'], 'from 1'),
        (['--rounds'], '--rounds: expected one argument'),
        (['-m', 'benchmarks.loader', '--synthetic', '500'], 'WIDTHxHEIGHT'),
        (['-m', 'benchmarks.loader', '--synthetic', '500x0'], 'WIDTHxHEIGHT'),
        (['BATCHSIZE=2'], 'BATCH_SIZE'),
    ],
)
def test_wrong_usage_is_a_sentence(arguments, words):
    error = run(*arguments, status=2)
    assert words in error and len(error.splitlines()) == 1


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
        helpers.assert_close(reference.textbook(unit, x), unit(x)[0], 1e-5)


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
    count = sum(p.numel() for p in bench.build().parameters()) / 1e6
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
    monkeypatch.setattr(sys, 'argv', ['bench.py', *SMALL])
    config.override(SMALL)
    bench.bench_all(bench.parser().read(['--all', '--rounds', '1']))
    lines = [re.split('  +', line) for line in capsys.readouterr().out.splitlines()[-3:]]
    sizes = ['HEAD', 'M parameters', 'M over trunk', 'GMACs', 'GMACs over trunk']
    assert lines[0] == [*sizes, 'training s', 'training MiB', 'inference s', 'inference MiB']
    assert lines[1][0] == 'ema' and all(re.fullmatch(r'[\d.]+|nan', x) for x in lines[1][1:])
    assert lines[2][:7] == ['the trunk alone', *['-'] * 6]
    assert all(re.fullmatch(r'[\d.]+|nan', x) for x in lines[2][7:])


@torch.no_grad()
def test_the_trunk_alone():
    """What the memory of a head is held against: the four maps, and nothing of the head."""
    config.override(SMALL)
    maps = bench.inference_step(measure.one_device(), 'trunk')()
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
    command += ['ITER_MAX=2', 'CROP_SIZE=33', 'WARMUP=0', '--heads', 'ema', '--seeds', '2']
    first = run(*command).splitlines()
    assert first[0] == '|  | mIoU | local | around | elsewhere | pooled |'
    assert first[2].startswith('| ema | ') and first[2].count('±') == 5 and len(first) == 3
    paths = [tmp_path / 'models' / name / 'final.pth' for name in ('ema_0', 'ema_1')]
    times = [os.stat(path).st_mtime_ns for path in paths]
    assert run(*command).splitlines() == first
    assert 'words.txt: the runs in this folder had other settings' in run(
        *command, 'LR=1', status=2
    )
    assert times == [os.stat(path).st_mtime_ns for path in paths]


def test_heads_of_the_scenes_get_the_trunk_that_they_work_with():
    config.override([scenes.RECIPE])
    assert scenes.head_words('psp') == ['HEAD=psp']
    assert scenes.head_words('bisenet') == ['HEAD=bisenet', 'STRIDE=32']
    for name in scenes.HEAD_NAMES:
        config.override([scenes.RECIPE, *scenes.head_words(name)])
        helpers.build()
