"""Numbers of the original implementations (tests/golden, made from recipe.py): trunk, unit, network, training, rates, scores, batch norm."""

import functools
import json
import os
import shutil
import socket

import helpers
import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from golden import recipe
from helpers import assert_close, build, gold, put
from torch import nn

import checkpoint
import dataset
import eval as evaluation
import loss
import metric
import network
import settings
import train
from conversion import names
from heads import danet, make_head, psa
from heads.frame import upsample
from sync_bn import BatchNorm2d
from utils.distributed import World
from utils.optim import learning_rate, param_groups

SYNC = ['syncbn_m0.1', 'syncbn_m3e-4']
UNITS = ['emau_c32_k8_t1', 'emau_c32_k8_t3', 'emau_c32_k8_t3_train']


# ------------------------------------------------------------------------------------------------------------ network


SEMSEG = dict(
    FIRST_BLOCK='all',
    MULTI_GRID=(1, 1, 1),
    HEAD_CHANNELS=512,
    AUX_WEIGHT=0.4,
    LOSS_AVG='valid',
    BN_MOM=0.1,
)
D2_EMANET = dict(FIRST_BLOCK='layer4', CHANNELS='bgr', EM_GRAD=True, LOSS_AVG='valid')
D2_DANET = dict(
    HEAD='danet',
    HEAD_ARGS={'d2': True},
    STEM='caffe',
    FIRST_BLOCK='all',
    MULTI_GRID=(1, 1, 1),
    CHANNELS='bgr',
    STD=(1 / 255,) * 3,
    UPSAMPLE='crop',
    HEAD_CHANNELS=64,
    LOSS_AVG='valid',
)
NETWORKS = {
    'emanet_r50_s8_97x97': dict(),
    'emanet_r50_s16_65x81': dict(STRIDE=16),
    'emanet_r101_s8_65x65': dict(),
    'emanet_d2_r50_s8_65x65': D2_EMANET,
    'pspnet_r50_97x97': SEMSEG | dict(HEAD='psp'),
    'psanet_r50_t0_97x97': SEMSEG | dict(HEAD='psa', HEAD_ARGS={'type': 'collect'}, CROP_SIZE=97),
    'psanet_r50_t2_97x97': SEMSEG | dict(HEAD='psa', CROP_SIZE=97),
    'psanet_r50_t2_compact_97x97': SEMSEG
    | dict(HEAD='psa', HEAD_ARGS={'compact': True}, CROP_SIZE=97),
    'danet_r50_mg4816_65x65': dict(
        HEAD='danet', STEM='plain', FIRST_BLOCK='layer4', HEAD_CHANNELS=512
    ),
    'danet_d2_r50_65x65': D2_DANET,
}
CONTAINERS = {  # of each reference: the checkpoint file as its makers save it
    'XiaLiPKU/EMANet': lambda state: dict(net=state, step=30000),
    'leftthomas/EMANet': lambda state: dict(model=state, iteration=29999),
    'leftthomas/DANet': lambda state: dict(model=state, iteration=23999),
    'hszhao/semseg': lambda state: dict(
        epoch=50, state_dict=state, optimizer=dict(state={}, param_groups=[])
    ),
    'junfu1115/DANet': lambda state: dict(
        epoch=240, state_dict=state, optimizer=dict(state={}, param_groups=[]), best_pred=0.8
    ),
}


def load(net, meta, folder):
    """The reference's weights, into `net`, through a file."""
    path = str(folder / 'reference.pth')
    torch.save(CONTAINERS[meta['reference']['repo']](recipe.weights(meta['keys'])), path)
    report = checkpoint.load_weights(net, path)
    assert len(report.matched) == len([k for k in net.state_dict() if not k.endswith('tracked')])
    return report


