"""The heads of heads/: sizes, parameters and gradients of all of them, then what defines each."""

import inspect
import itertools
from collections import namedtuple

import pytest
import torch
import torch.nn.functional as F
import torchvision
from helpers import assert_close, build, put, small_net
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

import network
from heads import HEADS
from heads.a2net import A2Net, DoubleAttention
from heads.acfnet import ACFNet, ClassAttention
from heads.att2scale import AttentionToScale
from heads.attanet import AttaNet
from heads.bisenet import ARM, FFM, BiSeNet, Gate
from heads.canet1 import CANet1
from heads.canet2 import CANet2
from heads.danet import DANet
from heads.deeplabv3 import DeepLabV3
from heads.deeplabv3plus import DeepLabV3Plus
from heads.denseaspp import DenseASPP
from heads.fcn import FCN
from heads.ladderdensenet import LadderDenseNet
from heads.non_local import NonLocal, NonLocalBlock
from heads.pooling import PPM, Lateral
from heads.psa import PSA
from heads.psp import PSP
from heads.seenet import SeENet
from heads.semanticfpn import SemanticFPN
from heads.swiftnet import SwiftNet
from heads.swiftnetpr import SwiftNetPR
from sync_bn import BatchNorm2d
from utils import script

# layers and stride of the trunk; NETWORKS.md, section 25: parameters and statistics of the head with 19 classes, parameters of its own
# auxiliary heads; output stride; which maps and whether the image are read; whether batch norm sees one value per image; sizes of the
# auxiliary outputs at 65x65; HEAD_CHANNELS; parameters that cannot learn in the first step, and those that never do; another
# trunk
Row = namedtuple(
    'Row',
    'layers stride params stats aux out reads one_value aux_sizes channels asleep idle trunk',
    defaults=(0, 8, 'c4', False, (), 256, '', (), ''),
)
ROWS = {
    FCN: Row(101, 8, 4_723_987, 512),
    PSP: Row(101, 8, 13_640_979, 4_608, one_value=True),
    PSA: Row(101, 8, 27_176_467, 9_216, channels=512),
    DANet: Row(
        101,
        8,
        23_935_125,
        4_096,
        aux=19_494,
        aux_sizes=(9, 9),
        channels=512,
        asleep='position.1.',
        idle=('position.1.key.bias',),
    ),
    DeepLabV3: Row(101, 8, 16_130_323, 3_584, one_value=True),
    DeepLabV3Plus: Row(101, 8, 16_941_939, 4_192, out=4, reads='c1 c4', one_value=True),
    DenseASPP: Row(101, 8, 26_624_275, 11_776),
    ACFNet: Row(101, 8, 34_489_894, 8_192, aux_sizes=(9,)),
    NonLocal: Row(
        101, 8, 11_149_331, 2_560, asleep='block.', idle=('block.key.bias', 'block.value.bias')
    ),
    A2Net: Row(
        101, 8, 10_886_803, 2_560, asleep='block.', idle=('block.gather.bias', 'block.feature.bias')
    ),
    SemanticFPN: Row(101, 32, 4_382_355, 5_376, out=4, reads='c1 c2 c3 c4'),
    AttentionToScale: Row(
        101, 8, 23_599_892, 1_536, aux=1_059_366, reads='c4 image', aux_sizes=(9, 4)
    ),
    BiSeNet: Row(
        18,
        32,
        2_017_363,
        4_224,
        aux=1_780_262,
        reads='c3 c4 image',
        one_value=True,
        aux_sizes=(3, 5),
    ),
    SeENet: Row(
        101,
        8,
        5_583_251,
        8_192,
        out=4,
        reads='c1 c2 c3 c4',
        # on a map of 9x9 only the middle of a 3x3 dilated by 13, 19 or 25 sees anything
        idle=[f'enhance4.branches.{i}.1.{s}.1.bias' for i in (1, 2, 3) for s in ('left', 'right')],
    ),
    SwiftNet: Row(18, 32, 3_008_275, 5_120, out=4, reads='c1 c2 c3 c4', one_value=True),
    SwiftNetPR: Row(
        18, 32, 988_051, 2_560, aux=70_931, out=4, reads='c1 c2 c3 c4 image', aux_sizes=(5,)
    ),
    LadderDenseNet: Row(
        18,
        32,
        954_771,
        2_048,
        aux=150_163,
        out=4,
        reads='c1 c2 c3 c4',
        aux_sizes=(3,),
        trunk='densenet121',
    ),
    CANet1: Row(101, 8, 10_071_411, 35_424, out=4, reads='c1 c4', one_value=True),
    CANet2: Row(
        101,
        8,
        15_150_459,
        25_192,
        reads='c3 c4',
        one_value=True,
        idle=[f'streams.{i}.encoder.{j}.shortcut.1.bias' for i, j in ((1, 0), (2, 0), (2, 1))],
    ),
    AttaNet: Row(18, 32, 1_315_219, 2_048, out=16, reads='c3 c4', one_value=True),
}
every_head = pytest.mark.parametrize('head', ROWS, ids=lambda head: head.__name__)
WIDTHS = (8, 10, 12, 14)


