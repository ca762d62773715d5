"""Train the network that settings describe.

    python train.py                                           settings.py as it stands
    python train.py recipes/camvid.py BATCH_SIZE=8            a recipe, and single values
    torchrun --nproc_per_node=8 train.py recipes/camvid.py    one process per GPU
The same command resumes the run from its latest checkpoint. Ctrl-C or SIGTERM saves it and stops.
"""

import contextlib
import math
import os
import signal
from dataclasses import dataclass, field

if __name__ == '__main__' and signal.getsignal(signal.SIGINT) != signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends the imports below without a word

import torch
from torch import nn

import checkpoint
import dataset
import loss as losses
import network
import settings
from datasets.files import as_text
from eval import evaluate, protocol
from utils import config, distributed, logger, run_folder, script
from utils.config import UsageError, UserError
from utils.optim import doubts, make_optimizer, set_rate
from utils.sizes import crop_doubts

TINY = 1e-12  # avoids 0 / 0 when every pixel is void
LOGGED_IMAGES = 4  # of the validation split, with their predictions
ADVICE = 'lower LR, warm up (WARMUP), or try AMP=off'


@dataclass
class Run:
    """What a run works with."""

    world: distributed.World
    data: dataset.Dataset
    val: dataset.Dataset | None
    net: nn.Module
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    model: nn.Module = None  # net, compiled and wrapped for several devices or processes
    log: logger.Log = None
    start: int = 0  # steps done before
    warned: bool = False  # of an EM unit that does not cluster
    best: dict = field(default_factory=lambda: {'mIoU': -1.0, 'step': 0})
    to_score: dict | None = None  # loss and curves of weights that still have to be scored


# ----------------------------------------------------------------------------------------- setup


def setup():
    """Return the Run that settings describe, and the state it resumes from, or None."""
    world = distributed.start()
    data = dataset.Dataset(settings.TRAIN_SPLIT, train=True)
    val = dataset.Dataset(settings.VAL_SPLIT, train=False) if settings.ITER_VAL else None
    check(world, data, val)
    run_folder.check_all(data.root)
    os.makedirs(checkpoint.folder(), exist_ok=True)

    criterion = losses.criterion(dataset.n_classes(), dataset.class_weights(data, world))
    momentum = config.bn_momentum(config.current())
    net = network.build(dataset.n_classes(), settings, criterion, momentum)
    optimizer = make_optimizer(net)
    scaler = torch.amp.GradScaler(world.device.type, enabled=settings.AMP == 'fp16')
    distributed.place(net, world, training=True)

    run = Run(world, data, val, net, optimizer, scaler)
    state = checkpoint.resume(net, optimizer, scaler, data)
    if state:
        run.start, run.to_score = state['step'], state.get('to_score') if val else None
        if val and state.get('val') not in (None, val.digest()):
            world.print('warning: the validation data have changed, so the best score starts anew')
        else:
            run.best = state['best']
        path = os.path.join(checkpoint.folder(), 'latest.pth')
        world.print(f'resuming {settings.NAME} at step {run.start} from {path}')
        save_missing(run, state.get('to_save'))
    agree_on_start(run)
    if run.start >= settings.ITER_MAX and not run.to_score:
        return run, state
    if not state:
        run_folder.check_new(checkpoint.folder())
        load_start(world, net)
    if world.size > 1 and world.cuda:
        run.net = nn.SyncBatchNorm.convert_sync_batchnorm(net)
    run.model = distributed.wrap(run.net, world)
    run.log = logger.Log(world, run.start, scored=not run.to_score)
    logger.print_facts(world, data, val, net, images_per_device(world))
    logger.warn_of_statistics(world)
    return run, state


def images_per_device(world):
    return settings.BATCH_SIZE // (world.size * len(world.devices) * settings.ACCUMULATE)


