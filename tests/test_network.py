"""Sizes, costs, variants and equivalent forms of the networks; the numbers themselves are in test_golden.py."""

import ast
import copy
import math
import os
import re
import shutil
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from golden import recipe
from helpers import HEAD_NAMES, assert_close, build, put, small_net, strides
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

import network
import settings
from heads import blocks
from heads.alignseg import Refine
from heads.blocks import PORTION, ConvBNReLU, SettingsError, WideConv2d
from heads.frame import upsample
from heads.psa import mask_side
from sync_bn import BatchNorm2d
from utils import distributed, script
from utils.distributed import World


def millions(module):
    return sum(p.numel() for p in module.parameters()) / 1e6


@pytest.fixture
def fake():
    """In it tensors have shapes and no numbers: nothing is computed."""
    with FakeTensorMode():
        yield


def paper_net(**values):
    put(PRETRAINED='', **values)
    return build(n_classes=21).eval()


def small_head(head, **values):
    """small_net() with a head, on a trunk that it goes with."""
    small_net(HEAD=head, STRIDE=strides(head)[0], CROP_SIZE=33, **values)


def shake(net, seed=0):
    """Statistics, weights and biases of batch norms as training might leave them."""
    generator = torch.Generator().manual_seed(seed)
    for m in net.modules():
        if isinstance(m, nn.BatchNorm2d):
            for t, low, high in (
                (m.running_mean, -0.2, 0.2),
                (m.running_var, 0.5, 1.5),
                (m.weight.data, 0.5, 1.5),
                (m.bias.data, -0.2, 0.2),
            ):
                t.uniform_(low, high, generator=generator)
    return net


# ------------------------------------------------------------------------------------------------- parameters and cost


@pytest.mark.parametrize(
    'layers, trunk, whole', [(50, 23.632, 34.78), (101, 42.624, 53.77), (152, 58.268, 69.42)]
)
def test_parameters_of_the_paper(layers, trunk, whole, fake):
    net = paper_net(N_LAYERS=layers)
    assert millions(net.extractor) == pytest.approx(trunk, abs=5e-4)
    assert millions(net) == pytest.approx(whole, abs=5e-3)


@pytest.mark.parametrize(
    'params, with_stats, values',
    [  # NETWORKS.md, section 25: 19 classes, ResNet-101
        (56_264_915, 56_375_251, dict(HEAD='psp')),
        (65_707_475, 65_818_323, dict(HEAD='psp', HEAD_CHANNELS=512)),
        (69_800_403, 69_915_347, dict(HEAD='psa', HEAD_CHANNELS=512, CROP_SIZE=465)),
        (74_346_963, 74_461_907, dict(HEAD='psa', HEAD_CHANNELS=512, CROP_SIZE=705)),
        (
            65_656_787,
            65_769_683,
            dict(HEAD='psa', HEAD_CHANNELS=512, CROP_SIZE=465, HEAD_ARGS={'type': 'collect'}),
        ),
        (66_559_061 + 19_494, 66_668_885 + 19_494, dict(HEAD='danet', HEAD_CHANNELS=512)),
        (47_347_923, 47_454_163, dict(HEAD='fcn')),
    ],
)
def test_parameters_of_the_others(params, with_stats, values, fake):
    put(PRETRAINED='', **values)
    net = build(n_classes=19)
    assert sum(p.numel() for p in net.parameters()) == params
    assert (
        sum(v.numel() for k, v in net.state_dict().items() if not k.endswith('tracked'))
        == with_stats
    )


def test_parameters_of_the_plain_trunk(fake):
    assert (
        sum(p.numel() for p in paper_net(N_LAYERS=18, STEM='plain').extractor.parameters())
        == 11_176_512
    )


@pytest.mark.parametrize(
    'channels, second_conv, params, gmacs',
    [(512, False, 9.975, 43.1), (256, False, 4.86, 21.1), (512, True, 11.150, 48.1)],
)
def test_head_costs_what_the_paper_says(channels, second_conv, params, gmacs, fake):
    """Table 1 and the released head, at 513x513, over the bare trunk; less what conv1 on bases instead of pixels saves."""
    net = paper_net(N_LAYERS=50, EM_CHANNELS=channels, SECOND_CONV=second_conv)
    assert millions(net) - millions(net.extractor) == pytest.approx(params, abs=6e-3)
    maps = [torch.empty(1, 2048, 65, 65)] * 4
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        net.decode(maps)
    n, c, k, stages = 65 * 65, channels, 64, 3
    saved = n * c * c - stages * 2 * c * c * k
    assert (counter.get_total_flops() / 2 + saved) / 1e9 == pytest.approx(
        gmacs, abs=0.11
    )  # by hand the narrow head has 21.0, not 21.1
    assert saved > 0


