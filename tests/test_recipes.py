"""recipes/: each is read, named after what it trains, says only what differs from settings.py, and agrees with its origin."""

import json
import os
import re
import shlex

import numpy as np
import pytest
import torch
from helpers import HEAD_NAMES, build, gold, put
from standins import stand_in

import eval as evaluation
import network
import settings
import train
from heads import HEADS
from utils import config
from utils.optim import learning_rate, param_groups

FOLDER = os.path.join(os.path.dirname(os.path.abspath(settings.__file__)), 'recipes')
NAMES = sorted(f[:-3] for f in os.listdir(FOLDER) if f.endswith('.py'))
OWN = ['camvid', 'camvid_quick', 'own', 'shapes']  # this project's own, without an origin
SHORT = {'danet': 'da'}  # heads whose name in file names is another

# What a recipe has from its origin. PAPER: the official code's settings.py and train.py. SHORT_RUN: this project's choice for small data sets.
PAPER = dict(
    SCALES=(0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0),
    ROTATE=0,
    BLUR=0,
    JITTER=0,
    CAT_MAX_RATIO=1,
    FLIP=0.5,
    STEM='deep',
    STRIDE=8,
    MULTI_GRID=(1, 2, 4),
    FIRST_BLOCK='half',
    CHANNELS='rgb',
    UPSAMPLE='corners',
    BN_MOM=None,
    EM_GRAD=False,
    LR_MOM=0.9,
    WEIGHT_DECAY=1e-4,
    DECAY='conv',
    BIAS_LR_MULT=2,
    HEAD_LR_MULT=1,
    LR_POLICY='poly',
    LR_DECAY=10,
    LR_MIN=0,
    WARMUP=0,
    LOSS='ce',
    LOSS_AVG='all',
)
SHORT_RUN = PAPER | dict(BN_MOM=0.1)
# leftthomas/EMANet: configs/base.yaml, ema/backbone.py (every block of layer4 has the full dilation), INPUT.FORMAT BGR; mean over the valid pixels
D2 = PAPER | dict(
    FIRST_BLOCK='layer4',
    CHANNELS='bgr',
    EM_GRAD=True,
    BIAS_LR_MULT=1,
    LR_POLICY='cosine',
    WARMUP=1000,
    LOSS_AVG='valid',
)
# semseg: tool/train.py and config/*/*.yaml; util/transform.py RandRotate with p=0.5; model/pspnet.py turns all of layer3 and layer4 to dilation 2 and 4
SEMSEG = PAPER | dict(
    SCALES=(0.5, 2),
    ROTATE=(10, 0.5),
    BLUR=0.5,
    BN_MOM=0.1,
    DECAY='all',
    BIAS_LR_MULT=1,
    HEAD_LR_MULT=10,
    LR_DECAY=0,
    LOSS_AVG='valid',
    FIRST_BLOCK='all',
    MULTI_GRID=(1, 1, 1),
    HEAD_CHANNELS=512,
)
# mmsegmentation: avg_non_ignore=False in every config, so the mean is over all pixels; schedules end at min_lr=1e-4; align_corners False but for 769 crops
TOOLBOX = PAPER | dict(
    SCALES=(0.5, 2),
    JITTER=0.25,
    CAT_MAX_RATIO=0.75,
    BN_MOM=0.1,
    DECAY='all',
    BIAS_LR_MULT=1,
    LR_DECAY=0,
    LR_MIN=1e-4,
    UPSAMPLE='centres',
)
# leftthomas/DANet: configs; danet/head.py has CONVS_DIM 64
D2_DANET = PAPER | dict(
    STEM='plain',
    FIRST_BLOCK='all',
    MULTI_GRID=(1, 1, 1),
    HEAD_CHANNELS=64,
    HEAD_ARGS={'d2': True},
    UPSAMPLE='crop',
    BN_MOM=0.1,
    BIAS_LR_MULT=1,
    LR_POLICY=(18000,),
    WARMUP=1000,
    LOSS_AVG='valid',
)
TOOLBOX_CITY = TOOLBOX | dict(WEIGHT_DECAY=5e-4)
# its crops are 0.5 to 2 of a long side of 520, the images' own is 500
TOOLBOX_CONTEXT = TOOLBOX | dict(SCALES=(0.52, 2.08), MULTI_GRID=(1, 1, 1), HEAD_CHANNELS=512)

