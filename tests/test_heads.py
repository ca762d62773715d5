"""Every head in the one loop, small, on drawn scenes: the loss falls, odd sizes are predicted, the run is saved and resumed, bf16 agrees."""

import json
import os

import pytest
import torch
import torch.distributed as dist
from helpers import HEAD_NAMES, assert_close, build, put, settings_kept, strides

import checkpoint
import eval as evaluation
import network
import settings
import train
from heads import HEADS
from heads.blocks import Head
from utils import config, distributed

RECIPE = os.path.join(os.path.dirname(os.path.abspath(settings.__file__)), 'recipes', 'shapes.py')
SMALL = [
    'N_LAYERS=18',
    'CROP_SIZE=65',
    'BATCH_SIZE=4',
    'HEAD_CHANNELS=32',
    'EM_CHANNELS=32',
    'EM_BASES=8',
    'NUM_WORKERS=0',
    'AMP=off',
    'ITER_VAL=0',
    'ITER_LOG=5',
    'ITER_SAVE=20',
    'WARMUP=0',
    'OPTIMIZER=sgd',
    'LR=2e-2',
    'WEIGHT_DECAY=1e-4',
    'DROPOUT=0.0',
    'AUX_WEIGHT=0.4',
]


@pytest.mark.parametrize('head', HEAD_NAMES)
def test_head_trains_predicts_and_resumes(head, drawn_shapes, tmp_path, signals_restored):
    allowed = strides(head)
    config.override(
        [
            RECIPE,
            *SMALL,
            f'HEAD={head}',
            'AMP=off',  # bf16 gradients of maps one pixel wide are not initialised, on a CPU
            f'STRIDE={16 if 16 in allowed else allowed[0]}',
            f'DATA_ROOT={drawn_shapes}',
            f'MODEL_DIR={tmp_path}/models',
            f'LOG_DIR={tmp_path}/logdir',
            'ITER_MAX=20',
        ]
    )
    assert train.main() is None
    put(ITER_MAX=22)
    assert train.main() is None  # goes on from step 20
    with open(tmp_path / 'logdir' / settings.NAME / 'log.jsonl') as f:
        losses = {line['step']: line['loss'] for line in map(json.loads, f)}
    assert list(losses) == [5, 10, 15, 20, 22] and losses[20] < 0.9 * losses[5]

    net = build().eval()
    report = checkpoint.load_weights(net, str(tmp_path / 'models' / settings.NAME / 'final.pth'))
    assert report.step == 22 and not report.missing and not report.unexpected
    image = torch.randint(256, (2, 3, 71, 54)).byte()
    with torch.no_grad():
        (pred,) = evaluation.predict(net, image, evaluation.protocol())
        assert pred.shape == (2, 71, 54) and pred.max() < 10
        assert_close(network.fold(net)(image), net(image), 1e-3)
    # no map is one pixel wide, of half the image either: there PyTorch's bf16 convolution of 3x3
    # with a stride, on a CPU with AMX, reads memory that nobody wrote
    size = 2, 75, 97
    image, label = torch.randint(256, (2, 3, *size[1:])).byte(), torch.randint(8, size).byte()
    with torch.no_grad():
        wanted = net(image, label)[0]
        with torch.autocast('cpu', torch.bfloat16):
            found = net(image, label)[0]
    assert found.dtype == torch.float32 and ((found - wanted).abs() / wanted).max() < 0.05
    net.train()
    with torch.autocast('cpu', torch.bfloat16):
        net(image, label)[0].sum().backward()
    moved = [p.grad for p in net.parameters() if p.grad is not None]
    assert (
        len(moved) > 60
        and all(g.isfinite().all() for g in moved)
        and sum(bool(g.any()) for g in moved) > 60
    )


# ------------------------------------------------------------------------------------------------------ two processes


def gradients(rank, world):
    """{head: gradients of a step on four images in float64}, rank's share of them if there are several processes."""
    found, processes = {}, distributed.World([torch.device('cpu')], rank, world)
    for head in HEAD_NAMES:
        allowed = strides(head)
        with settings_kept():
            config.override(
                [
                    RECIPE,
                    *SMALL,
                    f'HEAD={head}',
                    f'STRIDE={16 if 16 in allowed else allowed[0]}',
                    f'N_LAYERS={10 if 10 in HEADS.get(head, Head).layers else 18}',
                    'CROP_SIZE=33',
                ]
            )
            torch.manual_seed(0)
            net = build().double().train()
            for m in net.modules():
                m.p = 0.0  # of the dropouts that are fixed
            image, label = (
                torch.randn(4, 3, 33, 33, dtype=torch.float64),
                torch.randint(8, (4, 33, 33)),
            )
            share = slice(rank * 4 // world, (rank + 1) * 4 // world)
            model = distributed.wrap(net, processes)
            loss_sum, count, _ = model(image[share], label[share])
            (loss_sum.sum() * world / processes.all_reduce(count.sum())).backward()
            found[head] = [p.grad for p in net.parameters() if p.grad is not None]
    return found


def process(rank, folder):
    torch.set_num_threads(1)
    dist.init_process_group('gloo', init_method=f'file://{folder}/meet', rank=rank, world_size=2)
    found = gradients(rank, 2)
    if rank == 0:
        torch.save(found, f'{folder}/found.pt')
    dist.destroy_process_group()


def test_two_processes_give_the_gradients_of_one(tmp_path):
    torch.multiprocessing.spawn(process, (str(tmp_path),), 2)
    found, wanted = torch.load(tmp_path / 'found.pt'), gradients(0, 1)
    for head in HEAD_NAMES:
        assert len(found[head]) == len(wanted[head])
        scale = max(g.abs().max() for g in wanted[head])
        assert all((a - b).abs().max() < 1e-8 * scale for a, b in zip(found[head], wanted[head])), (
            head
        )
