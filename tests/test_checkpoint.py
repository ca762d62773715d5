"""Checkpoints of every family: known by their names, loaded with the settings that they bring along."""

import glob
import os
import re
import shlex

import pytest
import torch
import torchvision
from golden import recipe
from helpers import assert_close, build, gold, put, small_net, strides
from test_golden import CONTAINERS, NETWORKS
from torch import nn

import checkpoint
import dataset
import network
import settings
from conversion import describe, families, names, sentences
from heads import HEADS
from heads.blocks import Head
from utils import config, older, script
from utils.config import UserError
from utils.kept import sift

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
RECIPES = sorted(glob.glob(os.path.join(ROOT, 'recipes', '*.py')))
SHIPPED = config.current()
REFERENCES = {  # names as their makers have them, in the references; and the family
    'emanet_r50_s8_97x97': families.OWN,
    'emanet_d2_r50_s8_65x65': 'detectron2 EMANet',
    'pspnet_r50_97x97': 'semseg',
    'psanet_r50_t0_97x97': 'semseg',
    'psanet_r50_t2_97x97': 'semseg',
    'psanet_r50_t2_compact_97x97': 'semseg',
    'danet_r50_mg4816_65x65': 'DANet',
    'danet_d2_r50_65x65': 'detectron2 DANet',
}
RELEASED_PSA = {'compact': False, 'shrink': 2, 'softmax': True}
HEAD_ARGS = {  # in force after loading
    'psanet_r50_t0_97x97': RELEASED_PSA | {'mask': 13, 'type': 'collect'},
    'psanet_r50_t2_97x97': RELEASED_PSA | {'mask': 13, 'type': 'both'},
    'psanet_r50_t2_compact_97x97': RELEASED_PSA | {'mask': 7, 'type': 'both'},
    'danet_r50_mg4816_65x65': {'d2': False},
    'danet_d2_r50_65x65': {'d2': True},
    'torchvision fcn': {},
    'torchvision deeplabv3': {'paper': False, 'rates': (12, 24, 36)},
}
TORCHVISION = dict(
    STEM='plain', MULTI_GRID=(1, 1, 1), UPSAMPLE='centres', AUX_WEIGHT=0.4, N_LAYERS=50
)


def empty(keys):
    """A state dict of these shapes that takes no room."""
    return {k: torch.zeros(()).expand(shape) for k, shape in keys.items()}


def light(n_classes=None, **values):
    """The network that settings describe, without numbers."""
    put(**dict(PRETRAINED='') | values)
    with torch.device('meta'):
        return build(n_classes)


def save(path, file):
    torch.save(file, path)
    return str(path)


def reference(name):
    """(file as its makers save it, settings it must bring, number of classes)."""
    if name.startswith('torchvision'):
        head = name.split()[1]
        with torch.device('meta'):
            theirs = torchvision.models.get_model(
                head + '_resnet50', weights=None, weights_backbone=None, aux_loss=True
            )
        width = 512 if head == 'fcn' else 256
        brought = TORCHVISION | dict(HEAD=head, HEAD_CHANNELS=width)
        file, n_classes = empty({k: v.shape for k, v in theirs.state_dict().items()}), 21
    else:
        meta, _ = gold(name)
        brought = {'N_LAYERS': meta['args']['layers']} | NETWORKS[name]
        file = CONTAINERS[meta['reference']['repo']](empty(meta['keys']))
        n_classes = meta['args']['classes']
    every = {k: SHIPPED[k] for k in describe.NETWORK} | {'HEAD_ARGS': {}}
    every |= {k: v for k, v in brought.items() if k in every}
    return file, every | {'HEAD_ARGS': HEAD_ARGS.get(name, {})}, n_classes


def in_force(wanted):
    """The settings in force that `wanted` names and a network with its head has."""
    unit = () if wanted['HEAD'] == 'ema' else describe.EM_UNIT
    return {k: getattr(settings, k) for k in wanted if k not in unit}


@pytest.mark.parametrize('name, family', REFERENCES.items())
def test_known_by_names_alone(name, family):
    meta, _ = gold(name)
    bare = {k.removeprefix('module.'): torch.empty(0) for k in meta['keys']}
    prefixed = {'module.' + k: v for k, v in bare.items()}
    for file in (bare, prefixed, {'state_dict': prefixed, 'epoch': 3}, {'model': bare}):
        known, state = names.rename(names.state_dict(file, name), name)
        assert known == family
        assert set(state) == set(light(N_LAYERS=50, **NETWORKS[name]).state_dict())


# ------------------------------------------------------------------- a checkpoint brings its settings


@pytest.fixture
def built_once(monkeypatch):
    """Networks without numbers, each built once: hundreds of files load in seconds."""
    built, real = {}, network.build

    def build_light(n_classes, values, *args):
        key = n_classes, *(repr(getattr(values, k)) for k in (*describe.NETWORK, 'CROP_SIZE'))
        if key not in built:
            with torch.device('meta'):
                built[key] = real(n_classes, values, *args)
        return built[key]

    monkeypatch.setattr(network, 'build', build_light)
    monkeypatch.setattr(checkpoint, 'copy', lambda *args: None)


@pytest.mark.parametrize('name', [*REFERENCES, 'torchvision fcn', 'torchvision deeplabv3'])
def test_every_family_from_every_recipe(name, built_once, monkeypatch):
    """Whatever settings say of the network, a file loads, and its settings are in force."""
    file, wanted, n_classes = reference(name)
    monkeypatch.setattr(checkpoint, 'read', lambda path: file)
    lines = set()
    for start in ([], *([path] for path in RECIPES)):
        config.put(SHIPPED)
        config.override(start)
        if settings.DATASET == 'folder':  # there is none here
            config.put({'DATASET': 'voc'})
        net, report = checkpoint.load_network('net.pth')
        now = in_force(wanted)
        assert bool(now['AUX_WEIGHT']) == bool(wanted['AUX_WEIGHT'])
        assert now == {k: wanted[k] for k in now} | {'AUX_WEIGHT': now['AUX_WEIGHT']}, start
        assert dataset.n_classes() == n_classes
        assert len(report.matched) > 100 and '\n' in str(report)
        lines.add(re.sub('AUX_WEIGHT=[0-9.]+', '', str(report)))
    (line,) = lines  # the same, wherever one starts
    assert line.count('\n') == 1 and '\nfrom the file: N_LAYERS=50 ' in line
    for k in wanted:
        if k in now and not (k == 'HEAD_ARGS' and not wanted[k]) and k != 'AUX_WEIGHT':
            assert f'{k}=' in line.split('\n')[1], k


