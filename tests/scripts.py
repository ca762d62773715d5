"""Runs the scripts as a user does, on a stand-in data set laid out like CamVid and with a net that trains in seconds."""

import atexit
import json
import multiprocessing
import os
import runpy
import shutil
import socket
import subprocess
import sys
import time
from typing import NamedTuple

import pytest
import torch
from helpers import blocks, colour_of, write

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
ENV = {
    'OMP_NUM_THREADS': '1',
    'MKL_NUM_THREADS': '1',
    'PYTHONDONTWRITEBYTECODE': '1',
    'CUDA_VISIBLE_DEVICES': '',
}
RECIPE = """# A net and a run of seconds.
DATASET = 'camvid'
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
ITER_MAX = 2
ITER_LOG = 1
ITER_VAL = 0
ITER_SAVE = 100
LR = 0.02
LR_DECAY = 0
"""
SIZES = ((60, 80), (66, 72), (52, 90))


class Result(NamedTuple):
    status: int
    out: str
    err: str


class Room:
    """A recipe `tiny` on the data set at `data`, with folders of its own for logs and checkpoints."""

    def __init__(self, folder, data):
        self.folder, self.data = folder, data
        self.logs, self.models, self.recipe = folder / 'logs', folder / 'models', folder / 'tiny.py'
        self.recipe.write_text(RECIPE)

    def args(self, *args):
        return [
            str(self.recipe),
            f'DATA_ROOT={self.data}',
            f'LOG_DIR={self.logs}',
            f'MODEL_DIR={self.models}',
            *map(str, args),
        ]

    def run(self, script, *args, before=None):
        """The script with the recipe and `args`; see run()."""
        return run(script, *self.args(*args), scratch=self.folder, before=before)

    def ok(self, script, *args, before=None):
        """What a script prints that must succeed."""
        found = self.run(script, *args, before=before)
        assert found.status == 0, found.err
        return found.out

    def checkpoint(self, name, run='tiny'):
        return torch.load(self.models / run / f'{name}.pth', weights_only=True)

    def log(self, run='tiny'):
        return [
            json.loads(line) for line in (self.logs / run / 'log.jsonl').read_text().splitlines()
        ]

    def scores(self, run='tiny'):
        return json.loads((self.logs / run / 'scores.json').read_text())


@pytest.fixture(scope='session')
def data(tmp_path_factory):
    """DATA_ROOT of the stand-in: 12 pictures to train on, 5 to score, of three sizes, with void of various width at the left."""
    root = tmp_path_factory.mktemp('stand_in')
    for split, count in (('train', 12), ('val', 5)):
        for i in range(count):
            label = blocks(*SIZES[i // 2 % 3], seed=100 * count + i, classes=4)
            label[:, : 3 * i] = 11
            write(str(root / 'camvid' / split / f'{i:02d}.png'), colour_of(label))
            write(str(root / 'camvid' / (split + 'annot') / f'{i:02d}.png'), label)
    return root


@pytest.fixture
def own_data(data, tmp_path):
    """A copy of the data set that the test may spoil."""
    return shutil.copytree(data, tmp_path / 'own_data')


@pytest.fixture
def room(data, tmp_path):
    yield Room(tmp_path, data)
    shutil.rmtree(tmp_path / 'models', ignore_errors=True)  # checkpoints are large


@pytest.fixture
def again(kept, tmp_path):
    """A room with the network of the module's `kept` and logs of its own."""
    room = Room(tmp_path, kept.data)
    room.models = kept.models
    return room


# ------------------------------------------------------------------------------------------------------------ running


def command(script, *args):
    return [sys.executable, script, *map(str, args)]


def start(script, *args, cwd=ROOT, **options):
    """The script in a process of its own, with pipes."""
    return subprocess.Popen(
        command(script, *args),
        cwd=cwd,
        env=os.environ | ENV,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        **options,
    )


def finish(process, timeout=180):
    try:
        out, err = process.communicate(timeout=timeout)
    finally:
        process.kill()
    return Result(process.returncode, out, err)


def run(script, *args, scratch, before=None, timeout=180):
    """The script with these arguments, run in the project's folder by a fork of a process that has imported torch already.

    Third-party imports, which take seconds, are shared; the project's own modules are read afresh each time.
    before()  is called in the new process: limits and the like.
    """
    forks = multiprocessing.get_context('forkserver')
    forks.set_forkserver_preload(
        [
            'torch',
            'torchvision.transforms.v2',
            'tensorboardX',
            'cv2',
            'tqdm',
            'pytest',
            'matplotlib.figure',
            'PIL.Image',
        ]
    )
    out, err = scratch / 'stdout', scratch / 'stderr'
    process = forks.Process(target=play, args=(script, list(map(str, args)), out, err, before))
    process.start()
    process.join(timeout)
    late = process.is_alive()
    if late:
        process.kill()
        process.join()
    assert not late, f'{script} did not end; it wrote {err.read_text()}'
    return Result(process.exitcode, out.read_text(), err.read_text())


def play(script, args, out, err, before):
    """In the fork: becomes `python script args`."""
    for number, path in ((1, out), (2, err)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    os.environ.update(ENV)
    os.chdir(ROOT)
    torch.set_num_threads(1)
    sys.argv = [script, *args]
    sys.path.insert(0, ROOT)
    sys.dont_write_bytecode = True
    own = {os.path.splitext(f)[0] for f in os.listdir(ROOT)}
    for name in [n for n in sys.modules if n.partition('.')[0] in own]:
        del sys.modules[name]
    multiprocessing.set_start_method(
        None, force=True
    )  # loader processes as in a process of its own
    if before:
        before()
    try:
        runpy.run_path(os.path.join(ROOT, script), run_name='__main__')
    finally:
        atexit._run_exitfuncs()  # a fork of multiprocessing leaves them out


def double():
    """In the new process: float64. In float32, rounding alone moves the gradients of early layers by 1e-5 and more."""
    torch.set_default_dtype(torch.float64)


def torchrun(processes, script, *args):
    """The script in several processes over gloo."""
    with socket.socket() as s:
        s.bind(('localhost', 0))
        port = s.getsockname()[1]
    return finish(
        start(
            '-m',
            'torch.distributed.run',
            f'--nproc_per_node={processes}',
            '--master_addr=localhost',
            f'--master_port={port}',
            script,
            *args,
        )
    )


def wait_for(path, process, timeout=120):
    """Until the file is there."""
    end = time.time() + timeout
    while not path.exists():
        assert process.poll() is None, process.communicate()[1]
        assert time.time() < end, f'{path} did not come'
        time.sleep(0.02)


# ----------------------------------------------------------------------------------------------------------- comparing


def tensors(value, prefix=''):
    """All tensors of a checkpoint, nested as they may be: {path: tensor}."""
    if torch.is_tensor(value):
        return {prefix: value}
    items = (
        value.items()
        if isinstance(value, dict)
        else enumerate(value)
        if isinstance(value, (list, tuple))
        else ()
    )
    return {k: v for key, item in items for k, v in tensors(item, f'{prefix}/{key}').items()}


def snapshot(folder):
    """{file: bytes} of a folder."""
    return {
        str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob('*')) if p.is_file()
    }
