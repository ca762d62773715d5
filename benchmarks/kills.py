"""Kill runs and resume them, and compare them bit by bit with runs that nobody disturbed.

    python -m benchmarks.kills                 50 trials, and a table of them
    python -m benchmarks.kills --trials 5 --seed 1

A trial trains on scenes of `shapes`, is killed up to three times by a signal at a moment
that follow from --seed, and is resumed until it is finished. Weights, optimiser, generators, best
score and logs are compared. It takes about a quarter of an hour on two cores.
"""

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time

import torch

from datasets import shapes
from utils import run_folder, script
from utils.table import table

STEPS = 6
COMMON = (
    'recipes/shapes.py', 'DEVICES=cpu', 'CROP_SIZE=65', 'BATCH_SIZE=4', 'EM_CHANNELS=16',
    'EM_BASES=4', 'HEAD_CHANNELS=16', f'ITER_MAX={STEPS}', 'ITER_LOG=1', 'ITER_VAL=2', 'WARMUP=0',
    'AMP=off',
)  # fmt: skip
CASES = {  # processes, settings
    'no loader processes': (1, ('NUM_WORKERS=0', 'ITER_SAVE=2')),
    'a loader process, dropout': (1, ('NUM_WORKERS=1', 'ITER_SAVE=2', 'DROPOUT=0.3')),
    'four, accumulation': (1, ('NUM_WORKERS=4', 'ITER_SAVE=2', 'ACCUMULATE=2', 'DROPOUT=0.3')),
    'HEAD=psp, ITER_SAVE=3': (1, ('NUM_WORKERS=1', 'ITER_SAVE=3', 'HEAD=psp', 'AUX_WEIGHT=0.4')),
    'two processes': (2, ('NUM_WORKERS=1', 'ITER_SAVE=2', 'DROPOUT=0.3')),
}
SIGNALS = {  # number, and whether the whole process group gets it
    'SIGKILL': (signal.SIGKILL, True),
    'SIGTERM': (signal.SIGTERM, False),
    'SIGTERM to the group': (signal.SIGTERM, True),
    'Ctrl-C': (signal.SIGINT, True),
}
CHANGES = ('images_per_s', 'memory_GB')  # what a log may have of its own


class Runs:
    """Starts, kills and compares runs that lie in one folder."""

    def __init__(self, folder, chance):
        self.folder = folder
        self.chance = chance
        for seed, (split, count) in enumerate({'train': 12, 'val': 6}.items()):
            shapes.draw_split(os.path.join(folder, 'shapes'), split, count, seed)

    def path(self, kind, name, file=''):
        return os.path.join(self.folder, kind, name, file)

    def start(self, case, name):
        """Start training in a process group of its own."""
        processes, words = CASES[case]
        command = [sys.executable]
        if processes > 1:
            command += ['-m', 'torch.distributed.run', '--standalone']
            command += [f'--nproc_per_node={processes}']
        folders = [f'{key}_DIR={self.path(key.lower(), "")}' for key in ('LOG', 'MODEL')]
        command += ['train.py', *COMMON, *words, *folders, f'DATA_ROOT={self.folder}']
        return subprocess.Popen(
            [*command, f'NAME={name}'],
            cwd=run_folder.PROJECT,
            env=os.environ | {'OMP_NUM_THREADS': '1'},
            start_new_session=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )

    def finish(self, case, name):
        """Train to the end; RuntimeError if that fails."""
        process = self.start(case, name)
        _, err = process.communicate(timeout=600)
        if process.returncode:
            raise RuntimeError(f'{case}: the run ended with status {process.returncode}: {err}')

    def kill(self, case, name):
        """Train, and send a signal at some moment; return its name, or '' if it came too late."""
        kind = self.chance.choice(sorted(SIGNALS))
        number, to_group = SIGNALS[kind]
        process = self.start(case, name)
        lines = len(self.log(name)) + self.chance.randint(0, STEPS + 1)
        while process.poll() is None and len(self.log(name)) < lines:
            time.sleep(0.02)
        time.sleep(self.chance.uniform(0, 0.5))
        late = process.poll() is not None
        if not late and to_group:
            for pid in (process.pid, *children(process.pid)):  # torchrun gives each a group
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(os.getpgid(pid), number)
        elif not late:
            process.send_signal(number)
        process.communicate(timeout=600)
        return '' if late else kind

    def log(self, name):
        """Return the entries of a run's log, without what may change."""
        entries = []
        path = self.path('log', name, 'log.jsonl')
        if os.path.isfile(path):
            with open(path) as f:
                for line in f:
                    if line.endswith('\n'):
                        entry = json.loads(line)
                        entries.append({k: v for k, v in entry.items() if k not in CHANGES})
        return entries

    def differences(self, one, other):
        """Return the files of two finished runs that are not equal."""
        differ = []
        if self.log(one) != self.log(other):
            differ.append('log.jsonl')
        names = [sorted(os.listdir(self.path('model', name))) for name in (one, other)]
        if names[0] != names[1]:
            differ.append(f'{names[0]} and {names[1]}')
        for name in names[0]:
            if name in names[1] and not self.equal(name, one, other):
                differ.append(name)
        return differ

    def equal(self, file, one, other):
        contents = []
        for name in (one, other):
            content = torch.load(self.path('model', name, file), weights_only=True)
            content['settings'].pop('NAME')
            contents.append(content)
        return same(*contents)

    def remove(self, name):
        for kind in ('log', 'model'):
            shutil.rmtree(self.path(kind, name), ignore_errors=True)


def children(pid):
    """Return the numbers of the processes that a process has started."""
    with open(f'/proc/{pid}/task/{pid}/children') as f:
        return [int(word) for word in f.read().split()]


def same(a, b):
    """Tell whether two values of a checkpoint are equal bit by bit."""
    if type(a) is not type(b):
        return False
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


def trial(runs, case):
    """Return the signals that a run got, and what differs from the undisturbed one."""
    kinds = []
    for _ in range(runs.chance.randint(1, 3)):
        kind = runs.kill(case, 'trial')
        if not kind:
            break
        kinds.append(kind)
    runs.finish(case, 'trial')
    differ = runs.differences(case, 'trial')
    runs.remove('trial')
    return kinds, differ


def main(flags):
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        runs = Runs(folder, random.Random(flags.seed))
        for i, case in enumerate(CASES):
            runs.finish(case, case)
            count = len(range(i, flags.trials, len(CASES)))
            row = {'run': case, 'trials': count, **dict.fromkeys(SIGNALS, 0), 'equal': 0}
            for _ in range(count):
                kinds, differ = trial(runs, case)
                for kind in kinds:
                    row[kind] += 1
                row['equal'] += not differ
                if differ:
                    print(f'{case}: after {", ".join(kinds)}: {"; ".join(differ)}', flush=True)
            rows.append({key: str(value) for key, value in row.items()})
            print(f'{case}: {row["equal"]} of {count} equal', flush=True)
    print(*table(rows, markdown=True), sep='\n')
    return int(any(row['equal'] != row['trials'] for row in rows))


def parser():
    parser = script.Parser(__doc__)
    parser.add_argument('--trials', type=int, default=50, help='of all kinds of runs together')
    parser.add_argument('--seed', type=int, default=0, help='of the moments and the signals')
    return parser


if __name__ == '__main__':
    script.run(main, parser())
