"""Checkpoints of every family: known by their names, loaded whole or with a sentence that names the settings to use."""

import re
import shlex

import pytest
import torch
import torchvision

import checkpoint
import families
import network
import settings
from golden import recipe
from helpers import assert_close, gold, put, small_net
from settings import UserError
from test_golden import CONTAINERS, NETWORKS

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


def empty(keys):
    """A state dict of these shapes that takes no room."""
    return {k: torch.zeros(()).expand(shape) for k, shape in keys.items()}


def light(**values):
    """The network that settings describe, without numbers."""
    put(PRETRAINED='', **values)
    with torch.device('meta'):
        return network.build()


def save(path, file):
    torch.save(file, path)
    return str(path)


@pytest.mark.parametrize('name, family', REFERENCES.items())
def test_known_by_names_alone(name, family):
    meta, _ = gold(name)
    bare = {k.removeprefix('module.'): torch.empty(0) for k in meta['keys']}
    prefixed = {'module.' + k: v for k, v in bare.items()}
    for file in (bare, prefixed, {'state_dict': prefixed, 'epoch': 3}, {'model': bare}):
        found, state = families.rename(checkpoint.state_dict(file, name), name)
        assert found == family and set(state) == set(
            light(N_LAYERS=50, **NETWORKS[name]).state_dict()
        )


@pytest.mark.parametrize('name', REFERENCES)
def test_the_sentence_is_enough(name, tmp_path):
    """Settings that contradict a file are told in one sentence; with those that it names the file is loaded."""
    meta, _ = gold(name)
    path = save(tmp_path / 'net.pth', CONTAINERS[meta['reference']['repo']](empty(meta['keys'])))
    net = light(PSA_TYPE='distribute') if name == 'psanet_r50_t2_97x97' else light()
    with pytest.raises(UserError) as e:
        checkpoint.load_weights(net, path)
    assert path in str(e.value) and '\n' not in str(e.value)
    settings.override(shlex.split(str(e.value).partition('to use it: ')[2]))
    if (
        name == 'psanet_r50_t2_compact_97x97'
    ):  # a mask of odd side may be of offsets or of positions: no shape tells
        put(PSA_COMPACT=True)
    net = light()
    report = checkpoint.load_weights(net, path)
    assert (
        not report.missing
        and not report.wrong
        and not report.unexpected
        and len(report.matched) > 100
    )
    assert {
        k: getattr(settings, k)
        for k in NETWORKS[name]
        if k not in ('CROP_SIZE', 'LOSS_AVG', 'BN_MOM')
    } == {k: v for k, v in NETWORKS[name].items() if k not in ('CROP_SIZE', 'LOSS_AVG', 'BN_MOM')}


def test_dilations_and_colours_that_no_shape_tells(tmp_path):
    meta, _ = gold('emanet_d2_r50_s8_65x65')
    path = save(tmp_path / 'net.pth', {'model': empty(meta['keys'])})
    with pytest.raises(
        UserError,
        match='all tensors match.*to use it: FIRST_BLOCK=layer4 CHANNELS=bgr EM_GRAD=True$',
    ):
        checkpoint.load_weights(light(N_LAYERS=50), path)
    report = checkpoint.load_weights(
        light(N_LAYERS=50), path, 'any'
    )  # a start is a start; the report says it
    assert 'its makers have FIRST_BLOCK=layer4 CHANNELS=bgr EM_GRAD=True' in str(report)
    assert 'its makers' not in str(
        checkpoint.load_weights(
            light(N_LAYERS=50, FIRST_BLOCK='layer4', CHANNELS='bgr', EM_GRAD=True), path, 'any'
        )
    )


def test_official_file_has_the_official_trunk(tmp_path):
    """Which is known by its step without settings; files of this project tell theirs, or nothing."""
    net = light(N_LAYERS=50, FIRST_BLOCK='layer4')
    state = empty({k: v.shape for k, v in net.state_dict().items()})
    with pytest.raises(UserError, match='to use it: FIRST_BLOCK=half$'):
        checkpoint.load_weights(net, save(tmp_path / 'official.pth', {'net': state, 'step': 30000}))
    for file in (
        {'net': state, 'step': 30000, 'settings': settings.in_force()},
        {'net': state},
        state,
    ):
        assert not checkpoint.load_weights(net, save(tmp_path / 'own.pth', file)).missing


