"""recipes/: each is read, named after what it trains, says only what differs from settings.py, and agrees with its origin."""
import json
import os
import re
import signal

import numpy as np
import pytest
import torch

import network
import settings
import train
from helpers import gold, put
from standins import stand_in

FOLDER = os.path.join(os.path.dirname(os.path.abspath(settings.__file__)), 'recipes')
NAMES = sorted(f[:-3] for f in os.listdir(FOLDER) if f.endswith('.py'))
OWN = ['camvid', 'camvid_quick', 'shapes']  # this project's own, without an origin
SHORT = {'danet': 'da'}  # heads whose name in file names is another

# What a recipe has from its origin.
PAPER = dict(SCALES=(0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0), SCALE_MODE='choice', ROTATE=0, BLUR=0, JITTER=0, CAT_MAX_RATIO=1, FLIP=0.5, STEM='deep',
             STRIDE=8, MULTI_GRID=(1, 2, 4), BN_MOM=3e-4, EM_GRAD=False, LR_MOM=0.9, WEIGHT_DECAY=1e-4, DECAY='conv', BIAS_LR_MULT=2, HEAD_LR_MULT=1,
             LR_POLICY='poly', POLY_POWER=0.9, LR_DECAY=10, WARMUP=0, LOSS='ce', LOSS_AVG='all')
SHORT_RUN = PAPER | dict(BN_MOM=0.1)
D2 = PAPER | dict(EM_GRAD=True, BIAS_LR_MULT=1, LR_POLICY='cosine', WARMUP=1000, LOSS_AVG='valid')
SEMSEG = PAPER | dict(SCALES=(0.5, 2), SCALE_MODE='range', ROTATE=10, BLUR=0.5, BN_MOM=0.1, DECAY='all', BIAS_LR_MULT=1, HEAD_LR_MULT=10,
                      LR_DECAY=0, LOSS_AVG='valid')
TOOLBOX = PAPER | dict(SCALES=(0.5, 2), SCALE_MODE='range', JITTER=0.25, CAT_MAX_RATIO=0.75, BN_MOM=0.1, DECAY='all', BIAS_LR_MULT=1, LR_DECAY=0,
                       LOSS_AVG='valid')  # mmsegmentation
TRUNK = dict(FIRST_BLOCK='all', MULTI_GRID=(1, 1, 1), HEAD_CHANNELS=512)  # of semseg's networks and of the detectron2 DANet
D2_DANET = PAPER | TRUNK | dict(STEM='plain', DANET_D2=True, UPSAMPLE='crop', BN_MOM=0.1, BIAS_LR_MULT=1, LR_POLICY='step', LR_STEPS=(18000,),
                                WARMUP=1000, LOSS_AVG='valid')
TOOLBOX_CITY = TOOLBOX | dict(WEIGHT_DECAY=5e-4)