# MXNetSeg: configs/*.yaml, engine/trainer.py and GluonCV's segbase.py: the mean over all pixels, decay on all parameters, poly before every step
MX = PAPER | dict(
    SCALES=(0.5, 2),
    BLUR=0.5,
    MULTI_GRID=(1, 1, 1),
    BN_MOM=0.1,
    DECAY='all',
    BIAS_LR_MULT=1,
    LR_DECAY=0,
)
MX10 = MX | dict(HEAD_LR_MULT=10)
MX18 = dict(STEM='plain', FIRST_BLOCK='split')
# without dilation, which MULTI_GRID and FIRST_BLOCK are about
MX_BISENET = MX | dict(STEM='plain', STRIDE=32, MULTI_GRID=(1, 2, 4), DROPOUT=0)

# The recipes that users expect: origin; crop, or [shortest, longest short side, limit of the long one] of whole images; batch, steps, rate, weight of the auxiliary loss.
# semseg counts epochs, of as many whole batches as there are; on Cityscapes its sampler fills 2,975 images up to 2,976.
TABLE = {
    'voc_ema101': (PAPER, 513, 16, 30000, 9e-3, 0),
    'coco_voc_ema101': (PAPER, 513, 16, 150000, 9e-3, 0),
    'voc_ema101_coco': (PAPER, 513, 16, 30000, 9e-3, 0),
    'voc_ema101_trainval': (PAPER, 513, 16, 30000, 9e-3, 0),
    'voc_fcn101': (SEMSEG, 473, 16, 50 * (10582 // 16), 1e-2, 0.4),
    'voc_psp101': (SEMSEG, 473, 16, 50 * (10582 // 16), 1e-2, 0.4),
    'voc_psa101': (SEMSEG, 465, 16, 50 * (10582 // 16), 1e-2, 0.4),
    'ade20k_psp101': (SEMSEG, 473, 16, 100 * (20210 // 16), 1e-2, 0.4),
    'ade20k_psa101': (SEMSEG, 465, 16, 100 * (20210 // 16), 1e-2, 0.4),
    'cityscapes_psp101': (SEMSEG, 713, 16, 200 * (2976 // 16), 1e-2, 0.4),
    'cityscapes_psa101': (SEMSEG, 705, 16, 200 * (2976 // 16), 1e-2, 0.4),
    'cityscapes_da101_d2': (D2_DANET, [800, 960, 960], 8, 24000, 1e-2, 0),
    'pascal_context_psp101': (TOOLBOX_CONTEXT, 480, 16, 40000, 4e-3, 0.4),
    'cityscapes_ema101': (TOOLBOX_CITY, (512, 1024), 8, 80000, 1e-2, 0.4),
    'cityscapes_ema101_ohem': (
        TOOLBOX_CITY | dict(LOSS='ohem', UPSAMPLE='corners'),
        769,
        8,
        80000,
        1e-2,
        0.4,
    ),
    'cityscapes_ema101_s16_d2': (D2 | dict(STRIDE=16), [800, 1024, 2048], 16, 30000, 9e-3, 0),
    'coco_panoptic_ema101': (D2, [640, 800, 1333], 16, 30000, 9e-3, 0),
    'coco_panoptic_ema50': (D2, [640, 800, 1333], 16, 30000, 9e-3, 0),
    'cityscapes_bisenet18_mx': (MX_BISENET, 1024, 8, 240 * (2975 // 8), 1e-2, 0),
    'cityscapes_fcn18_mx': (MX10 | MX18, 768, 8, 200 * (2975 // 8), 1e-3, 0),
    'cityscapes_denseaspp101_mx': (MX, 768, 8, 240 * (2975 // 8), 1e-2, 0),
    'cityscapes_da101_mx': (MX, 768, 8, 240 * (2975 // 8), 1e-2, 0),
    'ade20k_psp101_mx': (MX10, 480, 16, 120 * (20210 // 16), 1e-3, 0),
    'voc_deeplabv3101_mx': (MX10, 512, 16, 80 * (10582 // 16), 1e-3, 0),
    'voc_deeplabv3plus101_mx': (MX10, 480, 16, 80 * (10582 // 16), 1e-3, 0),
    'nyuv2_psp101_mx': (MX, 480, 16, 180 * (795 // 16), 1e-2, 0),
    'nyuv2_deeplabv3plus101_mx': (MX10, 480, 16, 240 * (795 // 16), 1e-3, 0),
    'coco_stuff_10k_ema101': (PAPER, 513, 16, 30000, 9e-3, 0),
    'pascal_context_ema101': (PAPER, 513, 16, 30000, 9e-3, 0),
    'pascal_context_fcn101': (TOOLBOX_CONTEXT, 480, 16, 40000, 4e-3, 0.4),
    'nyuv2_ema101': (SHORT_RUN, 481, 16, 10000, 1e-2, 0),
    'camvid_ema101': (SHORT_RUN, 361, 16, 6000, 1e-2, 0),
}

# How the quoted figures were tested: (figure in the recipe's first lines, what differs from one view of whole images).
WHOLE = dict(
    TEST_SCALES=(1,),
    TEST_FLIP=False,
    TEST_CROP=None,
    TEST_BASE_SIZE=None,
    TEST_SHORT_SIDE=None,
)


# semseg's tool/test.py: windows of the crop with mirror images, also at one scale; long side 512 (VOC, ADE20K), 2048 (Cityscapes)
def semseg_test(crop, base):
    return WHOLE | dict(TEST_FLIP=True, TEST_CROP=crop, TEST_BASE_SIZE=base)


# MXNetSeg's eval.py without --ms: windows of the crop on an image whose long side is the base size, no mirror images
def mx_test(crop, base):
    return WHOLE | dict(TEST_CROP=crop, TEST_BASE_SIZE=base)


# mmsegmentation's mode='slide': logits are averaged; stride 320 of 480 on a long side of 520 (PASCAL Context), 513 of 769 (Cityscapes)
CONTEXT_TEST = WHOLE | dict(TEST_CROP=480, TEST_BASE_SIZE=520)
PROTOCOLS = {
    'voc_ema101': (
        ['80.05 / 81.32'],
        WHOLE,
    ),  # the paper, table 4: single scale whole images; six scales with mirror images
    'voc_ema101_trainval': (['87.7'], None),
    'voc_psp101': (['79.07 / 79.63'], semseg_test(473, 512)),
    'voc_psa101': (['78.70 / 79.66'], semseg_test(465, 512)),
    'voc_fcn101': ([], semseg_test(473, 512)),  # the baseline of voc_psp101
    'ade20k_psp101': (['43.10 / 44.15'], semseg_test(473, 512)),
    'ade20k_psa101': (['43.37 / 44.14'], semseg_test(465, 512)),
    'cityscapes_psp101': (['78.63 / 79.29'], semseg_test(713, 2048)),
    'cityscapes_psa101': (['78.42 / 79.40'], semseg_test(705, 2048)),
    'cityscapes_da101_d2': (
        ['67.57', '66.64'],
        WHOLE | dict(TEST_SHORT_SIDE=(800, 960)),
    ),  # 480x960 of 1024x2048
    'cityscapes_ema101': (
        ['79.10 / 81.21'],
        WHOLE,
    ),  # mmsegmentation tests 512x1024 models on whole images
    'cityscapes_ema101_ohem': (
        ['81.14'],
        WHOLE | dict(TEST_CROP=769),
    ),  # mmsegmentation's for 769 crops
    'cityscapes_ema101_s16_d2': (
        ['74.02', '72.28', '75.12'],
        WHOLE | dict(TEST_SHORT_SIDE=(1024, 2048)),
    ),
    'coco_panoptic_ema101': (['43.61'], WHOLE | dict(TEST_SHORT_SIDE=(800, 1333))),
    'coco_panoptic_ema50': (['42.71'], WHOLE | dict(TEST_SHORT_SIDE=(800, 1333))),
    'cityscapes_bisenet18_mx': (['71.6 / 74.7'], mx_test(1024, 2048)),
    'cityscapes_fcn18_mx': (['68.3 / 69.9'], mx_test(768, 2048)),
    'cityscapes_denseaspp101_mx': (['78.7 / 79.8'], mx_test(768, 2048)),
    'cityscapes_da101_mx': (['79.7 / 80.9'], mx_test(768, 2048)),
    'ade20k_psp101_mx': (['42.9 / 43.7'], mx_test(480, 520)),
    'voc_deeplabv3101_mx': (['80.1 / 80.4'], mx_test(512, 520)),
    'voc_deeplabv3plus101_mx': (['79.9 / 80.1'], mx_test(480, 520)),
    'nyuv2_psp101_mx': (['43.0 / 43.6'], mx_test(480, 640)),
    'nyuv2_deeplabv3plus101_mx': (['46.0 / 47.2'], mx_test(480, 640)),
    'coco_stuff_10k_ema101': (['39.9'], None),
    'pascal_context_ema101': (['53.1'], None),
    'pascal_context_fcn101': ([], CONTEXT_TEST),
    'pascal_context_psp101': ([], CONTEXT_TEST),
}
SPLITS = {
    'voc_ema101': 'trainaug',
    'voc_ema101_coco': 'trainaug',
    'voc_ema101_trainval': 'trainval',
    'voc_fcn101': 'trainaug',
    'voc_psp101': 'trainaug',
    'voc_psa101': 'trainaug',
    'voc_deeplabv3101_mx': 'trainaug',
    'voc_deeplabv3plus101_mx': 'trainaug',
}  # the others: train


def path(name):
    return os.path.join(FOLDER, name + '.py')


def text(name):
    with open(path(name), encoding='utf-8') as f:
        return f.read()


def test_every_recipe_is_in_the_table():
    assert sorted([*TABLE, *OWN]) == NAMES


@pytest.mark.parametrize('name', NAMES)
def test_begins_with_what_it_is(name):
    assert (
        re.match(r'# [A-Z](.*\n# )?.*[.:]', text(name))
        and max(map(len, text(name).splitlines())) <= 150
    )


@pytest.mark.parametrize('name', TABLE)
def test_named_after_what_it_trains(name):
    config.override([path(name)])
    s = settings
    assert (
        re.fullmatch(rf'{s.DATASET}_{SHORT.get(s.HEAD, s.HEAD)}{s.N_LAYERS}(_[a-z0-9]+)*', name)
        and name == s.NAME
    )
    assert s.HEAD in HEAD_NAMES
    assert (
        s.INIT
        and not s.PRETRAINED
        or s.PRETRAINED == 'torchvision'
        and s.STEM == 'plain'
        or f'/resnet{s.N_LAYERS}-' in s.PRETRAINED
    )


@pytest.mark.parametrize('name', TABLE)
def test_repeats_no_default(name):
    defaults = config.current()
    assert not [k for k, v in config.read_recipe(path(name)).items() if v == defaults[k]]
    keys = re.findall(r'^(\w+) =', text(name), re.MULTILINE)
    assert len(keys) == len(set(keys))


@pytest.mark.parametrize('name', TABLE)
def test_agrees_with_its_origin(name):
    origin, size, batch, steps, rate, aux = TABLE[name]
    config.override([path(name)])
    s = settings
    assert {k: getattr(s, k) for k in origin} == origin
    assert (batch, steps, rate, aux) == (s.BATCH_SIZE, s.ITER_MAX, s.LR, s.AUX_WEIGHT)
    assert SPLITS.get(name, 'train') == s.TRAIN_SPLIT
    if isinstance(size, list):
        shortest, longest, limit = size
        assert (tuple(range(shortest, longest + 1, 32)), limit) == s.SHORT_SIDE
    else:
        assert (size, None) == (s.CROP_SIZE, s.SHORT_SIDE)


@pytest.mark.parametrize('name', TABLE)
def test_starts_from_a_run_that_comes_along(name):
    """INIT is the final checkpoint of another recipe, with the same network."""
    net = (
        'HEAD',
        'N_LAYERS',
        'STEM',
        'STRIDE',
        'EM_CHANNELS',
        'EM_BASES',
        'SECOND_CONV',
        'HEAD_CHANNELS',
        'AUX_WEIGHT',
    )
    config.override([path(name)])
    if settings.INIT:
        before, wanted = (
            re.fullmatch(r'\./models/(\w+)/final\.pth', settings.INIT)[1],
            [getattr(settings, k) for k in net],
        )
        assert before in TABLE and before != name
        config.override([path(before)])
        assert [getattr(settings, k) for k in net] == wanted


@pytest.mark.parametrize('name', NAMES)
def test_protocol_of_the_quoted_figures(name):
    """Every figure that a recipe quotes, and no other, is tested as its origin tested it; validation in training uses one view."""
    figures, wanted = PROTOCOLS.get(name, ([], WHOLE))
    head = re.match(r'(#.*\n)+', text(name))[0]
    if name not in OWN:
        assert re.findall(r'\b\d\d\.\d{1,2}\b', head) == re.findall(r'\d\d\.\d+', ' '.join(figures))
    config.override([path(name)])
    if wanted is None:
        return  # not stated by those who published the figure
    assert {k: getattr(settings, k) for k in wanted} == wanted
    if settings.TEST_CROP in (480, 769):  # mmsegmentation's windows
        starts = evaluation.window_starts(10**4, settings.TEST_CROP)
        assert starts[1] == {480: 320, 769: 513}[settings.TEST_CROP]


def test_every_recipe_has_its_row_in_the_docs():
    with open(os.path.join(FOLDER, '..', 'docs', 'recipes.md'), encoding='utf-8') as f:
        rows = [line.split('|')[1] for line in f if line.startswith('| `')]
    assert sorted(re.findall(r'`(\w+)`', ' '.join(rows))) == NAMES


# MXNetSeg's rows without a recipe: head, layers, stem, stride; origin and run as in TABLE; figures
OTHERS = {
    'cityscapes_fcn18_s32_mx': (
        ('fcn', 18, 'plain', 32),
        (MX10 | MX18 | dict(STRIDE=32), 768, 8, 200 * (2975 // 8), 1e-3),
        '64.9 / 68.1',
    ),
    'cityscapes_fcn101_mx': (
        ('fcn', 101, 'deep', 8),
        (MX10, 768, 8, 200 * (2975 // 8), 1e-3),
        '74.5',
    ),
    'cityscapes_psp101_mx': (
        ('psp', 101, 'deep', 8),
        (MX, 768, 8, 240 * (2975 // 8), 1e-2),
        '78.2 / 79.5',
    ),
    'cityscapes_deeplabv3101_mx': (
        ('deeplabv3', 101, 'deep', 8),
        (MX, 768, 8, 240 * (2975 // 8), 1e-2),
        '79.3 / 80.0',
    ),
    'voc_fcn101_mx': (
        ('fcn', 101, 'deep', 8),
        (MX10, 480, 16, 80 * (10582 // 16), 1e-3),
        '74.6 / 75.0',
    ),
    'voc_att2scale101_mx': (
        ('att2scale', 101, 'deep', 8),
        (MX10, 480, 16, 80 * (10582 // 16), 1e-3),
        '77.1',
    ),
    'voc_psp101_mx': (
        ('psp', 101, 'deep', 8),
        (MX10, 480, 16, 80 * (10582 // 16), 1e-3),
        '78.1 / 78.5',
    ),
    'nyuv2_fcn101_mx': (
        ('fcn', 101, 'deep', 8),
        (MX, 480, 16, 180 * (795 // 16), 1e-2),
        '39.7 / 41.0',
    ),
}


def rows_of_words():
    """{NAME: (mIoU, words)} of docs/recipes.md."""
    with open(os.path.join(FOLDER, '..', 'docs', 'recipes.md'), encoding='utf-8') as f:
        rows = re.findall(r'^\| [^|]+ \| ([^|]+) \| `(recipes/[^`]+)` \|$', f.read(), re.MULTILINE)
    return {re.search(r'NAME=(\w+)', words)[1]: (figures, words) for figures, words in rows}


def test_every_row_without_a_recipe_has_its_words():
    assert rows_of_words().keys() == OTHERS.keys()
    assert not OTHERS.keys() & {*NAMES}  # their runs are apart


@pytest.mark.parametrize('name', OTHERS)
def test_words_for_the_rows_without_a_recipe(name, monkeypatch):
    """As a shell splits them, they are the settings of the row, and of a network that can be built."""
    net, (origin, crop, batch, steps, rate), published = OTHERS[name]
    figures, words = rows_of_words()[name]
    monkeypatch.chdir(os.path.join(FOLDER, '..'))
    config.override(shlex.split(words))
    s = settings
    assert name == s.NAME and name.startswith(s.DATASET) and figures == published
    assert net == (s.HEAD, s.N_LAYERS, s.STEM, s.STRIDE)
    assert {k: getattr(s, k) for k in origin} == origin
    assert (
        crop,
        batch,
        steps,
        rate,
        0,
    ) == (s.CROP_SIZE, s.BATCH_SIZE, s.ITER_MAX, s.LR, s.AUX_WEIGHT)
    base = {'cityscapes': 2048, 'voc': 520, 'nyuv2': 640}[s.DATASET]
    wanted = mx_test(crop, base)
    assert {k: getattr(s, k) for k in wanted} == wanted and base == s.BASE_SIZE
    assert s.PRETRAINED == 'torchvision' if s.N_LAYERS == 18 else 'resnet101-' in s.PRETRAINED
    with torch.device('meta'):
        net = build()
    assert not getattr(net.head, 'aux_weights', ())


@pytest.mark.parametrize(
    'policy, wanted',
    [
        ('poly', [1e-2, 1e-4 + 9.9e-3 * 0.5**0.9, 1e-4 + 9.9e-3 * 0.01**0.9]),
        ('cosine', [1e-2, 1e-4 + 9.9e-3 / 2, 1e-4 + 9.9e-3 * 0.5 * (1 + np.cos(0.99 * np.pi))]),
        ((50, 99), [1e-2, 1e-3, 5e-4]),
    ],
)
def test_the_rate_falls_to_its_minimum(policy, wanted):
    """mmsegmentation's: (base - minimum) * factor + minimum; in steps never below the minimum."""
    put(LR=1e-2, LR_MIN=5e-4 if policy == (50, 99) else 1e-4, LR_POLICY=policy)
    put(LR_DECAY=0, ITER_MAX=100)
    assert [learning_rate(step) for step in (1, 51, 100)] == pytest.approx(wanted, rel=1e-12)
    put(WARMUP=10)
    assert learning_rate(1) == pytest.approx(1e-5)


def test_the_baseline_of_a_schedule_differs_in_the_head_alone():
    fcn, psp = (config.read_recipe(path(name)) for name in ('voc_fcn101', 'voc_psp101'))
    assert fcn | dict(HEAD='psp') == psp


def test_the_paper_is_settings_as_they_stand():
    assert config.read_recipe(path('voc_ema101')) == {}


def test_three_runs_for_the_test_set_follow_each_other():
    chain = [
        config.read_recipe(path(n)).get('INIT', '')
        for n in ('coco_voc_ema101', 'voc_ema101_coco', 'voc_ema101_trainval')
    ]
    assert chain == ['', './models/coco_voc_ema101/final.pth', './models/voc_ema101_coco/final.pth']


def test_published_weights_of_camvid():
    """The line that recipes/camvid.py quotes is a valid setting."""
    quoted = re.search(r'^# (CLASS_WEIGHTS) = (.*)$', text('camvid'), re.MULTILINE)
    config.override([f'{quoted[1]}={quoted[2]}'])
    assert settings.CLASS_WEIGHTS == (
        0.2595,
        0.1826,
        4.5640,
        0.1417,
        0.9051,
        0.3826,
        9.6446,
        1.8418,
        0.6823,
        6.2478,
        7.3614,
    )


# ---------------------------------------------------------------------------------------------------------- schedules


def rates(steps, first=0):
    """The rate during each of the steps, of which the first has the number `first`."""
    return [learning_rate(step + 1 - first) for step in steps]


def multiples(names):
    """lr_mult and weight_decay of the groups of a small net with the recipe's other settings: {True for the trunk, or False: set of pairs}."""
    put(N_LAYERS=18, PRETRAINED='', N_CLASSES=3)
    found = {True: set(), False: set()}
    for group in param_groups(build()):
        for name in group['names']:
            if re.search(names, name):
                found[name.startswith('extractor.')].add((group['lr_mult'], group['weight_decay']))
    return found


@pytest.mark.parametrize(
    'name', [n for n in TABLE if TABLE[n][0]['DECAY'] == 'all' and not TABLE[n][0]['LR_MIN']]
)
def test_schedule_of_semseg_and_mxnetseg(name):
    """Both columns of the reference: trunk, new modules. It is semseg's of 50 epochs of VOC; others take their own length, at the same shares of it.
    MXNetSeg's (GluonCV's poly) is the same from its own rate, and in some runs new modules have the trunk's."""
    meta, want = gold('lr_semseg')
    config.override([path(name)])
    if settings.DATASET == 'voc' and TABLE[name][0] is SEMSEG:
        assert meta['args']['max_iter'] == settings.ITER_MAX
    if TABLE[name][0] is not SEMSEG:
        put(LR=1e-2)  # its own is in TABLE
    factor = TABLE[name][0]['HEAD_LR_MULT']
    put(ITER_MAX=meta['args']['max_iter'])
    assert multiples('') == {True: {(1.0, 1e-4)}, False: {(factor, 1e-4)}}
    found = np.outer(rates(want['step'].tolist()), [1, 10])
    np.testing.assert_allclose(found, want['lr'], rtol=meta['tolerance']['rel'], atol=0)


@pytest.mark.parametrize('name', [n for n in TABLE if TABLE[n][0]['LR_POLICY'] == 'cosine'])
def test_schedule_of_the_detectron2_variant(name):
    """The reference's first column. The second is twice that, for the two convolutions of the head that have a bias; here all biases learn alike."""
    meta, want = gold('lr_emanet_d2')
    config.override([path(name)])
    found = rates(want['step'].tolist())
    np.testing.assert_allclose(found, want['lr'][:, 0], rtol=meta['tolerance']['rel'], atol=0)
    assert multiples('conv|downsample.0') == {
        True: {(1.0, 1e-4)},
        False: {(1.0, 1e-4), (1.0, 0.0)},
    }  # the last: biases
    assert multiples('bn') == {True: {(1.0, 0.0)}, False: {(1.0, 0.0)}}


@pytest.mark.parametrize(
    'name', [n for n in TABLE if TABLE[n][0]['LR_DECAY'] and TABLE[n][0]['LR_POLICY'] == 'poly']
)
def test_schedule_of_the_official_code(name):
    meta, want = gold('lr_official')
    config.override([path(name)])
    put(LR=meta['args']['base_lr'], ITER_MAX=meta['args']['max_iter'])
    np.testing.assert_allclose(
        rates(want['step'].tolist(), first=1),
        want['lr'][:, 0],
        rtol=meta['tolerance']['rel'],
        atol=0,
    )


# --------------------------------------------------------------------------------------------------------- two steps


class Eighth:
    """A factor of whole numbers."""

    def __rmul__(self, number):
        return number // 8


class Narrow(network.BasicBlock):
    """A block with an eighth of the channels."""

    expansion = Eighth()

    def __init__(self, c_in, c, *args):
        super().__init__(c_in, c // 8, *args)


@pytest.fixture
def narrow(monkeypatch):
    """ResNet-18 with an eighth of its channels: a network of the same layers whose checkpoints are written at once."""
    monkeypatch.setitem(network.RESNETS, 18, (Narrow, network.RESNETS[18][1]))


NARROW = {'width': 16, 'low': 8, 'between': 16}  # arguments of heads


@pytest.mark.parametrize('name', TABLE)
def test_two_steps_on_a_stand_in(name, tmp_path, signals_restored, narrow):
    """train.py with every recipe, small and narrow, on a tiny tree in its data set's real layout; all that it writes at the end is there."""
    config.override(
        [
            path(name),
            'N_LAYERS=18',
            'STEM=plain',
            'PRETRAINED=',
            'INIT=',
            'BATCH_SIZE=2',
            'CROP_SIZE=65',
            'NUM_WORKERS=0',
            'EM_CHANNELS=32',
            'EM_BASES=8',
            'HEAD_CHANNELS=32',
            'ITER_MAX=2',
            f'MODEL_DIR={tmp_path}/models',
            f'LOG_DIR={tmp_path}/logdir',
            'AMP=off',
        ]
    )
    if settings.SHORT_SIDE:
        put(SHORT_SIDE=((65, 73), 97))
    if settings.BASE_SIZE:
        put(BASE_SIZE=97)
    if settings.HEAD in HEADS:
        own = HEADS[settings.HEAD].arguments()
        put(HEAD_ARGS={k: n for k, n in NARROW.items() if k in own} | settings.HEAD_ARGS)
    if settings.TEST_SHORT_SIDE:
        put(TEST_SHORT_SIDE=(65, 97))
    if settings.TEST_BASE_SIZE:
        put(TEST_BASE_SIZE=97)
    if settings.TEST_CROP:
        put(TEST_CROP=65)
    stand_in(settings.DATASET, tmp_path, count=2)
    assert train.main() is None
    with open(tmp_path / 'logdir' / name / 'log.jsonl') as f:
        lines = [json.loads(line) for line in f]
    assert lines[-1]['step'] == 2 and np.isfinite(
        [line['loss'] for line in lines if 'loss' in line][0]
    )
    assert ('val/mIoU' in lines[-1]) == bool(settings.ITER_VAL)
    final = torch.load(tmp_path / 'models' / name / 'final.pth', weights_only=True)
    assert final['step'] == 2 and final['settings']['DATASET'] == settings.DATASET