@pytest.mark.parametrize('multi_grid, first', [((1, 2, 4), 'layer4'), ((1, 1, 1), 'half')])
def test_danet_comes_with_two_trunks(multi_grid, first, tmp_path):
    meta, _ = gold('danet_r50_mg4816_65x65')
    path = save(tmp_path / 'net.pth', {'state_dict': empty(meta['keys'])})
    values = NETWORKS['danet_r50_mg4816_65x65'] | dict(MULTI_GRID=multi_grid, FIRST_BLOCK=first)
    checkpoint.load_weights(light(N_LAYERS=50, N_CLASSES=19, **values), path)
    with pytest.raises(UserError, match='to use it: FIRST_BLOCK='):
        checkpoint.load_weights(
            light(N_LAYERS=50, N_CLASSES=19, **values | dict(FIRST_BLOCK='all')), path
        )


@pytest.mark.parametrize('head, channels', [('fcn', 512), ('deeplabv3', 256)])
@torch.no_grad()
def test_torchvision(head, channels, tmp_path):
    """fcn_resnet50 and deeplabv3_resnet50, with their auxiliary heads: the same numbers."""
    torch.manual_seed(0)
    theirs = torchvision.models.get_model(
        head + '_resnet50', weights=None, weights_backbone=None, aux_loss=True
    ).eval()
    for key, value in theirs.state_dict().items():
        if key.endswith(('running_mean', 'running_var', 'bias')):
            value.uniform_(0.5, 1.5) if key.endswith('var') else value.uniform_(-0.2, 0.2)
    path = save(tmp_path / 'net.pth', theirs.state_dict())
    put(HEAD=head, N_LAYERS=50, STEM='plain', PRETRAINED='', HEAD_CHANNELS=channels)
    with pytest.raises(UserError) as e:
        checkpoint.load_weights(network.build(), path)
    settings.override(shlex.split(str(e.value).partition('to use it: ')[2]))
    assert settings.AUX_WEIGHT == 0.4 and settings.UPSAMPLE == 'centres'
    net = network.build().eval()
    report = checkpoint.load_weights(net, path)
    assert (
        f'torchvision {"FCN" if head == "fcn" else "DeepLabv3"}' in report.format
        and not report.unexpected
    )
    image = recipe.image(57, 65, 0)
    wanted = theirs(image)
    assert_close(net(image), wanted['out'], 1e-4, 'logits')
    assert_close(
        net.enlarge(net.aux(net.maps(image)[2]), (57, 65)), wanted['aux'], 1e-4, 'auxiliary logits'
    )


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
    with pytest.raises(UserError, match='mixes families.*' + words):
        checkpoint.load_weights(
            light(),
            save(
                tmp_path / 'net.pth', {k.removeprefix('module.'): v for k, v in empty(keys).items()}
            ),
        )


def test_unknown_family(tmp_path):
    with pytest.raises(UserError, match=r'decoder\.weight.*no family known here.*semseg'):
        checkpoint.load_weights(
            light(), save(tmp_path / 'net.pth', {'decoder.weight': torch.zeros(3)})
        )


@pytest.mark.parametrize('head', network.HEADS)
def test_head_is_told_by_names(head, tmp_path):
    stride = {h: network.trait(network.HEADS[h], 'strides')[0] for h in network.HEADS}
    small_net(HEAD=head, STRIDE=stride[head])
    path = save(tmp_path / 'net.pth', {'net': network.build().state_dict()})
    other = 'fcn' if head != 'fcn' else 'ema'
    put(HEAD=other, STRIDE=stride[other])
    with pytest.raises(UserError, match=rf'HEAD={head}\b'):
        checkpoint.load_weights(network.build(), path)


