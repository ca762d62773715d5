"""Every head in the one loop, small, on drawn scenes: the loss falls, odd sizes are predicted, the run is saved and resumed, bf16 agrees."""
import json
import os
import signal

import pytest
import torch

import checkpoint
import eval as evaluation
import network
import settings
import train
from helpers import put

RECIPE = os.path.join(os.path.dirname(os.path.abspath(settings.__file__)), 'recipes', 'shapes.py')
SMALL = ['N_LAYERS=18', 'CROP_SIZE=65', 'BATCH_SIZE=4', 'HEAD_CHANNELS=32', 'EM_CHANNELS=32', 'EM_BASES=8', 'NUM_WORKERS=0', 'AMP=off', 'ITER_VAL=0',
         'ITER_LOG=5', 'ITER_SAVE=20', 'WARMUP=0', 'LR=2e-2', 'DROPOUT=0.0', 'AUX_WEIGHT=0.4']


@pytest.fixture
def signals_restored():
    kept = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in kept.items():
        signal.signal(number, handler)


@pytest.mark.parametrize('head', network.HEADS)
def test_head_trains_predicts_and_resumes(head, drawn_shapes, tmp_path, signals_restored):
    strides = network.trait(network.HEADS[head], 'strides')
    settings.override([RECIPE, *SMALL, f'HEAD={head}', f'STRIDE={16 if 16 in strides else strides[0]}', f'DATA_ROOT={drawn_shapes}',
                       f'MODEL_DIR={tmp_path}/models', f'LOG_DIR={tmp_path}/logdir', 'ITER_MAX=20'])
    assert train.main() is None
    put(ITER_MAX=22)
    assert train.main() is None  # goes on from step 20
    with open(tmp_path / 'logdir' / settings.NAME / 'log.jsonl') as f:
        losses = {line['step']: line['loss'] for line in map(json.loads, f)}
    assert list(losses) == [5, 10, 15, 20, 22] and losses[20] < 0.85 * losses[5]

    net = network.build().eval()
    report = checkpoint.load_weights(net, str(tmp_path / 'models' / settings.NAME / 'final.pth'))
    assert report.step == 22 and not report.missing and not report.unexpected
    image, label = torch.randint(256, (2, 3, 71, 54)).byte(), torch.randint(8, (2, 71, 54)).byte()
    with torch.no_grad():
        pred = evaluation.predict(net, image)
        assert pred.shape == (2, 71, 54) and pred.max() < net.n_classes
        wanted = net(image, label)[0]
        with torch.autocast('cpu', torch.bfloat16):
            found = net(image, label)[0]
    assert found.dtype == torch.float32 and ((found - wanted).abs() / wanted).max() < 0.05