@pytest.mark.parametrize('name', NETWORKS)
@torch.no_grad()
def test_network(name, tmp_path):
    meta, want = gold(name)
    args = meta['args']
    put(**NETWORKS[name])
    net = build(args['classes'], N_LAYERS=args['layers']).eval()
    load(net, meta, tmp_path)
    image = recipe.image(args['input']['h'], args['input']['w'], args['input']['seed'])
    rel, seen = meta['tolerance']['rel_to_max'], want['argmax'].shape[1:]

    if args['model'] == 'danet':
        net.head.training = True  # for the outputs that only training uses
    found = net.decode(net.maps(image))
    assert_close(found['out'], want['lowres'], rel, 'before upsampling')
    if 'emau_mu' in want:
        assert_close(found['mu'], want['emau_mu'], rel, 'mu')
    for logits, key in zip(
        found.get('aux', []), ('logits_sa', 'logits_sc'), strict=args['model'] == 'danet'
    ):
        assert_close(net.enlarge(logits, seen)[:, :, ::6, ::6], want[key], rel, key)
    logits = net.enlarge(found['out'], seen)
    assert (net(image) == logits[..., : image.shape[2], : image.shape[3]]).all()
    assert_close(logits[:, :, ::3, ::3], want['logits'], rel, 'logits')
    assert_close(logits.double().sum((2, 3)), want['channel_sum'], rel, 'channel sums')
    assert_close(
        logits.double().square().sum((2, 3)), want['channel_sumsq'], rel, 'channel sums of squares'
    )
    assert (logits.argmax(1).numpy() == want['argmax']).mean() >= meta['tolerance'][
        'argmax_agreement'
    ]
    if 'pipeline' in want:  # from the picture on, colour order and all
        pipeline = args['pipeline']
        picture = recipe.image_u8(*(pipeline['image'][k] for k in ('h', 'w', 'seed')))
        logits = F.interpolate(
            net(dataset.as_tensor(picture)[None]),
            (pipeline['height'], pipeline['width']),
            mode='bilinear',
            align_corners=False,
        )
        assert_close(logits[0, :, ::4, ::4], want['pipeline'], rel, 'pipeline')


def gluon_name(key):
    """The name here of a tensor in a file of MXNetSeg's FCN."""
    rules = [
        ('conv1.', 'extractor.0.'),
        ('bn1.', 'extractor.1.'),
        *((f'layer{i}.', f'extractor.{i + 3}.') for i in range(1, 5)),
        ('head.conv1.', 'head.out.0.'),
        ('head.conv2.', 'head.out.2.'),
        ('aux_head.conv1.', 'aux.0.'),
        ('aux_head.conv2.', 'aux.2.'),
    ]
    there, here = next(rule for rule in rules if key.startswith(rule[0]))
    return here + key.removeprefix(there).replace('gamma', 'weight').replace('beta', 'bias')


@pytest.mark.parametrize('first', ['split', 'half'])
@torch.no_grad()
def test_dilated_resnet18_of_gluoncv(first):
    """MXNetSeg's FCN-R18 at stride 8: half, then full dilation in the first block of a dilated stage; 'half' is another network."""
    meta, want = gold('mx_fcn_r18_s8_97x97')
    put(
        HEAD='fcn',
        N_LAYERS=18,
        STEM='plain',
        PRETRAINED='',
        MULTI_GRID=(1, 1, 1),
        FIRST_BLOCK=first,
        AUX_WEIGHT=0.4,
    )
    net = build(meta['args']['classes']).eval()
    weights = {}
    for key, shape in meta['keys'].items():
        made_from = key.replace('gamma', 'weight').replace('beta', 'bias')
        weights[gluon_name(key)] = torch.as_tensor(recipe.tensor(made_from, shape))
    lacking = net.load_state_dict(weights, strict=False)
    assert not lacking.unexpected_keys and all(
        k.endswith('num_batches_tracked') for k in lacking.missing_keys
    )
    image = meta['args']['input']
    logits = net(recipe.image(image['h'], image['w'], image['seed']))
    agree = (logits.argmax(1).numpy() == want['argmax']).mean()
    if first == 'split':
        assert_close(
            logits[:, :, ::3, ::3], want['logits'], meta['tolerance']['rel_to_max'], 'logits'
        )
        assert agree >= meta['tolerance']['argmax_agreement']
    else:
        assert agree < 0.99


def test_state_dict_has_the_official_keys():
    meta, _ = gold('emanet_r50_s8_97x97')
    net = build(21, N_LAYERS=50)
    assert {k: list(v.shape) for k, v in net.state_dict().items()} == meta['keys']


