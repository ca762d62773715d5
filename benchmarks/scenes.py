"""Train heads on the scenes of `shapes` and tell what each of them knows of a scene.

    python -m benchmarks.scenes OUT                      every head, seeds 0, 1 and 2
    python -m benchmarks.scenes OUT --heads ema fcn psp --seeds 1
    python -m benchmarks.scenes OUT --ablations          EMANet with one choice changed
    python -m benchmarks.scenes OUT --iterations         T of training against T of evaluation
    ... --jobs 2                                         runs at a time, with one thread each

Every run is recipes/shapes.py with another head, or another choice; words such as ITER_MAX=300 are
in force for all. Its folders are OUT/models and OUT/logdir; what is finished is not run again. A
table grows row by row: mean and standard deviation over the seeds, in percent.
    local      accuracy of the classes that are told where they are, their mean
    around, elsewhere, pooled
               of the pixels of a pair of classes that got the name of either, the share that got
               the right one, mean of the two: 50 is a guess, 100 knows the rest of the scene
"""

import csv
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np

import settings
from benchmarks import measure
from datasets import shapes
from heads import HEADS
from utils import run_folder, script
from utils.config import UsageError, UserError, override
from utils.files import atomic_write
from utils.table import table

RECIPE = os.path.join(run_folder.PROJECT, 'recipes', 'shapes.py')
LOCAL = shapes.MEADOW, shapes.WATER, shapes.TREE, shapes.SUN
HEAD_NAMES = 'ema', *(name for name in HEADS if name not in ('ladderdensenet', 'setr'))
ABLATIONS = (  # the choices of the paper's section 4.2
    '', 'EM_UPDATE=none', 'EM_UPDATE=learnt', 'EM_NORM=layer', 'EM_NORM=none', 'EM_GRAD=True',
    'EM_BASES=8', 'EM_BASES=64',
)  # fmt: skip
ITERATIONS = 1, 2, 3, 5


class Runs:
    """Trains and evaluates in processes of their own; all of it lies in the folder `out`."""

    def __init__(self, out, words, jobs):
        self.out = os.path.abspath(out)
        self.words = words
        self.pool = ThreadPoolExecutor(jobs)
        self.check_words()

    def check_words(self):
        """Keep the words, which no name tells, in the folder; UsageError if its runs had others."""
        path, now = os.path.join(self.out, 'words.txt'), '\n'.join(self.words)
        if not os.path.isfile(path):
            with atomic_write(path) as f:
                f.write(now.encode())
        with open(path, encoding='utf-8') as f:
            kept = f.read()
        if kept != now:
            raise UsageError(f'{path}: the runs in this folder had other settings; name a new one')

    def script(self, file, name, words, log_dir='logdir'):
        """Run train.py or eval.py on the run `name`; UserError, with its last line, if it fails."""
        folders = [f'MODEL_DIR={self.out}/models', f'LOG_DIR={self.out}/{log_dir}']
        command = [sys.executable, file, RECIPE, *self.words, *words, *folders]
        done = subprocess.run(
            [*command, f'NAME={name}', 'SAVE_DIR='],
            cwd=run_folder.PROJECT,
            env=os.environ | {'OMP_NUM_THREADS': '1'},
            capture_output=True,
            text=True,
        )
        if done.returncode:
            raise UserError(f'{file} {" ".join(words)}: {done.stderr.strip().splitlines()[-1]}')

    def matrix(self, words, seed, tested=()):
        """Return the confusion matrix (10, 10) on val of a run, which is made if it is not there.

        words   settings of the run
        tested  further settings, of its evaluation alone
        """
        name = '_'.join(words or ('ema',)).replace('=', '-') + f'_{seed}'
        log_dir = '_'.join(('logdir', *tested)).replace('=', '-')
        path = f'{self.out}/{log_dir}/{name}/scores_confusion.csv'
        if not os.path.isfile(path):
            if not os.path.isfile(f'{self.out}/models/{name}/final.pth'):
                self.script('train.py', name, [*words, f'SEED={seed}', f'ITER_VAL={10**9}'])
            test = [f'CHECKPOINT={self.out}/models/{name}/final.pth', *tested]
            self.script('eval.py', name, [*words, *test], log_dir)
        with open(path) as f:
            lines = list(csv.reader(f))
        return np.array([[int(cell) for cell in line[1:]] for line in lines[1:]])

    def row(self, words, seeds, tested=()):
        """Return promises of figures(), one per seed."""
        return [
            self.pool.submit(lambda seed: figures(self.matrix(words, seed, tested)), seed)
            for seed in range(seeds)
        ]