def test_stride_normalisation_and_grid_that_no_tensor_tells(built_once, monkeypatch):
    """What released networks have is used, and said; none of it follows from settings in force."""
    for name, values, words in (
        ('emanet_r50_s8_97x97', dict(EM_NORM='layer'), 'as the official code has it: .*EM_NORM=l2'),
        ('pspnet_r50_97x97', dict(STRIDE=32), 'as semseg has it: STRIDE=8 .*FIRST_BLOCK=all'),
        ('danet_r50_mg4816_65x65', dict(STRIDE=32), 'as DANet has it: STRIDE=8'),
        (
            'danet_r50_mg4816_65x65',
            dict(MULTI_GRID=(1, 1, 1)),
            r'MULTI_GRID=\(1, 2, 4\)" FIRST_BLOCK=layer4',
        ),
        ('emanet_d2_r50_s8_65x65', dict(CHANNELS='rgb'), 'CHANNELS=bgr.*EM_GRAD=True'),
    ):
        file, wanted, _ = reference(name)
        monkeypatch.setattr(checkpoint, 'read', lambda path, file=file: file)
        put(**SHIPPED | values)
        _, report = checkpoint.load_network('net.pth')
        assert in_force(wanted) == {k: wanted[k] for k in in_force(wanted)}
        assert re.search(words, str(report)) and 'command line' not in str(report)


@torch.no_grad()
def test_a_danet_is_not_loaded_as_its_other_trunk(tmp_path):
    """The labels of the reference come out, though settings have another grid, norm and stride."""
    meta, want = gold('danet_r50_mg4816_65x65')
    path = save(tmp_path / 'net.pth', {'state_dict': recipe.weights(meta['keys'])})
    put(MULTI_GRID=(1, 1, 1), FIRST_BLOCK='half', STRIDE=32, UPSAMPLE='centres')
    net, _ = checkpoint.load_network(path)
    image = recipe.image(*(meta['args']['input'][k] for k in ('h', 'w', 'seed')))
    labels = net.eval()(image).argmax(1).numpy()
    assert (labels == want['argmax']).mean() >= meta['tolerance']['argmax_agreement']


def test_a_released_network_of_cityscapes_has_another_stride(built_once, monkeypatch):
    file, *_ = reference('emanet_d2_r50_s8_65x65')
    for key in ('weight', 'bias'):
        tensor = file['model'][f'sem_seg_head.predictor.2.{key}']
        file['model'][f'sem_seg_head.predictor.2.{key}'] = tensor[:19]
    monkeypatch.setattr(checkpoint, 'read', lambda path: file)
    checkpoint.load_network('net.pth')
    assert settings.STRIDE == 16 and settings.N_CLASSES == 19


@pytest.mark.parametrize(
    'name, values, words',
    [
        ('pspnet_r50_97x97', dict(HEAD='fcn'), 'HEAD=fcn .*tensors of net.pth.* have HEAD=psp;'),
        ('pspnet_r50_97x97', dict(N_LAYERS=101), 'N_LAYERS=101 .* have N_LAYERS=50;'),
        ('pspnet_r50_97x97', dict(STEM='plain'), 'STEM=plain .* have STEM=deep;'),
        ('pspnet_r50_97x97', dict(HEAD_CHANNELS=256), 'HEAD_CHANNELS=256 .* HEAD_CHANNELS=512;'),
        ('pspnet_r50_97x97', dict(N_CLASSES=19), 'N_CLASSES=19 .* have N_CLASSES=21;'),
        ('pspnet_r50_97x97', dict(AUX_WEIGHT=0.0), 'AUX_WEIGHT=0.0 .* have AUX_WEIGHT=0.4;'),
        ('emanet_r50_s8_97x97', dict(EM_BASES=8), 'EM_BASES=8 .* have EM_BASES=64;'),
        ('emanet_r50_s8_97x97', dict(EM_CHANNELS=8), 'EM_CHANNELS=8 .* have EM_CHANNELS=512;'),
        ('emanet_r50_s8_97x97', dict(SECOND_CONV=False), 'SECOND_CONV=False .* SECOND_CONV=True;'),
        ('emanet_r50_s8_97x97', dict(AUX_WEIGHT=0.4), 'AUX_WEIGHT=0.4 .* have AUX_WEIGHT=0.0;'),
        ('danet_r50_mg4816_65x65', dict(HEAD_ARGS={'d2': True}), "'d2': True}.*'d2': False}"),
        ('psanet_r50_t2_97x97', dict(HEAD_ARGS={'mask': 11}), "'mask': 11}.*'mask': 13"),
        ('psanet_r50_t2_97x97', dict(HEAD_ARGS={'type': 'collect'}), "'collect'}.*'type': 'both'"),
        ('psanet_r50_t2_97x97', dict(STRIDE=16, N_LAYERS=101), '^N_LAYERS=101 on the'),
    ],
)
def test_the_command_line_against_tensors(name, values, words, built_once, monkeypatch):
    """One sentence names both values; from settings.py or a recipe the same value is no matter."""
    file, *_ = reference(name)
    monkeypatch.setattr(checkpoint, 'read', lambda path: file)
    put(**values)
    with pytest.raises(UserError, match=words) as e:
        checkpoint.load_network('net.pth', explicit={*values, 'NAME', 'TEST_FLIP'})
    assert '\n' not in str(e.value) and 'leave it out' in str(e.value)
    checkpoint.load_network('net.pth')


