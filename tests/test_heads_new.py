"""SeENet, SwiftNet and its pyramid form, LadderDenseNet, CANet 1 and 2, AttaNet: sizes, and what defines each."""

import pytest
import torch
import torch.nn.functional as F
from golden import recipe
from helpers import assert_close, build, small_net, strides
from test_baselines import WIDTHS, call, ceil, count, grid, noise, seen, small, trunk_of
from torch._subclasses.fake_tensor import FakeTensorMode

from heads import HEADS
from heads.attanet import AttaNet
from heads.canet1 import CANet1
from heads.canet2 import CANet2
from heads.fcn import FCNHead
from heads.ladderdensenet import LadderDenseNet
from heads.seenet import SeENet
from heads.swiftnet import SwiftNet
from heads.swiftnetpr import SwiftNetPR
from sync_bn import BatchNorm2d
from utils import script

# ------------------------------------------------------------------------------------------------------------ all of them


NEW = ['seenet', 'swiftnet', 'swiftnetpr', 'ladderdensenet', 'canet1', 'canet2', 'attanet']
every_new_head = pytest.mark.parametrize('head', NEW)


def narrow(head, **values):
    """A network in which only the head is of interest."""
    torch.manual_seed(0)
    small_net(HEAD=head, STRIDE=strides(head)[0], HEAD_ARGS={'width': 16}, DROPOUT=0.0, **values)
    return build()


@pytest.mark.parametrize('h, w', [(65, 97), (33, 50)])
@every_new_head
@torch.no_grad()
def test_new_head_at_odd_sizes_and_in_bf16(head, h, w):
    net = narrow(head).train()
    image, label = recipe.batch(2, h, w, 3), recipe.labels(2, h, w, 8, 4)
    assert net(image, label)[0].isfinite().all()  # and moves the statistics
    net.eval()
    wanted = net(image)
    assert wanted.shape == (2, 10, h, w)
    with torch.autocast('cpu', torch.bfloat16):
        logits = net(image)
    assert logits.dtype == torch.float32
    assert_close(logits, wanted, 0.05, 'bf16')


@every_new_head
def test_marks_tell_heads_apart(head):
    """A file of a head has a tensor with its mark; one of a later head has none."""
    names = list(HEADS)
    with FakeTensorMode():
        for other in names[names.index(head) :]:
            if other in NEW:
                keys = HEADS[other](
                    (8, 10, 12, 14), 3, channels=8, dropout=0, norm=BatchNorm2d
                ).state_dict()
                has = any(k.startswith(HEADS[head].mark) for k in keys)
                assert has == (other == head), (head, other)


# ------------------------------------------------------------------------------------------------ what defines each head


@pytest.mark.parametrize('head', [SwiftNet, SwiftNetPR, LadderDenseNet])
def test_ladders_see_the_first_map_near_by(head):
    """Two 3x3s see 5x5 of the first map, and all of the last one."""
    net, image = small(head), noise(1, 3, 61, 53)
    trunk = trunk_of(32)
    maps = trunk(image)

    def of_first(x):
        return call(net, image, trunk, [x, *maps[1:]])['out']

    assert seen(of_first, maps[0]) == (grid(1, around=1), False)
    last = maps[3].requires_grad_()
    call(net, image, trunk, [*maps[:3], last])['out'].sum().backward()
    assert last.grad.any(1).all()


def test_swiftnet_pools_the_last_map_alone():
    """A change of one corner of c4 reaches everywhere; without the pyramid's branches it does not."""
    net, (c1, c2, c3, c4) = small(SwiftNet), trunk_of(32)(noise(1, 3, 257, 257))
    changed = c4.clone()
    changed[..., 0, 0] += 1
    with torch.no_grad():
        assert (net(c1, c2, c3, c4)['out'] != net(c1, c2, c3, changed)['out']).any(1).all()
        for branch in net.pyramid.branches:
            branch[1].bn.weight.zero_()
        near = (net(c1, c2, c3, c4)['out'] != net(c1, c2, c3, changed)['out']).any(1)
    assert near[0, 0, 0] and not near[0, 32:, 32:].any()


