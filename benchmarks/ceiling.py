"""Tell how much of a step are convolutions, how fast they run, and what is left to be gained.

    python -m benchmarks.ceiling [recipe.py] [KEY=value ...] [--rivals fcn,deeplabv3,emanet]
    ... --tasks training,inference     steps of both, or of one
    ... --markdown                     a table for a document

Each network of benchmarks.rivals is profiled as ours, in the half type and in float32, and as
theirs in float32. Rates are those of convolutions and matrix products, in GMACs a second, forward
and backward. Beside each is the rate of one convolution that suits the device, measured just
before: a step that reached it in all of them would take the time of the last column.
"""

from statistics import median

import torch
from torch.profiler import ProfilerActivity, profile

import settings
from benchmarks import measure, rivals, steps
from benchmarks.rivals import N_CLASSES, RIVALS, SHARED
from utils import config, script
from utils.table import table

# what computes convolutions and products, forward and backward, in the profiler's words
PRODUCTS = (
    'aten::mkldnn_convolution',
    'aten::cudnn_convolution',
    'aten::convolution_backward',
    'aten::mm',
    'aten::addmm',
    'aten::bmm',
    'aten::baddbmm',
)


def parser():
    parser = measure.parser(__doc__)
    names = [name for name, rival in RIVALS.items() if rival.same]
    parser.add_argument('--rivals', type=measure.some_of(RIVALS), default=names)
    parser.add_argument(
        '--tasks', type=measure.some_of(('training', 'inference')), default=['training']
    )
    parser.add_argument('--markdown', action='store_true', help='a table for a document')
    return parser


def make_step(world, name, task, ours):
    """Return a function that makes a step of our network, or of a rival's."""
    if ours:
        step = getattr(steps, f'{task}_step')(world, 'tuned')
    elif RIVALS[name].make:
        net = RIVALS[name].make(N_CLASSES).to(world.device)
        step = getattr(rivals, f'{task}_step')(world, net)
    else:
        step = rivals.plain_step(world, task)

    def run(_=None):
        with torch.set_grad_enabled(task == 'training'):
            step()

    return run


def share_of_products(world, events):
    """Return the share of a profile's time that convolutions and products of matrices take."""
    if world.cuda:  # an operator's time is that of its kernels, which have rows of their own
        kernels = [e for e in events if e.device_type == torch.autograd.DeviceType.CUDA]
        total = sum(e.self_device_time_total for e in kernels)
        return sum(e.self_device_time_total for e in events if e.key in PRODUCTS) / total
    total = sum(e.self_cpu_time_total for e in events)
    return sum(e.self_cpu_time_total for e in events if e.key in PRODUCTS) / total


def row(world, name, task, ours, rounds):
    """Return a row of the table."""
    half = world.half_type()
    work, seconds = measure.convolution(world, half or torch.float32)
    rate = work / min(seconds() for _ in range(5))
    step = make_step(world, name, task, ours)
    whole = median(measure.in_turn({'step': measure.timed(world, step)}, rounds)['step'])
    work = measure.macs(step, None)
    activities = [ProfilerActivity.CPU]
    if world.cuda:
        activities.append(ProfilerActivity.CUDA)
    with profile(activities=activities) as seen:
        step()
    share = share_of_products(world, seen.key_averages())
    return {
        'network': name if ours else f'{name} ({RIVALS[name].project})',
        'task': task,
        'type': 'float32' if half is None else str(half).removeprefix('torch.'),
        's': f'{whole:.3f}',
        'convolutions': f'{100 * share:.0f} %',
        'GMACs': f'{work:.0f}',
        'GMACs/s': f'{work / (share * whole):.0f} of {rate:.0f}',
        'at that rate, s': f'{(1 - share) * whole + work / rate:.3f}',
    }


def main(flags):
    world = measure.start()
    given, rows = config.current(), []
    variants = [(True, 'off'), (False, 'off')]
    if world.half_type():
        variants.insert(0, (True, 'auto'))
    for task in flags.tasks:
        for name in flags.rivals:
            for ours, amp in variants:
                config.put(given)
                config.override([*SHARED, *RIVALS[name].words, f'AMP={amp}'])
                with steps.around(world, task):
                    rows.append(row(world, name, task, ours, flags.rounds))
                print(' | '.join(rows[-1].values()), flush=True)
    print(f'training batch {settings.BATCH_SIZE}, inference batch {settings.TEST_BATCH}')
    print(*table(rows, flags.markdown), sep='\n')


if __name__ == '__main__':
    script.run(main, parser())
