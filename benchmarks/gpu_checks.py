"""Checks that need a GPU, for benchmarks/gpu.py: python -m benchmarks.gpu_checks NAME.

engines    loss and gradients of DataParallel on [0, 0], and of DistributedDataParallel with
           SyncBatchNorm in one process, against one device, in float64
gradients  those of the device against the CPU's, of several heads, in float64
camvid     recipes/camvid.py for eight minutes: speed, and scores on val
"""

import contextlib
import copy
import os
import signal
import subprocess
import sys
import tempfile

import torch
import torch.distributed as dist
from torch import nn

import dataset
import settings
from benchmarks import measure, steps
from utils import config, distributed, run_folder, script
from utils.config import UsageError, UserError
from utils.distributed import World
from utils.table import table

SMALL = (
    'DATASET=voc', 'N_LAYERS=18', 'STEM=plain', 'CROP_SIZE=49', 'EM_CHANNELS=64', 'EM_BASES=8',
    'HEAD_CHANNELS=32', 'DROPOUT=0.0', 'AMP=off', 'AUX_WEIGHT=0.4',
)  # fmt: skip
HEADS = 'ema', 'fcn', 'psp', 'danet', 'deeplabv3plus', 'nonlocal'
LIMIT = 1e-6  # relative, in float64
SMALLEST = 1e-6
MINUTES = 8  # of training


def gradients_of(model, net, image, label):
    """Return the loss of a batch and the gradients of it, each a vector on the CPU."""
    net.zero_grad()
    loss_sum, count, _ = model(image, label)
    loss = loss_sum.sum() / count.sum()
    loss.backward()
    grads = [p.grad.flatten().cpu() for p in net.parameters() if p.grad is not None]
    return [loss.detach()[None].cpu(), *grads]


def compare(name, vectors, wanted):
    """Return a row of a table: the largest difference of a vector, over its largest value.

    Values below SMALLEST of all are rounding, as are gradients of what a batch norm removes.
    """
    least = SMALLEST * max(vector.abs().max() for vector in wanted)
    difference = 0.0
    for vector, right in zip(vectors, wanted, strict=True):
        scale = max(right.abs().max(), least)
        difference = max(difference, ((vector - right).abs().max() / scale).item())
    verdict = 'equal' if difference < LIMIT else 'DIFFERENT'
    return {'': name, 'difference': f'{difference:.1e}', 'verdict': verdict}


def network_and_batch(words):
    """Return the network of SMALL settings in float64, images and labels of a batch of 4."""
    config.override([*SMALL, *words])
    torch.manual_seed(0)
    net = steps.build().double().train()
    for module in net.modules():
        if isinstance(module, nn.modules.dropout._DropoutNd):
            module.p = 0.0  # some are no setting
    label = torch.randint(dataset.n_classes(), (4, 49, 49)).byte()
    return net, torch.randn(4, 3, 49, 49, dtype=torch.float64), label


def engines(device):
    """Return rows that compare the engines, as train.py makes them, with one device."""
    net, image, label = network_and_batch([])
    net, image, label = net.to(device), image.to(device), label.to(device)
    wanted = gradients_of(net, net, image, label)
    rows = []
    if device.type == 'cuda':
        model = distributed.wrap(copy.deepcopy(net), World([device, device]))
        got = gradients_of(model, model.module, image, label)
        rows.append(compare('DataParallel, device_ids=[0, 0]', got, wanted))
    with tempfile.TemporaryDirectory() as folder:
        backend = 'nccl' if device.type == 'cuda' else 'gloo'
        dist.init_process_group(backend, init_method=f'file://{folder}/meet', rank=0, world_size=1)
        synced = copy.deepcopy(net)
        if device.type == 'cuda':
            synced = nn.SyncBatchNorm.convert_sync_batchnorm(synced)
        model = distributed.wrap(synced, World([device], size=2))  # as one of several
        got = gradients_of(model, synced, image, label)
        dist.destroy_process_group()
    name = 'DistributedDataParallel, one process, where SyncBatchNorm has nobody to wait for'
    rows.append(compare(name, got, wanted))
    return rows


def gradients(device):
    """Return rows that compare the device with the CPU."""
    rows = []
    for head in HEADS:
        net, image, label = network_and_batch([f'HEAD={head}', *measure.trunk_words(head)])
        wanted = gradients_of(net, net, image, label)
        net = net.to(device)
        rows.append(
            compare(head, gradients_of(net, net, image.to(device), label.to(device)), wanted)
        )
    return rows


def camvid():
    """Train recipes/camvid.py for MINUTES, stop it as Ctrl-C does, and print its last lines."""
    if not os.path.isdir(os.path.join(settings.DATA_ROOT, 'camvid')):
        print(f'left out: there is no camvid in {settings.DATA_ROOT}')
        return
    folders = [
        f'{name}={getattr(settings, name)}' for name in ('DATA_ROOT', 'MODEL_DIR', 'LOG_DIR')
    ]
    words = ['recipes/camvid.py', 'NAME=gpu_camvid', *folders]
    log = os.path.join(settings.LOG_DIR, 'gpu_camvid.txt')
    with open(log, 'w') as f:
        command = [sys.executable, 'train.py', *words]
        process = subprocess.Popen(
            command, cwd=run_folder.PROJECT, stdout=f, stderr=subprocess.STDOUT
        )
        try:
            process.wait(60 * MINUTES)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(60)
        finally:
            process.kill()
            process.wait()
    with open(log) as f:
        print(f.read())
    if process.returncode not in (0, 128 + signal.SIGINT):
        raise UserError(f'train.py ended with status {process.returncode}')


def main(flags):
    names = {'engines': engines, 'gradients': gradients}
    if flags.inputs == ['camvid']:
        return camvid()
    if len(flags.inputs) != 1 or flags.inputs[0] not in names:
        raise UsageError(f'name one of {", ".join(names)}, camvid')
    device = measure.start().device
    rows = names[flags.inputs[0]](device)
    print(*table(rows, markdown=True), sep='\n')
    different = [row[''] for row in rows if row['verdict'] != 'equal']
    if different:
        raise UserError(f'more than {LIMIT} apart: {", ".join(different)}')


if __name__ == '__main__':
    script.run(main, script.Parser(__doc__, inputs='NAME'))
