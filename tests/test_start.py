"""What a network is before training, what the EM unit does untrained and how it is watched, and how the start decides on batch norm.

Fixtures load weights, so none of them sees a start; these tests do.
"""

import json
import math
import re
import signal

import pytest
import torch
from helpers import HEAD_NAMES, build, put, small_net, strides
from torch import nn

import checkpoint
import eval as evaluation
import network
import settings
import train
from network import EMAU
from utils import config, distributed, logger

# ------------------------------------------------------------------------------------------------- before training


def expected_std(name, conv):
    """The standard deviation with which a convolution starts.

    FACTS of the originals: the trunk and the detectron2 DANet are normal by fan out; both 1x1 of the EM unit are normal with sqrt(2 / c);
    all other heads start as torch has it, uniform within 1 / sqrt(fan in).
    """
    fan_in, fan_out = nn.init._calculate_fan_in_and_fan_out(conv.weight)
    if name.startswith('emau.'):
        return math.sqrt(2 / conv.out_channels)
    if name.startswith('extractor.') or settings.HEAD_ARGS.get('d2') and name.startswith('head.'):
        return math.sqrt(2 / fan_out)
    return 1 / math.sqrt(3 * fan_in)


@pytest.mark.parametrize(
    'head, values',
    [
        *((head, {}) for head in HEAD_NAMES),
        ('danet', dict(HEAD_ARGS={'d2': True})),
        ('deeplabv3', dict(HEAD_ARGS={'paper': True})),
        ('ema', dict(EM_GRAD=True)),
        ('ema', dict(EM_UPDATE='learnt', EM_NORM='none')),
        ('ema', dict(N_LAYERS=50, STEM='deep', SECOND_CONV=False)),
    ],
)
def test_how_convolutions_start(head, values):
    """Each of them, and the biases; two batch norms, two numbers and what predicts offsets start at zero, by their papers."""
    small_net(
        **dict(
            HEAD=head,
            STRIDE=strides(head)[0],
            CROP_SIZE=65,
            AUX_WEIGHT=0.4,
            EM_CHANNELS=256,
            EM_BASES=32,
            HEAD_CHANNELS=128,
            DATASET='ade20k',
        )
        | values
    )
    torch.manual_seed(0)
    net, zeros, seen = build(), [], 0
    for name, m in net.named_modules():
        if isinstance(m, nn.Conv2d) and (m.weight == 0).all():
            assert m.bias is None or (m.bias == 0).all()
            zeros.append(name)
        elif isinstance(m, nn.Conv2d):
            n, seen = m.weight.numel(), seen + 1
            assert m.weight.std().item() == pytest.approx(
                expected_std(name, m), rel=max(0.02, 4 / math.sqrt(n))
            ), name
            assert abs(m.weight.mean().item()) < 5 * m.weight.std().item() / math.sqrt(n), name
            if m.bias is not None and (
                settings.HEAD_ARGS.get('d2')
                and name.startswith('head.')
                or settings.EM_GRAD
                and name == 'emau.conv1'
            ):
                assert (m.bias == 0).all(), name  # detectron2's
            elif m.bias is not None:
                bound = 1 / math.sqrt(m.weight[0].numel())
                assert 0 < m.bias.abs().max() <= bound, name
        elif isinstance(m, (nn.BatchNorm2d, nn.GroupNorm)):
            assert (
                (m.bias == 0).all() and (m.weight == m.weight[0]).all() and m.weight[0] in (0, 1)
            ), name
            if m.weight[0] == 0:
                zeros.append(name)
    zeros += [
        name
        for name, p in net.named_parameters()
        if p.numel() == 1 and name.endswith('gamma') and p == 0
    ]
    wanted = {
        'nonlocal': ['head.block.restore.1'],
        'a2net': ['head.block.restore.1'],
        'danet': ['head.position.1.gamma', 'head.channel.1.gamma'],
        'alignseg': ['head.context.offsets.1', *(f'head.steps.{i}.offsets.1' for i in range(4))],
        'fapn': [f'head.levels.{i}.align.offset' for i in range(3)],
    }.get(head, [])
    assert zeros == ([] if settings.HEAD_ARGS.get('d2') else wanted) and seen > 20