def check(world, data, val):
    """Raise UsageError where settings, data and devices do not go together, or files are bad."""
    parts = settings.ACCUMULATE * world.size
    if settings.BATCH_SIZE % parts or images_per_device(world) < 1:
        raise UsageError(
            f'BATCH_SIZE = {settings.BATCH_SIZE} cannot be dealt out to {world.size} processes x '
            f'{len(world.devices)} devices x {settings.ACCUMULATE} parts; '
            f'use a multiple of {parts * len(world.devices)}'
        )
    if len(data) < settings.BATCH_SIZE:
        raise UsageError(
            f'the split {data.split} of {settings.DATASET} has {len(data)} images, '
            f'fewer than BATCH_SIZE = {settings.BATCH_SIZE}; lower it'
        )
    if settings.COMPILE and world.engine == 'DataParallel':
        raise UsageError(
            'COMPILE does not work with several GPUs in one process; start with torchrun'
        )
    if settings.AMP == 'fp16' and not world.cuda:
        raise UsageError('AMP=fp16 needs a GPU; AMP=bf16 or AMP=off run on a CPU')
    warnings = doubts() + crop_doubts() + (data.check() or [])
    if val:
        if not val.labelled:
            raise UsageError(
                f'the split VAL_SPLIT = {val.split!r} has no labels to score; '
                'use another, or ITER_VAL=0 for no validation'
            )
        warnings += val.check(4) or []
        protocol()  # raises UsageError where TEST_CROP does not suit the head
    for warning in warnings:
        world.print(f'warning: {warning}')


def agree_on_start(run):
    """Raise UserError if the processes of a run see different checkpoints."""
    start = torch.tensor(float(run.start), device=run.world.device)
    if run.world.all_reduce(start).item() != run.start * run.world.size:
        raise UserError(
            f'the processes see different checkpoints in {checkpoint.folder()}; '
            'MODEL_DIR must be a folder that all machines share'
        )


def load_start(world, net):
    """Load PRETRAINED and INIT, and print what matched."""
    trunk = checkpoint.load_trunk(net)
    world.print('trunk weights:', trunk or 'none (PRETRAINED is empty)')
    if settings.INIT:
        world.print('INIT:', checkpoint.load_weights(net, settings.INIT, 'any'))


def start_generators(run, state):
    """Seed torch, so that dropout differs from process to process, or restore its generators."""
    torch.manual_seed(settings.SEED + run.world.rank)
    if state:
        run.world.set_rng_state(state['rng'])


# -------------------------------------------------------------------------------------- the loop


def train_step(run, stream, stops):
    """Make one step on BATCH_SIZE images.

    Return loss sum, pixel count and stop requests of all processes, (3,), on the device. Gradients
    are summed undivided and divided once: accumulation and processes cannot change them.
    """
    world = run.world
    nominal = settings.BATCH_SIZE  # about the final count, so that float16 keeps its range
    if not run.net.criterion.per_image:
        nominal *= math.prod(config.sides(settings.CROP_SIZE))
    totals = torch.zeros(3, device=world.device)
    bases = None
    for part in range(settings.ACCUMULATE):
        image, label = (t.to(world.device, non_blocking=True) for t in next(stream))
        last = part == settings.ACCUMULATE - 1
        with contextlib.nullcontext() if last or world.size == 1 else run.model.no_sync():
            with world.autocast():
                loss_sum, count, mu = run.model(image, label)
            run.scaler.scale(loss_sum.sum() / nominal).backward()
        totals[0] += loss_sum.detach().sum()
        totals[1] += count.sum()
        if mu is not None:
            part_bases = mu.detach().sum(0)  # c k
            bases = part_bases if bases is None else bases + part_bases

    # gradients are sum / nominal, averaged over processes; they become sum / count over all.
    # The scaler's factor stays in them until its step.
    totals[2] = stops.number is not None
    world.sum_together([totals] if bases is None else [totals, bases, run.net.statistics()])
    gradients = [p.grad for p in run.net.parameters() if p.grad is not None]
    torch._foreach_mul_(gradients, world.size * nominal / totals[1].clamp(min=TINY))
    run.scaler.step(run.optimizer)
    run.scaler.update()
    run.optimizer.zero_grad(set_to_none=True)
    if bases is not None:
        run.net.update_bases(bases / settings.BATCH_SIZE)
    return totals