@pytest.mark.parametrize(
    'name, values',
    [
        ('pspnet_r50_97x97', dict(STRIDE=16, UPSAMPLE='centres')),
        ('danet_r50_mg4816_65x65', dict(MULTI_GRID=(1, 1, 1), FIRST_BLOCK='half', STEM='caffe')),
        ('emanet_r50_s8_97x97', dict(EM_NORM='layer', STAGE_NUM=5)),
        ('psanet_r50_t0_97x97', dict(HEAD_ARGS={'type': 'distribute', 'softmax': False})),
        ('psanet_r50_t2_compact_97x97', dict(HEAD_ARGS={'compact': True})),
    ],
)
def test_the_command_line_takes_precedence(name, values, built_once, monkeypatch):
    """Where no tensor contradicts it; the report says so."""
    file, *_ = reference(name)
    monkeypatch.setattr(checkpoint, 'read', lambda path: file)
    put(**values)
    _, report = checkpoint.load_network('net.pth', explicit=set(values))
    for key, value in values.items():
        now = getattr(settings, key)
        assert now == (now | value if key == 'HEAD_ARGS' else value)
    source, _, kept = str(report).partition('kept from the command line: ')
    assert sorted(shlex.split(kept)) == sorted(f'{k}={v}' for k, v in values.items())
    assert not any(f'{k}=' in source for k in values if k != 'HEAD_ARGS')


def test_masks(built_once, monkeypatch):
    """Sides that no tensor tells: an odd square is of offsets, an even one of positions."""
    file, *_ = reference('psanet_r50_t2_97x97')
    monkeypatch.setattr(checkpoint, 'read', lambda path: file)
    state = file['state_dict']

    def cells(n):
        for key in ('attention', 'attention_p'):
            shape = n, *state[f'module.psa.{key}.3.weight'].shape[1:]
            state[f'module.psa.{key}.3.weight'] = torch.zeros(()).expand(shape)

    cells(64)
    checkpoint.load_network('net.pth')
    assert settings.HEAD_ARGS['mask'] == 8 and settings.HEAD_ARGS['compact'] is True
    assert settings.CROP_SIZE == settings.TEST_CROP == (113, 113)
    put(**SHIPPED)
    put(TEST_CROP=65)  # on the command line: eval.protocol says that it does not suit
    checkpoint.load_network('net.pth', explicit={'TEST_CROP'})
    assert settings.TEST_CROP == 65
    put(**SHIPPED)
    cells(91)
    with pytest.raises(UserError, match=r'the mask of this PSANet has 91 cells, .*HEAD_ARGS=\{'):
        checkpoint.load_network('net.pth')
    put(**SHIPPED)
    put(HEAD_ARGS={'mask': (7, 13)})
    checkpoint.load_network('net.pth', explicit={'HEAD_ARGS'})
    assert settings.HEAD_ARGS['mask'] == (7, 13) and not settings.HEAD_ARGS['compact']
    put(**SHIPPED)
    put(CROP_SIZE=(49, 97))  # from which such a mask follows
    checkpoint.load_network('net.pth')
    assert settings.HEAD_ARGS['mask'] == (7, 13)


def test_official_file_has_the_official_trunk(tmp_path):
    """It is known by its step without settings; files of this project bring theirs, or nothing."""
    other = dict(N_LAYERS=50, FIRST_BLOCK='layer4', EM_NORM='layer')
    state = empty({k: v.shape for k, v in light(**other).state_dict().items()})
    checkpoint.load_network(save(tmp_path / 'official.pth', {'net': state, 'step': 30000}))
    assert settings.FIRST_BLOCK == 'half' and settings.EM_NORM == 'l2'
    put(**other)
    file = {'net': state, 'step': 30000, 'settings': config.current()}
    put(**SHIPPED)
    checkpoint.load_network(save(tmp_path / 'own.pth', file))
    assert {k: getattr(settings, k) for k in other} == other
    for bare in ({'net': state}, state):
        _, report = checkpoint.load_network(save(tmp_path / 'bare.pth', bare))
        assert settings.EM_NORM == 'layer' and 'all else as settings say' in str(report)


@pytest.mark.parametrize('head', ['fcn', 'deeplabv3'])
@torch.no_grad()
def test_torchvision(head, tmp_path):
    """fcn_resnet50 and deeplabv3_resnet50, with their auxiliary heads: the same numbers."""
    torch.manual_seed(0)
    theirs = torchvision.models.get_model(
        head + '_resnet50', weights=None, weights_backbone=None, aux_loss=True
    ).eval()
    for key, value in theirs.state_dict().items():
        if key.endswith(('running_mean', 'running_var', 'bias')):
            value.uniform_(0.5, 1.5) if key.endswith('var') else value.uniform_(-0.2, 0.2)
    path = save(tmp_path / 'net.pth', theirs.state_dict())
    net, report = checkpoint.load_network(path)
    assert settings.AUX_WEIGHT == 0.4 and settings.UPSAMPLE == 'centres'
    family = f'torchvision {"FCN" if head == "fcn" else "DeepLabv3"}'
    assert family in report.format and not report.unexpected
    net.eval()
    image = recipe.image(57, 65, 0)
    wanted = theirs(image)
    assert_close(net(image), wanted['out'], 1e-4, 'logits')
    aux = net.enlarge(net.aux(net.maps(image)[2]), (57, 65))
    assert_close(aux, wanted['aux'], 1e-4, 'auxiliary logits')


# -------------------------------------------------------------------------------- files of this project


def own(tmp_path, **values):
    """A checkpoint of this project's network with these settings, which then are back to what they were."""
    small_net()
    now = config.current()
    put(**values)
    path = save(
        tmp_path / 'own.pth',
        {'net': build().state_dict(), 'step': 2, 'settings': config.current()},
    )
    config.put(now)
    return path


