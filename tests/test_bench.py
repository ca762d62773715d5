"""bench.py: what it prints parses; what it compares with computes the same. No timing is asserted."""

import os
import re
import subprocess
import sys

import numpy as np
import pytest
import torch

import bench
import dataset
import helpers
import network
import plain
import settings

SMALL = (
    'N_LAYERS=18 STEM=plain PRETRAINED= CROP_SIZE=65 EM_CHANNELS=64 EM_BASES=8 HEAD_CHANNELS=16 DATASET=shapes TRAIN_SPLIT=train '
    'BATCH_SIZE=2 TEST_BATCH=1 DEVICES=cpu'
).split()
FIGURES = r'([\d.]+) \(([\d.]+) - ([\d.]+)\)'  # median (min - max)


def run(*arguments, status=0):
    """The standard output of bench.py, or its standard error if it is to fail."""
    script = os.path.join(helpers.GOLDEN, '..', '..', 'bench.py')
    done = subprocess.run(
        [sys.executable, script, *arguments],
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | {'OMP_NUM_THREADS': '1'},
    )
    assert done.returncode == status, done.stdout + done.stderr
    return done.stderr if status else done.stdout


def figures(text, line):
    """The median after the start of a line, which must lie between its minimum and its maximum."""
    found = re.search('^' + line + ' +' + FIGURES, text, re.M)
    assert found, f'no line {line!r} in\n{text}'
    middle, low, high = map(float, found.groups())
    assert 0 <= low <= middle <= high
    return middle


def test_network_beside_plain():
    text = run(*SMALL, 'AMP=off', '--plain', '--rounds', '1')
    assert re.search(r'1 threads; torch \d.*; torch.float32', text.splitlines()[0])
    assert re.search(r'ema on ResNet-18 at stride 8, 65x65 pixels, 8 classes', text)
    parameters, macs = map(
        float, re.search(r'parameters ([\d.]+) M; MACs ([\d.]+) G', text).groups()
    )
    helpers.small_net(EM_CHANNELS=64)
    assert parameters == pytest.approx(
        sum(p.numel() for p in network.build().parameters()) / 1e6, abs=0.005
    )
    assert 0.5 < macs < 2
    for kind, batch in (('training', 2), ('inference', 1)):
        for variant in ('tuned', 'plain'):
            figures(text, f'{kind} +{variant} batch {batch}:')
            assert re.search(
                rf'{kind} +{variant} .* s, [\d.]+ images/s, ([\d.]+|nan) MiB, \d+ % of the \d+ GFLOP/s',
                text,
            )
        figures(text, f'{kind} +tuned / plain: time')


def test_unit_metric_and_loader(drawn_shapes):
    text = run(
        *SMALL,
        f'DATA_ROOT={drawn_shapes}',
        'CROP_SIZE=33',
        '--unit',
        '--metric',
        '--loader',
        '--rounds',
        '2',
    )
    for what in ('forward', r'forward\+backward'):
        for name in ('unit', 'textbook', 'dense'):
            figures(text, f'{what}  {name}')
        for name in ('textbook', 'dense'):
            figures(text, f'{what}  {name} / unit: time')
    figures(text, 'confusion  masked / tuned: time')
    figures(text, 'loader  plain / tuned: time')
    tuned, plain = map(
        float, re.search(r'MB per sample: tuned ([\d.]+), plain ([\d.]+)', text).groups()
    )
    assert tuned < plain


@pytest.mark.parametrize(
    'arguments, words',
    [
        (['--plian'], 'no such flag'),
        (['--rounds', '0'], 'from 1'),
        (['--rounds'], '--rounds takes a value'),
        (['--loader', '--synthetic', '500'], 'WIDTHxHEIGHT'),
        (['BATCHSIZE=2'], 'BATCH_SIZE'),
    ],
)
def test_wrong_usage_is_a_sentence(arguments, words):
    error = run(*arguments, status=2)
    assert words in error and len(error.splitlines()) == 1


def test_unknown_head_is_a_sentence():
    error = run(*SMALL, 'HEAD=nothing', status=2)
    assert 'no such head' in error


def test_textbook_unit_is_the_unit():
    torch.manual_seed(0)
    unit = network.EMAU(16, 4).eval()
    x = torch.randn(2, 16, 5, 7)
    with torch.no_grad():
        helpers.assert_close(plain.textbook(unit, x), unit(x)[0], 1e-5)


def test_plain_sample_without_scaling_is_the_sample(tmp_path):
    """At scale 1 both pipelines give the same crop, but for the rounding to bytes of the padding."""
    helpers.make_camvid(tmp_path, sizes=((40, 24),), SCALES=(1.0,), CROP_SIZE=32, FLIP=0.0)
    data = dataset.Dataset('train', train=True)
    for position in range(4):
        image, label = data[position, 0]
        plain_image, plain_label = plain.sample(data, position, 0)
        assert torch.equal(plain_label, label.long())
        helpers.small_net()
        helpers.assert_close(
            plain_image[:, :, :24], network.build().normalise(image[None])[0, :, :, :24], 1e-5
        )
        assert not plain_image[:, :, 24:].any()


def test_drawn_pictures_make_a_data_set(tmp_path):
    plain.draw(str(tmp_path), 60, 48, 'jpg')
    helpers.put(DATASET='camvid', DATA_ROOT=str(tmp_path), TRAIN_SPLIT='train')
    data = dataset.Dataset('train', train=True)
    data.check()
    assert (
        len(data) == 40
        and data.read(0)[0].shape == (48, 60, 3)
        and len(np.unique(data.read(0)[1])) > 1
    )


def test_table_of_the_heads(monkeypatch, capsys):
    """The paper's Table 1: parameters over the bare trunk."""
    monkeypatch.setattr(
        network,
        'HEADS',
        {k: network.HEADS[k] for k in ('ema', 'deeplabv3', 'psp', 'psa', 'danet', 'bisenet')},
    )
    helpers.put(N_LAYERS=101, N_CLASSES=21, CROP_SIZE=65, PRETRAINED='')
    before = settings.in_force()
    bench.bench_all(bench.start(), 1, {'--size': '', '--markdown': ''})
    assert settings.in_force() == before
    rows = [
        [cell.strip() for cell in line.strip('|').split('|')]
        for line in capsys.readouterr().out.splitlines()
        if line.startswith('|')
    ]
    found = {row[0]: row[1:3] for row in rows[2:]}
    assert (
        found['ema'] == ['53.77', '11.15'] and found['deeplabv3 DEEPLABV3_PAPER=True'][1] == '15.54'
    )
    assert (
        found['ema SECOND_CONV=False EM_CHANNELS=512'][1] == '9.97'
        and found['ema SECOND_CONV=False EM_CHANNELS=256'][1] == '4.86'
    )
    assert 'bisenet STRIDE=32 N_LAYERS=18' in found and len(found) == 12


@torch.no_grad()
def test_the_trunk_alone():
    """What the memory of a head is held against: the four maps, and nothing of the head."""
    settings.override(SMALL)
    maps = bench.network_step(bench.start(), False, 'trunk')()
    assert [m.shape[1] for m in maps] == [64, 128, 256, 512] and maps[3].shape[2:] == (9, 9)