@pytest.mark.parametrize('layers, gmacs', [(50, 157), (101, 237)])
def test_cost_of_the_network(layers, gmacs, fake):
    net = paper_net(N_LAYERS=layers)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        assert net(torch.empty(1, 3, 513, 513)).shape == (1, 21, 513, 513)
    convolutions = sum(
        v for k, v in counter.get_flop_counts()['Global'].items() if 'conv' in str(k)
    )
    assert convolutions / 2e9 == pytest.approx(gmacs, abs=1.5)


# --------------------------------------------------------------------------------------------------------------- trunk


@pytest.mark.parametrize(
    'stride, layer3, layer4, size',
    [
        (8, [1, 2, 2, 2, 2, 2], [2, 8, 16], 9),
        (16, [1] * 6, [1, 4, 8], 5),
        (32, [1] * 6, [1, 1, 1], 3),
    ],
)
def test_stride_and_dilations(stride, layer3, layer4, size, fake):
    net = paper_net(N_LAYERS=50, STRIDE=stride)
    found = [[block.conv2.dilation[0] for block in net.extractor[i]] for i in (6, 7)]
    assert found == [layer3, layer4]
    assert all(
        m.padding == m.dilation
        for m in net.extractor.modules()
        if isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3)
    )
    with torch.no_grad():
        assert [m.shape[2] for m in net.maps(torch.empty(1, 3, 65, 65))] == [
            17,
            9,
            65 // min(stride, 16) + 1,
            size,
        ]


@pytest.mark.parametrize(
    'first, stride, layer3, layer4',
    [
        ('half', 8, [1, 2, 2], [2, 12, 20]),
        ('split', 8, [1, 2, 2], [2, 12, 20]),
        ('layer4', 8, [1, 2, 2], [4, 12, 20]),
        ('all', 8, [2, 2, 2], [4, 12, 20]),
        ('half', 16, [1] * 3, [1, 6, 10]),
        ('layer4', 16, [1] * 3, [2, 6, 10]),
        ('all', 16, [1] * 3, [2, 6, 10]),
        ('all', 32, [1] * 3, [1] * 3),
    ],
)
def test_first_block_and_multi_grid(first, stride, layer3, layer4):
    plan = network.dilations(stride, (3, 4, 3, 3), (1, 3, 5), first)[2:]
    assert [[d for _, d, _ in stage] for stage in plan] == [layer3, layer4]
    if first == 'split':
        assert [[second for *_, second in stage] for stage in plan] == [[2, 2, 2], [4, 12, 20]]
    else:
        assert all(second == d for stage in plan for _, d, second in stage)


def test_stride_in_the_first_1x1(fake):
    strides = lambda net: [
        (net.extractor[i][0].conv1.stride[0], net.extractor[i][0].conv2.stride[0])
        for i in (4, 5, 6, 7)
    ]
    assert strides(paper_net(N_LAYERS=50, STRIDE=16)) == [(1, 1), (1, 2), (1, 2), (1, 1)]
    assert strides(paper_net(N_LAYERS=50, STRIDE=16, STEM='caffe')) == [
        (1, 1),
        (2, 1),
        (2, 1),
        (1, 1),
    ]


@pytest.mark.parametrize('layers', [34, 152])
def test_other_depths_run(layers, fake):
    net = paper_net(N_LAYERS=layers, STEM='plain')
    assert [len(net.extractor[i]) for i in (4, 5, 6, 7)] == {34: [3, 4, 6, 3], 152: [3, 8, 36, 3]}[
        layers
    ]
    assert net(torch.empty(1, 3, 65, 65)).shape == (1, 21, 65, 65)


# ------------------------------------------------------------------------------------------------------------ networks


@pytest.mark.parametrize('h, w', [(33, 47), (40, 40), (65, 65), (9, 8)])
@pytest.mark.parametrize('stride', [8, 16, 32])
@torch.no_grad()
def test_any_size_goes_in(h, w, stride):
    small_net(STRIDE=stride)
    assert build().eval()(torch.randn(1, 3, h, w)).shape == (1, 10, h, w)


@pytest.mark.parametrize('head', HEAD_NAMES)
def test_training_gives_sum_count_and_bases(head):
    small_head(head)
    net = build()
    image, label = (
        torch.randint(0, 256, (2, 3, 33, 41), dtype=torch.uint8),
        torch.randint(0, 8, (2, 33, 41), dtype=torch.uint8),
    )
    loss_sum, count, mu = net(image, label)
    assert loss_sum.shape == (2,) and count.tolist() == [33 * 41] * 2
    assert (mu.shape == (2, 32, 8)) if head == 'ema' else mu is None
    loss_sum.sum().backward()
    idle = [k for k, p in net.named_parameters() if p.requires_grad and p.grad is None]
    assert not idle, 'these parameters would trip DistributedDataParallel'


