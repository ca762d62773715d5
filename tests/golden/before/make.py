"""Wrote this folder, with the code of commit 1e39d14 (before the redesign).

    git worktree add /tmp/before 1e39d14
    python tests/golden/before/make.py /tmp/before /tmp/work

Each run makes two steps on the stand-in data set of tests/scripts.py. Then its checkpoints get numbers
that rebuild.py can make again, and the old code evaluates and resumes them.
"""

import json
import os
import pathlib
import shutil
import subprocess
import sys

TESTS = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(TESTS))

import cv2  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402
from golden.before import rebuild  # noqa: E402

RUNS = {  # name: settings as the old code had them, and what they are called today
    'ema': (
        ['SECOND_CONV=False', 'TEST_STAGE_NUM=5', 'LABEL_SMOOTHING=0.1', 'EM_NORM=layer'],
        ['SECOND_CONV=False', "LOSS_ARGS={'smoothing': 0.1}", 'EM_NORM=layer'],
    ),
    'psa_compact': (
        ['HEAD=psa', 'PSA_COMPACT=True', 'TEST_CROP=65', 'SCALES=(0.75,1.25)'],
        [
            'HEAD=psa',
            "HEAD_ARGS={'compact': True}",
            'TEST_CROP=65',
            'SCALES=(0.75,0.75,1.25,1.25)',
        ],
    ),
    'psa_mask': (
        [
            'HEAD=psa',
            'PSA_MASK=(3,5)',
            'PSA_TYPE=distribute',
            'PSA_SOFTMAX=False',
            'AUX_WEIGHT=0.4',
        ],
        [
            'HEAD=psa',
            "HEAD_ARGS={'mask': (3, 5), 'type': 'distribute', 'softmax': False}",
            'AUX_WEIGHT=0.4',
        ],
    ),
    'danet_d2': (
        [
            'HEAD=danet',
            'DANET_D2=True',
            'N_LAYERS=50',
            'STRIDE_IN_1X1=True',
            'UPSAMPLE=crop',
            'CHANNELS=bgr',
            'SCALE_MODE=range',
            'SCALES=(0.5,1.0,2.0)',
        ],
        [
            'HEAD=danet',
            "HEAD_ARGS={'d2': True}",
            'N_LAYERS=50',
            'STEM=caffe',
            'UPSAMPLE=crop',
            'CHANNELS=bgr',
            'SCALES=(0.5,2.0)',
        ],
    ),
    'deeplabv3': (
        [
            'HEAD=deeplabv3',
            'DEEPLABV3_RATES=(1,2)',
            'LOSS=ohem',
            'OHEM_THRESHOLD=0.6',
            'OHEM_KEEP=500',
            'AUX_WEIGHT=0.4',
        ],
        [
            'HEAD=deeplabv3',
            "HEAD_ARGS={'rates': (1, 2)}",
            'LOSS=ohem',
            "LOSS_ARGS={'threshold': 0.6, 'keep': 500}",
            'AUX_WEIGHT=0.4',
        ],
    ),
    'deeplabv3plus': (
        [
            'HEAD=deeplabv3plus',
            'DEEPLABV3PLUS_RATES=(1,2,3)',
            'LOSS=focal',
            'FOCAL_GAMMA=1.5',
            'SHORT_SIDE=(48,56,64)',
            'SCALE_MODE=range',
        ],
        [
            'HEAD=deeplabv3plus',
            "HEAD_ARGS={'rates': (1, 2, 3)}",
            'LOSS=focal',
            "LOSS_ARGS={'gamma': 1.5}",
            'SHORT_SIDE=(48,64)',
        ],
    ),
    'psp': (
        ['HEAD=psp', 'PSP_BINS=(1,2)', 'LOSS=dice'],
        ['HEAD=psp', "HEAD_ARGS={'bins': (1, 2)}", 'LOSS=dice'],
    ),
}
LOGITS = """
import sys
sys.path[:0] = ['.', sys.argv[1]]
import json, torch
from golden import recipe
import checkpoint, network, settings
torch.set_num_threads(1)
settings.override(sys.argv[3:])
net = network.build().eval()
checkpoint.load_weights(net, sys.argv[2])
with torch.no_grad():
    logits = net(recipe.image(65, 65, 7))[0, ::2, ::16, ::16]
print(json.dumps([round(v, 5) for v in logits.flatten().tolist()]))
"""