# The recipes that users expect: origin; crop, or (shortest, longest) short side of whole images; batch, steps, rate, weight of the auxiliary loss.
# semseg counts epochs, of as many whole batches as there are.
TABLE = {
    'voc_ema101': (PAPER, 513, 16, 30000, 9e-3, 0),
    'coco_voc_ema101': (PAPER, 513, 16, 150000, 9e-3, 0),
    'voc_ema101_coco': (PAPER, 513, 16, 30000, 9e-3, 0),
    'voc_ema101_trainval': (PAPER, 513, 16, 30000, 9e-3, 0),
    'voc_fcn101': (SEMSEG, 473, 16, 50 * (10582 // 16), 1e-2, 0.4),
    'voc_psp101': (SEMSEG | TRUNK, 473, 16, 50 * (10582 // 16), 1e-2, 0.4),
    'voc_psa101': (SEMSEG | TRUNK, 465, 16, 50 * (10582 // 16), 1e-2, 0.4),
    'ade20k_psp101': (SEMSEG | TRUNK, 473, 16, 100 * (20210 // 16), 1e-2, 0.4),
    'ade20k_psa101': (SEMSEG | TRUNK, 465, 16, 100 * (20210 // 16), 1e-2, 0.4),
    'cityscapes_psp101': (SEMSEG | TRUNK, 713, 16, 200 * (2975 // 16), 1e-2, 0.4),
    'cityscapes_psa101': (SEMSEG | TRUNK, 705, 16, 200 * (2975 // 16), 1e-2, 0.4),
    'cityscapes_da101_d2': (D2_DANET, [800, 960], 8, 24000, 1e-2, 0),
    'pascal_context_psp101': (TOOLBOX | dict(MULTI_GRID=(1, 1, 1), HEAD_CHANNELS=512), 480, 16, 40000, 4e-3, 0.4),
    'cityscapes_ema101': (TOOLBOX_CITY, (512, 1024), 8, 80000, 1e-2, 0.4),
    'cityscapes_ema101_ohem': (TOOLBOX_CITY | dict(LOSS='ohem'), 769, 8, 80000, 1e-2, 0.4),
    'cityscapes_ema101_s16_d2': (D2 | dict(STRIDE=16), [800, 1024], 16, 30000, 9e-3, 0),
    'coco_panoptic_ema101': (D2, [640, 800], 16, 30000, 9e-3, 0),
    'coco_panoptic_ema50': (D2, [640, 800], 16, 30000, 9e-3, 0),
    'coco_stuff_10k_ema101': (PAPER, 513, 16, 30000, 9e-3, 0),
    'pascal_context_ema101': (PAPER, 513, 16, 30000, 9e-3, 0),
    'pascal_context_fcn101': (TOOLBOX, 480, 16, 40000, 4e-3, 0.4),
    'nyuv2_ema101': (SHORT_RUN, 480, 16, 10000, 1e-2, 0),
    'camvid_ema101': (SHORT_RUN, 360, 16, 6000, 1e-2, 0),
}
SPLITS = {'voc_ema101': 'trainaug', 'voc_ema101_coco': 'trainaug', 'voc_ema101_trainval': 'trainval', 'voc_fcn101': 'trainaug',
          'voc_psp101': 'trainaug', 'voc_psa101': 'trainaug'}  # the others: train


def path(name):
    return os.path.join(FOLDER, name + '.py')


def text(name):
    with open(path(name), encoding='utf-8') as f:
        return f.read()


def test_every_recipe_is_in_the_table():
    assert NAMES == sorted([*TABLE, *OWN])


@pytest.mark.parametrize('name', NAMES)
def test_begins_with_what_it_is(name):
    assert re.match(r'# [A-Z].*[.:]', text(name)) and max(map(len, text(name).splitlines())) <= 150


@pytest.mark.parametrize('name', TABLE)
def test_named_after_what_it_trains(name):
    settings.override([path(name)])
    s = settings
    assert re.fullmatch(rf'{s.DATASET}_{SHORT.get(s.HEAD, s.HEAD)}{s.N_LAYERS}(_[a-z0-9]+)*', name) and s.NAME == name
    assert s.HEAD in network.HEADS
    assert s.INIT and not s.PRETRAINED or s.PRETRAINED == 'torchvision' and s.STEM == 'plain' or f'/resnet{s.N_LAYERS}-' in s.PRETRAINED


@pytest.mark.parametrize('name', TABLE)
def test_repeats_no_default(name):
    defaults = settings.in_force()
    assert not [k for k, v in settings.read_recipe(path(name)).items() if v == defaults[k]]
    keys = re.findall(r'^(\w+) =', text(name), re.MULTILINE)
    assert len(keys) == len(set(keys))


@pytest.mark.parametrize('name', TABLE)
def test_agrees_with_its_origin(name):
    origin, size, batch, steps, rate, aux = TABLE[name]
    settings.override([path(name)])
    s = settings
    assert {k: getattr(s, k) for k in origin} == origin
    assert (s.BATCH_SIZE, s.ITER_MAX, s.LR, s.AUX_WEIGHT) == (batch, steps, rate, aux)
    assert s.TRAIN_SPLIT == SPLITS.get(name, 'train')
    if isinstance(size, list):
        assert [s.SHORT_SIDE[0], s.SHORT_SIDE[-1]] == size and list(s.SHORT_SIDE) == list(range(size[0], size[1] + 1, 32))
    else:
        assert (s.CROP_SIZE, s.SHORT_SIDE) == (size, None)


@pytest.mark.parametrize('name', TABLE)
def test_starts_from_a_run_that_comes_along(name):
    """INIT is the final checkpoint of another recipe, with the same network."""
    net = ('HEAD', 'N_LAYERS', 'STEM', 'STRIDE', 'EM_CHANNELS', 'EM_BASES', 'SECOND_CONV', 'HEAD_CHANNELS', 'AUX_WEIGHT')
    settings.override([path(name)])
    if settings.INIT:
        before, wanted = re.fullmatch(r'\./models/(\w+)/final\.pth', settings.INIT)[1], [getattr(settings, k) for k in net]
        assert before in TABLE and before != name
        settings.override([path(before)])
        assert [getattr(settings, k) for k in net] == wanted


def test_the_paper_is_settings_as_they_stand():
    assert settings.read_recipe(path('voc_ema101')) == {}


def test_three_runs_for_the_test_set_follow_each_other():
    chain = [settings.read_recipe(path(n)).get('INIT', '') for n in ('coco_voc_ema101', 'voc_ema101_coco', 'voc_ema101_trainval')]
    assert chain == ['', './models/coco_voc_ema101/final.pth', './models/voc_ema101_coco/final.pth']


def test_published_weights_of_camvid():
    """The line that recipes/camvid.py quotes is a valid setting."""
    quoted = re.search(r'^# (CLASS_WEIGHTS) = (.*)$', text('camvid'), re.MULTILINE)
    settings.override([f'{quoted[1]}={quoted[2]}'])
    assert settings.CLASS_WEIGHTS == (0.2595, 0.1826, 4.5640, 0.1417, 0.9051, 0.3826, 9.6446, 1.8418, 0.6823, 6.2478, 7.3614)


# ---------------------------------------------------------------------------------------------------------- schedules


def rates(steps, first=0):
    """The rate during each of the steps, of which the first has the number `first`."""
    return [train.learning_rate(step + 1 - first) for step in steps]


def multiples(names):
    """lr_mult and weight_decay of the groups of a small net with the recipe's other settings: {True for the trunk, or False: set of pairs}."""
    put(N_LAYERS=18, PRETRAINED='', N_CLASSES=3)
    found = {True: set(), False: set()}
    for group in train.param_groups(network.build()):
        for name in group['names']:
            if re.search(names, name):
                found[name.startswith('extractor.')].add((group['lr_mult'], group['weight_decay']))
    return found


@pytest.mark.parametrize('name', [n for n in TABLE if TABLE[n][0]['HEAD_LR_MULT'] == 10])
def test_schedule_of_semseg(name):
    """Both columns of the reference: trunk, new modules. It is of 50 epochs of VOC; others take their own length, at the same shares of it."""
    meta, want = gold('lr_semseg')
    settings.override([path(name)])
    if settings.DATASET == 'voc':
        assert settings.ITER_MAX == meta['args']['max_iter']
    put(ITER_MAX=meta['args']['max_iter'])
    groups = multiples('')
    assert groups == {True: {(1.0, 1e-4)}, False: {(10.0, 1e-4)}}
    found = np.outer(rates(want['step'].tolist()), [1, 10])
    np.testing.assert_allclose(found, want['lr'], rtol=meta['tolerance']['rel'], atol=0)


@pytest.mark.parametrize('name', [n for n in TABLE if 'cosine' == TABLE[n][0]['LR_POLICY']])
def test_schedule_of_the_detectron2_variant(name):
    """The reference's first column. The second is twice that, for the two convolutions of the head that have a bias; here all biases learn alike."""
    meta, want = gold('lr_emanet_d2')
    settings.override([path(name)])
    found = rates(want['step'].tolist())
    np.testing.assert_allclose(found, want['lr'][:, 0], rtol=meta['tolerance']['rel'], atol=0)
    assert multiples('conv|downsample.0') == {True: {(1.0, 1e-4)}, False: {(1.0, 1e-4), (1.0, 0.0)}}  # the last: biases
    assert multiples('bn') == {True: {(1.0, 0.0)}, False: {(1.0, 0.0)}}


@pytest.mark.parametrize('name', [n for n in TABLE if TABLE[n][0]['LR_DECAY'] and TABLE[n][0]['LR_POLICY'] == 'poly'])
def test_schedule_of_the_official_code(name):
    meta, want = gold('lr_official')
    settings.override([path(name)])
    put(LR=meta['args']['base_lr'], ITER_MAX=meta['args']['max_iter'])
    np.testing.assert_allclose(rates(want['step'].tolist(), first=1), want['lr'][:, 0], rtol=meta['tolerance']['rel'], atol=0)


# --------------------------------------------------------------------------------------------------------- two steps


@pytest.fixture
def signals_restored():
    kept = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in kept.items():
        signal.signal(number, handler)


@pytest.mark.parametrize('name', TABLE)
def test_two_steps_on_a_stand_in(name, tmp_path, signals_restored):
    """train.py with every recipe, small, on a tiny tree in its data set's real layout; all that it writes at the end is there."""
    settings.override([path(name), 'N_LAYERS=18', 'STEM=plain', 'PRETRAINED=', 'INIT=', 'BATCH_SIZE=2', 'CROP_SIZE=65', 'NUM_WORKERS=0', 'EM_CHANNELS=32',
                       'EM_BASES=8', 'HEAD_CHANNELS=32', 'ITER_MAX=2', f'MODEL_DIR={tmp_path}/models', f'LOG_DIR={tmp_path}/logdir', 'AMP=off'])
    if settings.SHORT_SIDE:
        put(SHORT_SIDE=(65, 73))
    stand_in(settings.DATASET, tmp_path)
    assert train.main() is None
    with open(tmp_path / 'logdir' / name / 'log.jsonl') as f:
        lines = [json.loads(line) for line in f]
    assert lines[-1]['step'] == 2 and np.isfinite([line['loss'] for line in lines if 'loss' in line][0])
    assert ('val/mIoU' in lines[-1]) == bool(settings.ITER_VAL)
    final = torch.load(tmp_path / 'models' / name / 'final.pth', weights_only=True)
    assert final['step'] == 2 and final['settings']['DATASET'] == settings.DATASET