def test_trunks_of_segmentation_checkpoints(tmp_path):
    """PRETRAINED takes the trunk of any family."""
    meta, _ = gold('pspnet_r50_97x97')
    path = save(tmp_path / 'net.pth', {'state_dict': empty(meta['keys'])})
    report = checkpoint.load_weights(light(N_LAYERS=50), path, 'trunk')
    assert not report.missing and not report.wrong and not report.unexpected
    with pytest.raises(UserError, match='to use it: N_LAYERS=50$'):
        checkpoint.load_weights(light(N_LAYERS=101), path, 'trunk')


def test_every_convention_is_a_setting():
    for family in families.FAMILIES.values():
        for choice in family.conventions:
            for name, value in choice.items():
                assert settings.convert(name, value, 'here') == value


@pytest.mark.parametrize('classes', [8, 5])
def test_other_classes_leave_the_classifier(classes, tmp_path):
    small_net(HEAD='danet')
    path = save(tmp_path / 'net.pth', {'net': network.build().state_dict()})
    report = checkpoint.load_weights(network.build(n_classes=classes), path, 'any')
    classifier = [
        f'head.{k}.{n}' for k in ('aux.0.1', 'aux.1.1', 'out.1') for n in ('weight', 'bias')
    ]
    assert sorted(report.wrong) == ([] if classes == 8 else sorted(classifier))
    assert re.search('6 of another shape' if classes == 5 else 'tensors matched$', str(report))


@pytest.mark.parametrize('name', REFERENCES)
def test_part_of_a_file(name, tmp_path):
    """The whole file loads; of a part, the sentence tells what is missing."""
    meta, _ = gold(name)
    keys, classes = list(meta['keys']), list(meta['keys'].values())[-1][0]
    net = light(**dict(N_LAYERS=50, N_CLASSES=classes) | NETWORKS[name])
    load = lambda part: checkpoint.load_weights(
        net,
        save(
            tmp_path / 'net.pth',
            {'state_dict': empty({k: meta['keys'][k] for k in part}), 'step': 1},
        ),
    )
    assert not load(keys).missing
    for part in (keys[:40], keys[-10:], keys[::2], keys[:-1]):
        with pytest.raises(
            UserError, match=r'\d missing \(.*no settings were found|belong to no family'
        ) as e:
            load(part)
        assert 'to use it' not in str(e.value)


def own(tmp_path, **values):
    """A checkpoint of this project's network with these settings, which then are back to what they were."""
    small_net()
    now = settings.in_force()
    put(**values)
    path = save(
        tmp_path / 'own.pth',
        {'net': network.build().state_dict(), 'step': 2, 'settings': settings.in_force()},
    )
    vars(settings).update(now)
    return path


@pytest.mark.parametrize(
    'values',
    [
        dict(HEAD='psa', PSA_TYPE='distribute', CROP_SIZE=65),
        dict(HEAD='psa', PSA_COMPACT=True, CROP_SIZE=65),
        dict(HEAD='psa', CROP_SIZE=(65, 97)),
        dict(HEAD='psp', PSP_BINS=(1, 2)),
        dict(HEAD='deeplabv3', DEEPLABV3_PAPER=True),
        dict(HEAD='semanticfpn', STRIDE=32),
        dict(HEAD='danet', DANET_D2=True),
        dict(HEAD='bisenet', STRIDE=32, HEAD_CHANNELS=24),
        dict(EM_BASES=4, SECOND_CONV=False),
        dict(N_LAYERS=34, AUX_WEIGHT=0.4),
        dict(N_CLASSES=9),
    ],
)
def test_a_file_that_keeps_its_settings_is_known_by_them(values, tmp_path):
    path = own(tmp_path, **values)
    with pytest.raises(UserError) as e:
        checkpoint.load_weights(network.build(), path)
    settings.override(shlex.split(str(e.value).partition('to use it: ')[2]))
    assert len(checkpoint.load_weights(network.build(), path).matched) > 60
    assert {k: getattr(settings, k) for k in values} == values