@pytest.mark.parametrize('head', HEAD_NAMES)
@torch.no_grad()
def test_bytes_are_normalised_inside(head):
    small_head(head)
    net = build().eval()
    image = torch.randint(0, 256, (2, 3, 33, 33), dtype=torch.uint8)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (settings.MEAN, settings.STD))
    assert_close(net(image), net((image / 255 - mean) / std), 1e-5)


def test_normalisation_is_not_in_the_state_dict():
    small_net()
    assert not {'mean', 'std'} & set(build().state_dict())


def test_float64_throughout():
    small_net(DROPOUT=0.0)
    net = build().double()
    image, label = torch.randn(2, 3, 33, 33).double(), torch.randint(0, 8, (2, 33, 33))
    loss_sum, count, mu = net(image, label)
    assert loss_sum.dtype == count.dtype == mu.dtype == torch.float64
    assert net.eval()(image).dtype == torch.float64


@pytest.mark.parametrize(
    'head, values',
    [
        *((head, {}) for head in HEAD_NAMES),
        ('ema', dict(SECOND_CONV=False)),
        ('ema', dict(AUX_WEIGHT=0.4)),
        ('ema', dict(N_LAYERS=50, STEM='deep')),
        ('psa', dict(HEAD_ARGS={'type': 'distribute'})),
        ('danet', dict(HEAD_ARGS={'d2': True})),
    ],
)
@torch.no_grad()
def test_folding_changes_nothing(head, values):
    small_head(head, **values)
    net = shake(build())
    before = copy.deepcopy(net.state_dict())
    folded = network.fold(net)
    assert net.training and not folded.training
    assert all((before[k] == v).all() for k, v in net.state_dict().items())
    image = recipe.image(33, 47, 3)
    assert_close(folded(image), net.eval()(image), 1e-4)
    count = lambda n: sum(isinstance(m, nn.BatchNorm2d) for m in n.modules())
    of_sums = sum(isinstance(m, Refine) for m in net.modules())  # these follow no convolution
    assert (
        count(folded) - of_sums <= 1 < count(net) or head == 'denseaspp'
    )  # the deep stem's last one follows no convolution directly


@pytest.mark.parametrize('c', [PORTION, PORTION + 1, 3 * PORTION])
@pytest.mark.parametrize('bias', [False, True])
def test_wide_convolutions_in_bf16_are_taken_in_portions(c, bias):
    """The result, and its gradients, are those of one convolution, as exact as bf16 is."""
    torch.manual_seed(0)
    wide = WideConv2d(c, 8, 3, padding=4, dilation=4, bias=bias)
    x = torch.randn(2, c, 9, 11).bfloat16()
    exact = nn.Conv2d.forward(wide, x.float())
    seen = []

    def compute(*args):
        seen.append(args)
        return nn.Conv2d._conv_forward(wide, *args)

    wide._conv_forward = compute
    with torch.autocast('cpu', torch.bfloat16):
        out = wide(x)
    assert len(seen) == math.ceil(c / PORTION)
    assert out.dtype == torch.bfloat16
    grads = [torch.autograd.grad(y.float().square().sum(), wide.parameters()) for y in (out, exact)]
    for got, wanted in zip((out, *grads[0]), (exact, *grads[1]), strict=True):
        assert (got - wanted).norm() < 0.01 * wanted.norm()
    seen.clear()
    assert torch.equal(wide(x.float()), exact)  # float32 is one piece
    assert len(seen) == 1


def test_convolutions_stay_wide_when_norms_are_folded():
    net = nn.Module()
    net.block = ConvBNReLU(2 * PORTION, 4, 3, BatchNorm2d)
    folded = network.fold(net).block
    assert isinstance(folded.bn, nn.Identity) and type(folded.conv) is WideConv2d
    x = torch.randn(1, 2 * PORTION, 5, 5)
    assert_close(folded(x), net.eval().block(x), 1e-5)


@torch.no_grad()
def test_channels_last_gives_the_same():
    small_net()
    net = shake(build()).eval()
    image = recipe.image(41, 33, 3)
    wanted = net(image)
    assert_close(
        net.to(memory_format=torch.channels_last)(
            image.contiguous(memory_format=torch.channels_last)
        ),
        wanted,
        1e-5,
    )


@torch.no_grad()
@pytest.mark.parametrize('half, rel', [(torch.bfloat16, 0.01), (torch.float16, 1e-6)])
def test_autocast_keeps_bases_and_upsampling_in_float32(half, rel):
    small_net()
    net, taken = shake(build()).eval(), {}
    net.emau.register_forward_hook(
        lambda m, args, out: taken.update(x=args[0], y=out[0], mu=out[1])
    )
    image = recipe.image(65, 65, 3)
    wanted = net(image)
    with torch.autocast('cpu', half):
        found = net(image)
    assert taken['x'].dtype == half
    assert found.dtype == taken['mu'].dtype == torch.float32
    assert_close(taken['mu'], net.emau.attend(taken['x'].float())[1], rel, 'mu')
    assert_close(found, wanted, 0.05, 'logits')