@pytest.fixture
def fake():
    """In it tensors have shapes and no numbers: nothing is computed."""
    with FakeTensorMode():
        yield


def published(head):
    """The network as NETWORKS.md counts it."""
    row, names = ROWS[head], {head: name for name, head in HEADS.items()}
    put(
        HEAD=names[head],
        N_LAYERS=row.layers,
        STEM='deep' if row.layers > 34 else 'plain',
        STRIDE=row.stride,
        PRETRAINED='',
        HEAD_CHANNELS=row.channels,
        CROP_SIZE=465,
    )
    if row.trunk:
        put(TRUNK=row.trunk)
    return build(n_classes=19)


def small(head, n_classes=5, **keywords):
    """A narrow head in double precision and evaluation, its batch norms with statistics and weights of their own."""
    torch.manual_seed(0)
    narrow = {
        k: v
        for k, v in dict(width=16, between=20, mask=5).items()
        if k in inspect.signature(head).parameters
    }
    net = head(WIDTHS, n_classes, channels=12, dropout=0, norm=BatchNorm2d, **narrow | keywords)
    return shake(net.double().eval())


def shake(net):
    for m in net.modules():
        if isinstance(m, nn.BatchNorm2d):
            for t, low, high in (
                (m.running_mean, -0.2, 0.2),
                (m.running_var, 0.5, 1.5),
                (m.bias.data, -0.2, 0.2),
            ):
                t.uniform_(low, high)
            if m.weight.any():
                m.weight.data.uniform_(0.5, 1.5)
    return net


def trunk_of(stride):
    """A trunk with maps of WIDTHS, four strided convolutions of the image."""
    generator = torch.Generator().manual_seed(1)
    weights = [torch.randn(c, 3, 3, 3, generator=generator).double() for c in WIDTHS]
    strides = [min(s, stride) for s in (4, 8, 16, 32)]
    return lambda image: [
        F.conv2d(image, w, stride=s, padding=1) for w, s in zip(weights, strides, strict=True)
    ]


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).double()


def call(net, image, trunk, maps=None):
    maps = maps or trunk(image)
    return net(*maps, image=image, trunk=trunk) if net.sees_image else net(*maps)


