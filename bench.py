"""Measure size and speed of the network that settings describe, on one device.

    python bench.py recipes/camvid.py             parameters, MACs; time and memory of a training
                                                  step and of inference
    python bench.py recipes/camvid.py --plain     the same against the plain network: float32, NCHW,
                                                  eager, not folded, float images, full-size logits
                                                  of the whole batch
    python bench.py N_LAYERS=50 --all --markdown  a row per head, as a table for a document
    ... --size                                    parameters and MACs alone
    ... --rounds 9                                times each is measured

Weights and pixels are random. Figures are median (min - max); each round has a ratio of its own.
What is compared is measured in the same run, in turn. benchmarks/ has peers, ceiling, evaluation,
loader, unit, metric, views, scenes, kills; and gpu.py, for a machine with a GPU.
"""

import argparse
import signal
import sys
from statistics import median

if __name__ == '__main__' and signal.getsignal(signal.SIGINT) != signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends the imports below without a word

import torch

import dataset
import settings
from benchmarks import measure
from benchmarks.steps import around, build, inference_step, pixels, training_step
from heads import HEADS
from heads.blocks import SettingsError
from utils import config, script
from utils.config import UsageError
from utils.table import table

FORMS = (  # of the EMANet paper's Table 1, of the heads' own papers, and EMANet on other trunks
    ('HEAD=ema', 'SECOND_CONV=False', 'EM_CHANNELS=512'),
    ('HEAD=ema', 'SECOND_CONV=False', 'EM_CHANNELS=256'),
    ('HEAD=deeplabv3', "HEAD_ARGS={'paper': True}"),
    ('HEAD=psp', 'HEAD_CHANNELS=512'),
    ('HEAD=psa', 'HEAD_CHANNELS=512'),
    ('HEAD=danet', 'HEAD_CHANNELS=512'),
    ('HEAD=ema', 'TRUNK=convnext_tiny', 'STRIDE=32'),
    ('HEAD=ema', 'TRUNK=densenet121', 'STRIDE=32'),
    ('HEAD=ema', 'TRUNK=vit_b_16', 'STRIDE=16'),
    ('HEAD=ladderdensenet', 'TRUNK=densenet121', 'STRIDE=32'),
    ('HEAD=bisenet', 'TRUNK=xception39', 'STRIDE=32'),
    ('HEAD=eprnet', 'TRUNK=eprnet', 'STRIDE=8'),
    ('HEAD=setr', 'TRUNK=vit_b_16', 'STRIDE=16'),
)


def parser():
    parser = measure.parser(__doc__)
    flags = {
        '--plain': 'measure against the plain network, too',
        '--all': 'a row per head',
        '--size': 'parameters and MACs alone',
        '--markdown': 'with --all: a table for a document',
    }
    for flag, text in flags.items():
        parser.add_argument(flag, action='store_true', help=text)
    parser.add_argument('--child', nargs=2, help=argparse.SUPPRESS)
    return parser


# -------------------------------------------------------------------------------------------- steps


def child(kind, variant):
    """Be the process that makes steps of a kind, 'training' or 'inference', of one variant."""
    file = measure.answers()
    if variant == 'plain':
        config.put({'AMP': 'off', 'COMPILE': False})
    world = measure.one_device()
    make = training_step if kind == 'training' else inference_step
    step = make(world, variant)
    with around(world, kind):
        measure.serve(world, step, file)


def time_steps(kind, variants, rounds, words=(), others=None):
    """Time steps of a kind, each variant in a process of its own, in turn.

    words   further settings
    others  {name: function that returns seconds} that are timed with them
    Return {name: seconds of each round}, {variant: peak memory in MiB}.
    """
    given = sys.argv[1:]
    if any(word.startswith('TRUNK=') for word in words):
        given = [word for word in given if word.partition('=')[0] not in config.OF_RESNET]
    command = [__file__, *given, *words, '--child', kind]
    with measure.children(command, variants) as processes:
        steps = {variant: process.step for variant, process in processes.items()}
        seconds = measure.in_turn(steps | (others or {}), rounds, 2)
    return seconds, {variant: process.memory for variant, process in processes.items()}


# -------------------------------------------------------------------------------------- one network


def bench_network(world, flags):
    """Print size, then, unless --size is set, time and memory of training and inference."""
    net, image = build().eval(), pixels(1)[0]
    work = measure.macs(net, image)
    compiled = ', compiled' if settings.COMPILE else ''
    memory = 'peak resident memory above that before the first step, so without the weights'
    if world.cuda:
        memory = 'peak of all tensors'
    print(
        f'{settings.HEAD} on {config.trunk_name()} at stride {settings.STRIDE}, '
        f'{image.shape[2]}x{image.shape[3]} pixels, {dataset.n_classes()} classes{compiled}\n'
        f'parameters {parameters(net):.2f} M; MACs {work:.2f} G per image, 2 FLOP each; '
        'training is counted as 3 forwards'
    )
    if flags.size:
        return
    print(f'memory: {memory}')
    halves = {'tuned': world.half_type()}
    if flags.plain:
        halves['plain'] = None
    part = settings.BATCH_SIZE // settings.ACCUMULATE
    for kind, batch, macs in (
        ('training', part, 3 * work * part),
        ('inference', settings.TEST_BATCH, work * settings.TEST_BATCH),
    ):
        bench_kind(world, kind, batch, macs, halves, flags.rounds)