def golden_unit(name, folder, **kwargs):
    """The unit of a reference, its input and what (output * R).sum() is made with."""
    meta, want = gold(name)
    args = meta['args']
    unit = network.EMAU(
        args['c'],
        args['k'],
        args['stage_num'],
        norm_layer=functools.partial(BatchNorm2d, momentum=3e-4),
        **kwargs,
    )
    if kwargs:
        load(nn.ModuleDict({'emau': unit}), meta, folder)
    else:
        unit.load_state_dict(
            {k.removeprefix('emau.'): v for k, v in recipe.weights(meta['keys']).items()}
        )
    unit.train(args['mode'] == 'train')
    x = args['input']
    x = recipe.noise(x['shape'], x['seed'], x['scale'], x['offset']).relu().requires_grad_()
    y, mu = unit(x)
    (y * recipe.noise(args['R']['shape'], args['R']['seed'])).sum().backward()
    unit.update_bases(mu.detach().mean(0))
    return meta, want, unit, x, y, mu


@pytest.mark.parametrize('name', UNITS)
def test_unit(name, tmp_path):
    meta, want, unit, x, y, mu = golden_unit(name, tmp_path)
    rel = meta['tolerance']['rel_to_max']
    assert_close(y, want['output'], rel, 'output')
    assert_close(mu, want['mu'], rel, 'mu')
    assert_close(x.grad, want['grad_input'], rel, 'gradient of the input')
    assert_close(unit.mu, want['mu_buffer_after'], rel, 'buffer')
    for key, p in unit.named_parameters():
        norm = meta['param_grad_norm'][key]
        if norm is None:
            assert p.grad is None, key
        else:
            assert p.grad.norm().item() == pytest.approx(norm, rel=rel), key
    if 'running_mean' in want:
        assert_close(unit.conv2[1].running_mean, want['running_mean'], rel, 'running mean')
        assert_close(unit.conv2[1].running_var, want['running_var'], rel, 'running variance')


def test_unit_with_gradient_through_z(tmp_path):
    """The detectron2 form: EM_GRAD."""
    put(**D2_EMANET)
    meta, want, unit, x, y, _ = golden_unit('emau_d2_c32_k8_t3_train', tmp_path, grad=True)
    rel = meta['tolerance']['rel_to_max']
    assert_close(y, want['output'], rel, 'output')
    assert_close(x.grad, want['grad_input'], rel, 'gradient of the input')
    assert_close(unit.mu, want['mu_buffer_after'], rel, 'buffer')
    assert_close(
        unit.conv1.weight.grad[:16, :16, 0, 0],
        want['grad_conv1_weight'],
        rel,
        'gradient of conv1.weight',
    )
    assert_close(unit.conv1.bias.grad, want['grad_conv1_bias'], rel, 'gradient of conv1.bias')


@pytest.mark.parametrize('name', ['psamask_m3x3_f3x4', 'psamask_m5x5_f3x3'])
def test_reindexing_of_masks(name):
    meta, want = gold(name)
    args = meta['args']
    size = args['feature_h'], args['feature_w']
    index = psa.cells(*size, (args['mask_h'], args['mask_w']))
    for key in ('collect', 'distribute'):
        x = recipe.noise(args['input']['shape'], args['input']['seed']).requires_grad_()
        pairs = psa.reindex(x, *index, distribute=key == 'distribute').unflatten(2, size)
        (pairs * recipe.noise(args['G']['shape'], args['G']['seed'])).sum().backward()
        assert (pairs.detach().numpy() == want[key]).all() and (
            x.grad.numpy() == want[key + '_grad_input']
        ).all()