@pytest.mark.parametrize('average, count', [('all', 33 * 33), ('valid', 0)])
def test_void_alone_gives_no_loss(average, count):
    small_net(LOSS_AVG=average)
    net = build()
    loss_sum, counts, _ = net(
        torch.randn(2, 3, 33, 33), torch.full((2, 33, 33), 255, dtype=torch.uint8)
    )
    assert loss_sum.tolist() == [0, 0] and counts.tolist() == [count] * 2
    loss_sum.sum().backward()
    assert all((p.grad == 0).all() for p in net.parameters() if p.grad is not None)


def test_aux_head_adds_its_share():
    small_net(AUX_WEIGHT=0.4, DROPOUT=0.0)
    net = build().eval()
    image, label = torch.randn(2, 3, 33, 33), torch.randint(0, 8, (2, 33, 33))
    total = net(image, label)[0]
    aux = F.cross_entropy(
        upsample(net.aux(net.maps(image)[2]), (33, 33)), label, reduction='none'
    ).sum((1, 2))
    main = F.cross_entropy(net(image), label, reduction='none').sum((1, 2))
    assert_close(total, main + 0.4 * aux, 1e-5)
    total.sum().backward()
    assert all(p.grad is not None for p in net.aux.parameters())
    put(AUX_WEIGHT=0.0)
    assert not hasattr(build(), 'aux')


def test_outputs_of_the_head_add_their_shares():
    small_head('danet', DROPOUT=0.0, AUX_WEIGHT=0.4)
    net = build()
    assert net.aux_weights == (1.0, 1.0)
    net.aux_weights = 0.5, 0.25
    image, label = torch.randn(2, 3, 33, 33), torch.randint(0, 8, (2, 33, 33))
    total, _, _ = net(image, label)
    maps = net.maps(
        image
    )  # in training batch norm uses the batch, so that a second pass gives the same
    found = net.decode(maps)
    outputs = found['out'], *found['aux'], net.aux(maps[2])
    terms = [
        F.cross_entropy(upsample(x, (33, 33)), label, reduction='none').sum((1, 2)) for x in outputs
    ]
    assert_close(total, sum(w * x for w, x in zip((1, 0.5, 0.25, 0.4), terms, strict=True)), 1e-5)
    assert 'aux' not in net.eval().decode(maps)


@pytest.mark.parametrize(
    'values, words',
    [
        (dict(HEAD='semanticfpn', STRIDE=8), 'does not work with STRIDE = 8; use STRIDE=32'),
        (
            dict(HEAD='bisenet', STRIDE=32, N_LAYERS=50),
            'use N_LAYERS=18 or N_LAYERS=34 or N_LAYERS=10',
        ),
        (dict(HEAD_ARGS={'bins': (1,)}), "HEAD=ema has no argument 'bins'; it has mmseg"),
        (
            dict(HEAD='fcn', HEAD_ARGS={'bins': (1,)}),
            "HEAD=fcn has no argument 'bins'; it has mmseg",
        ),
        (
            dict(HEAD='psp', HEAD_ARGS={'binz': (1,)}),
            "HEAD=psp has no argument 'binz'; it has bins",
        ),
        (dict(HEAD='psp', HEAD_ARGS={'norm': None}), "no argument 'norm'; it has bins"),
        (dict(HEAD='psp', HEAD_ARGS={1: 2}), 'no argument 1; it has bins'),
        (dict(HEAD='psp', HEAD_ARGS={'bins': 'x'}), r"'bins': 'x'.* bins to be tuple\[int, ...\]"),
        (dict(HEAD='psp', HEAD_ARGS={'bins': 3}), "'bins': 3.* numbers of 1 to"),
        (dict(HEAD='psp', HEAD_ARGS={'bins': ()}), "'bins': ..}"),
        (dict(HEAD='psp', HEAD_ARGS={'bins': (0, 1)}), 'numbers of 1 to'),
        (dict(HEAD='psp', HEAD_ARGS={'bins': (1, 2.5)}), 'numbers of 1 to'),
        (dict(HEAD='psp', HEAD_ARGS={'bins': (10**9,)}), 'numbers of 1 to'),
        (dict(HEAD='deeplabv3', HEAD_ARGS={'rates': 3}), 'tuple.*None'),
        (dict(HEAD='deeplabv3', HEAD_ARGS={'paper': 1}), 'paper to be bool'),
        (dict(HEAD='danet', HEAD_ARGS={'d2': 'yes'}), 'd2 to be bool'),
        (dict(HEAD='psa', HEAD_ARGS={'type': 'both_'}), "Literal.*'both'"),
        (dict(HEAD='psa', HEAD_ARGS={'type': ['both']}), "Literal.*'both'"),
        (dict(HEAD='psa', HEAD_ARGS={'shrink': 0}), 'shrink to be int'),
        (dict(HEAD='psa', HEAD_ARGS={'shrink': True}), 'shrink to be int'),
        (dict(HEAD='psa', HEAD_ARGS={'mask': (5, 5, 5)}), 'mask to be int . tuple'),
        (
            dict(HEAD='psa', HEAD_ARGS={'mask': (5, 4)}),
            "'mask': .5, 4..*sides are odd.*'compact': True",
        ),
    ],
)
def test_heads_say_what_they_do_not_go_with(values, words):
    small_net(**values)
    with pytest.raises(SettingsError, match=words) as e:
        build()
    assert script.sentence(e.value) == str(e.value) and '\n' not in str(e.value)