def bench_kind(world, kind, batch, macs, halves, rounds):
    """Print time and memory of a kind of step.

    macs    of a step, in G
    halves  {variant: half type or None}
    """
    convolutions = {half: measure.convolution(world, half) for half in halves.values()}
    others = {half: step for half, (_, step) in convolutions.items()}
    seconds, memory = time_steps(kind, halves, rounds, others=others)
    for variant, half in halves.items():
        middle = median(seconds[variant])
        peak = convolutions[half][0] / min(seconds[half])
        print(
            f'{kind:9}  {variant} batch {batch}: {measure.summary(seconds[variant])} s, '
            f'{batch / middle:.2f} images/s, {memory[variant]:.0f} MiB, '
            f'{100 * macs / middle / peak:.0f} % of the {2 * peak:.0f} GFLOP/s '
            f'of a convolution in {half or torch.float32}'
        )
    if 'plain' in halves:
        ratio = measure.ratio(seconds['tuned'], seconds['plain'])
        of_memory = memory['tuned'] / memory['plain']
        print(f'{kind:9}  tuned / plain: time {ratio}, memory {of_memory:.3f}')


def parameters(module):
    """Return the number of parameters in M."""
    return sum(p.numel() for p in module.parameters()) / 1e6


# ---------------------------------------------------------------------------------------- all heads


def bench_all(flags):
    """Print a row per head and form: size, in all and over the bare trunk; time and memory."""
    rows = []
    for form in [(f'HEAD={head}',) for head in ('ema', *HEADS)] + list(FORMS):
        label, words = words_of(form)
        try:
            row = {'HEAD': label} | size_cells(words)
        except SettingsError as e:  # a head that does not fit the trunk
            print(e, flush=True)
            continue
        if not flags.size:
            for kind in ('training', 'inference'):
                row |= time_cells(kind, 'tuned', flags.rounds, words)
        print(label, flush=True)
        rows.append(row)
    if not flags.size:  # memory over this, of the heads on this trunk, is the paper's
        row = dict.fromkeys(rows[0], '-') | {'HEAD': 'the trunk alone'}
        rows.append(row | time_cells('inference', 'trunk', flags.rounds))
    height, width = config.sides(settings.CROP_SIZE)
    print(
        f'{config.trunk_name()} at stride {settings.STRIDE}, {width}x{height} pixels, '
        f'{dataset.n_classes()} classes; '
        f'training batch {settings.BATCH_SIZE // settings.ACCUMULATE}, '
        f'inference batch {settings.TEST_BATCH}'
    )
    numbers = [name for name in rows[0] if name != 'HEAD']
    print(*table(rows, flags.markdown, right=numbers), sep='\n')


def words_of(form):
    """Return the label of a row, and the settings that put its form in force.

    A head that does not work with the trunk's stride or depth gets the first that it works with;
    HEAD_ARGS in force are kept by the head that they are for.
    """
    head = form[0].removeprefix('HEAD=')
    words = list(form)
    if not any(word.startswith('TRUNK=') for word in words):
        words += measure.trunk_words(head)
    label = ' '.join(words).removeprefix('HEAD=')
    if head != settings.HEAD:
        words.insert(0, 'HEAD_ARGS={}')
    return label, words


def size_cells(words):
    """Return the columns of a network's size, with further settings."""
    before = config.current()
    try:
        config.override(words)
        net = build().eval()
    finally:
        config.put(before)
    image = net.normalise(pixels(1)[0])
    size, trunk_size = parameters(net), parameters(net.extractor)
    work, trunk_work = measure.macs(net, image), measure.macs(net.maps, image)
    return {
        'M parameters': f'{size:.2f}',
        'M over trunk': f'{size - trunk_size:.2f}',
        'GMACs': f'{work:.2f}',
        'GMACs over trunk': f'{work - trunk_work:.2f}',
    }


def time_cells(kind, variant, rounds, words=()):
    """Return the columns of a step's time and memory."""
    seconds, memory = time_steps(kind, [variant], rounds, words)
    return {
        f'{kind} s': f'{median(seconds[variant]):.3f}',
        f'{kind} MiB': f'{memory[variant]:.0f}',
    }


def main(flags):
    if flags.child:
        return child(*flags.child)
    if flags.markdown and not flags.all:
        raise UsageError('--markdown goes with --all')
    if flags.size and flags.plain:
        raise UsageError('--plain compares times, and --size measures none; leave one out')
    world = measure.start()
    if flags.all:
        bench_all(flags)
    else:
        bench_network(world, flags)


if __name__ == '__main__':
    script.run(main, parser())