def ceil(n, by):
    return -(-n // by)


def count(tensors):
    return sum(t.numel() for t in tensors)


# ------------------------------------------------------------------------------------------------------------ all heads


@every_head
def test_parameters_as_published(head, fake):
    net, row = published(head).head, ROWS[head]
    aux = count(net.aux.parameters()) if hasattr(net, 'aux') else 0
    assert aux == row.aux
    assert count(net.parameters()) - aux == row.params
    assert (
        count(b for k, b in net.named_buffers() if 'running' in k and not k.startswith('aux'))
        == row.stats
    )


@pytest.mark.parametrize('h, w', [(65, 65), (97, 129)])
@every_head
@torch.no_grad()
def test_output_strides(head, h, w, fake):
    net, image = published(head).eval(), torch.empty(1, 3, h, w)
    found = net.decode(net.maps(image), image)
    assert found.keys() == {'out'}
    assert found['out'].shape == (
        1,
        19,
        *{
            4: {65: (17, 17), 97: (25, 33)},
            8: {65: (9, 9), 97: (13, 17)},
            16: {65: (5, 5), 97: (7, 9)},
        }[ROWS[head].out][h],
    )
    assert net(image).shape == (1, 19, h, w)


@pytest.mark.parametrize('h, w', [(33, 47), (40, 40), (9, 8), (2, 1)])
@every_head
@torch.no_grad()
def test_any_size_and_stride(head, h, w):
    net = small(head)
    for stride in head.strides:
        out = call(net, noise(2, 3, h, w), trunk_of(stride))['out']
        wanted = ROWS[head].out if head in (BiSeNet, AttaNet) or ROWS[head].out == 4 else stride
        assert (
            out.shape == (2, 5, ceil(h, wanted), ceil(w, wanted))
            and out.dtype == torch.float64
            and out.isfinite().all()
        )


@every_head
def test_reads_the_maps_that_it_says(head):
    net, image = small(head), noise(2, 3, 65, 65).requires_grad_()
    trunk = trunk_of(ROWS[head].stride)
    inputs = dict(
        zip(
            ('c1', 'c2', 'c3', 'c4'),
            (m.detach().requires_grad_() for m in trunk(image)),
            strict=True,
        )
    )
    out = call(net, image, trunk, list(inputs.values()))['out']
    grads = torch.autograd.grad(
        (out * noise(*out.shape)).sum(), [*inputs.values(), image], allow_unused=True
    )
    assert [
        k for k, g in zip([*inputs, 'image'], grads, strict=True) if g is not None and g.any()
    ] == ROWS[head].reads.split()


@every_head
def test_extra_outputs_in_training_alone(head):
    net, row, trunk = small(head), ROWS[head], trunk_of(ROWS[head].stride)
    assert call(net, noise(2, 3, 65, 65), trunk).keys() == {'out'}
    found = call(net.train(), noise(2, 3, 65, 65), trunk)
    assert found.keys() == ({'out', 'aux'} if row.aux_sizes else {'out'})
    assert [x.shape for x in found.get('aux', [])] == [(2, 5, n, n) for n in row.aux_sizes]
    assert len(head.aux_weights) == len(row.aux_sizes)


@every_head
def test_gradient_for_every_parameter(head):
    """But for what waits for a factor that starts at zero; once that has moved, but for biases that softmax or batch norm cancels."""
    net, row, image = small(head).train(), ROWS[head], noise(3, 3, 65, 65)

    def idle():
        net.zero_grad()
        found = call(net, image, trunk_of(row.stride))
        sum(
            (x * noise(*x.shape, seed=9)).sum() for x in (found['out'], *found.get('aux', []))
        ).backward()
        return {k for k, p in net.named_parameters() if p.grad is None or p.grad.abs().max() < 1e-9}

    factors = {
        k: p for k, p in net.named_parameters() if not p.any()
    }  # batch norms' weights, gammas
    awake = {k.replace('weight', w) for k in factors for w in ('weight', 'bias')}
    asleep = {
        k for k, _ in net.named_parameters() if row.asleep and k.startswith(row.asleep)
    } - awake
    assert idle() == asleep | set(row.idle)
    for p in factors.values():
        nn.init.ones_(p)
    assert idle() == set(row.idle)


@every_head
def test_one_image_in_training(head):
    net, trunk = small(head).train(), trunk_of(ROWS[head].stride)
    if not ROWS[head].one_value:
        assert call(net, noise(1, 3, 65, 65), trunk)['out'].isfinite().all()
        return
    with pytest.raises(ValueError, match='Expected more than 1 value per channel') as error:
        call(net, noise(1, 3, 65, 65), trunk)
    assert script.sentence(error.value)


@every_head
@torch.no_grad()
def test_folded_head_is_the_same(head):
    net, trunk, image = small(head), trunk_of(ROWS[head].stride), noise(2, 3, 65, 65)
    folded = network.fold(net)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in folded.modules())
    assert_close(call(folded, image, trunk)['out'], call(net, image, trunk)['out'], 1e-12)