@pytest.mark.parametrize('mask, wanted', [(7, (7, 7)), ((5, 9), (5, 9)), ([5, 9], (5, 9))])
@torch.no_grad()
def test_mask_that_is_given(mask, wanted):
    small_head('psa', HEAD_ARGS={'mask': mask})
    net = build().eval()
    assert net.head.mask == wanted
    net(torch.randn(1, 3, 33, 33))


@pytest.mark.parametrize('head', ['psp', 'deeplabv3', 'bisenet'])
def test_heads_that_need_two_images(head):
    small_head(head)
    net = build()
    with pytest.raises(ValueError) as e:
        net(torch.randn(1, 3, 33, 33), torch.zeros(1, 33, 33, dtype=torch.uint8))
    assert re.search(
        f'HEAD={head} may pool, of one image per device; raise BATCH_SIZE', script.sentence(e.value)
    )
    net.eval()(torch.randn(1, 3, 33, 33))


@torch.no_grad()
def test_channels_of_pictures_are_turned_once():
    image = torch.randint(0, 256, (2, 3, 33, 33), dtype=torch.uint8)
    small_net()
    rgb = build().normalise(image)
    put(CHANNELS='bgr')
    net = build().eval()
    assert (net.normalise(image) == rgb.flip(1)).all() and (net.normalise(rgb) == rgb).all()
    assert (net(image) == net(net.normalise(image))).all()


@pytest.mark.parametrize(
    'form, width, wanted',
    [
        ('corners', 7, [0, 0.5, 1, 1.5, 2, 2.5, 3]),
        ('centres', 8, [0, 0.25, 0.75, 1.25, 1.75, 2.25, 2.75, 3]),
        ('centres', 2, [0.5, 2.5]),
        ('crop', 7, [0, 0.25, 0.75, 1.25, 1.75, 2.25, 2.75]),
    ],
)
def test_forms_of_upsampling(form, width, wanted):
    y = upsample(torch.tensor([0.0, 1, 2, 3]).expand(1, 1, 2, 4), (4, width), form, 2)
    assert y.shape == (1, 1, 4, width) and y[0, 0, 0].tolist() == wanted


def test_cropped_upsampling_needs_logits_of_that_stride():
    small_head('semanticfpn', UPSAMPLE='crop')
    with pytest.raises(SettingsError, match='UPSAMPLE=crop.*UPSAMPLE=corners'):
        build().eval()(torch.randn(1, 3, 65, 65))


@torch.no_grad()
def test_attention_of_psa_follows_the_size():
    """Maps of any size; compact ones only of the training crop."""
    small_head('psa')
    net = build().eval()
    assert net.head.mask == (5, 5)
    for h, w in ((33, 33), (65, 33), (9, 41), (40, 57)):
        assert net(torch.randn(1, 3, h, w)).shape == (1, 10, h, w)
    put(HEAD_ARGS={'compact': True})
    net = build().eval()
    assert net.head.mask == (3, 3)
    net(torch.randn(1, 3, 33, 33))
    with pytest.raises(SettingsError, match="'compact': True.*3x3 positions.*5x3.*TEST_CROP"):
        net(torch.randn(1, 3, 65, 33))


@pytest.mark.parametrize(
    'crop, compact, wanted',
    [
        (465, False, (59, 59)),
        (705, False, (89, 89)),
        (465, True, (30, 30)),
        ((465, 705), False, (59, 89)),
    ],
)
def test_mask_follows_the_crop(crop, compact, wanted):
    assert mask_side(crop, 8, 2, compact) == wanted


def test_dropout_is_as_set():
    small_net(DROPOUT=0.25)
    assert [m.p for m in build().modules() if isinstance(m, nn.Dropout2d)] == [0.25]


