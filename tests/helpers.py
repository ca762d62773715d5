"""What several test files share."""

import contextlib
import json
import os
import threading

import cv2
import numpy as np
import torch
import torch.distributed as dist
from golden import recipe

import settings
import sync_bn
from heads import HEADS
from heads.blocks import Head
from sync_bn import BatchNorm2d
from utils import config

sync_bn.TIMEOUT = 20  # a mistake shows soon
HEAD_NAMES = ('ema', *HEADS)
GOLDEN = os.path.join(os.path.dirname(os.path.abspath(__file__)), 'golden')


@contextlib.contextmanager
def settings_kept():
    kept = config.current()
    try:
        yield
    finally:
        config.put(kept)


def put(**values):
    """Settings for this test."""
    assert set(values) <= set(config.current()), set(values) - set(config.current())
    config.put(values)


def build(n_classes=None, class_weights=None, **values):
    """The network that settings describe, `values` among them, as train.py builds it."""
    import dataset
    import loss
    import network

    put(**values)
    n_classes = n_classes or dataset.n_classes()
    criterion = loss.criterion(n_classes, class_weights)
    momentum = config.bn_momentum(config.current())
    return network.build(n_classes, settings, criterion, momentum)


def strides(head):
    """The strides of the trunk that a head works with."""
    return HEADS.get(head, Head).strides


def small_net(**values):
    """Settings of a network that runs in milliseconds: ResNet-18, narrow head."""
    put(
        **dict(
            DATASET='shapes',
            N_LAYERS=18,
            STEM='plain',
            PRETRAINED='',
            EM_CHANNELS=32,
            EM_BASES=8,
            HEAD_CHANNELS=16,
            BN_MOM=0.1,
        )
        | values
    )


def gold(name):
    """(meta, outputs) of a golden reference."""
    with open(os.path.join(GOLDEN, name + '.json')) as f:
        meta = json.load(f)
    return meta, dict(np.load(os.path.join(GOLDEN, name + '.npz')))


def assert_close(found, wanted, rel, what=''):
    """Largest difference at most `rel` times the largest wanted value."""
    found = (
        found.detach().double().numpy() if torch.is_tensor(found) else np.asarray(found, np.float64)
    )
    wanted = np.asarray(wanted.detach() if torch.is_tensor(wanted) else wanted, np.float64)
    assert found.shape == wanted.shape, f'{what}: {found.shape}, wanted {wanted.shape}'
    error = np.abs(found - wanted).max() / np.abs(wanted).max()
    assert error <= rel, f'{what}: off by {error:.2g} of the maximum'


# ---------------------------------------------------------------------------------------- batch norm over members


def golden_bn(meta, dtype=torch.float32):
    """The batch norm of a syncbn reference in training, and its shards."""
    bn = BatchNorm2d(meta['args']['channels'], momentum=meta['args']['momentum'])
    bn.load_state_dict({k[3:]: v for k, v in recipe.weights(meta['keys']).items()})
    shards = [
        recipe.noise(s['shape'], s['seed'], s['scale'], s['offset']).to(dtype)
        for s in meta['args']['shards']
    ]
    return bn.train().to(dtype), shards


def replicate(bn, n):
    """What nn.DataParallel makes of a batch norm for n devices: the first one shares its buffers."""
    replicas = []
    for i in range(n):
        replica = bn._replicate_for_data_parallel()
        replica.weight, replica.bias = bn.weight * 1, bn.bias * 1
        for name, buffer in bn.named_buffers():
            setattr(replica, name, buffer if i == 0 else buffer.clone())
        replicas.append(replica)
    return replicas


def in_threads(modules, shards):
    """Outputs of modules[i](shards[i]), each in a thread of its own; the first exception is raised."""
    out = [None] * len(shards)

    def work(i):
        try:
            out[i] = modules[i](shards[i])
        except Exception as e:
            out[i] = e

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(shards))]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    for o in out:
        if isinstance(o, Exception):
            raise o
    return out


def bn_process(rank, world, name, sizes, folder):
    """One of `world` processes over gloo: its shard (sizes[rank] images) of the whole batch; writes what it found to folder/rank.pt."""
    torch.set_num_threads(1)
    dist.init_process_group(
        'gloo', init_method=f'file://{folder}/meet', rank=rank, world_size=world
    )
    meta, _ = gold(name)
    bn, shards = golden_bn(meta)
    x, g = (
        torch.cat(shards).split(sizes)[rank].clone().requires_grad_(),
        recipe.noise(meta['args']['G']['shape'], meta['args']['G']['seed']),
    )
    y = bn(x)
    (y * g.split(sizes)[rank]).sum().backward()
    torch.save(
        dict(
            output=y.detach(),
            grad_input=x.grad,
            grad_weight=bn.weight.grad,
            grad_bias=bn.bias.grad,
            running_mean=bn.running_mean,
            running_var=bn.running_var,
        ),
        f'{folder}/{rank}.pt',
    )
    dist.destroy_process_group()


# ----------------------------------------------------------------------------------------------- a little data set


def colour_of(label):
    """A picture (h, w, 3) BGR whose colour tells the class (0..11) of each pixel."""
    label = label.astype(int)
    return np.stack([20 * label + 10, 250 - 20 * label, 37 * label % 256], 2).astype(np.uint8)


def blocks(h, w, seed, classes=11, side=16):
    """Raw labels (h, w) in square blocks."""
    label = np.random.RandomState(seed).randint(0, classes, (-(-h // side), -(-w // side)))
    return label.repeat(side, 0).repeat(side, 1)[:h, :w].astype(np.uint8)


def write(path, pixels):
    """A picture file, also where the name is not ASCII."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    cv2.imencode(os.path.splitext(path)[1], pixels)[1].tofile(path)


def make_camvid(folder, split='train', sizes=((40, 56),) * 4, names=None, ending='.png', **values):
    """folder/camvid with pictures of colour_of(blocks()); puts settings that read it in force. Returns the folder camvid, as text."""
    root = os.path.join(str(folder), 'camvid')
    for i, size in enumerate(sizes):
        name = names[i] if names else f'{i:04d}'
        label = blocks(*size, seed=i)
        write(os.path.join(root, split, name + ending), colour_of(label))
        write(os.path.join(root, split + 'annot', name + '.png'), label)
    put(
        **dict(
            DATASET='camvid',
            DATA_ROOT=str(folder),
            TRAIN_SPLIT='train',
            CROP_SIZE=32,
            NUM_WORKERS=0,
        )
        | values
    )
    return root