@every_head
def test_channels_and_dropout_are_followed(head):
    """`channels` narrows the head, and dropout before the classifier is of whole channels."""
    mask = {'mask': 5} if head is PSA else {}
    nets = [head(WIDTHS, 5, channels=c, dropout=0.25, norm=BatchNorm2d, **mask) for c in (32, 16)]
    assert count(nets[0].parameters()) > count(nets[1].parameters())
    assert {m.p for m in nets[0].modules() if isinstance(m, nn.Dropout2d)} == {0.25}


@pytest.mark.parametrize(
    'head, keywords, rates',
    [
        (DeepLabV3, {}, [0.5]),
        (DeepLabV3, dict(paper=True), [0]),
        (DeepLabV3Plus, {}, [0.5, 0.5]),
        (DenseASPP, {}, [0.5]),
        (ACFNet, {}, [0.5]),
        (CANet1, {}, [0.1]),
    ],
)
def test_dropout_of_elements(head, keywords, rates):
    assert [m.p for m in small(head, **keywords).modules() if isinstance(m, nn.Dropout)] == rates


# -------------------------------------------------------------------------------------------------------------- pooling


@torch.no_grad()
def test_pyramid_pooling():
    """Over a row, bin 1 is constant, bin 2 a straight line, bin 3 neither; the input comes first."""
    x = noise(2, 12, 11, 14)
    net = shake(PPM(12, (1, 2, 3, 6), BatchNorm2d).double().eval())
    for branch in net.branches:
        branch[1].relu = nn.Identity()
    y = net(x)
    assert y.shape == (2, 24, 11, 14) and torch.equal(y[:, :12], x)
    first, second = y.diff(dim=3), y.diff(dim=3, n=2)
    assert first[:, 12:15].abs().max() < 1e-12 < 1e-3 < first[:, 15:].abs().mean()
    assert second[:, 15:18].abs().max() < 1e-12 < 1e-3 < second[:, 18:].abs().mean()
    assert_close(
        y[:, 12:15, 0, 0], net.branches[0][1](x.mean((2, 3), keepdim=True))[:, :, 0, 0], 1e-12
    )
    assert_close(
        y[:, 15:18, 0, 0],
        net.branches[1][1](x[:, :, :6, :7].mean((2, 3), keepdim=True))[:, :, 0, 0],
        1e-12,
    )  # a corner