@pytest.mark.parametrize(
    'trunk, stride', [('xception39', 32), ('xception65', 16), ('eprnet', 8), ('mobilenet_v2', 32)]
)
def test_how_trunks_start(trunk, stride):
    """As ResNet: convolutions normal by fan out, batch norms one and zero, slopes of PReLU a quarter."""
    small_net(HEAD='fcn', TRUNK=trunk, STRIDE=stride)
    torch.manual_seed(0)
    for name, m in build().extractor.named_modules():
        if isinstance(m, nn.Conv2d):
            tolerance = max(0.02, 4 / math.sqrt(m.weight.numel()))
            wanted = expected_std('extractor.' + name, m)
            assert m.weight.std().item() == pytest.approx(wanted, rel=tolerance), name
            assert m.bias is None, name
        elif isinstance(m, nn.BatchNorm2d):
            assert (m.weight == 1).all() and (m.bias == 0).all(), name
        elif isinstance(m, nn.PReLU):
            assert m.weight.tolist() == [0.25], name


def test_how_transformers_start():
    """ConvNeXt's paper: 0.02, layer scales 1e-6. ViT: positions 0.02, MLPs by Xavier, attention without bias."""
    torch.manual_seed(0)
    small_net(HEAD='fcn', TRUNK='convnext_tiny', STRIDE=32)
    for name, p in build().extractor.named_parameters():
        if name.endswith('layer_scale'):
            assert (p == p.new_tensor(1e-6)).all(), name
        elif p.ndim > 1:
            assert p.std().item() == pytest.approx(0.02, rel=0.1), name
        elif name.endswith('bias'):
            assert (p == 0).all(), name
    small_net(HEAD='fcn', TRUNK='vit_b_16', STRIDE=16)
    trunk = build().extractor
    assert trunk.encoder.pos_embedding.std().item() == pytest.approx(0.02, rel=0.02)
    block = trunk.encoder.layers[3]
    xavier = math.sqrt(2 / (768 + 3072))
    assert block.mlp[0].weight.std().item() == pytest.approx(xavier, rel=0.02)
    assert (block.self_attention.in_proj_bias == 0).all()
    fan_in = math.sqrt(1 / (3 * 16 * 16))
    assert trunk.conv_proj.weight.std().item() == pytest.approx(fan_in, rel=0.02)


def test_the_unit_of_the_paper():
    """512 channels, 64 bases: 0.0625 in both 1x1 convolutions, of which the first never changes; bases of length one."""
    unit = EMAU(512, 64)
    for conv in (unit.conv1, unit.conv2[0]):
        assert conv.weight.std().item() == pytest.approx(0.0625, rel=0.01)
    assert 0.02 < unit.conv1.bias.std() < 0.03 and not unit.conv1.weight.requires_grad
    assert torch.allclose(unit.mu.norm(dim=1), torch.ones(1, 64), atol=1e-4)
    assert 'statistics' not in unit.state_dict()


# -------------------------------------------------------------------------------------------- what the unit does untrained


def groups_of_features(centres, generator):
    """Features (4, 512, 16, 16) of 12 groups, and the group of each pixel (4 * 256,)."""
    group = torch.randint(12, (4, 256), generator=generator)
    noise = torch.randn(4, 256, 512, generator=generator)
    x = (math.sqrt(0.7) * centres[group] + math.sqrt(0.3) * noise).relu()
    return x.transpose(1, 2).unflatten(2, (16, 16)), group.flatten()


def mutual_information(z, group):
    """Of basis and group, in nats: z (pixels, k) and group (pixels,)."""
    joint = torch.zeros(12, z.shape[1]).index_add_(0, group, z) / len(z)
    alone = joint.sum(0) * joint.sum(1, keepdim=True)
    return (joint * (joint.clamp(min=1e-30) / alone.clamp(min=1e-30)).log()).sum().item()