def test_unknown_head():
    with pytest.raises(SettingsError, match="'emaa'.*did you mean ema"):
        build(HEAD='emaa')
    with pytest.raises(SettingsError, match="'x': .* use one of ema, fcn, psp"):
        build(HEAD='x')


def test_number_of_classes_is_an_argument():
    small_net(HEAD='fcn')
    assert build(n_classes=5)(torch.randn(2, 3, 33, 33)).shape[1] == 5


@pytest.mark.parametrize('n_classes, wanted', [(None, 10), (19, 19)])
def test_classes_follow_from_the_data_set(n_classes, wanted):
    small_net(N_CLASSES=n_classes)
    assert build().fc2.out_channels == wanted


# ------------------------------------------------------------------------------------------------------------ the unit


def unit(c=12, k=5, stages=3, seed=0, **values):
    torch.manual_seed(seed)
    return shake(network.EMAU(c, k, stages, norm_layer=BatchNorm2d, **values))


def attend_as_written(x, mu, conv1, stages, norm):
    """Equations 5-7, an image, a pixel and a base at a time: x (b, c, h, w), mu (c, k) -> x~ (b, c, h, w), mu (b, c, k)."""
    pixels = conv1(x).flatten(2)  # b c n
    rebuilt, bases = [], []
    for image in pixels:
        found = mu
        for _ in range(stages):
            z = torch.stack([torch.softmax(pixel @ found, 0) for pixel in image.t()])  # n k
            means = []
            for k in range(mu.shape[1]):
                mean = sum(z[n, k] * image[:, n] for n in range(image.shape[1])) / z[:, k].sum()
                if norm == 'l2':
                    mean = mean / mean.square().sum().sqrt()
                if norm == 'layer':
                    mean = (mean - mean.mean()) / (mean.var(unbiased=False) + 1e-5).sqrt()
                means.append(mean)
            found = torch.stack(means, 1)
        rebuilt.append(
            torch.stack(
                [sum(z[n, k] * found[:, k] for k in range(mu.shape[1])) for n in range(len(z))], 1
            )
        )
        bases.append(found)
    return torch.stack(rebuilt).view_as(x), torch.stack(bases)


@pytest.mark.parametrize('norm', ['l2', 'layer', 'none'])
@pytest.mark.parametrize('stages', [1, 3])
@torch.no_grad()
def test_unit_is_the_equations(norm, stages):
    m = unit(stages=stages, norm=norm).double().eval()
    x = torch.randn(2, 12, 4, 5).double()
    rebuilt, mu = attend_as_written(x, m.mu[0], m.conv1, stages, norm)
    assert_close(m.attend(x)[0], rebuilt, 1e-5, 'rebuilt map')
    y, found = m(x)
    assert_close(found, mu, 1e-5, 'bases')
    assert_close(y, F.relu(m.conv2(F.relu(rebuilt)) + x), 1e-5, 'output')


@torch.no_grad()
def test_rebuilt_map_is_a_mixture_of_the_bases():
    m = unit(c=32, k=6)
    rebuilt, mu, _ = m.attend(torch.randn(2, 32, 9, 9))
    for r, base in zip(rebuilt.flatten(2), mu):
        assert torch.linalg.matrix_rank(r) <= 6
        z = torch.linalg.lstsq(base, r).solution
        assert (z > -1e-3).all() and (z.sum(0) - 1).abs().max() < 1e-3
    assert (mu.norm(dim=1) - 1).abs().max() < 1e-4