def seen(function, x):
    """Offsets (dy, dx) at which the middle pixel of function(x) sees x, and whether it sees all the rest alike (global pooling)."""
    x = x.clone().requires_grad_()
    y = function(x)
    y[..., y.shape[2] // 2, y.shape[3] // 2].sum().backward()
    corner = x.grad[:, :, :1, :1]
    at = ((x.grad - corner).abs() > 1e-12).any(1)[0].nonzero() - torch.tensor(
        [x.shape[2] // 2, x.shape[3] // 2]
    )
    return set(map(tuple, at.tolist())), bool(corner.any())


def grid(*rates, around=0):
    """Offsets of a 3x3 at each of the rates, then of a (2 around + 1)^2 on top."""
    return {
        (dy * r + y, dx * r + x)
        for r in rates
        for dy, dx in itertools.product((-1, 0, 1), repeat=2)
        for y, x in itertools.product(range(-around, around + 1), repeat=2)
    }


@pytest.mark.parametrize(
    'head, keywords, rates, pool',
    [
        (DeepLabV3, {}, (6, 12, 18), True),
        (DeepLabV3, dict(paper=True), (12, 24, 36), True),
        (DeepLabV3, dict(rates=(1, 5)), (1, 5), True),
        (DeepLabV3Plus, {}, (12, 24, 36), True),
        (ACFNet, {}, (12, 24, 36), False),
    ],
)
def test_rates_of_aspp(head, keywords, rates, pool):
    n = 2 * max(rates) + 5
    assert seen(small(head, **keywords).aspp, noise(1, WIDTHS[3], n, n)) == (grid(*rates), pool)


@pytest.mark.parametrize('paper', [False, True])
def test_deeplabv3_between_pyramid_and_classifier(paper):
    """By default a 3x3; in the paper nothing."""
    net = small(DeepLabV3, rates=(4, 8), paper=paper)
    assert seen(lambda c4: net(None, None, None, c4)['out'], noise(1, WIDTHS[3], 23, 23)) == (
        grid(4, 8, around=0 if paper else 1),
        True,
    )


# ------------------------------------------------------------------------------------------------ what defines each head


def test_deeplabv3_of_the_paper(fake):
    put(HEAD_ARGS={'paper': True})
    net = published(DeepLabV3)
    assert count(net.head.parameters()) == 15_539_987
    assert count(net.parameters()) == 58_163_923


@torch.no_grad()
def test_deeplabv3_of_torchvision():
    """With the arguments that its docstring names, its parameters in their order are torchvision's."""
    theirs = (
        shake(torchvision.models.segmentation.deeplabv3.DeepLabHead(WIDTHS[3], 5)).double().eval()
    )
    ours = (
        DeepLabV3(WIDTHS, 5, channels=256, dropout=0, norm=BatchNorm2d, rates=(12, 24, 36))
        .double()
        .eval()
    )
    numbers = theirs.state_dict().values()
    assert len(numbers) == len(ours.state_dict())
    ours.load_state_dict(dict(zip(ours.state_dict(), numbers, strict=True)))
    c4 = noise(2, WIDTHS[3], 31, 33)
    assert_close(ours(None, None, None, c4)['out'], theirs(c4), 1e-12)


def test_deeplabv3plus_sees_the_first_map_near_by():
    net, (c1, c2, c3, c4) = small(DeepLabV3Plus), trunk_of(8)(noise(1, 3, 61, 53))
    assert seen(lambda x: net(x, c2, c3, c4)['out'], c1) == (
        grid(1, around=2),
        False,
    )  # three 3x3s: 7x7


def test_denseaspp_connections():
    """Each step reads c4 and all steps before it; together they reach the sum of the rates."""
    net, inputs, outputs = small(DenseASPP, rates=(1, 3, 9)), [], []
    for step in net.steps:
        step.register_forward_hook(lambda _, args, y: inputs.append(args[0]) or outputs.append(y))
    net.project.register_forward_hook(lambda _, args, y: inputs.append(args[0]))
    c4 = noise(2, WIDTHS[3], 12, 9)
    net(None, None, None, c4)
    for i, x in enumerate(inputs):
        assert torch.equal(x, torch.cat([c4, *outputs[:i]], 1))
    assert len(inputs) == 4
    for used in inputs[1:]:
        assert all(
            y.any() for y in used.split([WIDTHS[3]] + [16] * ((used.shape[1] - WIDTHS[3]) // 16), 1)
        )
    every = set(itertools.product(range(-14, 15), repeat=2))  # 1 + 3 + 9, and the 3x3 after them
    assert seen(lambda x: net(None, None, None, x)['out'], noise(1, WIDTHS[3], 33, 33)) == (
        every,
        False,
    )


def test_rates_of_denseaspp(fake):
    assert [step[-1].conv.dilation[0] for step in published(DenseASPP).head.steps] == [
        3,
        6,
        12,
        18,
        24,
    ]


@torch.no_grad()
def test_acfnet_mixes_class_centres():
    mix, x, label = (
        ClassAttention(16, BatchNorm2d).mix,
        noise(2, 16, 7, 9),
        torch.randint(4, (2, 7, 9), generator=torch.Generator().manual_seed(3)),
    )
    coarse = noise(2, 5, 7, 9, seed=4)
    y = mix(x, coarse)
    assert torch.linalg.matrix_rank(x.flatten(2)).tolist() == [16, 16]
    assert torch.linalg.matrix_rank(y.flatten(2)).tolist() == [5, 5]  # n class vectors
    assert_close(mix(x, coarse + noise(2, 1, 7, 9)), y, 1e-12)  # a softmax over classes
    sure = mix(x, 1000 * F.one_hot(label, 5).permute(0, 3, 1, 2).double())  # class 4 is nowhere
    for i, k in itertools.product(range(2), range(4)):
        own = label[i] == k
        assert_close(
            sure[i][:, own], x[i][:, own].mean(1, keepdim=True).expand(-1, own.sum()), 1e-12
        )


@torch.no_grad()
def test_acfnet_attends_by_its_coarse_output():
    net, c4, coarse, found = small(ACFNet), noise(2, WIDTHS[3], 9, 9), noise(2, 5, 9, 9), []
    net.coarse.register_forward_hook(lambda *_: coarse)
    net.attention.after.register_forward_hook(lambda _, args, y: found.append(args[0]))
    net(None, None, None, c4)
    assert_close(found[0], net.attention.mix(net.attention.before(net.aspp(c4)), coarse), 1e-12)
    assert found[0].std((2, 3)).max() > 1e-3  # not the same everywhere
    assert (ACFNet.main_weight, ACFNet.aux_weights) == (0.7, (0.6,))


@pytest.mark.parametrize('block', [NonLocalBlock, DoubleAttention])
def test_attention_starts_as_the_identity(block):
    x = noise(2, 16, 7, 9)
    net = block(16, BatchNorm2d).double()
    assert torch.equal(net.train()(x), x) and torch.equal(net.eval()(x), x)
    nn.init.ones_(net.restore[1].weight)
    assert not torch.allclose(net(x), x)


@torch.no_grad()
def test_nonlocal_attention():
    """Rows sum to one; each output is a mean of all values by the softmax of the scaled products."""
    x, net = 3 * noise(2, 16, 7, 9), NonLocalBlock(16, BatchNorm2d).double()
    q, k, v = (f(x).flatten(2) for f in (net.query, net.key, net.value))  # b 8 hw
    rows = (q.transpose(1, 2) @ k / 8**0.5).softmax(2)  # b hw hw
    assert_close(net.attend(x).flatten(2), v @ rows.transpose(1, 2), 1e-12)
    nn.init.zeros_(net.value.weight)
    assert_close(net.attend(x), net.value.bias[:, None, None].expand(2, -1, 7, 9), 1e-12)


@torch.no_grad()
def test_a2_gathers_over_positions_and_distributes_over_vectors():
    x, net = noise(2, 16, 7, 9), DoubleAttention(16, BatchNorm2d).double()
    assert_close(net.weights(x).sum(1), torch.ones(2, 63), 1e-12)
    assert torch.linalg.matrix_rank(net.restore[0](net.attend(x)).flatten(2)).tolist() == [4, 4]
    still = net.gathered(x)
    mixed = torch.einsum(
        'bms,bns->bmn', net.feature(x).flatten(2), net.gather(x).flatten(2).softmax(2)
    )
    assert_close(still, mixed, 1e-12)
    assert_close(
        net.attend(x).flatten(2),
        torch.einsum('bmn,bns->bms', still, net.distribute(x).flatten(2).softmax(1)),
        1e-12,
    )
    net.gather.bias.add_(noise(4))
    assert_close(
        net.gathered(x), still, 1e-12
    )  # softmax over positions: what moves all of them alike cancels
    nn.init.zeros_(net.feature.weight)
    assert_close(
        net.gathered(x), net.feature.bias[:, None].expand(2, 4, 4), 1e-12
    )  # its weights sum to one


@torch.no_grad()
def test_semanticfpn_is_its_source_where_sizes_divide():
    """With factors of two, at a size that divides by 32."""
    net, maps = small(SemanticFPN), trunk_of(32)(noise(2, 3, 64, 96))
    twice = nn.Upsample(scale_factor=2, mode='bilinear', align_corners=True)
    p5 = net.top(maps[3])
    p = [p5]
    for lateral, low in zip(net.laterals, maps[2::-1], strict=True):
        low = lateral.side(low)
        p.append(lateral.smooth(twice(p[-1]) + low))
    p4, p3, p2 = p[1:]
    b2, b3, b4, b5 = net.branches
    found = (
        b2[0](p2)
        + twice(b3[0](p3))
        + twice(b4[1](twice(b4[0](p4))))
        + twice(b5[2](twice(b5[1](twice(b5[0](p5))))))
    )
    assert_close(net(*maps)['out'], net.out(found), 1e-12)


@torch.no_grad()
def test_semanticfpn_levels_at_odd_sizes():
    net, maps = small(SemanticFPN), trunk_of(32)(noise(2, 3, 97, 129))
    levels = net.pyramid(*maps)
    assert [x.shape[2:] for x in levels] == [(25, 33), (13, 17), (7, 9), (4, 5)]
    lateral = Lateral(WIDTHS[2], 16, BatchNorm2d).double().eval()
    lateral.smooth = nn.Identity()
    found = lateral(levels[3], maps[2]) - lateral.side(
        maps[2]
    )  # 4x5 at the size 7x9: the corners and every other pixel are its own
    assert_close(found[:, :, ::2, ::2], levels[3], 1e-12)


@torch.no_grad()
def test_attention_to_scale_mixes_two_scores():
    """At each pixel one weight in 0..1 for all classes, between the scores of the image and those of its half."""
    net, trunk, image, asked = small(AttentionToScale), trunk_of(8), noise(2, 3, 65, 97), []
    out = call(net, image, lambda x: asked.append(x) or trunk(x), trunk(image))['out']
    assert [x.shape for x in asked] == [(2, 3, 32, 48)]
    assert_close(asked[0][:, :, 0, 0], image[:, :, 0, 0], 1e-12)
    large = net.score(trunk(image)[3])
    small_one = net.score(
        F.interpolate(trunk(asked[0])[3], large.shape[2:], mode='bilinear', align_corners=True)
    )
    w = (out - small_one) / (large - small_one)  # b n h w
    assert w.min() > 0 and w.max() < 1 and w.std() > 1e-3
    assert_close(w, w[:, :1].expand_as(w), 1e-6)
    net.attention[1].bias.fill_(1e3)
    assert_close(call(net, image, trunk)['out'], large, 1e-12)


@torch.no_grad()
def test_gates_of_bisenet():
    x, y = noise(2, 16, 7, 9), noise(2, 16, 7, 9, seed=1)
    arm, ffm = (
        shake(ARM(16, 16, BatchNorm2d).double().eval()),
        shake(FFM(16, BatchNorm2d).double().eval()),
    )
    for gated, plain, low in (
        (arm(x), arm.conv(x), 0),
        (ffm(x, y), ffm.conv(torch.cat([x, y], 1)), 1),
    ):
        g = (gated.sum((2, 3)) / plain.sum((2, 3)))[:, :, None, None]  # one for each channel
        assert_close(gated, plain * g, 1e-12)
        assert low < g.min() and g.max() < low + 1 and g.std() > 1e-3
    gate = Gate(16, BatchNorm2d).double().eval()
    assert_close(gate(x), gate(x.mean((2, 3), keepdim=True)), 1e-12)
    assert gate(1e4 * x).max() > 0.99 and gate(1e4 * x).min() < 0.01


@torch.no_grad()
def test_paths_of_bisenet():
    """The spatial path sees the image alone, at stride 8; the context is the sum of tail and both refined maps."""
    net, trunk, image, sums = small(BiSeNet), trunk_of(32), noise(2, 3, 65, 97), []
    net.context.register_forward_hook(lambda _, args, y: sums.append(args[0]))
    c1, c2, c3, c4 = trunk(image)
    call(net, image, trunk)
    size = net.spatial(image).shape[2:]
    assert size == (9, 13)
    wanted = sum(
        F.interpolate(x, size, mode='bilinear', align_corners=True)
        for x in (net.arm3(c3), net.arm4(c4))
    )
    tail = net.tail.relu(net.tail.bn(net.tail.conv(c4.mean((2, 3), keepdim=True))))
    assert_close(sums[0], wanted + tail, 1e-12)


def test_rates_of_deeplabv3plus():
    """The paper's rates at stride 16 are half of those at stride 8."""
    small_net(HEAD='deeplabv3plus')
    dilations = lambda: [branch.conv.dilation[0] for branch in build().head.aspp.branches[1:4]]
    assert dilations() == [12, 24, 36]
    put(HEAD_ARGS={'rates': (6, 12, 18)})
    assert dilations() == [6, 12, 18]