@pytest.mark.parametrize(
    'values',
    [
        dict(HEAD='psa', HEAD_ARGS={'type': 'distribute'}, CROP_SIZE=65),
        dict(HEAD='psa', HEAD_ARGS={'compact': True}, CROP_SIZE=65),
        dict(HEAD='psa', CROP_SIZE=(65, 97)),
        dict(HEAD='psp', HEAD_ARGS={'bins': (1, 2)}),
        dict(HEAD='deeplabv3', HEAD_ARGS={'paper': True}),
        dict(HEAD='semanticfpn', STRIDE=32),
        dict(HEAD='danet', HEAD_ARGS={'d2': True}),
        dict(HEAD='bisenet', STRIDE=32, HEAD_CHANNELS=24),
        dict(EM_BASES=4, SECOND_CONV=False, EM_NORM='layer', STAGE_NUM=5),
        dict(N_LAYERS=34, AUX_WEIGHT=0.4, STRIDE=16, MULTI_GRID=(1, 1, 1), FIRST_BLOCK='all'),
        dict(N_CLASSES=9, CHANNELS='bgr', MEAN=(0.1, 0.2, 0.3), UPSAMPLE='centres'),
    ],
)
def test_a_file_brings_its_settings(values, tmp_path):
    """From whatever settings; from those of the file the logits are the same."""
    path = own(tmp_path, **values)
    config.put(SHIPPED)
    put(DATASET='shapes', CROP_SIZE=513, HEAD_ARGS={'width': 8})
    net, report = checkpoint.load_network(path)
    assert len(report.matched) > 60 and report.step == 2
    for key, value in values.items():
        if key == 'HEAD_ARGS':
            assert settings.HEAD_ARGS | value == settings.HEAD_ARGS
        elif key != 'CROP_SIZE':
            assert getattr(settings, key) == value
    assert report.settings['DATASET'] == 'shapes' and 'trained on' not in str(report)
    small_net(**values)
    same = build()
    same.load_state_dict(torch.load(path, weights_only=True)['net'])
    image = recipe.image(65, 97 if values.get('CROP_SIZE') == (65, 97) else 65, 1)
    with torch.no_grad():
        assert (net.eval()(image) == same.eval()(image)).all()


@pytest.mark.parametrize('compact', [True, False])
def test_masks_of_the_other_kind(compact, tmp_path):
    """No tensor tells them apart where the side is odd, but the settings in the file do."""
    path = own(tmp_path, HEAD='psa', HEAD_ARGS={'compact': compact, 'mask': 3}, CROP_SIZE=65)
    config.put(SHIPPED)
    put(HEAD_ARGS={'compact': not compact})
    with pytest.raises(UserError, match=r"^\"HEAD_ARGS=\{'compact': .*contradicts the tensors"):
        checkpoint.load_network(path, explicit={'HEAD_ARGS'})


def test_names_of_older_versions(tmp_path):
    """Files that keep settings by their old names load as they did; all were translated."""
    path = own(tmp_path, HEAD='psa', HEAD_ARGS={'mask': (3, 5), 'softmax': False})
    file = torch.load(path, weights_only=True)
    del file['settings']['HEAD_ARGS']
    file['settings'] |= {
        'PSA_MASK': (3, 5), 'PSA_SOFTMAX': False, 'PSA_TYPE': 'both', 'PSA_SHRINK': 2,
        'PSA_COMPACT': False, 'PSP_BINS': (1, 2, 3), 'DANET_D2': True, 'TEST_MODE': 'val',
    }  # fmt: skip
    checkpoint.load_network(save(tmp_path / 'old.pth', file))
    assert settings.HEAD_ARGS == {'mask': (3, 5), 'softmax': False}


@pytest.mark.parametrize(
    'kept, today',
    [
        (dict(HEAD='psp', PSP_BINS=(1, 2)), dict(HEAD='psp', HEAD_ARGS={'bins': (1, 2)})),
        (dict(HEAD='psp', PSP_BINS=(1, 2, 3, 6)), dict(HEAD='psp', HEAD_ARGS={})),
        (dict(HEAD='psp', HEAD_ARGS={'bins': (1, 2, 3, 6)}), dict(HEAD='psp', HEAD_ARGS={})),
        (dict(HEAD='danet', DANET_D2=True), dict(HEAD='danet', HEAD_ARGS={'d2': True})),
        (
            dict(HEAD='deeplabv3', DEEPLABV3_PAPER=True, DEEPLABV3_RATES=None),
            dict(HEAD='deeplabv3', HEAD_ARGS={'paper': True}),
        ),
        (
            dict(HEAD='deeplabv3plus', DEEPLABV3PLUS_RATES=(6, 12, 18), DEEPLABV3_RATES=(1,)),
            dict(HEAD='deeplabv3plus', HEAD_ARGS={'rates': (6, 12, 18)}),
        ),
        (
            dict(LOSS='ohem', OHEM_THRESHOLD=0.6, OHEM_KEEP=100_000, LABEL_SMOOTHING=0.1),
            dict(LOSS='ohem', LOSS_ARGS={'threshold': 0.6, 'smoothing': 0.1}),
        ),
        (dict(LOSS='focal', FOCAL_GAMMA=1.5), dict(LOSS='focal', LOSS_ARGS={'gamma': 1.5})),
        (dict(LOSS='dice', FOCAL_GAMMA=1.5), dict(LOSS='dice', LOSS_ARGS={})),
        (dict(SCALE_MODE='range', SCALES=(0.5, 1.0, 2.0)), dict(SCALES=(0.5, 2.0))),
        (dict(SCALE_MODE='choice', SCALES=(0.5, 2.0)), dict(SCALES=(0.5, 0.5, 2.0, 2.0))),
        (dict(SCALE_MODE='choice', SCALES=(0.5, 1.0, 2.0)), dict(SCALES=(0.5, 1.0, 2.0))),
        (dict(SCALE_MODE='range', SHORT_SIDE=(600, 640, 700)), dict(SHORT_SIDE=(600, 700))),
        (dict(SCALE_MODE='range', SHORT_SIDE=(640, 600, 700)), dict(SHORT_SIDE=(600, 700))),
        (dict(SCALE_MODE='range', SHORT_SIDE=None), dict(SHORT_SIDE=None)),
        (
            dict(SCALE_MODE='range', SHORT_SIDE=(600, 700), SCALES=(0.5, 1.0, 2.0)),
            dict(SHORT_SIDE=(600, 700), SCALES=(0.5, 1.0, 2.0)),
        ),
        (dict(LR_POLICY='step', LR_STEPS=(5, 8)), dict(LR_POLICY=(5, 8))),
        (dict(LR_POLICY='poly', LR_STEPS=(5, 8)), dict(LR_POLICY='poly')),
        (dict(STEM='plain', STRIDE_IN_1X1=True), dict(STEM='caffe')),
        (dict(STEM='plain', STRIDE_IN_1X1=False), dict(STEM='plain')),
        (
            dict(STEM='plain', STRIDE_IN_1X1=True, N_LAYERS=18),  # without bottlenecks
            dict(STEM='plain', N_LAYERS=18),
        ),
        (
            dict(HEAD='psa', HEAD_ARGS={'mask': (5, 5)}),
            dict(HEAD='psa', HEAD_ARGS={'mask': 5}),
        ),
        (dict(TEST_GRID=2, TEST_MODE='test', TEST_STRIDE_RATE=0.5, TEST_AVERAGE='logit'), {}),
        (
            {'N_LAYERS': 'x', 'GONE': 1, 'LR': torch.ones(3), 5: 6, 'HEAD': ['psa']},
            dict(HEAD_ARGS={}),
        ),
    ],
)
def test_translation(kept, today):
    assert sift(kept)[0] == today