@torch.no_grad()
def clustered(seed, spoil=None):
    """Mutual information and curves of a unit after 60 steps of the moving average; `spoil(unit)` changes its start."""
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    unit = EMAU(512, 64).train()
    if spoil:
        spoil(unit)
    centres = torch.randn(12, 512, generator=generator)
    for _ in range(60):
        _, mu = unit(groups_of_features(centres, generator)[0])
        unit.update_bases(mu.mean(0))
    x, group = groups_of_features(centres, generator)
    _, _, z = unit(x, maps=True)
    return mutual_information(z.flatten(2).transpose(1, 2).reshape(-1, 64), group), EMAU.curves(
        unit.statistics.tolist()
    )


def torch_start(unit):
    """conv1 as it would be without the authors' start."""
    unit.conv1.reset_parameters()


@pytest.mark.parametrize('seed', [0, 1, 2])
def test_the_unit_clusters_from_its_start(seed):
    """At most log 12 = 2.485."""
    information, curves = clustered(seed)
    assert 2.2 < information < math.log(12)
    assert (
        curves['em/entropy'] < 0.5 and curves['em/cosine'] < 0.7 and curves['em/bases_in_use'] > 30
    )


def test_with_torchs_start_it_does_not():
    """A scale of conv1 that is 2.45 times too small leaves one basis, 64 times; the curves show it."""
    for information, curves in (clustered(seed, torch_start) for seed in (0, 1, 2)):
        assert information < 0.01
        assert curves['em/entropy'] > 0.98 and curves['em/cosine'] > 0.95


# ------------------------------------------------------------------------------------------------------------- curves


def test_curves_against_their_formulas():
    torch.manual_seed(0)
    unit = EMAU(16, 5).train()
    x = 3 * torch.randn(3, 16, 6, 7)
    with torch.no_grad():
        _, mu, z = unit(x, maps=True)
    z = z.double()
    entropy = -(z * z.log()).sum(1).mean() / math.log(5)
    share = z.mean((0, 2, 3))
    unit_length = nn.functional.normalize(mu.double(), dim=1)
    cosines = unit_length.transpose(1, 2) @ unit_length
    cosine = cosines[:, ~torch.eye(5, dtype=torch.bool)].mean()
    curves = EMAU.curves(unit.statistics.tolist())
    assert curves == pytest.approx(
        {
            'em/entropy': entropy.item(),
            'em/bases_in_use': (-(share * share.log()).sum()).exp().item(),
            'em/cosine': cosine.item(),
        },
        rel=1e-4,
    )


def test_curves_at_their_ends():
    assert EMAU.curves([0.25] * 4 + [1.0, 1.0]) == pytest.approx(
        {'em/entropy': 1, 'em/bases_in_use': 4, 'em/cosine': 1}
    )
    assert EMAU.curves([0.0, 1.0, 0.0, 0.0, 0.0]) == pytest.approx(
        {'em/entropy': 0, 'em/bases_in_use': 1, 'em/cosine': 0}
    )
    unit = EMAU(8, 1).train()
    unit(torch.randn(2, 8, 3, 3))
    assert EMAU.curves(unit.statistics.tolist()) == {
        'em/entropy': 0,
        'em/bases_in_use': 1,
        'em/cosine': 0,
    }  # a single basis


def test_evaluation_leaves_the_statistics_alone():
    unit = EMAU(8, 4).train()
    with torch.no_grad():
        unit(torch.randn(2, 8, 3, 3))
        kept = unit.statistics.clone()
        unit.eval()(torch.randn(2, 8, 3, 3))
    assert torch.equal(unit.statistics, kept) and kept[:4].sum() == pytest.approx(1, abs=1e-5)