@pytest.mark.parametrize(
    'name, place, module',
    [('danet_pam_c32', 'position', danet.PAM(32)), ('danet_cam_c32', 'channel', danet.CAM())],
)
def test_dual_attention(name, place, module, tmp_path):
    meta, want = gold(name)
    put(FIRST_BLOCK='layer4')
    load(
        nn.ModuleDict({'head': nn.ModuleDict({place: nn.Sequential(nn.Identity(), module)})}),
        meta,
        tmp_path,
    )
    args, rel = meta['args'], meta['tolerance']['rel_to_max']
    x = recipe.noise(
        args['input']['shape'], args['input']['seed'], args['input']['scale']
    ).requires_grad_()
    y = module(x)
    (y * recipe.noise(args['R']['shape'], args['R']['seed'])).sum().backward()
    assert_close(y, want['output'], rel, 'output')
    assert_close(x.grad, want['grad_input'], rel, 'gradient of the input')
    for key, norm in meta['param_grad_norm'].items():
        p = dict(module.named_parameters())[key.replace('_conv', '')]
        assert p.grad.norm().item() == pytest.approx(norm, rel=rel, abs=1e-4), (
            key
        )  # that of key.bias is 0 but for rounding


def test_head_of_the_detectron2_danet(tmp_path):
    meta, want = gold('danet_d2_head_small')
    args, rel = meta['args'], meta['tolerance']['rel_to_max']
    put(**D2_DANET)
    head = make_head(settings, [args['in_channels']], args['classes'], nn.BatchNorm2d)
    load(nn.ModuleDict({'head': head}), meta, tmp_path)
    x = recipe.noise(args['input']['shape'], args['input']['seed']).requires_grad_()
    assert_close(head.position[0](x), want['pam_in'], rel, 'into the position attention')
    assert_close(head.channel[0](x), want['cam_in'], rel, 'into the channel attention')
    out = head(None, None, None, x)['out']
    assert_close(out, want['lowres'], rel, 'before upsampling')
    label = recipe.labels(*(args['label'][k] for k in ('n', 'h', 'w', 'classes', 'seed')))
    logits = upsample(out, label.shape[1:], 'crop', args['common_stride'])
    assert_close(logits[:, :, ::3, ::3], want['logits'], rel, 'logits')
    total, count = loss.criterion(args['classes'])(logits, label)
    mean = total.sum() / count.sum()
    mean.backward()
    assert_close(mean, want['loss'], rel, 'loss')
    assert_close(x.grad[:, ::4], want['grad_input'], rel, 'gradient of the input')


# ----------------------------------------------------------------------------------------------------------- training


@pytest.fixture(scope='module')
def first_step():
    """Loss, bases and gradients of the reference's first batch, in float64; the loss in float32 too."""
    meta, want = gold('emanet_train_r50_s8_2x97x97')
    steps, (n, h, w) = meta['args']['two_steps'], (2, 97, 97)
    with helpers.settings_kept():
        put(DROPOUT=0.0, BN_MOM=steps['bn_mom'])
        net = build(21, N_LAYERS=50)
        net.load_state_dict(recipe.weights(meta['keys']))
        image, label = (
            recipe.batch(n, h, w, steps['input_seeds'][0]),
            recipe.labels(n, h, w, 21, steps['label_seeds'][0]),
        )
        with torch.no_grad():
            total, count, _ = net.train()(image, label)
        got = dict(loss_float32=total / count)
        total, count, mu = net.double()(image.double(), label)
        (total / count).mean().backward()
    got |= dict(
        loss=(total / count).detach(),
        mu=mu[:, ::4],
        grad_norm={
            k: None if p.grad is None else p.grad.norm().item() for k, p in net.named_parameters()
        },
    )
    return meta, want, got


@pytest.mark.parametrize('key', ['loss', 'mu'])
def test_first_step(first_step, key):
    meta, want, got = first_step
    assert_close(got[key], want[key], meta['tolerance']['rel_to_max'], key)


def test_gradients_of_the_first_step(first_step):
    meta, want, got = first_step
    assert list(got['grad_norm']) == meta['grad_names']
    for (key, norm), wanted in zip(got['grad_norm'].items(), want['grad_norm']):
        assert (norm is None) == np.isnan(wanted), key
        assert norm is None or norm == pytest.approx(
            wanted, rel=meta['tolerance']['grad_norm_each_rel']
        ), key
    assert got['grad_norm']['emau.conv1.weight'] is None


def test_loss_in_float32(first_step):
    meta, want, got = first_step
    np.testing.assert_allclose(
        got['loss_float32'], want['loss_float32'], rtol=meta['tolerance']['loss_float32_rel']
    )