OLD_NAMES = sorted(
    {old for old, *_ in older.MOVED} | {'SCALE_MODE', 'STRIDE_IN_1X1', 'LR_STEPS', *older.GONE}
)


@pytest.mark.parametrize('name', OLD_NAMES)
def test_a_recipe_with_a_name_of_older_versions(name, tmp_path):
    """Such as the settings of a run made then; the docs have every name."""
    path = tmp_path / 'old.py'
    path.write_text(f'LR = 0.1\n{name} = None\n')
    with pytest.raises(config.UsageError) as e:
        config.read_recipe(str(path))
    start, end = f'{path}, line 2: the setting {name} was removed; ', 'Removed settings)'
    words = str(e.value)
    assert words.startswith(start) and words.endswith(end) and 'did you mean' not in words
    with pytest.raises(config.UsageError, match=f'^{name}=1: the setting {name} was removed; '):
        config.override([f'{name}=1'])
    with open(os.path.join(ROOT, 'docs', 'checkpoints.md')) as f:
        removed = f.read().partition('\n## Removed settings\n')[2].partition('\n## ')[0]
    assert re.search(rf'^\| [^|]*\b{name}\b[^|]* \|', removed, re.M)


def test_what_replaces_a_name_of_older_versions():
    assert older.replacement('PSP_BINS') == "use HEAD_ARGS={'bins': ...} with HEAD=psp"
    assert older.replacement('OHEM_KEEP') == "use LOSS_ARGS={'keep': ...} with LOSS=ohem"
    assert older.replacement('SCALE_MODE').startswith('two values in SCALES or SHORT_SIDE')
    assert older.replacement('LR') is older.replacement('NONSENSE') is None


def test_what_older_versions_could_do():
    """Settings that have no like today stop a run or a file; iterations of evaluation are kept."""
    names = list(config.current())
    kept = SHIPPED | dict(EXTRA_WEIGHTS=(0.5, 0.5), HEAD='danet')
    put(HEAD='danet')
    (sentence,) = checkpoint.differences(kept, names)
    assert 'EXTRA_WEIGHTS was (0.5, 0.5), and can no longer be set' in sentence
    for usual in (None, (1.0, 1.0)):
        assert checkpoint.differences(kept | dict(EXTRA_WEIGHTS=usual), names) == []


@pytest.mark.parametrize('n_layers, told', [(101, True), (18, False)])
def test_a_deep_stem_with_strides_in_1x1_is_another_network(n_layers, told):
    """It is no longer here; in a trunk without bottlenecks that setting did nothing."""
    put(N_LAYERS=n_layers)
    kept, names = config.current() | dict(STRIDE_IN_1X1=True), list(config.current())
    sentence = "STRIDE_IN_1X1 was True, and can no longer be set with STEM='deep'"
    assert checkpoint.differences(kept, names) == ([sentence] if told else [])
    assert ('STRIDE_IN_1X1' in older.translated(kept)) == told
    assert checkpoint.differences(kept | dict(STRIDE_IN_1X1=False), names) == []
    put(STEM='caffe')
    assert checkpoint.differences(kept | dict(STEM='plain'), names) == []


@pytest.mark.parametrize('stages, head, told', [
    (5, 'ema', True), (3, 'ema', False), (None, 'ema', False), (5, 'fcn', False),
])  # fmt: skip
def test_other_iterations_in_evaluation_are_another_run(stages, head, told):
    put(HEAD=head)
    kept, names = config.current() | dict(TEST_STAGE_NUM=stages), list(config.current())
    sentence = (
        'TEST_STAGE_NUM was 5, and evaluation can no longer have another number of EM iterations '
        'than STAGE_NUM'
    )
    assert checkpoint.differences(kept, names) == ([sentence] if told else [])


def test_a_probability_of_rotation_without_rotation():
    """Nothing reads it, whether kept or present; where one of them rotates, it counts."""
    names = list(config.current())
    kept = config.current() | dict(ROTATE_PROB=0.5)  # as an older version kept it
    assert checkpoint.differences(kept, names) == []
    put(ROTATE=10.0)
    assert checkpoint.differences(kept | dict(ROTATE=10.0), names) == [
        'ROTATE was (10.0, 0.5), is 10.0'
    ]
    put(ROTATE=(10.0, 0.5))
    assert checkpoint.differences(kept | dict(ROTATE=10.0), names) == []
    put(ROTATE=0.0)
    words = checkpoint.differences(kept | dict(ROTATE=10.0), names)
    assert words == ['ROTATE was (10.0, 0.5), is 0.0']


def test_a_start_says_what_was_trained_otherwise(tmp_path):
    path = own(tmp_path, STAGE_NUM=5)
    report = checkpoint.load_weights(build(), path, 'any')
    assert str(report).endswith('; trained with other settings: STAGE_NUM was 5, is 3')


def test_deep_stem_with_strides_in_1x1(tmp_path):
    net = light(N_LAYERS=50)
    state = empty({k: v.shape for k, v in net.state_dict().items()})
    kept = config.current() | dict(STRIDE_IN_1X1=True)
    path = save(tmp_path / 'net.pth', {'net': state, 'step': 1, 'settings': kept})
    with pytest.raises(UserError, match='STEM=deep and STRIDE_IN_1X1=True'):
        checkpoint.load_network(path)