@pytest.fixture
def run(drawn_shapes, tmp_path, monkeypatch, capsys):
    """run(*settings): lines of log.jsonl and what train.main() prints, for a small network on drawn scenes."""
    kept, protocols = (
        {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)},
        [],
    )

    def main(*args):
        recipe = settings.__file__.replace('settings.py', 'recipes/shapes.py')
        config.override(
            [
                recipe,
                'NUM_WORKERS=0',
                'N_LAYERS=18',
                'STRIDE=16',
                'CROP_SIZE=65',
                'BATCH_SIZE=2',
                'EM_CHANNELS=64',
                'EM_BASES=8',
                'AMP=off',
                'TEST_BATCH=64',
                'ITER_MAX=4',
                'ITER_LOG=2',
                'ITER_VAL=0',
                f'DATA_ROOT={drawn_shapes}',
                f'MODEL_DIR={tmp_path}/models',
                f'LOG_DIR={tmp_path}/logdir',
                *args,
            ]
        )
        monkeypatch.setattr(
            train,
            'evaluate',
            lambda *a, stops: (
                protocols.append(a[3])
                or dict(
                    mIoU=0.5,
                    fIoU=0.5,
                    pAcc=0.5,
                    mAcc=0.5,
                    class_iou=[0.5] * 10,
                    confusion=torch.zeros(10, 10),
                )
            ),
        )
        assert train.main() is None
        with open(tmp_path / 'logdir' / settings.NAME / 'log.jsonl') as f:
            lines = [json.loads(line) for line in f]
        return lines, capsys.readouterr().out

    main.protocols = protocols  # of the validations
    yield main
    for number, handler in kept.items():
        signal.signal(number, handler)


def test_training_logs_the_curves(run):
    lines, _ = run()
    keys = {'em/entropy', 'em/bases_in_use', 'em/cosine'}
    assert [line['step'] for line in lines if keys <= set(line)] == [2, 4]
    assert all(
        0 < line['em/entropy'] < 0.97
        and 1 < line['em/bases_in_use'] <= 8
        and -0.2 < line['em/cosine'] < 0.97
        for line in lines
    )
    assert 'does not cluster' not in run('ITER_VAL=2', 'NAME=validated')[1]
    lines, _ = run('HEAD=fcn', 'NAME=other')
    assert not any(keys & set(line) for line in lines)


def test_a_collapsed_unit_is_told_once(run, monkeypatch):
    whole = network.build

    def collapsed(*args):
        net = whole(*args)
        nn.init.zeros_(net.emau.conv1.weight)
        return net

    monkeypatch.setattr(network, 'build', collapsed)
    lines, out = run('ITER_VAL=2')
    assert all(line['em/entropy'] > 0.98 for line in lines if 'loss' in line)
    warnings = [line for line in out.splitlines() if 'does not cluster' in line]
    assert len(warnings) == 1 and 'em/entropy 1.000' in warnings[0] and 'emau.conv1' in warnings[0]
    _, out = run('ITER_VAL=2', 'ITER_MAX=6')  # goes on: the first validation was before
    assert 'resuming' in out and 'does not cluster' not in out


@pytest.mark.parametrize(
    'entropy, cosine, warned',
    [(0.981, 0.0, True), (0.5, 0.951, True), (0.979, 0.949, False), (None, None, False)],
)
def test_what_counts_as_collapsed(entropy, cosine, warned, capsys):
    curves = (
        {}
        if entropy is None
        else {'em/entropy': entropy, 'em/bases_in_use': 3.0, 'em/cosine': cosine}
    )
    logger.warn_of_collapse(distributed.World([torch.device('cpu')]), curves)
    assert ('does not cluster' in capsys.readouterr().out) == warned


# --------------------------------------------------------------------------------------------------- batch norm momentum


@pytest.mark.parametrize(
    'values, wanted, start',
    [
        (dict(PRETRAINED='x.pth', INIT=''), 3e-4, False),
        (dict(PRETRAINED='', INIT='x.pth'), 3e-4, False),
        (dict(PRETRAINED='', INIT=''), 0.1, True),
        (dict(PRETRAINED='torchvision', INIT=''), 3e-4, False),
        (dict(PRETRAINED='', INIT='', BN_MOM=3e-4), 3e-4, True),
        (dict(PRETRAINED='x.pth', INIT='', BN_MOM=0.05), 0.05, False),
    ],
)
def test_momentum_follows_from_the_start(values, wanted, start):
    small_net(**dict(BN_MOM=None) | values)
    assert (
        config.bn_momentum(config.current()) == wanted
        and config.from_scratch(config.current()) == start
    )
    assert {m.momentum for m in build().modules() if isinstance(m, nn.BatchNorm2d)} == {wanted}