def figures(matrix):
    """Return {column: percent} of a confusion matrix (row = label)."""
    right = np.diag(matrix)
    iou = right / (matrix.sum(0) + matrix.sum(1) - right)
    local = [right[kind] / matrix[kind].sum() for kind in LOCAL]
    values = {'mIoU': iou.mean(), 'local': np.mean(local)}
    for name, pair in shapes.PAIRS.items():
        both = matrix[np.ix_(pair, pair)]
        with np.errstate(invalid='ignore'):  # nan: no pixel of a class got either name
            values[name] = np.mean(np.diag(both) / both.sum(1))
    return {name: 100 * value for name, value in values.items()}


def cell(values):
    """Return mean and standard deviation as text."""
    spread = f' ± {np.std(values, ddof=1):.2f}' if len(values) > 1 else ''
    return f'{np.mean(values):.2f}{spread}'


def head_words(name):
    """Return the settings of a row of the first table, none for the recipe's own head."""
    return [] if name == 'ema' else [f'HEAD={name}', *measure.trunk_words(name)]


def compare(runs, rows, seeds):
    """Make the runs of rows {label: settings} and print their table as it grows."""
    promised = {label: runs.row(words, seeds) for label, words in rows.items()}
    first = 0
    for label, promises in promised.items():
        of_seeds = [promise.result() for promise in promises]
        cells = {'': label}
        for name in of_seeds[0]:
            cells[name] = cell([values[name] for values in of_seeds])
        print(*table([cells], markdown=True)[first:], sep='\n', flush=True)
        first = 2  # without the names of the columns


def iterations(runs, seeds):
    """Print mIoU of every number of iterations in training (rows) with every one in evaluation."""
    words_of = {}
    for t in ITERATIONS:
        words_of[t] = [] if t == settings.STAGE_NUM else [f'STAGE_NUM={t}']
    for promises in [runs.row(words, seeds) for words in words_of.values()]:
        for promise in promises:
            promise.result()  # trained once, before it is tested several times
    lines = []
    for trained, words in words_of.items():
        line = {'T in training': str(trained)}
        for t in ITERATIONS:
            promises = runs.row(words, seeds, [f'STAGE_NUM={t}'])
            scores = [promise.result()['mIoU'] for promise in promises]
            line[f'T = {t} in evaluation'] = cell(scores)
        lines.append(line)
    print(*table(lines, markdown=True), sep='\n')


def main(flags):
    if len(flags.inputs) != 1:
        raise UsageError('name the folder that runs are kept in: python -m benchmarks.scenes OUT')
    override([RECIPE, *flags.settings])
    rows = {name: head_words(name) for name in flags.heads or HEAD_NAMES}
    if flags.ablations:
        rows = {choice or 'as it stands': [choice] if choice else [] for choice in ABLATIONS}
    runs = Runs(flags.inputs[0], flags.settings, flags.jobs)
    try:
        if flags.iterations:
            iterations(runs, flags.seeds)
        else:
            compare(runs, rows, flags.seeds)
    finally:
        runs.pool.shutdown(cancel_futures=True)


def parser():
    parser = script.Parser(__doc__, inputs='OUT')
    parser.add_argument('--heads', nargs='+', choices=HEAD_NAMES, help='some of the heads')
    parser.add_argument('--seeds', type=measure.at_least_one, default=3, help='how many')
    parser.add_argument('--jobs', type=measure.at_least_one, default=1, help='runs at a time')
    parser.add_argument('--ablations', action='store_true', help="the EM unit's choices")
    parser.add_argument('--iterations', action='store_true', help='T trained against T tested')
    return parser


if __name__ == '__main__':
    script.run(main, parser())
