"""Trunks other than ResNet, the heads that came with them, optimisers and group norm."""

import math
import re
from types import SimpleNamespace

import pytest
import scripts
import torch
import torch.nn.functional as F
import torchvision
from golden import recipe
from helpers import assert_close, build, put, small_net
from scripts import data  # noqa: F401
from torch import nn

import checkpoint
import dataset
import network
import trunks
from conversion import describe
from heads import alignseg, fapn, setr
from heads.acfnet import ClassAttention
from heads.blocks import SettingsError, group_norm
from heads.gffnet import GFFNet
from heads.psa import PSA
from sync_bn import BatchNorm2d
from trunks.eprnet import Pyramid
from utils import config, older, weights
from utils.config import UserError
from utils.optim import doubts, learning_rate, make_optimizer, set_rate, take_formats
from utils.sizes import crop_doubts

# -------------------------------------------------------------------------------------------------------------- trunks

PAIRS = [(name, stride) for name, kind in trunks.TRUNKS.items() for stride in kind.allowed]
MODELS = torchvision.models.list_models()
LIGHT = ['mobilenet_v2', 'xception39', 'eprnet', 'eprnet_light', 'densenet121', 'vit_b_16']


@pytest.fixture
def fake():
    """In it tensors have shapes and no numbers: nothing is computed."""
    with torch.device('meta'):
        yield


def count(module):
    return sum(p.numel() for p in module.parameters())


def statistics(module):
    return sum(b.numel() for k, b in module.named_buffers() if 'running' in k)


def on(trunk, **values):
    """A narrow EMANet on a trunk."""
    stride = trunks.TRUNKS[trunk].allowed[0]
    small_net(**dict(HEAD='ema', TRUNK=trunk, STRIDE=stride, CROP_SIZE=65) | values)
    torch.manual_seed(0)
    return build()


