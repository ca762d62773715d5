"""Time our networks and loops against what people would take instead, in turn, on one machine.

    python -m benchmarks.peers                          all of it, at 513x513 and 512x1024
    python -m benchmarks.peers --rivals fcn,emanet --tasks training --sizes 513
    python -m benchmarks.peers --markdown               a table for a document
    ... --rounds N                                      times each is measured

Rivals are torchvision's FCN and DeepLabv3 with the loop of its references; PSPNet and DeepLabV3+ of
segmentation_models.pytorch, where it is installed, which are other networks of those names (see the
GMACs) and take sizes that 8 or 16 divide; and the plain form of the official EMANet. Trunks are
ResNet-50, weights random: the same for both where the networks are one, whose logits are compared.
    training    a step on BATCH_SIZE images
    inference   TEST_BATCH images
    evaluation  a folder of drawn pictures, from the files to the score
Ours compute in float32 and in the half type of the device; theirs in float32, as they come, and
under the same autocast. A ratio below 1 says that ours take less.
"""

import argparse
import itertools
import os
import tempfile
from statistics import median

import torch

import checkpoint
import dataset
import eval as evaluation
import settings
from benchmarks import measure, reference, rivals, steps
from benchmarks.rivals import N_CLASSES, RIVALS, SHARED
from utils import config, distributed, script
from utils.config import UsageError, UserError
from utils.table import table

TASKS = 'training', 'inference', 'evaluation'
PICTURES = 8


def parser():
    parser = measure.parser(__doc__)
    parser.add_argument('--rivals', type=measure.some_of(RIVALS), default=rivals.installed())
    parser.add_argument('--tasks', type=measure.some_of(TASKS), default=TASKS)
    parser.add_argument('--sizes', type=sizes, default=sizes('513,512x1024'))
    parser.add_argument('--markdown', action='store_true', help='a table for a document')
    parser.add_argument('--child', nargs=4, help=argparse.SUPPRESS)
    return parser


def sizes(text):
    """Return [(height, width)] of a flag such as 513,512x1024."""
    pairs = []
    for word in text.split(','):
        parts = [measure.at_least_one(part) for part in word.split('x')]
        if len(parts) > 2:
            raise argparse.ArgumentTypeError(f'{word!r} is not a size, such as 513 or 512x1024')
        pairs.append((parts[0], parts[-1]))
    return pairs


# -------------------------------------------------------------------------------------- one process


def child(task, name, folder, variant):
    """Be the process of 'ours', or of 'theirs' in float32 ('theirs') or half ('theirs-half')."""
    file = measure.answers()
    if variant == 'theirs':
        config.put({'AMP': 'off'})
    world = measure.one_device()
    rival = RIVALS[name]
    weights = os.path.join(folder, f'{name}.pth')
    if variant == 'ours':
        step = our_step(world, task, weights if rival.make and rival.same else None)
    elif rival.make:
        net = rival.make(N_CLASSES)
        net.load_state_dict(torch.load(weights))
        net = net.to(world.device).eval()
        steps.load_libraries(world, net, 64)
        if task == 'evaluation':
            step = rivals.evaluation_step(world, net, data_set(world).pairs)
        else:
            step = getattr(rivals, f'{task}_step')(world, net)
    else:
        step = rivals.plain_step(world, task)
    with steps.around(world, task):
        measure.serve(world, step, file)


def data_set(world):
    """Return a few of the drawn pictures as a Dataset, on a GPU many times, as it is fast."""
    pairs = dataset.Dataset('train', train=False).pairs[:PICTURES]
    return dataset.Dataset('train', train=False, pairs=pairs * (25 if world.cuda else 1))


def our_step(world, task, weights):
    """Return a function that makes a step of a task as our scripts do.

    weights  a file to load first, or None
    """

    def load(net):
        if weights:
            checkpoint.load_weights(net, weights, 'any')

    if task == 'training':
        return steps.training_step(world, 'tuned', load)
    if task == 'inference':
        return steps.inference_step(world, 'tuned', load)
    net, data = steps.build(), data_set(world)
    load(net)
    distributed.place(net, world)

    def score():
        score.score = evaluation.evaluate(net, data, world)['mIoU']
        return len(data)

    return score


# ---------------------------------------------------------------------------------------- the table