def read_interval(run, interval):
    """Return losses, curves of the EM unit and stop requests of the steps since the last call.

    interval  totals (3,) of the steps; reading them is the only wait for the device
    """
    totals = torch.stack(interval)
    numbers = [totals[:, 0] / totals[:, 1].clamp(min=TINY), totals[-1:, 2]]
    statistics = run.net.statistics()
    if statistics is not None:
        numbers.append(statistics / run.world.size)  # train_step() has added them up
    numbers = torch.cat(numbers).tolist()
    values, stopping = numbers[: len(interval)], numbers[len(interval)]
    curves = {}
    if statistics is not None:
        curves = network.EMAU.curves(numbers[len(interval) + 1 :])
    return values, curves, stopping


def check_finite(values, step, data, batches):
    """Raise UserError, naming the files, if one of the losses up to `step` is not finite."""
    for bad, value in enumerate(values, step - len(values) + 1):
        if not math.isfinite(value):
            positions = range((bad - 1) * batches.batch, bad * batches.batch)
            files = ', '.join(data.pairs[batches.index(p)][0] for p in positions)
            raise UserError(
                f'the loss is not finite from step {bad} on, in the interval up to {step}; '
                f'files of that step: {files}. Nothing was saved since; {ADVICE}'
            )


def save(run, name, step, **more):
    """Save a checkpoint, once for all processes; UserError if the weights are not finite."""
    if run.world.rank > 0:
        return
    state = run.net.state_dict()
    if not all(v.isfinite().all() for v in state.values()):
        raise UserError(
            f'the weights are not finite at step {step}; they are not saved, '
            f'earlier checkpoints are intact; {ADVICE}'
        )
    path = os.path.join(checkpoint.folder(), name + '.pth')
    facts = {
        'step': step,
        'settings': config.current(),
        'n_classes': len(run.data.names),
        'data': run.data.digest(),
        'classes': as_text(run.data.classes),
    }
    checkpoint.save(path, {'net': state, **facts, **more})


def save_latest(run, step):
    """Save all that resuming needs, and whether this step still has to be scored."""
    rest = {
        'opt': run.optimizer.state_dict(),
        'scaler': run.scaler.state_dict(),
        'rng': run.world.rng_state(),
        'best': run.best,
        'to_score': run.to_score,
        'to_save': save_name(step),
        'images': len(run.data),
        'val': run.val.digest() if run.val else None,
    }
    save(run, 'latest', step, **rest)


def save_name(step):
    """Return the name of the checkpoint that a step leaves for good, or ''."""
    if step == settings.ITER_MAX:
        return 'final'
    return '' if step % settings.ITER_SAVE else f'step_{step}'


def save_missing(run, name):
    """Save the checkpoint `name` of the step to resume from, if a kill prevented it."""
    if (
        name
        and name == save_name(run.start)
        and not os.path.isfile(os.path.join(checkpoint.folder(), name + '.pth'))
    ):
        save(run, name, run.start)