def test_iterations_in_evaluation(tmp_path):
    path = own(tmp_path)
    file = torch.load(path, weights_only=True)
    file['settings'] |= {'TEST_STAGE_NUM': 7}
    net, _ = checkpoint.load_network(save(tmp_path / 'old.pth', file))
    assert settings.STAGE_NUM == net.emau.stage_num == 7


def test_the_data_of_another_file(tmp_path):
    path = own(tmp_path, DATASET='camvid')
    put(DATASET='voc')
    _, report = checkpoint.load_network(path, explicit={'DATASET'})
    assert 'it was trained on DATASET=camvid' in str(report)
    assert settings.DATASET == 'voc' and settings.N_CLASSES == 11
    _, report = checkpoint.load_network(path)
    assert str(report).endswith('; its data: DATASET=camvid')
    assert settings.DATASET == 'camvid' and settings.N_CLASSES == 11


def test_own_settings_against_the_command_line(tmp_path):
    path = own(tmp_path, EM_BASES=4, STRIDE=16)
    put(EM_BASES=8, STRIDE=8)
    with pytest.raises(UserError, match=r'^EM_BASES=8 on the command line .* have EM_BASES=4;'):
        checkpoint.load_network(path, explicit={'EM_BASES'})
    _, report = checkpoint.load_network(path, explicit={'STRIDE'})
    assert settings.STRIDE == 8 and settings.EM_BASES == 4
    assert 'kept from the command line: STRIDE=8; its data: ' in str(report)


@pytest.mark.parametrize('head', ['ema', *HEADS])
def test_head_is_told_by_names(head, tmp_path):
    """Bare weights: head and widths from names and shapes, the rest as settings say."""
    small_net(HEAD=head, STRIDE=strides(head)[0], HEAD_CHANNELS=24, N_CLASSES=9)
    path = save(tmp_path / 'net.pth', {'net': build().state_dict()})
    config.put(SHIPPED)
    put(DATASET='shapes', HEAD='fcn' if head != 'fcn' else 'ema', UPSAMPLE='centres')
    net, report = checkpoint.load_network(path)
    assert (head, 18, 'plain') == (settings.HEAD, settings.N_LAYERS, settings.STEM)
    assert settings.N_CLASSES == 9 and settings.UPSAMPLE == 'centres'
    assert settings.HEAD_CHANNELS == 24
    assert settings.STRIDE in strides(head)


@pytest.mark.parametrize(
    'values',
    [
        dict(HEAD='semanticfpn', STRIDE=32),
        dict(HEAD='psa', CROP_SIZE=(65, 97)),
        dict(HEAD='deeplabv3', HEAD_ARGS={'paper': True}),
        dict(HEAD='danet', HEAD_ARGS={'d2': True}),
        dict(SECOND_CONV=False, EM_BASES=5),
    ],
)
def test_bare_weights_are_known_by_names_and_shapes(values, tmp_path):
    path = own(tmp_path, **values)
    put(**{k: v for k, v in values.items() if k == 'CROP_SIZE'})
    bare = save(tmp_path / 'bare.pth', torch.load(path, weights_only=True)['net'])
    _, report = checkpoint.load_network(bare)
    assert not report.wrong
    for key, value in values.items():
        if key == 'HEAD_ARGS':
            assert value == settings.HEAD_ARGS
        else:
            assert getattr(settings, key) == value


def test_a_head_of_ones_own(tmp_path, monkeypatch):
    """Its files are known by their settings, bare weights by those in force."""

    class Mine(HEADS['psp']):
        pass

    monkeypatch.setitem(HEADS, 'mine', Mine)
    path = own(tmp_path, HEAD='mine')
    config.put(SHIPPED)
    put(DATASET='shapes')
    net, _ = checkpoint.load_network(path)
    assert settings.HEAD == 'mine' and type(net.head) is Mine
    bare = save(tmp_path / 'bare.pth', net.state_dict())
    put(STEM='deep', N_LAYERS=50)
    net, _ = checkpoint.load_network(bare)
    assert type(net.head) is Mine


class Deep(Head):
    """A head whose `out` has four layers: no rule knows which of them is the classifier."""

    def __init__(self, widths, n_classes, *, channels, dropout, norm):
        super().__init__()
        self.out = nn.Sequential(
            nn.Conv2d(widths[-1], channels, 3, padding=1),
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(channels, n_classes, 1),
        )

    def forward(self, c1, c2, c3, c4):
        return {'out': self.out(c4)}


@pytest.mark.parametrize('kept', [dict(n_classes=11), dict(N_CLASSES=11)])
def test_the_classes_of_a_head_of_ones_own(kept, tmp_path, monkeypatch):
    """The file says them: train.py saves their number, and N_CLASSES is among the settings."""
    monkeypatch.setitem(HEADS, 'deep', Deep)
    path = own(tmp_path, HEAD='deep', DATASET='camvid', N_CLASSES=kept.get('N_CLASSES'))
    file = torch.load(path, weights_only=True)
    file |= {k: v for k, v in kept.items() if k == 'n_classes'}
    config.put(SHIPPED)
    net, report = checkpoint.load_network(save(tmp_path / 'deep.pth', file))
    assert type(net.head) is Deep and not report.wrong
    assert dataset.n_classes() == settings.N_CLASSES == 11
    put(N_CLASSES=19)
    with pytest.raises(UserError, match='N_CLASSES=19 on the command line .* have N_CLASSES=11;'):
        checkpoint.load_network(str(tmp_path / 'deep.pth'), explicit={'N_CLASSES'})


def test_a_head_of_ones_own_without_a_number_of_classes(tmp_path, monkeypatch):
    """Older files and bare weights have none: the data set's, or those of the command line."""
    monkeypatch.setitem(HEADS, 'deep', Deep)
    path = own(tmp_path, HEAD='deep', DATASET='camvid')
    bare = save(tmp_path / 'bare.pth', torch.load(path, weights_only=True)['net'])
    put(HEAD='deep', DATASET='voc')
    for file in (path, bare):
        put(N_CLASSES=None)
        with pytest.raises(UserError, match=r'of another shape \(head\.out\.3\.weight'):
            checkpoint.load_network(file, explicit={'DATASET'})
        put(N_CLASSES=11)
        net, _ = checkpoint.load_network(file, explicit={'DATASET', 'N_CLASSES'})
        assert net.head.out[3].out_channels == 11