@pytest.mark.parametrize('name, stride', PAIRS)
@torch.no_grad()
def test_every_trunk_tells_the_truth(name, stride, fake):
    """Widths, strides and names of tensors, at an odd size."""
    net = on(name, HEAD='fcn', STRIDE=stride).eval()
    trunk, (h, w) = net.extractor, (67, 97)
    maps = trunk.maps(torch.empty(1, 3, h, w))
    assert [m.shape[1] for m in maps] == trunk.widths and trunk.stride == stride
    height, width = trunk.padded((h, w))
    for x, s in zip(maps, trunk.strides, strict=True):
        for n, m in zip(x.shape[2:], (height, width), strict=True):
            assert n in (m // s, -(-m // s))
    assert net(torch.empty(2, 3, h, w)).shape == (2, 10, h, w)
    assert trunks.trunk_of({k: v.shape for k, v in net.state_dict().items()}) == name


def with_statistics(net):
    """The network with batch norms that are no identity, as after training."""
    for m in net.modules():
        if isinstance(m, nn.BatchNorm2d):
            m.running_mean.uniform_(-0.1, 0.1)
            m.running_var.uniform_(0.5, 1.5)
            nn.init.uniform_(m.weight, 0.5, 1.5)
            nn.init.uniform_(m.bias, -0.1, 0.1)
    return net


@pytest.mark.parametrize('name', LIGHT)
@torch.no_grad()
def test_any_size_and_folded(name):
    net = with_statistics(on(name)).eval()
    folded = network.fold(net)
    for size in ((33, 47), (9, 8), (2, 1)):
        x = recipe.noise((1, 3, *size), 3)
        wanted = net(x)
        assert wanted.shape == (1, 10, *size)
        assert_close(folded(x), wanted, 1e-4, size)
        with torch.autocast('cpu', torch.bfloat16):
            logits = net(x)
        assert logits.dtype == torch.float32
        assert_close(logits, wanted, 0.15, size)


@torch.no_grad()
def test_padding_changes_nothing_but_sides():
    """An image that is padded by the trunk, or by hand with the mean colour: the same logits."""
    net = on('vit_b_16').eval()
    x = recipe.image(40, 50, 1)
    assert_close(net(x), net(F.pad(x, (0, 14, 0, 8)))[:, :, :40, :50], 1e-5)


@pytest.mark.parametrize('name', ['vit_b_16', 'convnext_tiny', 'densenet121'])
@torch.no_grad()
def test_attention_covers_the_image_alone(name):
    """The maps of an image that the trunk pads: those of the padded one, where the image is."""
    net, image = on(name).eval(), recipe.image(40, 90, 1)
    height, width = net.extractor.padded((40, 90))
    z = net.attention(image)
    assert_close(z.sum(1), torch.ones_like(z.sum(1)), 1e-5)
    _, _, whole = net.emau(net.fc0(net.maps(image)[3]), maps=True)
    if (height, width) == (40, 90):
        assert torch.equal(z, whole)
        return
    wanted = F.interpolate(whole, (height, width), mode='bilinear')[..., :40, :90]
    rows, columns = z.shape[2:]
    assert rows <= whole.shape[2] and columns <= whole.shape[3]
    for i in range(rows):
        for j in range(columns):  # its centre, between four pixels or on one
            y, x = (i + 0.5) * 40 / rows - 0.5, (j + 0.5) * 90 / columns - 0.5
            ys, xs = (math.floor(y), math.ceil(y)), (math.floor(x), math.ceil(x))
            around = wanted[0][:, ys][:, :, xs].flatten(1)
            assert (z[0, :, i, j] >= around.amin(1) - 1e-5).all()
            assert (z[0, :, i, j] <= around.amax(1) + 1e-5).all()


@torch.no_grad()
def test_where_an_attention_map_lies():
    """A ramp over a map of patches: at each pixel of the cut map, the ramp at its place in the image."""
    net = on('vit_b_16')
    ramp = torch.arange(4.0).expand(1, 1, 3, 4)
    cut = net.uncovered(ramp, (40, 56))  # 2.5 x 3.5 patches
    places = (torch.arange(4) + 0.5) * 56 / 4 / 16 - 0.5
    assert_close(cut, places.clamp(0).expand(1, 1, 2, 4), 1e-6)
    assert net.uncovered(ramp, (48, 64)) is ramp


@torch.no_grad()
def test_trunks_compute_what_torchvision_computes():
    """From the file of a classifier on: the last map, pooled, gives its classes."""
    torch.manual_seed(0)
    for name in ('densenet121', 'mobilenet_v2', 'convnext_tiny', 'vit_b_16'):
        model = torchvision.models.get_model(name, weights=None).eval()
        for m in model.modules():
            if isinstance(m, nn.BatchNorm2d):
                m.running_mean.uniform_(-0.1, 0.1)
                m.running_var.uniform_(0.5, 1.5)
        x = recipe.noise((1, 3, 224, 224), 2)
        put(TRUNK=name, STRIDE=trunks.TRUNKS[name].allowed[0])
        trunk = trunks.make_trunk(config_of_now(), BatchNorm2d).eval()
        state = trunks.torchvision_state(model.state_dict())
        trunk.load_state_dict({k.removeprefix('extractor.'): v for k, v in state.items()})
        last = trunk.maps(x)[3]
        if name == 'vit_b_16':  # ours lacks the class token: the same blocks without it
            tokens = model.conv_proj(x).flatten(2).transpose(1, 2)
            tokens = tokens + model.encoder.pos_embedding[:, 1:]
            wanted = model.encoder.ln(model.encoder.layers(tokens))
            assert_close(last.flatten(2).transpose(1, 2), wanted, 1e-5, name)
        elif name == 'mobilenet_v2':
            assert_close(model.features[18](last), model.features(x), 1e-5, name)
        elif name == 'convnext_tiny':
            assert_close(last, model.features(x), 1e-5, name)
        else:
            assert_close(last, model.features(x).relu(), 1e-5, name)


def config_of_now():
    import settings

    return settings


def test_older_names_of_densenet_and_files_of_others():
    old = {'features.denseblock1.denselayer1.norm.1.weight': torch.ones(2)}
    renamed = trunks.torchvision_state(old)
    assert list(renamed) == ['extractor.features.denseblock1.denselayer1.norm1.weight']
    assert trunks.torchvision_state({'layer1.0.conv1.weight': torch.ones(1)}) is None
    assert trunks.trunk_of({'extractor.0.0.weight': (64, 3, 3, 3)}) == ''
    large = {'extractor.features.5.26.layer_scale': (768, 1, 1)}
    block = {'extractor.encoder.layers.encoder_layer_11.ln_1.weight': (768,)}
    patches = {'extractor.conv_proj.weight': (768, 3, 32, 32)}
    assert trunks.trunk_of(large) == trunks.trunk_of(block | patches) == ''
    assert trunks.trunk_of(block) == 'vit_b_16'


@pytest.mark.parametrize('name', [name for name in trunks.TRUNKS if name in MODELS])
def test_whole_files_of_torchvision(name):
    """Classifier and all, as they are fetched."""
    with torch.device('meta'):
        state = torchvision.models.get_model(name).state_dict()
        file = describe.open_file(state, 'x.pth')
        net = network.build(8, SimpleNamespace(**config.current() | wanted_of(name)))
    assert file.family == 'torchvision trunk' and file.is_trunk
    report = checkpoint.compare(net, file, 'trunk')
    assert report.matched and not (report.missing or report.wrong or report.unexpected)


def wanted_of(name):
    return {'TRUNK': name, 'STRIDE': trunks.TRUNKS[name].allowed[0], 'HEAD': 'fcn', 'HEAD_ARGS': {}}


def test_a_file_of_a_vit_of_384_pixels():
    """Its table of positions is that of a larger grid."""
    ramp = torch.arange(24.0).view(1, 24, 1, 1).expand(1, 24, 24, 3).reshape(1, 576, 3)
    table = torch.cat([torch.full((1, 1, 3), -9.0), ramp], 1)
    state = {'encoder.pos_embedding': table, 'encoder.layers.encoder_layer_0.ln_1.weight': table}
    table = trunks.torchvision_state(state)['extractor.encoder.pos_embedding']
    rows = table.view(14, 14, 3)[:, 0, 0]
    assert (rows.diff() > 0).all() and abs(rows.mean() - 11.5) < 0.01


@torch.no_grad()
def test_positions_are_resized():
    """On the grid of 224 pixels they are the table; on a larger one a smooth version of it."""
    trunk = on('vit_b_16').extractor
    table = trunk.encoder.pos_embedding
    ramp = torch.arange(14.0).view(1, 14, 1, 1).expand(1, 14, 14, 768).reshape(1, 196, 768)
    table.copy_(ramp)
    assert trunk.positions((14, 14)) is table
    rows = trunk.positions((28, 20)).view(28, 20, 768)[:, 0, 0]
    assert (rows.diff() > 0).all() and abs(rows.mean() - 6.5) < 0.01
    trunk.tap(mla=False)
    assert trunk.taps == (5, 8, 10, 12)


@pytest.mark.parametrize('name', ['convnext_tiny', 'densenet121', 'vit_b_16'])
def test_emanet_on(name, drawn_shapes):
    """The unit starts as on a ResNet, neither flat nor hard; the loss of a batch falls; every parameter learns."""
    put(DATA_ROOT=str(drawn_shapes), TRAIN_SPLIT='train', NUM_WORKERS=0)
    net = on(name, EM_CHANNELS=256, EM_BASES=32, OPTIMIZER='adamw', LR=3e-4, DROPOUT=0.0)
    data = dataset.Dataset('train', train=True)
    image, label = (torch.stack(parts) for parts in zip(*(data[i, 0] for i in range(4))))
    optimizer = make_optimizer(net)
    losses, curves = [], []
    for _ in range(4):
        loss_sum, counted, mu = net(image, label)
        curves.append(net.emau.curves(net.statistics().tolist()))
        loss = loss_sum.sum() / counted.sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        net.update_bases(mu.detach().mean(0))
        losses.append(loss.item())
    assert 0.2 < curves[0]['em/entropy'] < 0.97 and curves[0]['em/cosine'] < 0.95
    assert curves[0]['em/bases_in_use'] > 16
    assert losses[-1] < losses[0] and all(map(math.isfinite, losses))
    for key, p in net.named_parameters():
        assert p.grad is not None or key.startswith('emau.conv1'), key


def test_scripts_on_a_trunk(data, tmp_path):
    """Trained with AdamW, stopped and resumed, the same bit by bit; scored; its bases drawn; a misfit is refused."""
    room = scripts.Room(tmp_path, data)
    text = room.recipe.read_text().replace("'plain'", "'deep'")
    room.recipe.write_text(text + "TRUNK = 'mobilenet_v2'\nSTRIDE = 32\nOPTIMIZER = 'adamw'\n")
    words = ['LR=1e-3', 'LR_POLICY=0.0']
    room.ok('train.py', *words, 'ITER_MAX=1')
    assert 'resuming tiny at step 1' in room.ok('train.py', *words, 'ITER_MAX=3')
    room.ok('train.py', *words, 'ITER_MAX=3', 'NAME=whole')
    ours, wanted = room.checkpoint('latest'), room.checkpoint('latest', 'whole')
    for part in ('net', 'opt'):
        parts = scripts.tensors(ours[part]), scripts.tensors(wanted[part])
        assert set(parts[0]) == set(parts[1])
        assert all(torch.equal(parts[0][key], parts[1][key]) for key in parts[0])
    printed = room.ok('eval.py')
    assert 'TRUNK=mobilenet_v2' in printed and 'STEM=' not in printed
    assert 0 <= room.scores()['mIoU'] <= 1
    picture = data / 'camvid' / 'val' / '00.png'
    room.ok('predict.py', picture, '--bases', f'SAVE_DIR={tmp_path}/out')
    assert (tmp_path / 'out' / 'bases' / '00.png').exists()
    for script in ('train.py', 'bench.py'):
        result = room.run(script, *words, 'HEAD=seenet', 'NAME=other')
        assert result.status == 2 and result.err.count('\n') == 1, result.err
        assert 'HEAD=seenet does not work with TRUNK=mobilenet_v2; use a trunk with' in result.err


@pytest.mark.parametrize(
    'values, words',
    [
        (
            dict(TRUNK='vit_b16'),
            r"TRUNK = 'vit_b16': there is no such trunk; did you mean vit_b_16",
        ),
        (dict(TRUNK='x'), 'there is no such trunk; use one of resnet, densenet121'),
        (
            dict(TRUNK='densenet121'),
            'TRUNK=densenet121 does not work with STRIDE = 8; use STRIDE=32',
        ),
        (
            dict(TRUNK='xception65', STRIDE=32),
            'TRUNK=xception65 does not work with STRIDE = 32; use STRIDE=8 or STRIDE=16',
        ),
        (
            dict(TRUNK='vit_b_16', STRIDE=16, HEAD='bisenet'),
            'HEAD=bisenet does not work with TRUNK=vit_b_16; use a trunk with STRIDE=32, such as',
        ),
        (
            dict(TRUNK='vit_b_16', STRIDE=16, HEAD='deeplabv3plus'),
            'use a trunk whose first map has stride 4: TRUNK=resnet STRIDE=8',
        ),
        (
            dict(TRUNK='xception65', STRIDE=16, HEAD='fapn'),
            'HEAD=fapn does not work with TRUNK=xception65; use a trunk with STRIDE=32',
        ),
        (
            dict(HEAD='fapn', STRIDE=32, HEAD_ARGS={'width': 30}),
            r"HEAD_ARGS=\{'width': 30\}: FaPN samples .* 8 groups; use a multiple of 8",
        ),
        (
            dict(TRUNK='densenet121', STRIDE=8, HEAD='seenet'),
            'HEAD=seenet does not work with TRUNK=densenet121; use a trunk with STRIDE=8',
        ),
        (
            dict(TRUNK='xception65', STRIDE=32, HEAD='canet2'),
            'TRUNK=xception65 does not work with STRIDE = 32; use STRIDE=8 or STRIDE=16',
        ),
        (dict(HEAD='fapn', STRIDE=8), 'HEAD=fapn does not work with STRIDE = 8; use STRIDE=32'),
        (
            dict(HEAD='bisenet', STRIDE=32, N_LAYERS=50),
            'HEAD=bisenet does not work with N_LAYERS = 50; use N_LAYERS=18 or N_LAYERS=34 or N_LAYERS=10',
        ),
    ],
    ids=str,
)
def test_misfits_are_one_sentence(values, words, fake):
    small_net(HEAD='ema', STRIDE=8)
    with pytest.raises(SettingsError, match=words) as e:
        build(**values)
    assert '\n' not in str(e.value) and len(str(e.value)) < 250


def test_bisenet_needs_no_small_resnet_elsewhere(fake):
    small_net(HEAD='bisenet', TRUNK='xception39', STRIDE=32, N_LAYERS=101)
    assert build().head.arm3.conv.conv.in_channels == 128


# ------------------------------------------------------------------------------------------------------------ counts

COUNTS = {  # NETWORKS.md, 25 and part two: settings, parameters of trunk, head without aux, its statistics, its own aux
    'eprnet': (dict(HEAD='eprnet', TRUNK='eprnet', STRIDE=8), 745_537, 150_164, 256, 0),
    'eprnet light': (dict(HEAD='eprnet', TRUNK='eprnet_light', STRIDE=8), 497_969, 150_164, 256, 0),
    'fapn': (
        dict(HEAD='fapn', STRIDE=32, HEAD_ARGS={'form': 'mxnetseg'}),
        42_623_936,
        9_879_707,
        6_144,
        0,
    ),
    'fapn of the authors': (dict(HEAD='fapn', STRIDE=32), 42_623_936, 6_617_243, 6_144, 0),
    'alignseg': (dict(HEAD='alignseg', STRIDE=32), 42_623_936, 10_574_739, 9_856, 4_723_987),
    'gffnet': (dict(HEAD='gffnet', STRIDE=8), 42_623_936, 23_153_427, 13_312, 0),
    'naive': (
        dict(HEAD='setr', TRUNK='vit_l_16', STRIDE=16, HEAD_ARGS={'decoder': 'naive'}),
        303_299_584,
        267_539,
        512,
        802_617,
    ),
    'pup': (
        dict(HEAD='setr', TRUNK='vit_l_16', STRIDE=16, HEAD_ARGS={'decoder': 'pup'}),
        303_299_584,
        4_135_699,
        2_048,
        1_070_156,
    ),
    'mla': (
        dict(HEAD='setr', TRUNK='vit_l_16', STRIDE=16, HEAD_ARGS={'decoder': 'mla'}),
        303_299_584,
        5_193_235,
        6_144,
        1_070_156,
    ),
}


@pytest.mark.parametrize('name', COUNTS)
def test_parameters_as_published(name, fake):
    """The table of positions of SETR has 14 x 14 entries here, 30 x 30 in the count; three of its layer norms are in the head here."""
    values, of_trunk, of_head, stats, of_aux = COUNTS[name]
    put(
        **dict(N_LAYERS=101, STEM='deep', PRETRAINED='', HEAD_CHANNELS=256, AUX_WEIGHT=0.0) | values
    )
    net = build(19)
    head, trunk = net.head, count(net.extractor)
    aux = count(head.aux) if hasattr(head, 'aux') else 0
    norms = count(head.norms) if hasattr(head, 'norms') else 0
    assert trunk == of_trunk and aux == of_aux
    assert count(head) - aux - norms == of_head
    running = statistics(head) - (statistics(head.aux) if aux else 0)
    assert running == stats
    if norms:
        assert trunk + norms + (900 - 196) * 1024 == 304_026_624


FILES = {  # values in a file of MXNetSeg with 5 classes: aux heads and statistics counted
    'fcn': (dict(TRUNK='mobilenet_v2', STRIDE=32, AUX_WEIGHT=0.4), 2_666_666),
    'bisenet': (dict(TRUNK='xception39', STRIDE=32), 2_737_679),
    'deeplabv3plus': (dict(TRUNK='xception65', STRIDE=8), 54_939_749),
}


@pytest.mark.parametrize('head', FILES)
def test_values_in_a_file(head, fake):
    values, n = FILES[head]
    put(PRETRAINED='', HEAD=head, HEAD_CHANNELS=256, **values)
    net = build(5)
    assert count(net) + statistics(net) == n


# ------------------------------------------------------------------------------------------------------------- heads


def test_warp_samples_where_offsets_point():
    """x first, in pixels; a step of half a pixel is the mean of two; outside are zeros."""
    x = torch.arange(12.0).view(1, 1, 3, 4)
    offsets = torch.zeros(1, 2, 3, 4)
    assert torch.allclose(alignseg.warp(x, offsets), x)
    offsets[:, 0] = 1
    shifted = alignseg.warp(x, offsets)
    assert torch.allclose(shifted[..., :3], x[..., 1:]) and (shifted[..., 3] == 0).all()
    offsets[:, 0], offsets[:, 1] = 0, 0.5
    halfway = alignseg.warp(x, offsets)
    assert torch.allclose(halfway[:, :, :2], (x[:, :, :2] + x[:, :, 1:]) / 2, atol=1e-5)


def test_alignseg_starts_unaligned():
    """With offsets at zero a step is the sum of both maps."""
    step = alignseg.Align(6, 7, 8, BatchNorm2d).eval()
    coarse, fine = recipe.noise((1, 6, 3, 4), 1), recipe.noise((1, 7, 5, 7), 2)
    wanted = step.fine(fine) + alignseg.up(step.coarse(coarse), step.fine(fine))
    assert_close(step(coarse, fine), wanted, 1e-5)


@torch.no_grad()
def test_fapn_starts_as_a_plain_convolution():
    """Offsets and masks begin at zero: half of a 3x3 (sigmoid of 0), or in MXNetSeg's form all of it."""
    x, guide = recipe.noise((1, 8, 5, 7), 1), recipe.noise((1, 8, 5, 7), 2)
    for gain in (1, 2):
        conv = fapn.Deformable(8, 8, 8, gain)
        plain = F.conv2d(x, conv.weight, None, padding=1) * gain / 2 + conv.bias.view(1, -1, 1, 1)
        assert_close(conv(x, guide), plain, 1e-5)
    conv.offset.bias[1 : 18 * fapn.GROUPS : 2] = 1.0  # x of each tap: one pixel to the right
    moved = F.pad(x[..., 1:], (0, 1))
    plain = F.conv2d(F.pad(x, (1, 2, 1, 1))[..., 1:], conv.weight, conv.bias)
    assert moved.shape == x.shape and conv(x, guide).shape == x.shape
    assert_close(conv(x, guide), plain, 1e-5)


@torch.no_grad()
def test_gates_of_gffnet():
    """Shut gates let everything in, open ones nothing; in turn, later levels see fused ones."""
    head = GFFNet([4] * 4, 3, channels=4, dropout=0, norm=BatchNorm2d, width=4)
    levels = [recipe.noise((1, 4, n, n), n) for n in (9, 5, 3, 2)]
    for value, factor in ((0.0, 1), (1.0, 2)):
        gates = [torch.full_like(x, value) for x in levels]
        for x, y in zip(levels, head.fuse(levels, gates), strict=True):
            assert_close(y, factor * x, 1e-6)
    gates = [torch.full_like(x, float(i == 1)) for i, x in enumerate(levels)]
    fused = head.fuse(levels, gates)  # the second one alone sends, to all others
    assert_close(fused[1], 2 * levels[1], 1e-6)
    for i in (0, 2, 3):
        size = levels[i].shape[2:]
        sent = F.interpolate(levels[1], size, mode='bilinear', align_corners=True)
        assert_close(fused[i], levels[i] + sent, 1e-6)
    gates = [torch.full_like(x, 0.5) for x in levels]
    at_once = head.fuse(levels, gates)
    head.in_turn = True
    in_turn = head.fuse(levels, gates)
    assert torch.equal(at_once[0], in_turn[0]) and not torch.allclose(at_once[1], in_turn[1])


@torch.no_grad()
def test_attention_of_acfnet_as_coded():
    """For each channel a softmax, over the channels, of what is least like each class."""
    block = ClassAttention(6, BatchNorm2d, 'channels')
    x, p = recipe.noise((1, 6, 3, 4), 1), recipe.noise((1, 5, 3, 4), 2)
    e = torch.einsum('nhw,chw->nc', p[0], x[0])
    share = (-e).softmax(1)
    assert_close(block.mix_channels(x, p)[0], torch.einsum('nc,nhw->chw', share, p[0]), 1e-5)


@pytest.mark.parametrize('factor, divisor', [(1.0, 1), (4, 4), (0.5, 0.5), ('area', 9)])
@torch.no_grad()
def test_normalisation_factor_of_psanet(factor, divisor):
    """The attended feature is divided by it: the same as weights of `proj` that are."""
    heads = []
    for value in (1.0, factor):
        torch.manual_seed(0)
        head = PSA(
            [8] * 4, 3, channels=4, dropout=0, norm=BatchNorm2d, mask=3, width=4, factor=value
        )
        heads.append(head.eval())
    heads[0].proj.conv.weight /= divisor
    x = recipe.noise((1, 8, 9, 9), 1)
    assert_close(heads[1](x, x, x, x)['out'], heads[0](x, x, x, x)['out'], 1e-5)


@pytest.mark.parametrize('factor', [0.0, -1.0, float('nan'), float('inf')])
def test_no_factor_of_psanet(factor):
    with pytest.raises(SettingsError, match='use a number above 0'):
        PSA([8] * 4, 3, channels=4, dropout=0, norm=BatchNorm2d, mask=3, width=4, factor=factor)


@pytest.mark.parametrize('decoder, stride, aux', [('naive', 16, 3), ('pup', 2, 4), ('mla', 16, 4)])
def test_decoders_of_setr(decoder, stride, aux):
    net = on('vit_b_16', HEAD='setr', HEAD_ARGS={'decoder': decoder}, HEAD_CHANNELS=16)
    assert net.extractor.taps == ((3, 6, 9, 12) if decoder == 'mla' else (5, 8, 10, 12))
    maps = net.maps(recipe.image(80, 65, 0))
    outputs = net.decode(maps)
    assert outputs['out'].shape == (1, 10, 80 // stride, 80 // stride)
    assert len(outputs['aux']) == len(net.aux_weights) == aux
    loss_sum, counted, _ = net(recipe.batch(2, 80, 65, 0), recipe.labels(2, 80, 65, 8, 1))
    loss_sum.sum().backward()
    assert all(p.grad is not None for p in net.parameters())
    shapes = {k: v.shape for k, v in net.state_dict().items()}
    assert setr.SETR.told(shapes) == {'decoder': decoder}


FORMS = {  # that tests/test_heads.py does not train
    'eprnet': dict(STRIDE=8, TRUNK='eprnet'),
    'eprnet light': dict(STRIDE=8, TRUNK='eprnet_light'),
    'acfnet of mxnetseg': dict(STRIDE=16, HEAD_ARGS={'width': 16, 'attention': 'channels'}),
    'gffnet of mxnetseg': dict(STRIDE=16, HEAD_ARGS={'width': 16, 'fusion': 'in_turn'}),
    'fapn of mxnetseg': dict(STRIDE=32, HEAD_ARGS={'width': 16, 'form': 'mxnetseg'}),
    'setr naive': dict(STRIDE=16, HEAD_ARGS={'decoder': 'naive'}),
    'setr mla': dict(STRIDE=16, HEAD_ARGS={'decoder': 'mla'}),
}


@pytest.mark.parametrize('name', FORMS)
def test_forms_learn_fold_and_agree_in_bf16(name):
    torch.manual_seed(0)
    small_net(**dict(HEAD=name.split()[0], DROPOUT=0.0, TRUNK='resnet') | FORMS[name])
    net = build()
    for m in net.modules():
        m.p = 0.0  # of the dropout that is fixed
    image, label = recipe.batch(2, 65, 81, 3), recipe.labels(2, 65, 81, 8, 5)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.02, momentum=0.9)
    losses = []
    for _ in range(5):
        loss_sum, counted, _ = net(image, label)
        loss = loss_sum.sum() / counted.sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    for key, p in net.named_parameters():
        assert p.grad is not None and p.grad.isfinite().all(), key
    with torch.no_grad():
        wanted = with_statistics(net).eval()(image)
        assert_close(network.fold(net)(image), wanted, 1e-4)
        with torch.autocast('cpu', torch.bfloat16):
            assert_close(net(image), wanted, 0.1)
        assert net(recipe.image(33, 47, 1)).shape == (1, 10, 33, 47)


@torch.no_grad()
def test_pyramids_of_eprnet():
    """Three dilated convolutions and a 1x1 side by side, joined by a 1x1; light: the three are summed."""
    x = recipe.noise((1, 4, 9, 9), 1)
    whole = Pyramid(4, 8, (1, 2, 4), 1, BatchNorm2d, light=False).eval()
    light = Pyramid(4, 8, (1, 2, 4), 1, BatchNorm2d, light=True).eval()
    assert [b.conv.dilation[0] for b in whole.branches] == [1, 2, 4, 1]
    assert [b.conv.groups for b in whole.branches] == [4, 4, 4, 1]
    for module in (whole, light):
        maps = [branch(x) for branch in module.branches]
        y = maps[0] + maps[1] + maps[2] if module is light else module.squeeze(torch.cat(maps, 1))
        y = module.compact(y) + module.shortcut(x)
        assert_close(
            module(x), torch.where(y < 0, 0.25 * y, y), 1e-6
        )  # one slope, which starts at 0.25


# ---------------------------------------------------------------------------------------------- optimisers and norms


@pytest.mark.parametrize(
    'name, some',
    [
        (
            'vit_b_16',
            [
                'encoder.layers.encoder_layer_0.mlp.0.weight',
                'encoder.layers.encoder_layer_0.self_attention.in_proj_weight',
                'conv_proj.weight',
            ],
        ),
        ('convnext_tiny', ['features.0.0.weight', 'features.1.0.block.3.weight']),
    ],
)
@pytest.mark.parametrize('decay', ['conv', 'all'])
def test_what_decays_and_at_which_rate(name, some, decay, fake):
    """Matrices and filters; no norm, bias, table of positions, layer scale or basis, unless all are to."""
    net = on(name, EM_UPDATE='learnt')
    put(DECAY=decay, WEIGHT_DECAY=0.05, OPTIMIZER='adamw', BIAS_LR_MULT=1.5, HEAD_LR_MULT=10.0)
    optimizer = make_optimizer(net)
    assert isinstance(optimizer, torch.optim.AdamW)
    decays, rates = {}, {}
    for group in optimizer.param_groups:
        for key in group['names']:
            decays[key], rates[key] = group['weight_decay'], group['lr_mult']
    spared = ('norm', 'ln', 'bias', 'pos_embedding', 'layer_scale', 'mu', 'bn')
    parameters = dict(net.named_parameters())
    assert set(decays) == set(parameters)
    for key, p in parameters.items():
        is_weight = key.endswith('weight') and p.ndim > 1
        assert decays[key] == (0.05 if is_weight or decay == 'all' else 0)
        assert not is_weight or key.split('.')[-2] not in spared
        rate = 1.5 if key.endswith('bias') else 1
        assert rates[key] == (rate if key.startswith('extractor.') else 10 * rate)
    assert {'extractor.' + key for key in some} <= {k for k in decays if decays[k]}
    assert 'emau.mu' in decays and [k for k in decays if 'pos_embedding' in k or 'layer_scale' in k]
    config.put({'LR': 1e-4, 'LR_DECAY': 0, 'WARMUP': 0})
    assert set_rate(optimizer, 1) == pytest.approx(1e-4)
    for group in optimizer.param_groups:
        assert group['lr'] == pytest.approx(1e-4 * group['lr_mult'])


def linear_net():
    net = nn.Linear(2, 1)
    with torch.no_grad():
        net.weight.copy_(torch.tensor([[1.0, -2.0]]))
        net.bias.zero_()
    return net


@pytest.mark.parametrize('kind', ['sgd', 'nag', 'adam', 'adamw'])
def test_optimisers_step(kind):
    """Two steps on a constant gradient of 1, without decay for the bias."""
    put(OPTIMIZER=kind, LR=0.1, LR_MOM=0.9, WEIGHT_DECAY=0.0, BIAS_LR_MULT=1.0)
    net = linear_net()
    optimizer = make_optimizer(net)
    for _ in range(2):
        for p in net.parameters():
            p.grad = torch.ones_like(p)
        optimizer.step()
    moved = {'sgd': 0.1 + 0.19, 'nag': 0.19 + 0.271}.get(kind, 0.2)
    assert net.bias.item() == pytest.approx(-moved, rel=1e-4)


def test_decay_of_adam_and_adamw():
    """Adam's decay is part of the gradient, AdamW's is not: with a gradient of 0 only one of them scales the step."""
    for kind, wanted in (('adam', 0.9), ('adamw', 0.99)):
        put(OPTIMIZER=kind, LR=0.1, WEIGHT_DECAY=0.1)
        net = linear_net()
        optimizer = make_optimizer(net)
        for p in net.parameters():
            p.grad = torch.zeros_like(p)
        optimizer.step()
        assert net.weight[0, 0].item() == pytest.approx(wanted, rel=1e-4)


@pytest.mark.parametrize(
    'words, message',
    [
        (['OPTIMIZER=nag', 'LR_MOM=0'], 'OPTIMIZER=nag looks ahead along the momentum'),
        (['OPTIMIZER=adamw', 'LR_MOM=1'], 'OPTIMIZER=adamw never moves with LR_MOM = 1'),
        (['OPTIMIZER=adamx'], "OPTIMIZER = 'adamx' is not valid; expected 'sgd', 'nag', 'adam'"),
        (['LR_POLICY=(300,200)'], r'LR_POLICY = \(300, 200\): the steps .* must increase'),
        (['LR_POLICY=1'], r'fall to a tenth after step 1; as a power .* LR_POLICY=1\.0$'),
        (['NORM=layer'], "NORM = 'layer' is not valid; expected 'batch', 'group'"),
        (['LR_MIN=0.1', 'LR=0.01'], 'LR_MIN = 0.1 is larger than LR = 0.01; lower it'),
        (
            ['TRUNK=vit_b_16', 'STRIDE=16', 'STEM=plain'],
            "STEM is for TRUNK=resnet alone, and TRUNK = 'vit_b_16'",
        ),
        (
            ['N_LAYERS=50', 'MULTI_GRID=1,1,1', 'TRUNK=eprnet'],
            'MULTI_GRID is for TRUNK=resnet alone',
        ),
    ],
)
def test_optimisers_that_make_no_sense(words, message):
    with pytest.raises(config.UsageError, match=message):
        config.override(words)


@pytest.mark.parametrize(
    'values, words',
    [
        (dict(OPTIMIZER='adamw', LR=9e-3), 'LR = 0.009 is a rate for SGD; with OPTIMIZER=adamw'),
        (dict(OPTIMIZER='adam', LR=1e-3, LR_MOM=0.9), None),
        (dict(TRUNK='vit_b_16'), 'TRUNK=vit_b_16 hardly trains with OPTIMIZER=sgd'),
        (dict(TRUNK='convnext_tiny', OPTIMIZER='nag'), 'TRUNK=convnext_tiny hardly trains'),
        (dict(TRUNK='convnext_tiny', OPTIMIZER='adamw', LR=1e-4), None),
        (dict(WARMUP=100), 'WARMUP = 100 does not end before ITER_MAX = 100'),
        (dict(WARMUP=99), None),
        (dict(LR_POLICY=(60, 100)), r'the rate never falls at 100, because ITER_MAX = 100'),
        (dict(LR_POLICY=(60, 99)), None),
        (dict(LR_POLICY=0.9), None),
        (dict(CROP_SIZE=84), r'CROP_SIZE = 84: logits lie elsewhere .* use CROP_SIZE=89, or'),
        (dict(CROP_SIZE=(97, 100)), r'use CROP_SIZE="\(97, 105\)", or test in windows'),
        (dict(CROP_SIZE=89), None),
        (dict(CROP_SIZE=84, TEST_CROP=84), None),
        (dict(CROP_SIZE=88, UPSAMPLE='centres'), None),
        (dict(CROP_SIZE=89, UPSAMPLE='centres'), 'use CROP_SIZE=96'),
        (dict(CROP_SIZE=89, STRIDE=16), 'STRIDE = 16; use CROP_SIZE=97'),
    ],
)
def test_what_is_seldom_meant_is_a_sentence(values, words):
    put(**dict(OPTIMIZER='sgd', LR=9e-3, ITER_MAX=100, WARMUP=0, TRUNK='resnet') | values)
    sentences = doubts() + crop_doubts()
    assert len(sentences) == (words is not None)
    assert all(re.search(words, text) for text in sentences)


@pytest.mark.parametrize('kind', ['sgd', 'nag', 'adam', 'adamw'])
def test_state_of_an_optimiser_is_checked(kind):
    """What a step leaves is loaded; with another momentum or decay, or other tensors, it is not."""
    put(OPTIMIZER=kind, LR_MOM=0.9, WEIGHT_DECAY=0.1)

    def loaded(change=None):
        optimizers = make_optimizer(linear_net()), make_optimizer(linear_net())
        for p in optimizers[0].param_groups[0]['params']:
            p.grad = torch.ones_like(p)
        optimizers[0].step()
        state = optimizers[0].state_dict()
        if change:
            change(state)
        before = [dict(group) for group in optimizers[1].param_groups]
        optimizers[1].load_state_dict(state)
        weights.check_optimizer(optimizers[1], before)

    def spoiled(key, value):
        def change(state):
            part = (
                state['param_groups'][0] if key in state['param_groups'][0] else state['state'][0]
            )
            assert key in part
            part[key] = value

        return change

    loaded()
    is_adam = kind.startswith('adam')
    momentum = 'exp_avg' if is_adam else 'momentum_buffer'
    cases = [('weight_decay', 0.2), ('weight_decay', torch.tensor(0.1)), ('lr_mult', 3.0)]
    cases += [(momentum, torch.ones(7)), (momentum, 1.0), (momentum, torch.ones(1, 2).to_sparse())]
    if is_adam:
        cases += [('betas', (0.5, 0.999)), ('betas', 0.9), ('step', torch.ones(2))]
        cases += [('exp_avg_sq', None)]
    else:
        cases += [('momentum', 0.5)]
    for key, value in cases:
        with pytest.raises(ValueError, match='its optimizer has'):
            loaded(spoiled(key, value))


@pytest.mark.parametrize('name', ['sgd', 'adamw'])
def test_a_step_of_a_state_from_another_memory_format(name):
    """A run that goes on where another format is faster: fused steps do not look at strides."""
    put(OPTIMIZER=name, LR=0.1)
    results = []
    for moved in (False, True):
        torch.manual_seed(0)
        conv = nn.Sequential(nn.Conv2d(4, 8, 3))
        optimizer = make_optimizer(conv)
        for step in range(2):
            for p in conv.parameters():
                p.grad = torch.empty_like(p).copy_(torch.arange(float(p.numel())).view(p.shape))
            optimizer.step()
            if moved and not step:
                state = optimizer.state_dict()
                conv.to(memory_format=torch.channels_last)
                optimizer = make_optimizer(conv)
                optimizer.load_state_dict(state)
                take_formats(optimizer)
        results.append(conv[0].weight.detach().contiguous())
    assert_close(results[1], results[0], 1e-6)


def test_powers_of_poly():
    """A number in LR_POLICY is the power; 'poly' has 0.9; whole numbers are steps."""
    config.override(['LR=1', 'LR_DECAY=0', 'ITER_MAX=100', 'WARMUP=0', 'LR_MIN=0'])
    for word, wanted in (('poly', 0.5**0.9), ('2.0', 0.25), ('0.0', 1.0), ('cosine', 0.5)):
        config.override([f'LR_POLICY={word}'])
        assert learning_rate(51) == pytest.approx(wanted)
    config.override(['LR_POLICY=40,80'])
    assert learning_rate(51) == pytest.approx(0.1)


def test_settings_that_were_merged():
    kept = dict(ROTATE=10.0, ROTATE_PROB=0.5, LR_POLICY='poly', POLY_POWER=2.0)
    kept |= dict(TEST_SHORT_SIDE=800, TEST_LONG_SIDE=1333)
    merged = {'ROTATE': (10.0, 0.5), 'LR_POLICY': 2.0, 'TEST_SHORT_SIDE': (800, 1333)}
    assert older.translated(kept) == merged
    kept = dict(ROTATE=0.0, ROTATE_PROB=0.5, LR_POLICY='cosine', POLY_POWER=2.0)
    kept |= dict(TEST_SHORT_SIDE=None, TEST_LONG_SIDE=None)
    assert older.translated(kept) == {
        'ROTATE': 0.0,
        'LR_POLICY': 'cosine',
        'TEST_SHORT_SIDE': None,
    }


@pytest.mark.parametrize('c, groups', [(64, 32), (48, 12), (8, 2), (34, 2), (728, 28), (1, 1)])
def test_groups(c, groups):
    assert group_norm(c).num_groups == groups


@pytest.mark.parametrize(
    'trunk, head, stride',
    [
        ('resnet', 'psp', 8),
        ('densenet121', 'psp', 32),
        ('eprnet', 'psp', 8),
        ('mobilenet_v2', 'fapn', 32),
    ],
)
def test_group_norm_trains_on_one_image(trunk, head, stride):
    """No batch norm is left, and maps pooled to 1x1 have norms that one image suffices for."""
    small_net(TRUNK=trunk, STRIDE=stride, HEAD=head, NORM='group', AUX_WEIGHT=0.4)
    net = build()
    assert not [m for m in net.modules() if isinstance(m, nn.BatchNorm2d)]
    loss_sum, _, _ = net(recipe.image(65, 65, 0), recipe.labels(1, 65, 65, 8, 1))
    loss_sum.sum().backward()
    assert all(p.grad.isfinite().all() for p in net.parameters())
    with torch.no_grad():
        a, b = (net.eval()(recipe.image(65, 65, seed)) for seed in (0, 1))
    assert (a - b).abs().max() > 1e-3


@pytest.mark.parametrize(
    'trunk, stride, advice',
    [
        ('resnet', 8, 'Others: PRETRAINED=torchvision STEM=plain, or PRETRAINED= for training'),
        ('convnext_tiny', 32, 'Others: PRETRAINED=torchvision, or PRETRAINED= for training'),
        ('eprnet', 8, 'Others: PRETRAINED= for training'),
    ],
)
def test_trunk_weights_that_are_missing(trunk, stride, advice):
    put(TRUNK=trunk, STRIDE=stride, PRETRAINED='nowhere.pth')
    with pytest.raises(UserError, match=f'^nowhere.pth: these trunk weights .* {advice}'):
        checkpoint.load_trunk(None)


def test_group_norm_has_no_momentum(fake):
    put(NORM='group', HEAD='ema', PRETRAINED='', BN_MOM=0.1)
    assert isinstance(build().emau.conv2[1], nn.GroupNorm)
    put(NORM='batch', BN_MOM=0.2, TRUNK='densenet121', STRIDE=32)
    momenta = {m.momentum for m in build().modules() if isinstance(m, nn.BatchNorm2d)}
    assert momenta == {0.2}


def test_group_norm_and_weights_of_batch_norm(tmp_path):
    """One sentence that names the setting; folding and converting leave group norms alone."""
    small_net(HEAD='fcn')
    path = str(tmp_path / 'trunk.pth')
    state = build().state_dict()
    torch.save({k: v for k, v in state.items() if k.startswith('extractor.')}, path)
    put(NORM='group', PRETRAINED=path)
    net = build().eval()
    with pytest.raises(config.UserError, match='its trunk does not fit; to use it: NORM=batch'):
        checkpoint.load_trunk(net)
    with torch.no_grad():
        image = recipe.image(33, 47, 1)
        wanted = net(image)
        assert_close(network.fold(net)(image), wanted, 1e-6)
        assert_close(nn.SyncBatchNorm.convert_sync_batchnorm(net)(image), wanted, 1e-6)


@pytest.mark.parametrize('name', ['convnext_tiny', 'densenet121', 'mobilenet_v2'])
@pytest.mark.parametrize('head', ['att2scale', 'swiftnetpr'])
def test_heads_that_see_half_the_image_see_the_same_of_it(name, head):
    """What pads an image and what pads half of it cover the same; where nothing pads, nothing changes."""
    with torch.device('meta'):
        trunk = on(name, HEAD=head).extractor
    assert (trunk.padded((97, 97)) == (97, 97)) == (name != 'convnext_tiny')
    for size in ((40, 70), (96, 160), (513, 513), (97, 65)):
        h, w = trunk.padded(size)
        if trunk.multiple > 1 or trunk.smallest > 1:
            assert trunk.padded((h // 2, w // 2), 1) == (h // 2, w // 2)