@pytest.mark.parametrize(
    'values',
    [
        dict(HEAD='semanticfpn', STRIDE=32),
        dict(HEAD='psa', CROP_SIZE=(65, 97)),
        dict(HEAD='deeplabv3', DEEPLABV3_PAPER=True),
    ],
)
def test_bare_weights_are_known_by_names_and_shapes(values, tmp_path):
    path = own(tmp_path, **values)
    put(**{k: v for k, v in values.items() if k == 'CROP_SIZE'})
    bare = save(tmp_path / 'bare.pth', torch.load(path, weights_only=True)['net'])
    with pytest.raises(UserError) as e:
        checkpoint.load_weights(network.build(), bare)
    settings.override(shlex.split(str(e.value).partition('to use it: ')[2]))
    assert not checkpoint.load_weights(network.build(), bare).wrong


def test_masks_of_which_no_tensor_tells_the_form(tmp_path):
    meta, _ = gold('psanet_r50_t2_97x97')
    path = save(tmp_path / 'net.pth', {'state_dict': empty(meta['keys'])})
    said = str(checkpoint.load_weights(light(N_LAYERS=50, **NETWORKS['psanet_r50_t2_97x97']), path))
    assert (
        'no tensor tells whether PSA_COMPACT=False, PSA_SHRINK=2 and PSA_SOFTMAX=True are' in said
    )
    with pytest.raises(settings.UsageError, match='PSA_MASK = 4: a mask of offsets has a middle'):
        light(HEAD='psa', PSA_MASK=4)


def test_a_trunk_is_called_a_trunk(tmp_path):
    path = save(
        tmp_path / 'net.pth',
        empty(
            {
                k: v.shape
                for k, v in torchvision.models.resnet18().state_dict().items()
                if k[:2] != 'fc'
            }
        ),
    )
    with pytest.raises(
        UserError, match='a trunk without a head; training starts from it with PRETRAINED=FILE'
    ):
        checkpoint.load_weights(light(), path)


def test_names_that_come_twice(tmp_path):
    state = {k: torch.zeros(()).expand(v.shape) for k, v in light(N_LAYERS=50).state_dict().items()}
    with pytest.raises(UserError, match=r'emau\.mu twice, with and without a prefix'):
        checkpoint.load_weights(
            light(), save(tmp_path / 'net.pth', state | {'module.emau.mu': state['emau.mu']})
        )
    d2 = empty(gold('emanet_d2_r50_s8_65x65')[0]['keys'])
    with pytest.raises(
        UserError, match=r'the tensor emau\.mu of detectron2 EMANet under two names'
    ):
        checkpoint.load_weights(
            light(), save(tmp_path / 'net.pth', d2 | {'emau.mu': d2['sem_seg_head.emau.mu']})
        )


def test_wrappings(tmp_path):
    """torch.compile's prefix, and a state dict within a dict within a dict."""
    net = light(N_LAYERS=50)
    state = empty({'_orig_mod.' + k: v.shape for k, v in net.state_dict().items()})
    assert not checkpoint.load_weights(
        net, save(tmp_path / 'net.pth', {'model': {'state_dict': state}})
    ).missing


def test_tensors_of_other_ranks(tmp_path):
    for keys in (
        {'layer0.0.weight': (), 'cls.4.weight': (3,)},
        {'extractor.0.0.weight': (), 'emau.mu': (2,), 'head.out.2.weight': ()},
    ):
        with pytest.raises(UserError, match='does not fit'):
            checkpoint.load_weights(light(), save(tmp_path / 'net.pth', empty(keys)))


def test_kept_settings_that_are_no_settings(tmp_path):
    """They are left out of account; names and shapes tell as much as they can. A crop that changes no tensor is not asked for."""
    path = own(tmp_path, EM_BASES=4, CROP_SIZE=65)
    file = torch.load(path, weights_only=True)
    with pytest.raises(UserError, match='to use it: EM_BASES=4$'):
        checkpoint.load_weights(network.build(), path)
    file['settings'] |= {'N_LAYERS': 'x', 'GONE': 1}
    with pytest.raises(UserError, match='to use it: EM_BASES=4$'):
        checkpoint.load_weights(network.build(), save(tmp_path / 'odd.pth', file))