@pytest.mark.parametrize('number', [0, 255, -1, 2.0, True, 'x', None, 10**30])
def test_a_number_of_classes_that_is_none(number, tmp_path):
    file = torch.load(own(tmp_path), weights_only=True) | {'n_classes': number}
    net, _ = checkpoint.load_network(save(tmp_path / 'odd.pth', file))
    assert net.fc2.out_channels == dataset.n_classes()


def test_kept_settings_that_are_no_settings(tmp_path):
    """They are left out of account; names and shapes tell as much as they can."""
    path = own(tmp_path, EM_BASES=4, STRIDE=16)
    file = torch.load(path, weights_only=True)
    file['settings'] |= {'N_LAYERS': 'x', 'GONE': 1, 'EM_BASES': None, 'STEM': torch.zeros(3)}
    file['settings'][7] = 'LR'
    config.put(SHIPPED)
    put(DATASET='shapes')
    checkpoint.load_network(save(tmp_path / 'odd.pth', file))
    assert (settings.N_LAYERS, settings.EM_BASES, settings.STRIDE) == (18, 4, 16)
    for wrong in (
        {'EM_BASES': 10**9, 'EM_CHANNELS': 10**9},
        {'HEAD': 'nonsense'},
        {'HEAD': 'psp', 'HEAD_ARGS': {'bins': 'x'}},
        {'HEAD': 'psa', 'HEAD_ARGS': {'mask': 'x', 'shrink': 0}},
        {'HEAD': 'psp', 'HEAD_ARGS': {5: 'x'}},
    ):
        sick = file | {'settings': file['settings'] | wrong}
        with pytest.raises((UserError, ValueError)) as e:
            checkpoint.load_network(save(tmp_path / 'odd.pth', sick))
        assert 'odd.pth' in str(e.value) and '\n' not in str(e.value)
        assert script.sentence(e.value)


# ------------------------------------------------------------------------------------ files that do not do


@pytest.mark.parametrize(
    'a, b, words',
    [
        ('emanet_r50_s8_97x97', 'pspnet_r50_97x97', 'EMANet.*extractor.*semseg.*layer0'),
        ('danet_r50_mg4816_65x65', 'danet_d2_r50_65x65', 'DANet.*and detectron2 DANet'),
        ('emanet_d2_r50_s8_65x65', 'danet_d2_r50_65x65', 'detectron2 EMANet.*detectron2 DANet'),
    ],
)
def test_two_families_in_one_file(a, b, words, tmp_path):
    keys = gold(a)[0]['keys'] | gold(b)[0]['keys']
    state = {k.removeprefix('module.'): v for k, v in empty(keys).items()}
    with pytest.raises(UserError, match='mixes families.*' + words):
        checkpoint.load_network(save(tmp_path / 'net.pth', state))


def test_unknown_family(tmp_path):
    path = save(tmp_path / 'net.pth', {'decoder.weight': torch.zeros(3)})
    with pytest.raises(UserError, match=r'decoder\.weight.*no family known here.*semseg'):
        checkpoint.load_network(path)


@pytest.mark.parametrize('name', REFERENCES)
def test_part_of_a_file(name, built_once, tmp_path):
    """The whole file loads; of a part, the sentence tells what is missing."""
    meta, _ = gold(name)
    keys = list(meta['keys'])

    def load(part):
        state = empty({k: meta['keys'][k] for k in part})
        checkpoint.load_network(save(tmp_path / 'net.pth', {'state_dict': state, 'step': 1}))

    load(keys)
    for part in (keys[:40], keys[-10:], keys[::2], keys[:-1]):
        put(**SHIPPED)
        with pytest.raises(
            UserError, match=r'\d missing \(.*it does not fit|belong to no family|trunk without'
        ) as e:
            load(part)
        assert '\n' not in str(e.value)


def test_a_trunk_is_called_a_trunk(tmp_path):
    shapes = {k: v.shape for k, v in torchvision.models.resnet18().state_dict().items()}
    path = save(tmp_path / 'net.pth', empty({k: v for k, v in shapes.items() if k[:2] != 'fc'}))
    words = 'a trunk without a head; training starts from it with PRETRAINED=FILE'
    for explicit in ((), ('HEAD', 'STRIDE')):
        with pytest.raises(UserError, match=words):
            checkpoint.load_network(path, explicit)


def test_names_that_come_twice(tmp_path):
    state = empty({k: v.shape for k, v in light(N_LAYERS=50).state_dict().items()})
    twice = save(tmp_path / 'net.pth', state | {'module.emau.mu': state['emau.mu']})
    with pytest.raises(UserError, match=r'emau\.mu twice, with and without a prefix'):
        checkpoint.load_network(twice)
    d2 = empty(gold('emanet_d2_r50_s8_65x65')[0]['keys'])
    twice = save(tmp_path / 'net.pth', d2 | {'emau.mu': d2['sem_seg_head.emau.mu']})
    words = r'the tensor emau\.mu of detectron2 EMANet under two names'
    with pytest.raises(UserError, match=words):
        checkpoint.load_network(twice)


def test_wrappings(tmp_path):
    """torch.compile's prefix, and a state dict within a dict within a dict."""
    net = light(N_LAYERS=50)
    state = empty({'_orig_mod.' + k: v.shape for k, v in net.state_dict().items()})
    path = save(tmp_path / 'net.pth', {'model': {'state_dict': state}})
    assert not checkpoint.load_network(path)[1].missing


def test_tensors_of_other_ranks(tmp_path):
    for keys in (
        {'layer0.0.weight': (), 'cls.4.weight': (3,)},
        {'extractor.0.0.weight': (), 'emau.mu': (2,), 'head.out.2.weight': ()},
        {'extractor.0.0.weight': (), 'head.directions.0.attention.1.weight': ()},
        {'fc2.weight': (3, 4, 1, 1), 'extractor.1.weight': ()},
    ):
        with pytest.raises(UserError, match='does not fit'):
            checkpoint.load_network(save(tmp_path / 'net.pth', empty(keys)))