def shown_images(run):
    """Return the indices of LOGGED_IMAGES validation images of this process, over all the split."""
    mine = run.world.share(len(run.val))
    count = min(LOGGED_IMAGES, len(mine))
    return {mine[i * (len(mine) - 1) // max(1, count - 1)] for i in range(count)}


def validate(run, step, stops):
    """Score the network by a single view, save it if it is the best so far, and save the run.

    A stop breaks it off: run.to_score stays, and the run makes up for it when it resumes.
    """
    world, log, single_view = run.world, run.log, protocol().single()
    on_image = log.predictions(step, run.val)
    shown = shown_images(run)
    scores = evaluate(run.net, run.val, world, single_view, on_image, shown, stops=stops)
    if scores is None:
        return
    if log.events and run.net.statistics() is not None:
        image = run.val[0][0]
        with torch.no_grad(), world.autocast():
            maps = network.fold(run.net).attention(image[None].to(world.device))[0]
        log.attention(step, image.permute(1, 2, 0).numpy(), maps.float().cpu().numpy())
    log.validation(step, scores, run.val.names)
    is_first = run.best['step'] == 0
    if is_first and not run.warned:
        logger.warn_of_collapse(world, run.to_score['curves'])
    if scores['mIoU'] > run.best['mIoU']:
        run.best = {'mIoU': scores['mIoU'], 'step': step}
        save(run, 'best', step, scores=scores)
    world.print(
        f'step {step}: loss {run.to_score["loss"]:.4f}, mIoU {100 * scores["mIoU"]:.2f}, '
        f'pAcc {100 * scores["pAcc"]:.2f} on {settings.VAL_SPLIT}'
    )
    run.to_score = None
    save_latest(run, step)


def main(flags=None):
    run, state = setup()
    world, data = run.world, run.data
    if run.start >= settings.ITER_MAX and not run.to_score:
        world.print(
            f'{settings.NAME} is finished: {run.start} of {settings.ITER_MAX} steps; '
            'raise ITER_MAX to go on, or choose another NAME'
        )
        return None
    batches = dataset.train_batches(data, world, run.start)
    stream = dataset.start_loader(dataset.train_loader(data, batches, world.cuda))
    with world.bar(total=settings.ITER_MAX, initial=run.start, desc=settings.NAME) as bar:
        stops = distributed.StopSignals(world)
        start_generators(run, state)
        stopped = loop(run, batches, stream, stops, bar)
    folder = checkpoint.folder()
    if stopped:
        world.print(
            f'stopped at step {stopped}, saved in {folder}/latest.pth; the same command goes on'
        )
        return stops.status()
    scored = ''
    if run.best['step']:
        scored = f', best mIoU {100 * run.best["mIoU"]:.2f} at step {run.best["step"]}'
    world.print(f'finished: {settings.ITER_MAX} steps{scored}; checkpoints in {folder}')
    return None


def loop(run, batches, stream, stops, bar):
    """Train to ITER_MAX; return the step at which a signal ended it, or None."""
    if run.to_score:  # it was stopped before it could be scored
        validate(run, run.start, stops)
        if run.to_score:
            return run.start
    interval, speedometer = [], logger.Speedometer(run.world, run.data)
    pace = speedometer.pace
    stream = pace.reading(stream)
    run.model.train()
    for step in range(run.start + 1, settings.ITER_MAX + 1):
        rate = set_rate(run.optimizer, step)
        interval.append(train_step(run, stream, stops))
        bar.update()

        # read the interval's losses: the only wait for the device
        last = step == settings.ITER_MAX
        is_validation = settings.ITER_VAL and (step % settings.ITER_VAL == 0 or last)
        name = save_name(step)
        stop_seen = stops.seen(run.world, interval[-1][2])
        if not (step % settings.ITER_LOG == 0 or is_validation or name or stop_seen):
            continue
        with pace.waiting('device'):
            values, curves, stopping = read_interval(run, interval)
        interval = []
        check_finite(values, step, run.data, batches)
        if step == len(values):  # the first interval
            run.warned = logger.warn_of_collapse(run.world, curves)
        speed = speedometer.read(len(values), step)
        bar.set_postfix(
            loss=f'{values[-1]:.4f}', lr=f'{rate:.2e}', images_s=f'{speed:.1f}', refresh=False
        )
        scalars = {'loss': sum(values) / len(values), 'lr': rate, 'images_per_s': speed}
        run.log.scalars(step, scalars | curves | run.world.memory())

        # save, then score; a run killed in between makes up for it when it resumes
        if is_validation:
            run.to_score = {'loss': values[-1], 'curves': curves}
        if name or stopping or is_validation:
            save_latest(run, step)
        if name:
            save(run, name, step)
        if is_validation and not stopping:
            validate(run, step, stops)
        if stopping or run.to_score:
            return step
        pace.restart()
    return None


if __name__ == '__main__':
    script.run(main, script.Parser(__doc__))
