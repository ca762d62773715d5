"""Files of runs that were made by the version before the redesign, from what this folder keeps of them.

A folder here per run: its text files, and files.json with the layout of its checkpoints. Their numbers
come from recipe.py and from seeds, so that the repository stays small. make.py wrote all of it.
"""

import ast
import json
import os
import shutil
import zlib

import torch
from golden import recipe

HERE = os.path.dirname(os.path.abspath(__file__))
TEXT_FILES = {
    'settings.txt': 'settings.py',
    'log.jsonl': 'log.jsonl',
    'machine.json': 'machine.json',
    'scores.json': 'scores.json',
}
TINY = """DATASET = 'camvid'
TRAIN_SPLIT = 'train'
DEVICES = 'cpu'
NUM_WORKERS = 0
CROP_SIZE = 65
N_LAYERS = 18
STEM = 'plain'
STRIDE = 16
PRETRAINED = ''
BN_MOM = 0.1
EM_CHANNELS = 16
EM_BASES = 4
HEAD_CHANNELS = 16
BATCH_SIZE = 4
AMP = 'off'
LR = 0.001
LR_DECAY = 0
ITER_MAX = 2
ITER_LOG = 1
ITER_VAL = 2
ITER_SAVE = 2
"""


def names():
    """Return the names of the runs."""
    return sorted(
        f for f in os.listdir(HERE) if os.path.isdir(os.path.join(HERE, f)) and f[0] != '_'
    )


def read(run, file):
    with open(os.path.join(HERE, run, file)) as f:
        return f.read()


def settings_of(text):
    """Return the settings of a run folder's settings.py."""
    lines = ast.parse(text).body
    return {line.targets[0].id: ast.literal_eval(line.value) for line in lines}


def layout(run):
    """Return the layout of the run's checkpoints, as make.py wrote it."""
    return json.loads(read(run, 'files.json'))


def momentum(name, shape):
    return recipe.noise(shape, zlib.crc32(name.encode()) & 0x7FFFFFFF, 1e-3)


def checkpoints(files, settings):
    """Return {'latest': training state, 'best': weights and scores} with numbers from recipe.py."""
    net = recipe.weights(files['net'])
    groups = [dict(group) for group in files['param_groups']]
    params = [name for group in groups for name in group['names']]
    state = {}
    for i, name in enumerate(params):
        if name in files['momentum']:
            state[i] = {'momentum_buffer': momentum(name, files['net'][name])}
    rng = torch.Generator().manual_seed(5).get_state()
    assert [list(rng.shape)] == files['rng'], 'the generator of torch has another layout now'
    latest = {
        'net': net,
        'step': files['step'],
        'settings': settings,
        'opt': {'state': state, 'param_groups': groups},
        'scaler': files['scaler'],
        'best': files['best'],
        'rng': [{'cpu': rng, 'cuda': []}],
        'images': files['images'],
    }
    best = {'net': net, 'step': files['step'], 'settings': settings, 'scores': files['best']}
    return {'latest': latest, 'best': best}


def put_back(run, logs, models):
    """Write the run `tiny` into these folders of logs and checkpoints, as it was."""
    os.makedirs(logs / 'tiny')
    os.makedirs(models / 'tiny')
    for here, there in TEXT_FILES.items():
        shutil.copy(os.path.join(HERE, run, here), logs / 'tiny' / there)
    states = checkpoints(layout(run), settings_of(read(run, 'settings.txt')))
    for name, state in states.items():
        torch.save(state, models / 'tiny' / (name + '.pth'))
