"""Run on a machine with a GPU what needs one, and write a section of RESULTS.md as it goes.

    python benchmarks/gpu.py > section.md                    every part, each within ten minutes
    python benchmarks/gpu.py --parts engines gradients       some of them
    python benchmarks/gpu.py --data DIR                      DATA_ROOT, which has CamVid
    python benchmarks/gpu.py --batch 4                       on a small card; 16 takes about 70 GB
    python benchmarks/gpu.py --cpu --tiny                    whether it works, without a GPU

A part that fails says so in its place, and the next one begins.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import threading
import time
from signal import SIGKILL

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
MINUTES = 10  # for a part
HEADS = 'fcn', 'psp', 'psa', 'danet', 'deeplabv3', 'deeplabv3plus', 'nonlocal'


def full_parts(data, folder, batch=16):
    """Return {name: (title, commands)}, each the words after `python`.

    data    DATA_ROOT
    folder  for checkpoints and logs
    batch   images at once, an even number; half of them beside other networks
    """
    large = [f'BATCH_SIZE={batch}', f'TEST_BATCH={batch}']
    r101, r50 = ['N_LAYERS=101', *large], ['N_LAYERS=50', *large]
    kept = [f'DATA_ROOT={data}', f'MODEL_DIR={folder}', f'LOG_DIR={folder}']
    half = batch // 2
    peers, medium = {}, [f'BATCH_SIZE={half}', f'TEST_BATCH={half}']
    for task in ('training', 'inference', 'evaluation'):
        for size in ('513', '512x1024'):
            words = ['--markdown', '--rounds', '3', '--tasks', task, '--sizes', size, *medium]
            title = f'Ours and others: {task}, {size}'
            peers[f'peers-{task}-{size}'] = title, [['-m', 'benchmarks.peers', *words]]
    return {
        'training': ('Training step and inference', [['bench.py', *r101, '--plain']]),
        'compiled': ('The same, compiled', [['bench.py', *r101, 'COMPILE=True']]),
        'unit': (
            'The EM unit, the confusion matrix, several views',
            [
                ['-m', 'benchmarks.unit'],
                ['-m', 'benchmarks.metric'],
                ['-m', 'benchmarks.views', 'N_LAYERS=101'],
            ],
        ),
        'heads': ('Other heads', [['bench.py', *r50, f'HEAD={head}'] for head in HEADS]),
        'half': (
            'A run in half precision',
            [['train.py', 'recipes/shapes.py', 'AMP=fp16', 'NAME=half', 'SAVE_DIR=', *kept]],
        ),
        'engines': ('Engines', [['-m', 'benchmarks.gpu_checks', 'engines']]),
        'ceiling': (
            'What a step is made of',
            [['-m', 'benchmarks.ceiling', '--markdown', '--tasks', 'training,inference', *medium]],
        ),
        'gradients': ('Gradients and the CPU', [['-m', 'benchmarks.gpu_checks', 'gradients']]),
        'evaluation': (
            'Evaluation of a folder',
            [
                ['-m', 'benchmarks.evaluation', *r101],
                ['-m', 'benchmarks.evaluation', *r101, '--synthetic', '2048x1024.png'],
            ],
        ),
        'camvid': ('CamVid', [['-m', 'benchmarks.gpu_checks', 'camvid', *kept]]),
        **peers,
    }


def tiny_parts(data, folder):
    """Return full_parts() at sizes that take seconds, without what takes long or comes again."""
    small = [
        *('N_LAYERS=18', 'STEM=plain', 'CROP_SIZE=65', 'EM_CHANNELS=64', 'EM_BASES=8'),
        *('HEAD_CHANNELS=16', 'BATCH_SIZE=2', 'TEST_BATCH=1', 'NUM_WORKERS=0', 'AMP=off'),
    ]
    run = ['ITER_MAX=4', 'ITER_VAL=0', 'BATCH_SIZE=2', 'AMP=bf16']
    more = {
        'training': small,
        'unit': small,
        'peers-training-513': ['BATCH_SIZE=2', 'AMP=off', '--sizes', '65', '--rivals', 'fcn'],
        'half': run,
        'evaluation': [*small, '--synthetic', '64x48.png', '--passes', '1'],
    }
    result = {}
    for name, (title, commands) in full_parts(data, folder).items():
        if name in ('compiled', 'heads', 'ceiling'):
            continue
        if name.startswith('peers') and name not in more:
            continue
        words = more.get(name, [])
        if commands[0][0] != 'train.py' and 'benchmarks.gpu_checks' not in commands[0]:
            words = [*words, '--rounds', '1']
        result[name] = title, [[*command, *words] for command in commands[:1]]
    return result


def run_part(title, commands, seconds, device):
    """Run the commands of a part, and print what they print; tell whether all went well.

    seconds  for all of them
    device   words that all of them get
    """
    print(f'### {title}\n', flush=True)
    end = time.monotonic() + seconds
    failed = 0
    for command in commands:
        command = [*command, *device]
        print(f'`python {" ".join(command)}`\n', flush=True)
        status, last = run_command(command, end - time.monotonic())
        print(flush=True)
        if time.monotonic() > end:
            print(f'Not done within {seconds / 60:.0f} minutes.\n', flush=True)
            return False
        if status:
            print(f'It failed with status {status}: {last}\n', flush=True)
            failed += 1
    return not failed


def run_command(command, seconds):
    """Run python with words of a command, print its output; return its status and last error."""
    with tempfile.TemporaryFile('w+') as errors:
        process = subprocess.Popen(
            [sys.executable, *command],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            start_new_session=True,  # so that its children end with it
        )
        timer = threading.Timer(seconds, os.killpg, [process.pid, SIGKILL])
        timer.start()
        for line in process.stdout:
            print(line if line.startswith('|') else f'    {line}', end='', flush=True)
        status = process.wait()
        timer.cancel()
        errors.seek(0)
        return status, (errors.read().strip().splitlines() or ['without a word'])[-1]


def even(text):
    """Return the number of images that --batch gives."""
    if not text.isdecimal() or int(text) < 2 or int(text) % 2:
        raise argparse.ArgumentTypeError(f'{text!r} is not an even number from 2')
    return int(text)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--parts', nargs='+', metavar='PART', help='some of them')
    parser.add_argument(
        '--data', default='./data', help='DATA_ROOT, with CamVid; shapes are drawn there'
    )
    parser.add_argument('--batch', type=even, default=16, metavar='N', help='images at once')
    parser.add_argument('--cpu', action='store_true', help='on the CPU')
    parser.add_argument('--tiny', action='store_true', help='small sizes, to see whether it works')
    flags = parser.parse_args()
    flags.data = os.path.abspath(flags.data)
    with tempfile.TemporaryDirectory() as folder:
        if flags.tiny:
            known = tiny_parts(flags.data, folder)
        else:
            known = full_parts(flags.data, folder, flags.batch)
        for name in flags.parts or ():
            if name not in known:
                parser.error(f'{name}: there is no such part; there are {", ".join(known)}')
        failed = []
        for name in flags.parts or known:
            title, commands = known[name]
            words = ['DEVICES=cpu' if flags.cpu else 'DEVICES=0']
            if not run_part(title, commands, 60 * MINUTES, words):
                failed.append(name)
    if failed:
        sys.exit(f'gpu.py: not done: {", ".join(failed)}')


if __name__ == '__main__':
    main()