class TwoBatches:
    """What train.main() asks of a data set; its loader is the reference's two batches, of which a process gets its share."""

    split, root, expected, labelled, names = 'trainaug', 'the reference', None, True, ['class'] * 21

    def __init__(self, split, train):
        self.classes = dataset.classes()

    def __len__(self):
        return 2

    def check(self, count=16):
        pass

    def digest(self):
        return 'two batches'

    def batches(self, steps, rank, world):
        for image_seed, label_seed in zip(steps['input_seeds'], steps['label_seeds'], strict=True):
            image, label = (
                recipe.batch(2, 97, 97, image_seed).double(),
                recipe.labels(2, 97, 97, 21, label_seed),
            )
            share = slice(2 * rank // world, 2 * (rank + 1) // world)
            yield image[share], label[share]


def summing_process(rank, folder):
    dist.init_process_group('gloo', init_method=f'file://{folder}/meet', rank=rank, world_size=2)
    tensors = [torch.full(shape, float(i + 3 * rank)) for i, shape in enumerate(((3,), (2, 4), ()))]
    World([torch.device('cpu')], rank, 2).sum_together(tensors)
    torch.save(tensors, f'{folder}/{rank}.pt')
    dist.destroy_process_group()


def test_sums_in_one_message(tmp_path):
    torch.multiprocessing.spawn(summing_process, (str(tmp_path),), 2)
    for rank in range(2):
        for i, tensor in enumerate(torch.load(tmp_path / f'{rank}.pt')):
            assert tensor.shape == ((3,), (2, 4), ())[i] and (tensor == 2 * i + 3).all()
    alone = [torch.ones(2), torch.zeros(3)]
    World([torch.device('cpu')]).sum_together(alone)
    assert alone[0].sum() == 2 and alone[1].sum() == 0


def main_process(rank, world, port, folder):
    """train.main() as one of `world` processes, in float64, on the reference's batches, from a file in the official form."""
    os.environ.update(
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE=str(world),
        MASTER_ADDR='localhost',
        MASTER_PORT=str(port),
    )
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    messages, original = [], World.all_reduce
    World.all_reduce = lambda self, x: messages.append(x.numel()) or original(self, x)
    calls = count_collectives()
    steps = gold('emanet_train_r50_s8_2x97x97')[0]['args']['two_steps']
    dataset.Dataset = TwoBatches
    dataset.train_loader = lambda data, batches, pin: data.batches(steps, rank, world)
    put(
        NAME='golden',
        MODEL_DIR=folder,
        LOG_DIR=folder,
        DEVICES='cpu',
        AMP='off',
        N_LAYERS=50,
        PRETRAINED='',
        INIT=f'{folder}/official.pth',
        DROPOUT=0.0,
        BATCH_SIZE=2,
        ITER_MAX=2,
        ITER_LOG=1,
        ITER_SAVE=1,
        ITER_VAL=0,
        LR=steps['lr'],
        LR_MOM=steps['momentum'],
        WEIGHT_DECAY=steps['weight_decay_conv_weight'],
        BN_MOM=steps['bn_mom'],
        EM_MOM=steps['em_mom'],
    )
    assert train.main() is None
    if rank == 0:
        with open(f'{folder}/messages.json', 'w') as f:
            json.dump([messages, calls], f)


COLLECTIVES = 'all_reduce', 'reduce', 'broadcast', 'gather', 'scatter', 'all_gather', 'barrier'
COLLECTIVES += 'all_gather_object', 'gather_object', 'broadcast_object_list', 'all_to_all'


def count_collectives():
    """{name: number of calls} of torch.distributed, from here on; those of DDP are in C++."""
    calls = dict.fromkeys(COLLECTIVES, 0)

    def counted(name, function):
        def call(*args, **options):
            calls[name] += 1
            return function(*args, **options)

        return call

    for name in COLLECTIVES:
        setattr(dist, name, counted(name, getattr(dist, name)))
    return calls


@pytest.fixture(scope='module')
def loops(tmp_path_factory):
    """{number of processes: (lines of log.jsonl, networks after each step, (sizes of messages, collectives))} of train.main() on the reference's two batches."""
    left = {}
    for world in (1, 2):
        folder = tmp_path_factory.mktemp('loop')
        torch.save(
            {'net': recipe.weights(gold('emanet_train_r50_s8_2x97x97')[0]['keys']), 'step': 30000},
            folder / 'official.pth',
        )
        with socket.socket() as s:
            s.bind(('localhost', 0))
            port = s.getsockname()[1]
        torch.multiprocessing.spawn(main_process, (world, port, str(folder)), world)
        with open(folder / 'golden' / 'log.jsonl') as f:
            lines = [json.loads(line) for line in f]
        left[world] = (
            lines,
            [torch.load(folder / 'golden' / f'{name}.pth')['net'] for name in ('step_1', 'final')],
            json.loads((folder / 'messages.json').read_text()),
        )
        shutil.rmtree(folder)
    return left


@pytest.mark.parametrize('world', [1, 2])
def test_the_loop_makes_the_two_steps_of_the_reference(world, loops):
    """Losses, parameters, statistics and bases that train.py itself leaves, in one process and in two."""
    meta, want = gold('emanet_train_r50_s8_2x97x97')
    weights, rel = recipe.weights(meta['keys']), meta['tolerance']['rel_to_max']
    lines, nets, _ = loops[world]
    assert_close([line['loss'] for line in lines], want['step_loss'], rel, 'losses')
    assert_close(
        np.stack([net['emau.mu'][0, ::4].numpy() for net in nets]), want['mu_buffer'], rel, 'bases'
    )
    running = [
        torch.stack([nets[0][f'{name}.running_{what}'][:16] for what in ('mean', 'var')])
        for name in meta['bn_names']
    ]
    assert_close(torch.stack(running), want['bn_running'], rel, 'running statistics')
    moved = [nets[1][k] for k in meta['param_names']]
    assert_close(
        torch.stack([p.flatten()[:8] for p in moved]), want['param_head'], rel, 'parameters'
    )
    deltas = [(p - weights[k]).norm().item() for k, p in zip(meta['param_names'], moved)]
    assert_close(deltas, want['param_delta_norm'], rel, 'how far parameters moved')


def test_one_message_a_step_besides_the_gradients(loops):
    """It holds loss, pixels and stop requests, bases and statistics; the first is the start's.

    Each batch norm has two forward, the mean and what deviates from it, and two backward: with one,
    large means cost precision. Nothing else is said during the steps.
    """
    messages, calls = loops[2][2]
    assert messages == [1] + 2 * [3 + 512 * 64 + 64 + 2]
    norms = 3 + 3 * 16 + 4 + 3  # stem, bottlenecks, shortcuts, head
    assert calls.pop('all_reduce') == 3 + 2 * 4 * norms
    assert calls.pop('all_gather_object') == 2  # random states, for each checkpoint
    assert not any(calls.values()), calls
    messages, calls = loops[1][2]
    assert messages == [1] and not any(calls.values())


@pytest.mark.parametrize('key', ['em/entropy', 'em/bases_in_use', 'em/cosine'])
def test_two_processes_log_the_curves_of_one(key, loops):
    one, two = ([line[key] for line in loops[world][0]] for world in (1, 2))
    assert two == pytest.approx(one, rel=1e-6)


@pytest.mark.parametrize(
    'name, values',
    [
        ('pspnet_train_r50_3x65x65', SEMSEG | dict(HEAD='psp')),
        ('psanet_train_r50_t2_2x65x65', SEMSEG | dict(HEAD='psa', CROP_SIZE=65)),
        ('emanet_d2_train_r50_s8_2x65x65', D2_EMANET),
    ],
)
def test_step_of_others(name, values, tmp_path):
    """One training step in float64: losses, gradients, bases, running statistics."""
    meta, want = gold(name)
    args, rel = meta['args'], meta['tolerance']['rel_to_max']
    put(DROPOUT=0.0, **values)
    net = build(args['classes'], N_LAYERS=args['layers'])
    load(net, meta, tmp_path)
    net.double().train()
    n, h, w = (args['input'][k] for k in ('n', 'h', 'w'))
    form, terms, logits = net.loss, [], []
    net.loss = lambda x, y: logits.append(x.detach()) or terms.append(form(x, y)) or terms[-1]
    label = recipe.labels(n, h, w, args['classes'], args['label']['seed'])
    total, count, mu = net(recipe.batch(n, h, w, args['input']['seed']).double(), label)
    loss = total.sum() / count.sum()
    loss.backward()
    wanted = [want[k] for k in ('loss', 'main_loss', 'aux_loss') if k in want]
    for (sums, counts), value in zip(terms, wanted, strict=True):
        assert_close(sums.sum() / counts.sum(), value, rel, 'loss')
    assert_close(
        loss, wanted[0] + (0.4 * wanted[1] if len(wanted) > 1 else 0), rel, 'sum of the losses'
    )
    if 'pred' in want:
        assert (
            net.enlarge(logits[0], (h, w)).argmax(1)[:, ::4, ::4].numpy() == want['pred']
        ).mean() >= meta['tolerance']['argmax_agreement']
    if mu is not None:
        net.update_bases(mu.detach().mean(0))
        assert_close(net.emau.mu[:, ::4], want['mu_buffer'], rel, 'buffer')
        bn = net.emau.conv2[1]
        assert_close(
            torch.stack([bn.running_mean[:16], bn.running_var[:16]]),
            want['bn_running'],
            rel,
            'running statistics',
        )
    _, renamed = names.rename({k.removeprefix('module.'): k for k in meta['keys']}, name)
    theirs, params = {k: ours for ours, k in renamed.items()}, dict(net.named_parameters())
    for key, norm in zip(meta['grad_names'], want['grad_norm'], strict=True):
        assert params.pop(theirs[key]).grad.norm().item() == pytest.approx(
            norm, rel=meta['tolerance']['grad_norm_each_rel']
        ), key
    assert not params


def test_param_groups():
    meta, want = gold('param_groups_r50')
    groups = param_groups(build(21, N_LAYERS=50))
    assert [g['names'] for g in groups] == [meta['members'][k] for k in ('1x', '1y', '2x')]
    assert [len(g['params']) for g in groups] == want['count'].tolist()
    lr = learning_rate(1)
    assert [(lr * g['lr_mult'], g['weight_decay']) for g in groups] == [
        (v['lr'], v['weight_decay']) for v in meta['args']['groups'].values()
    ]


@pytest.mark.parametrize(
    'name, first, values',
    [
        ('lr_official', 1, dict(LR_DECAY=10)),
        ('lr_semseg', 0, dict(LR_DECAY=0)),
        ('lr_emanet_d2', 0, dict(LR_POLICY='cosine', WARMUP=1000)),
    ],
)
def test_learning_rate(name, first, values):
    meta, want = gold(name)
    put(LR=meta['args']['base_lr'], ITER_MAX=meta['args']['max_iter'], **values)
    found = [learning_rate(step + 1 - first) for step in want['step'].tolist()]
    np.testing.assert_allclose(found, want['lr'][:, 0], rtol=meta['tolerance']['rel'], atol=0)


# ------------------------------------------------------------------------------------------------------------- scores


def test_scores():
    meta, want = gold('metric_official')
    for hist, wanted, class_iou in zip(want['hist'], want['scores'], want['class_iou']):
        found = metric.scores(torch.from_numpy(hist))
        np.testing.assert_allclose(
            [found[k] for k in ('pAcc', 'mAcc', 'fIoU', 'mIoU')],
            wanted,
            rtol=0,
            atol=meta['tolerance']['abs'],
        )
        np.testing.assert_allclose(
            [np.nan if v is None else v for v in found['class_iou']],
            class_iou,
            rtol=0,
            atol=meta['tolerance']['abs'],
        )


def test_confusion():
    _, want = gold('metric_official')
    found = metric.confusion(torch.from_numpy(want['pred']), torch.from_numpy(want['label']), 21)
    assert (found.numpy() == want['hist_of_maps']).all()


# --------------------------------------------------------------------------------------------------------- batch norm


@pytest.mark.parametrize('name', SYNC)
def test_batch_norm_of_replicas(name):
    meta, want = gold(name)
    rel = meta['tolerance']['rel_to_max']
    bn, shards = helpers.golden_bn(meta)
    shards = [x.requires_grad_() for x in shards]
    out = torch.cat(helpers.in_threads(helpers.replicate(bn, len(shards)), shards))
    (out * recipe.noise(meta['args']['G']['shape'], meta['args']['G']['seed'])).sum().backward()
    found = dict(
        output=out,
        grad_input=torch.cat([x.grad for x in shards]),
        grad_weight=bn.weight.grad,
        grad_bias=bn.bias.grad,
        running_mean=bn.running_mean,
        running_var=bn.running_var,
    )
    for key, value in found.items():
        assert_close(value, want[key], rel, key)


@pytest.mark.parametrize('name', SYNC[:1])
def test_batch_norm_of_processes(name, tmp_path):
    """Two processes over gloo, with three and five images."""
    meta, want = gold(name)
    rel = meta['tolerance']['rel_to_max']
    torch.multiprocessing.spawn(helpers.bn_process, (2, name, [3, 5], str(tmp_path)), nprocs=2)
    a, b = (torch.load(tmp_path / f'{i}.pt') for i in range(2))
    for key in ('output', 'grad_input'):
        assert_close(torch.cat([a[key], b[key]]), want[key], rel, key)
    for key in ('grad_weight', 'grad_bias'):
        assert_close(a[key] + b[key], want[key], rel, key)
    for key in ('running_mean', 'running_var'):
        assert_close(a[key], want[key], rel, key)
        assert (a[key] == b[key]).all(), f'{key} differs between the processes'


# --------------------------------------------------------------------------------------------------------------- data


@pytest.fixture
def fetched():
    """The reference's picture, normalised by the network as it normalises all uint8 images, (1, 3, 59, 83); its label; the reference."""
    meta, want = gold('dataset_official')
    helpers.small_net()
    image = recipe.image_u8(59, 83, meta['args']['image']['seed'])
    image = build().normalise(dataset.as_tensor(image)[None])
    return (
        image,
        recipe.labels(1, 59, 83, 21, meta['args']['label']['seed'])[0].numpy().astype(np.uint8),
        meta,
        want,
    )


def test_fetch(fetched):
    image, _, meta, want = fetched
    np.testing.assert_allclose(
        image[0, :, ::4, ::4], want['fetch'], rtol=0, atol=meta['tolerance']['abs']
    )
    np.testing.assert_allclose(
        image[0].double().sum((1, 2)), want['fetch_sum'], rtol=1e-6, atol=1e-2
    )


@pytest.mark.parametrize('stride', [8, 16])
def test_padding_of_the_evaluation(fetched, stride):
    image, _, meta, want = fetched
    seen = []
    evaluation.whole(
        lambda x: seen.append(x) or x, image, evaluation.Protocol(stride=stride), [False], 1
    )
    (padded,) = seen
    assert padded.shape[2:] == want[f'pad_inf_{stride}_label'].shape
    np.testing.assert_allclose(
        padded[0, :, -12:, -12:],
        want[f'pad_inf_{stride}_image'],
        rtol=0,
        atol=meta['tolerance']['abs'],
    )
    assert (padded[..., :59, :83] == image).all()


@pytest.mark.parametrize('item', [0, 1, 2])
def test_crop_padding_and_flip(item, tmp_path):
    """Pad, crop, flip of the reference's training items, from its scaled labels on (ours are scaled by another map on purpose)."""
    meta, want = gold('dataset_official')
    crop, drawn = meta['args']['crop_size'], meta['args']['train_items'][item]
    helpers.make_camvid(tmp_path, CROP_SIZE=crop, SCALES=(1.0,), FLIP=0.5)
    label = want[f'scale_{drawn["ratio"]}_label']
    starts = [(drawn[k] + 0.5) / max(n - crop + 1, 1) for k, n in zip(('top', 'left'), label.shape)]

    class Drawn:  # a generator that draws what the reference drew
        def random(self, n=None):
            return (
                np.array([0, *starts, 0.5, 0.5, 0.5, 0.5, 0.5])
                if n
                else 0.0
                if drawn['flip']
                else 0.99
            )

    image, found = dataset.Dataset('train', train=True).augment(
        np.dstack([label] * 3), label, Drawn()
    )
    assert (found == want[f'train_{item}_label']).all()
    assert (image[found != 255] == found[found != 255][:, None]).all()