def test_weights_that_are_not_finite(tmp_path):
    path = own(tmp_path)
    file = torch.load(path, weights_only=True)
    file['net']['fc2.weight'][0, 0] = float('inf')
    sick = save(tmp_path / 'sick.pth', file)
    with pytest.raises(UserError, match='these weights are not finite'):
        checkpoint.load_network(sick)
    with pytest.raises(UserError, match='these weights are not finite'):
        checkpoint.load_weights(build(), sick)


# ------------------------------------------------------------------------- into a network that settings describe


def test_a_start_says_what_its_makers_had(tmp_path):
    meta, _ = gold('emanet_d2_r50_s8_65x65')
    path = save(tmp_path / 'net.pth', {'model': empty(meta['keys'])})
    net = light(21, N_LAYERS=50)
    report = checkpoint.load_weights(net, path, 'any')
    assert 'its makers have FIRST_BLOCK=layer4 EM_GRAD=True CHANNELS=bgr' in str(report)
    put(FIRST_BLOCK='layer4', CHANNELS='bgr', EM_GRAD=True)
    assert 'its makers' not in str(checkpoint.load_weights(net, path, 'any'))


def test_trunks_of_segmentation_checkpoints(tmp_path):
    """PRETRAINED takes the trunk of any family."""
    meta, _ = gold('pspnet_r50_97x97')
    path = save(tmp_path / 'net.pth', {'state_dict': empty(meta['keys'])})
    report = checkpoint.load_weights(light(N_LAYERS=50), path, 'trunk')
    assert not report.missing and not report.wrong and not report.unexpected
    assert str(report).endswith('; its makers have "MULTI_GRID=(1, 1, 1)" FIRST_BLOCK=all')
    with pytest.raises(UserError, match='its trunk does not fit; to use it: N_LAYERS=50$'):
        checkpoint.load_weights(light(N_LAYERS=101), path, 'trunk')
    with pytest.raises(UserError, match='another trunk .* to start from it: N_LAYERS=50 STEM=deep'):
        checkpoint.load_weights(light(N_LAYERS=101), path, 'any')


def test_trunk_weights_that_are_missing():
    with pytest.raises(UserError, match='missing; docs/checkpoints.md, Trunk weights, says where'):
        checkpoint.load_trunk(light(N_LAYERS=50, PRETRAINED='no/such.pth'))
    with open(os.path.join(ROOT, 'docs', 'checkpoints.md')) as f:
        assert '\n## Trunk weights' in f.read()


def test_a_trunk_without_its_names(tmp_path):
    """No settings can be told of it."""
    path = save(tmp_path / 'net.pth', {'conv1.weight': torch.zeros(64, 3, 7, 7)})
    words = 'its trunk does not fit; name another by PRETRAINED=FILE$'
    with pytest.raises(UserError, match=words):
        checkpoint.load_weights(light(N_LAYERS=50), path, 'trunk')


def test_caffe_is_a_plain_stem(tmp_path):
    meta, _ = gold('danet_d2_r50_65x65')
    path = save(tmp_path / 'net.pth', {'model': empty(meta['keys'])})
    net = light(N_LAYERS=50, STEM='caffe')
    assert 'STEM' not in str(checkpoint.load_weights(net, path, 'trunk'))
    put(STEM='plain')
    assert 'its makers have ' in str(checkpoint.load_weights(net, path, 'any'))
    assert 'STEM=caffe' in str(checkpoint.load_weights(net, path, 'trunk'))


def test_everything_must_fit(tmp_path):
    """Into a given network, without `part`."""
    meta, _ = gold('danet_r50_mg4816_65x65')
    path = save(tmp_path / 'net.pth', {'state_dict': empty(meta['keys'])})
    values = NETWORKS['danet_r50_mg4816_65x65'] | dict(N_LAYERS=50)
    report = checkpoint.load_weights(light(19, **values), path)
    assert not report.missing and not report.wrong and not report.unexpected
    with pytest.raises(UserError, match='6 of another shape .*it does not fit'):
        checkpoint.load_weights(light(21, **values), path)


def test_what_is_released_are_settings():
    for family in families.FAMILIES.values():
        for values in (family.released, *family.by_classes.values()):
            for name, value in values.items():
                assert config.convert(name, value, 'here') == value
        for head, args in family.head_args.items():
            assert set(args) <= set(HEADS[head].arguments())
    for _, chosen_by, owner, name, _ in older.MOVED:
        if chosen_by == 'HEAD':
            assert name in HEADS[owner].arguments()
    assert set(sentences.TENSORS) - {'N_CLASSES'} <= set(describe.NETWORK) <= set(config.current())
    assert set(checkpoint.FREE) <= set(config.current())
    assert set(describe.marks()) == {'ema', *HEADS}
    for n_layers, (block, counts) in network.RESNETS.items():
        assert describe.BLOCKS[(*counts, block.expansion == 4)] == n_layers


@pytest.mark.parametrize('classes', [10, 5])
def test_other_classes_leave_the_classifier(classes, tmp_path):
    small_net(HEAD='danet')
    path = save(tmp_path / 'net.pth', {'net': build().state_dict()})
    report = checkpoint.load_weights(build(classes), path, 'any')
    classifier = [
        f'head.{k}.{n}' for k in ('aux.0.1', 'aux.1.1', 'out.1') for n in ('weight', 'bias')
    ]
    assert sorted(report.wrong) == ([] if classes == 10 else sorted(classifier))
    assert re.search('6 of another shape' if classes == 5 else 'tensors matched$', str(report))


def test_saving_is_all_or_nothing(tmp_path):
    """What was there stays until the new file is whole, and stays if it cannot be written."""
    path = tmp_path / 'new' / 'net.pth'
    checkpoint.save(str(path), {'step': 1})
    assert checkpoint.read(str(path)) == {'step': 1}
    before = path.read_bytes()
    with pytest.raises(AttributeError):
        checkpoint.save(str(path), {'step': lambda: 1})
    assert path.read_bytes() == before and os.listdir(path.parent) == ['net.pth']
    with pytest.raises(UserError, match='could not be written .*checkpoints before it are whole'):
        checkpoint.save(str(path / 'below.pth'), {})