@pytest.mark.parametrize(
    'values, wanted',
    [
        (dict(), set()),
        (dict(update='none'), set()),
        (dict(grad=True), {'conv1.weight', 'conv1.bias'}),
        (dict(update='learnt'), {'mu', 'conv1.weight', 'conv1.bias'}),
        (dict(update='none', grad=True), {'conv1.weight', 'conv1.bias'}),
    ],
)
def test_what_gets_a_gradient(values, wanted):
    m = unit(**values)
    x = torch.randn(2, 12, 5, 5, requires_grad=True)
    y, mu = m(x)
    y.square().sum().backward()
    got = {k for k, p in m.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    assert got == wanted | {'conv2.0.weight', 'conv2.1.weight', 'conv2.1.bias'}
    assert got == {k for k, p in m.named_parameters() if p.requires_grad}, (
        'what gets none must be frozen'
    )
    assert mu.requires_grad == (values.get('update') == 'learnt')
    assert ('mu' in dict(m.named_parameters())) == (
        values.get('update') == 'learnt'
    ) and 'mu' in m.state_dict()


def test_gradient_through_z_is_right():
    """Against finite differences of the input, with the bases held."""
    m = unit(c=4, k=3, stages=1, grad=True).double().eval()
    x = torch.randn(1, 4, 3, 3).double().requires_grad_()
    mu = m.attend(x)[1].detach()
    by_hand = lambda x: F.relu(
        m.conv2(
            F.relu(
                (
                    torch.softmax(m.conv1(x).flatten(2).transpose(1, 2) @ m.mu[0], 2)
                    @ mu.transpose(1, 2)
                )
                .transpose(1, 2)
                .view_as(x)
            )
        )
        + x
    )
    assert_close(
        torch.autograd.grad(m(x)[0].square().sum(), x)[0],
        torch.autograd.grad(by_hand(x).square().sum(), x)[0],
        1e-9,
    )


def test_moving_average_of_the_bases():
    m = unit(momentum=0.8)
    old, new = m.mu.clone(), torch.randn(12, 5)
    m.update_bases(new)
    assert_close(m.mu, 0.8 * old + 0.2 * new, 1e-6)


@pytest.mark.parametrize('update', ['none', 'learnt'])
def test_other_bases_do_not_move_by_themselves(update):
    m = unit(update=update)
    old = m.mu.detach().clone()
    m.update_bases(torch.randn(12, 5))
    assert (m.mu == old).all()


def test_unit_takes_its_settings():
    small_net(
        EM_MOM=0.7,
        EM_NORM='layer',
        EM_GRAD=True,
        STAGE_NUM=2,
        EM_UPDATE='none',
        BN_MOM=0.25,
    )
    m = build().emau
    assert (
        m.momentum,
        m.norm,
        m.grad,
        m.stage_num,
        m.update,
        m.conv2[1].momentum,
    ) == (0.7, 'layer', True, 2, 'none', 0.25)


@torch.no_grad()
def test_first_bases_have_length_one():
    assert (unit().mu.norm(dim=1) - 1).abs().max() < 1e-4


@pytest.mark.parametrize('kind, rel', [(torch.float16, 0), (torch.bfloat16, 0.01)])
@torch.no_grad()
def test_unit_computes_bases_of_half_precision_in_float32(kind, rel):
    m = unit().eval()
    x = torch.randn(1, 12, 5, 5).to(kind)
    mu = m.attend(x.float())[1]
    with torch.autocast('cpu', kind):
        found = m(x)[1]
    assert found.dtype == torch.float32
    assert_close(found, mu, rel, 'mu')


# --------------------------------------------------------------------------------------- outside the project

ROOT = os.path.dirname(os.path.abspath(network.__file__))
ALONE = """
import torch
import torch.nn.functional as F

from heads.frame import SegNet
from heads.psp import PSP
from network import EMAU, EMANet, ResNet


def mean_loss(logits, label):
    loss = F.cross_entropy(logits, label, reduction='none')
    return loss.sum((1, 2)), torch.full((len(label),), float(label[0].numel()))


torch.manual_seed(0)
trunks = [ResNet(18, 'plain', stride=16) for _ in range(2)]
psp = PSP(trunks[1].widths, 5, channels=16, dropout=0.1, norm=torch.nn.BatchNorm2d)
nets = [EMANet(trunks[0], 5, EMAU(32, 8), width=16, criterion=mean_loss), SegNet(trunks[1], psp, mean_loss)]
for net in nets:
    image, label = torch.randint(256, (2, 3, 65, 49)).byte(), torch.randint(5, (2, 65, 49))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
    loss_sum, count, mu = net(image, label)
    (loss_sum.sum() / count.sum()).backward()
    optimizer.step()
    if mu is not None:
        old = net.emau.mu.clone()
        net.update_bases(mu.detach().mean(0))
        assert (net.emau.mu != old).any()
    net.eval()
    with torch.no_grad():
        wanted = net(image)
        found = torch.export.export(net, (image,)).module()(image)
    assert wanted.shape == (2, 5, 65, 49) and torch.allclose(found, wanted, atol=1e-6)
print('all well')
"""


def test_networks_work_outside_the_project(tmp_path):
    """network.py, heads/ and sync_bn/ copied into an empty folder, and a process that sees nothing else of the project."""
    shutil.copy(os.path.join(ROOT, 'network.py'), tmp_path)
    for name in ('heads', 'sync_bn'):
        shutil.copytree(
            os.path.join(ROOT, name), tmp_path / name, ignore=shutil.ignore_patterns('__pycache__')
        )
    (tmp_path / 'alone.py').write_text(ALONE)
    clean = {k: v for k, v in os.environ.items() if not k.startswith('PYTHON')}
    done = subprocess.run(
        [sys.executable, 'alone.py'], cwd=tmp_path, env=clean, capture_output=True, text=True
    )
    assert done.stdout == 'all well\n', done.stderr


def test_imports_of_the_networks():
    """They import torch, torchvision, the standard library and each other."""
    files = [os.path.join(ROOT, 'network.py')]
    for folder in ('heads', 'sync_bn'):
        names = sorted(os.listdir(os.path.join(ROOT, folder)))
        files += [os.path.join(ROOT, folder, name) for name in names if name.endswith('.py')]
    assert len(files) > 15
    for path in files:
        with open(path) as f:
            tree = ast.parse(f.read())
        imported = set()
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                imported |= {alias.name.split('.')[0] for alias in node.names}
            if isinstance(node, ast.ImportFrom):
                imported.add(node.module.split('.')[0])
        above = imported - sys.stdlib_module_names - {'torch', 'torchvision', 'heads', 'sync_bn'}
        if path.endswith('network.py'):
            above -= {'trunks'}  # when settings name another trunk
        if path.endswith('frame.py'):  # network.load and so on, when they are called
            above -= {'utils'}
        assert not above, f'{path} imports {above}'
        assert path.endswith('network.py') or 'network' not in imported


@pytest.mark.parametrize('head', HEAD_NAMES)
@torch.no_grad()
def test_export(head):
    """torch.export of a network in evaluation gives its outputs, and leaves it as it was."""
    small_head(head)
    net = shake(build()).eval()
    image = recipe.image(33, 33, 3)
    wanted = net(image)
    assert_close(torch.export.export(net, (image,)).module()(image), wanted, 1e-6)
    assert (net(image) == wanted).all()


@pytest.mark.parametrize('half', [False, True])
def test_compile_without_a_break(half, monkeypatch):
    """COMPILE covers the whole of prediction, of the loss and of its gradient."""
    monkeypatch.setattr(blocks, 'PORTION', 16)  # so that some convolutions are wide
    small_net(DROPOUT=0.0)
    net = shake(build())
    compiled = torch.compile(net, fullgraph=True, backend='aot_eager')
    image, label = recipe.batch(2, 33, 33, 3), recipe.labels(2, 33, 33, 10, 4)
    results = []
    for f in (net, compiled):
        with torch.autocast('cpu', torch.bfloat16, enabled=half):
            loss_sum, count, mu = f(image, label)
        net.zero_grad()
        loss_sum.sum().backward()
        grads = torch.cat([p.grad.flatten() for p in net.parameters() if p.grad is not None])
        results.append((loss_sum, count, mu, grads))
    for one, two in zip(*results, strict=True):
        assert_close(two, one, 0.05 if half else 1e-4)
    net.eval()
    with torch.no_grad(), torch.autocast('cpu', torch.bfloat16, enabled=half):
        assert_close(compiled(image), net(image), 0.01 if half else 1e-5)


@torch.no_grad()
def test_default_type_is_followed():
    small_net(AUX_WEIGHT=0.4)
    torch.set_default_dtype(torch.float64)
    try:
        net = build(class_weights=[1.0] * 10)
    finally:
        torch.set_default_dtype(torch.float32)
    tensors = [*net.parameters(), *net.buffers()]
    assert {t.dtype for t in tensors if t.is_floating_point()} == {torch.float64}
    assert net.eval()(torch.zeros(1, 3, 33, 33, dtype=torch.uint8)).dtype == torch.float64


@pytest.mark.parametrize(
    'capability, values, wanted',
    [
        ('AVX2', {}, False),
        ('AVX2', {'AMP': 'bf16'}, True),
        ('AVX2', {'N_LAYERS': 34}, True),
        ('AVX512', {}, True),
    ],
)
def test_memory_format_of_training(capability, values, wanted, monkeypatch):
    """Both formats give the same; evaluation has its own, whatever training has."""
    small_net(**{'N_LAYERS': 50, 'AMP': 'off', 'DROPOUT': 0.0} | values)
    monkeypatch.setattr(torch.backends.cpu, 'get_cpu_capability', lambda: capability)
    world = World([torch.device('cpu')])
    net = distributed.place(shake(build()).double(), world, training=True)
    assert net.channels_last == wanted
    image = torch.randint(256, (2, 49, 49, 3)).byte().permute(0, 3, 1, 2)
    label = recipe.labels(2, 49, 49, 10, 4)
    results, formats = [], []
    net.extractor[0].register_forward_pre_hook(
        lambda module, args: formats.append(args[0].is_contiguous())
    )
    for _ in range(2):
        kept = net.extractor[4][0].conv2.weight
        formats.append(kept.is_contiguous())
        net.zero_grad()
        loss_sum, _, mu = net(image, label)
        loss_sum.sum().backward()
        results.append((loss_sum, mu, kept.grad.clone()))
        distributed.place(net, world)
    for one, two in zip(*results, strict=True):
        assert_close(two, one, 1e-4)
    assert formats == [not wanted, not wanted, False, False]