def prepare(folder, names):
    """Write random weights of the rivals to a folder; return {name: GMACs of one image, in words}.

    UserError if a network that should be the same gives other logits.
    """
    work = {}
    before = config.current()
    for name in names:
        rival = RIVALS[name]
        config.put(before)
        config.override([*SHARED, *rival.words])
        torch.manual_seed(0)
        ours = steps.build().eval()
        image = torch.randn(1, 3, *config.sides(settings.CROP_SIZE))
        macs = measure.macs(ours, image)
        if not rival.make:
            rivals.plain_unit(ours)
            work[name] = f'{macs:.0f} / {measure.macs(ours, image):.0f}'
            continue
        theirs = rival.make(N_CLASSES).eval()
        path = os.path.join(folder, f'{name}.pth')
        torch.save(theirs.state_dict(), path)
        work[name] = f'{macs:.0f} / {measure.macs(lambda x, net=theirs: net(x), image):.0f}'
        if rival.same:
            checkpoint.load_weights(ours, path, 'any')
            small = image[..., :97, :97]
            with torch.no_grad():
                wanted = rivals.output(theirs, small)[0]
                difference = (ours(small) - wanted).abs().max() / wanted.abs().max()
            if difference > 1e-4:
                raise UserError(f'{name}: logits differ from theirs by {difference:.1e}')
    config.put(before)
    return work


def variants(half):
    """Return [(AMP of ours, variants of the processes)]."""
    rows = [('off', ('ours', 'theirs'))]
    if half:
        rows.append(('auto', ('ours', 'theirs', 'theirs-half')))
    return rows


def draw(folder, size):
    """Draw pictures of a size (height, width) into a folder in the folder, unless it is there."""
    h, w = size
    if not os.path.exists(f'{folder}/{h}x{w}'):
        reference.draw(f'{folder}/{h}x{w}', w, h, 'jpg' if h == w else 'png')


def time_rows(world, folder, task, name, size, flags):
    """Time a task of a rival at a size (height, width); return rows of the table."""
    rows = []
    for amp, forms in variants(world.half_type()):
        if not RIVALS[name].make:
            forms = forms[:2]  # the plain form is the official float32
        words = [*SHARED, *RIVALS[name].words, f'CROP_SIZE={size}', f'AMP={amp}']
        words += [f'DATA_ROOT={folder}/{size[0]}x{size[1]}']
        command = ['-m', 'benchmarks.peers', *flags.settings, *words, '--child', task, name, folder]
        with measure.children(command, forms) as processes:
            times = measure.in_turn({v: p.step for v, p in processes.items()}, flags.rounds, 2)
        ours = processes['ours']
        for form in forms[1:]:
            own = 'float32' if amp == 'off' else str(world.half_type()).removeprefix('torch.')
            rows.append(
                {
                    'rival': f'{name} ({RIVALS[name].project})',
                    'task': task,
                    'size': f'{size[0]}x{size[1]}',
                    'ours / theirs': f'{own} / {own if form == "theirs-half" else "float32"}',
                    'ours s': f'{median(times["ours"]):.3f}',
                    'time': measure.ratio(times['ours'], times[form]),
                    'memory': f'{ours.memory / processes[form].memory:.2f}',
                }
            )
    return rows


def main(flags):
    if flags.child:
        return child(*flags.child)
    world = measure.start()
    if flags.tasks == ['evaluation'] and not any(RIVALS[name].make for name in flags.rivals):
        raise UsageError('the plain form has no evaluation; name another rival or task')
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for size, name in itertools.product(flags.sizes, flags.rivals):
            size = rivals.fit(size, name)
            config.override([*SHARED, f'CROP_SIZE={size}'])
            work = prepare(folder, [name])
            for task in flags.tasks:
                if task == 'evaluation':
                    if not RIVALS[name].make:
                        continue
                    draw(folder, size)
                for row in time_rows(world, folder, task, name, size, flags):
                    rows.append(row | {'GMACs': work[name]})
                    print(' | '.join(rows[-1].values()), flush=True)
    rows.sort(key=lambda row: TASKS.index(row['task']))
    print(f'training batch {settings.BATCH_SIZE}, inference batch {settings.TEST_BATCH}')
    print(*table(rows, flags.markdown), sep='\n')


if __name__ == '__main__':
    script.run(main, parser())