def call(old, *args):
    env = os.environ | {'OMP_NUM_THREADS': '1', 'CUDA_VISIBLE_DEVICES': ''}
    words = [sys.executable, *map(str, args)]
    done = subprocess.run(words, cwd=old, env=env, text=True, capture_output=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def stand_in(root):
    """Write the data set of tests/scripts.py."""
    sizes = ((60, 80), (66, 72), (52, 90))
    for split, count in (('train', 12), ('val', 5)):
        for i in range(count):
            h, w = sizes[i // 2 % 3]
            rng = np.random.RandomState(100 * count + i)
            label = rng.randint(0, 4, (-(-h // 16), -(-w // 16)))
            label = label.repeat(16, 0).repeat(16, 1)[:h, :w]
            label[:, : 3 * i] = 11
            colours = np.stack([20 * label + 10, 250 - 20 * label, 37 * label % 256], 2)
            for folder, pixels in ((split, colours), (split + 'annot', label)):
                os.makedirs(root / 'camvid' / folder, exist_ok=True)
                cv2.imwrite(str(root / 'camvid' / folder / f'{i:02d}.png'), pixels.astype(np.uint8))


def describe(models):
    """Return the layout of the checkpoints in a folder."""
    latest = torch.load(models / 'latest.pth', weights_only=True)
    groups = latest['opt']['param_groups']
    params = [name for group in groups for name in group['names']]
    return {
        'net': {key: list(value.shape) for key, value in latest['net'].items()},
        'param_groups': groups,
        'momentum': [params[i] for i in latest['opt']['state']],
        'scaler': latest['scaler'],
        'step': latest['step'],
        'best': latest['best'],
        'rng': [list(entry['cpu'].shape) for entry in latest['rng']],
        'images': latest['images'],
    }


def make(old, work, name, before, today):
    room, out = work / name, pathlib.Path(rebuild.HERE) / name
    shutil.rmtree(room, ignore_errors=True)
    shutil.rmtree(out, ignore_errors=True)
    os.makedirs(room)
    os.makedirs(out)
    (room / 'tiny.py').write_text(rebuild.TINY)
    logs, models = room / 'logs' / 'tiny', room / 'models' / 'tiny'
    places = [f'DATA_ROOT={work}', f'LOG_DIR={room}/logs', f'MODEL_DIR={room}/models']
    args = [room / 'tiny.py', *places, *before]
    call(old, 'train.py', *args)
    call(old, 'eval.py', *args)
    for here, there in rebuild.TEXT_FILES.items():
        text = (logs / there).read_text().replace(str(work), '.')
        (out / here).write_text(text)
    files = describe(models)
    (out / 'files.json').write_text(json.dumps(files, separators=(',', ':')))

    settings = rebuild.settings_of(rebuild.read(name, 'settings.txt'))
    for which, state in rebuild.checkpoints(files, settings).items():
        torch.save(state, models / (which + '.pth'))
    call(old, 'eval.py', *args)
    scores = json.loads((logs / 'scores.json').read_text())
    logits = call(old, '-c', LOGITS, TESTS, models / 'best.pth', *args)
    call(old, 'train.py', *args, 'ITER_MAX=4', 'ITER_VAL=4')
    lines = map(json.loads, (logs / 'log.jsonl').read_text().splitlines())
    expected = {
        'today': today,
        'scores': {key: scores[key] for key in ('mIoU', 'pAcc', 'class_iou')},
        'logits': json.loads(logits),
        'log': [line for line in lines if line['step'] > 2],
    }
    (out / 'expected.json').write_text(json.dumps(expected))
    shutil.rmtree(room)


if __name__ == '__main__':
    old, work = map(pathlib.Path, sys.argv[1:3])
    stand_in(work)
    for name, (before, today) in RUNS.items():
        if name in (sys.argv[3:] or RUNS):
            make(old, work, name, before, today)
            print(name)