@pytest.mark.parametrize('h, w', [(65, 97), (33, 50), (71, 54), (1, 2)])
@torch.no_grad()
def test_swiftnetpr_at_sizes_where_the_source_fails(h, w):
    """Rounded up, the half size gives maps that fit; rounded down they differ at most of these."""
    net, asked = narrow('swiftnetpr').eval(), []
    image = recipe.image(h, w, 1)
    maps = net.maps(image)
    out = net.head(*maps, image=image, trunk=lambda x: asked.append(x) or net.maps(x))['out']
    assert out.shape[2:] == maps[0].shape[2:] == (ceil(h, 4), ceil(w, 4))
    (half,) = asked
    assert half.shape[2:] == (ceil(h, 2), ceil(w, 2))
    smaller = net.maps(half)
    assert [x.shape[2:] for x in smaller[:3]] == [x.shape[2:] for x in maps[1:]]
    if (h, w) == (65, 97):
        down = net.maps(F.interpolate(image, (h // 2, w // 2)))
        assert [x.shape[2:] for x in down[:3]] != [x.shape[2:] for x in maps[1:]]


@pytest.mark.parametrize('trunk', ['densenet121', 'convnext_tiny'])
@pytest.mark.parametrize('h, w', [(65, 97), (33, 50), (96, 16)])
@torch.no_grad()
def test_swiftnetpr_on_trunks_that_pad_or_round_down(trunk, h, w):
    small_net(HEAD='swiftnetpr', TRUNK=trunk, STRIDE=32, HEAD_ARGS={'width': 16})
    out = build().eval()(recipe.image(h, w, 1))
    assert out.shape == (1, 10, h, w) and out.isfinite().all()


def test_ladder_is_supervised_at_its_top():
    net, maps = small(LadderDenseNet).train(), trunk_of(32)(noise(2, 3, 65, 65))
    maps = [x.requires_grad_() for x in maps]
    (aux,) = net(*maps)['aux']
    assert aux.shape[2:] == maps[3].shape[2:]
    grads = torch.autograd.grad(aux.square().sum(), maps, allow_unused=True)
    assert [g is not None for g in grads] == [False, False, False, True]


def test_ladder_on_maps_of_densenet121():
    """The widths, and the sizes that transitions rounding down give at 65x65; NETWORKS.md 25."""
    widths, sizes = (256, 512, 1024, 1024), (17, 8, 4, 2)
    head = LadderDenseNet(widths, 19, channels=256, dropout=0.1, norm=BatchNorm2d)
    assert count(head.parameters()) - count(head.aux.parameters()) == 954_771
    assert count(head.aux.parameters()) == 150_163
    maps = [torch.randn(2, c, n, n) for c, n in zip(widths, sizes, strict=True)]
    outputs = head(*maps)
    assert outputs['out'].shape == (2, 19, 17, 17) and outputs['aux'][0].shape == (2, 19, 2, 2)


def test_seenet_sees_at_four_scales():
    net = small(SeENet)
    parts = (
        (net.enhance2, WIDTHS[1], (1, 2, 4, 8), 0),
        (net.enhance3, WIDTHS[2] + 16, (3, 6, 9, 12), 0),
        (net.enhance4, WIDTHS[3] + 16, (7, 13, 19, 25), 1),  # a 3x3 of large kernels in between
    )
    for module, c, rates, around in parts:
        n = 2 * (max(rates) + around) + 5
        offsets, all_alike = seen(module, noise(1, c, n, n))
        assert not all_alike and offsets == grid(*rates, around=around)


@torch.no_grad()
def test_seenet_adds_detail_where_it_is_not_sure():
    """Where the gate is open the first map does not count; where it is shut it counts in full."""
    attention, x, fine = small(SeENet).boundary, noise(2, 16, 7, 9), noise(2, WIDTHS[0], 7, 9)
    bias = attention.gate[1].bias
    bias.fill_(1000.0)
    assert torch.equal(attention(x, fine), attention(x, 0 * fine))
    bias.fill_(-1000.0)
    assert_close(attention(x, fine), x + attention.detail(fine), 1e-12)


@pytest.mark.parametrize('h, w', [(40, 40), (9, 13), (3, 2), (1, 1)])
@torch.no_grad()
def test_canet1_chains_flows_at_ever_smaller_sizes(h, w):
    """Each flow reads the last map and the flow before it, at 1/2 to 1/16 of the size, never none."""
    net, c4, inputs, pooled, flows = small(CANet1), noise(2, WIDTHS[3], h, w), [], [], []
    for flow in net.flows:
        flow.register_forward_hook(lambda _, args, y: inputs.append(args[0]) or flows.append(y))
        flow.convs.register_forward_hook(lambda _, args, y: pooled.append(tuple(y.shape[2:])))
    total = net.chain(c4)
    assert pooled == [(max(h // s, 1), max(w // s, 1)) for s in (2, 4, 8, 16)]
    flows = [net.context(c4), *flows]
    for x, before in zip(inputs, flows):
        assert torch.equal(x, torch.cat([c4, before], 1))
    assert_close(total, sum(flows), 1e-12)


@torch.no_grad()
def test_canet2_takes_a_mixture_of_four():
    """At each pixel, the same for all channels; of four equal maps it is that map."""
    net = small(CANet2)
    maps = [noise(2, 16, 7, 9, seed=i) for i in range(4)]
    mixed = net.mix(maps)
    assert (mixed <= torch.stack(maps).amax(0) + 1e-12).all()
    assert (mixed >= torch.stack(maps).amin(0) - 1e-12).all()
    assert_close(net.mix(maps[:1] * 4), maps[0], 1e-12)
    for i in range(4):
        net.choose[2].weight.zero_()
        net.choose[2].bias.copy_(1000 * F.one_hot(torch.tensor(i), 4))
        assert torch.equal(net.mix(maps), maps[i])


@pytest.mark.parametrize('n', [1, 2, 9, 16])
@torch.no_grad()
def test_canet2_streams_halve_once_twice_and_three_times(n):
    net = small(CANet2)
    for i, stream in enumerate(net.streams):
        x = noise(2, 16, n, n + 1)
        assert stream.encoder(x).shape[2:] == (ceil(n, 2 ** (i + 1)), ceil(n + 1, 2 ** (i + 1)))
        assert stream(x).shape == x.shape


@torch.no_grad()
def test_attanet_attends_to_columns():
    """As attention to all pixels would, if keys and values were constant along columns."""
    strip, x = small(AttaNet).strip, noise(2, 16, 7, 9)
    q, k, v = strip.query(x), strip.key(x), strip.value(x)
    k, v = (t.mean(2, keepdim=True).expand_as(t).flatten(2) for t in (k, v))
    everywhere = (q.flatten(2).transpose(1, 2) @ k).softmax(2)  # b hw hw
    rows = everywhere.unflatten(2, (7, 9))
    assert_close(rows, rows[:, :, :1].expand_as(rows), 1e-12)
    assert_close(strip(x) - x, (v @ everywhere.transpose(1, 2)).view_as(x), 1e-12)


@torch.no_grad()
def test_attanet_chooses_channels():
    """With the gate open the fused map is the coarse one, with it shut the fine one."""
    fusion = small(AttaNet).fusion
    high, low = noise(2, WIDTHS[3], 5, 4), noise(2, WIDTHS[2], 9, 7)
    bias = fusion.gate[2].bias
    bias.fill_(-1000.0)
    assert torch.equal(fusion(high, low), fusion.low(low))
    bias.fill_(1000.0)
    opened = fusion(high, low)
    assert torch.equal(opened, fusion(high, 0 * low)) and opened.shape == (2, 16, 9, 7)


@pytest.mark.parametrize('head', ['swiftnet', 'canet1', 'canet2', 'attanet'])
def test_new_heads_that_need_two_images(head):
    net = narrow(head)
    with pytest.raises(ValueError) as e:
        net(recipe.image(33, 33, 0), torch.zeros(1, 33, 33, dtype=torch.uint8))
    assert f'HEAD={head} may pool, of one image per device' in script.sentence(e.value)


@pytest.mark.parametrize('head, stride', [('seenet', 16), ('canet2', 32), ('attanet', 8)])
def test_strides_that_new_heads_refuse(head, stride):
    small_net(HEAD=head, STRIDE=stride)
    with pytest.raises(ValueError, match=f'HEAD={head} does not work with STRIDE = {stride}'):
        build()


@pytest.mark.parametrize('head', [SwiftNet, SwiftNetPR, LadderDenseNet, AttaNet, SeENet])
def test_last_convolution_is_never_wider_than_its_input(head):
    for channels, wanted in ((256, 16), (8, 8)):
        out = head(WIDTHS, 5, channels=channels, dropout=0, norm=BatchNorm2d, width=16).out
        assert isinstance(out, FCNHead) and out[0].conv.out_channels == wanted
