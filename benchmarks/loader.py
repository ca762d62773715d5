"""Time training samples of one loader process with one thread, against a plain pipeline in floats.

    python -m benchmarks.loader DATASET=voc            from the files, and the cache if there is one
    python -m benchmarks.loader --synthetic 500x375    of drawn JPEGs of that width and height
    python -m benchmarks.loader --synthetic 2048x1024.png CROP_SIZE=769
    ... --rounds N                                     times each is measured

Drawn pictures are laid out as CamVid, and cached. Each variant has a process of its own.
"""

import argparse
import itertools
import re
import sys
import tempfile

import cv2
import torch

import dataset
import settings
from benchmarks import measure, reference
from utils import config, distributed, script


def parser():
    parser = measure.parser(__doc__)
    text = 'draw pictures of this size instead, as JPEG, or as PNG: 2048x1024.png'
    parser.add_argument('--synthetic', type=picture_size, metavar='WIDTHxHEIGHT', help=text)
    parser.add_argument('--child', help=argparse.SUPPRESS)
    return parser


def picture_size(text):
    """Return (width, height, ending of the files) of a flag."""
    match = re.fullmatch(r'([1-9]\d*)x([1-9]\d*)(?:\.(jpg|png))?', text)
    if not match:
        raise argparse.ArgumentTypeError(
            f'{text!r} is not WIDTHxHEIGHT, such as 500x375 or 2048x1024.png'
        )
    return int(match[1]), int(match[2]), match[3] or 'jpg'


def child(variant):
    """Be the process of one variant."""
    file = measure.answers()
    world = distributed.World([torch.device('cpu')])
    measure.serve(world, loader_step(variant), file)


def loader_step(variant):
    """Return a function that makes 40 samples, or one per image if these are fewer.

    It returns their number. They are the same samples for all variants.
    """
    torch.set_num_threads(1)
    if variant == 'plain':
        cv2.setNumThreads(0)
    else:
        dataset.start_worker(settings.MAX_PIXELS, 0)
    data = dataset.Dataset(settings.TRAIN_SPLIT, train=True)
    if variant != 'cached':
        data.cached = False
    count = min(len(data), 40)
    positions = itertools.count()

    def step():
        for position in itertools.islice(positions, count):
            index = position % len(data)
            if variant == 'plain':
                reference.sample(data, position, index)
            else:
                data[position, index]
        return count

    return step


def compare_loaders(words, rounds):
    """Print the figures of all variants; `words` put the data set in force in their processes."""
    data = dataset.Dataset(settings.TRAIN_SPLIT, train=True)
    size = f'crop {settings.CROP_SIZE}'
    if settings.SHORT_SIDE:
        size = f'whole images, short side {settings.SHORT_SIDE}'
    tuned, plain = megabytes(data[0, 0]), megabytes(reference.sample(data, 0, 0))
    print(
        f'{settings.DATASET} {data.split}, {len(data)} images, {size}, one process, one thread; '
        f'MB per sample: tuned {tuned:.2f}, plain {plain:.2f}'
    )
    variants = ['tuned', 'plain']
    if data.cached:
        variants.append('cached')
    command = ['-m', 'benchmarks.loader', *sys.argv[1:], *words, '--child']
    with measure.children(command, variants) as processes:
        steps = {variant: process.step for variant, process in processes.items()}
        seconds = measure.in_turn(steps, rounds)
    for variant in variants:
        print(f'loader  {variant:6}  {measure.rates(seconds[variant])}')
    for variant in variants:
        if variant != 'plain':
            ratio = measure.ratio(seconds['plain'], seconds[variant])
            print(f'loader  plain / {variant}: time {ratio}')


def megabytes(tensors):
    return sum(t.nbytes for t in tensors) / 1e6


def main(flags):
    if flags.child:
        return child(flags.child)
    measure.start()
    if not flags.synthetic:
        return compare_loaders([], flags.rounds)
    with tempfile.TemporaryDirectory() as folder:
        reference.draw(folder, *flags.synthetic)
        words = ['DATASET=camvid', f'DATA_ROOT={folder}', 'TRAIN_SPLIT=train', 'N_CLASSES=None']
        config.override(words)
        dataset.cache(dataset.Dataset('train', train=False))
        compare_loaders(words, flags.rounds)


if __name__ == '__main__':
    script.run(main, parser())