def test_momentum_is_told_and_a_trap_is_warned_of(run):
    _, out = run('ITER_MAX=2', 'WARMUP=0')
    assert 'BN_MOM 0.1, from scratch' in out and 'warning' not in out
    _, out = run('ITER_MAX=2', 'BN_MOM=3e-4', 'NAME=trap')
    assert 'BN_MOM 0.0003, from scratch' in out
    assert re.search(
        r'warning: BN_MOM 0.0003 is too small for a run this short: after ITER_MAX = 2 steps .* of all layers still hold 100 %',
        out,
    )


@pytest.mark.parametrize(
    'values, whose',
    [
        (dict(ITER_MAX=9984), 'of all layers'),
        (dict(ITER_MAX=9985), None),  # (1 - 3e-4) ** 9985 = 0.05
        (dict(ITER_MAX=9984, INIT='x.pth'), None),
        (dict(ITER_MAX=400, PRETRAINED='x.pth', BN_MOM=None), 'of the head'),
        (dict(ITER_MAX=30000, PRETRAINED='x.pth', BN_MOM=None), None),
        (dict(ITER_MAX=2, BN_MOM=None), None),
        (dict(ITER_MAX=2, BN_MOM=0.1), None),
    ],
)
def test_statistics_that_cannot_arrive(values, whose, capsys):
    put(**dict(PRETRAINED='', INIT='', BN_MOM=3e-4) | values)
    logger.warn_of_statistics(distributed.World([torch.device('cpu')]))
    out = capsys.readouterr().out
    assert ('warning' in out) == (whose is not None) and (whose is None or whose in out)


def test_resuming_compares_what_momentum_means(run):
    """None and its number are the same run; a run that would change it stops."""
    run('ITER_MAX=2', 'BN_MOM=None')
    _, out = run('ITER_MAX=3', 'BN_MOM=0.1')
    assert 'resuming shapes at step 2' in out
    with pytest.raises(
        config.UserError, match='BN_MOM was 0.1, is 0.0003, as follows from PRETRAINED and INIT'
    ):
        run('ITER_MAX=4', 'PRETRAINED=x.pth', 'BN_MOM=None')


def test_older_files_lack_settings_that_came_later():
    """What they lack stood for something; a run that would go on otherwise stops."""
    put(ROTATE=(10.0, 0.5), LR_MIN=1e-4, OPTIMIZER='nag')
    names = list(config.current())
    later = 'LR_MIN', 'TRUNK', 'NORM', 'OPTIMIZER'
    older = {k: v for k, v in config.current().items() if k not in later} | dict(ROTATE=10.0)
    assert checkpoint.differences(older, names) == [
        'ROTATE was 10.0, is (10.0, 0.5)',
        "OPTIMIZER was 'sgd', is 'nag'",
        'LR_MIN was 0.0, is 0.0001',
    ]
    put(ROTATE=10.0, LR_MIN=0.0, OPTIMIZER='sgd')
    assert checkpoint.differences(older, names) == [] and checkpoint.differences({}, names) == []
    put(LOSS='ohem')
    assert (
        'OHEM_KEEP was pixels per device'
        in checkpoint.differences(older | dict(LOSS='ohem'), names)[0]
    )
    assert checkpoint.differences(config.current(), names) == []
    put(ROTATE=0.0, LOSS='ce')
    kept = older | dict(ROTATE=0.0, ROTATE_PROB=0.5)  # a probability of nothing
    assert checkpoint.differences(kept, names) == []


def test_validation_in_training_uses_one_view(run):
    run('ITER_VAL=2', 'TEST_FLIP=True', 'TEST_SCALES=(0.5,1.0)', 'TEST_SHORT_SIDE=64')
    assert len(run.protocols) == 2
    assert all(
        p == evaluation.Protocol(short=64, budget=p.budget, stride=16) for p in run.protocols
    )
