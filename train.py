"""Trains the network that settings describe.

    python train.py                                           settings.py as it stands
    python train.py recipes/camvid.py BATCH_SIZE=8            a recipe, and single values
    torchrun --nproc_per_node=8 train.py recipes/camvid.py    one process per GPU, on one machine or more
The same command resumes the run from its latest checkpoint. Ctrl-C or SIGTERM saves that one and leaves.
"""

import contextlib
import inspect
import math
import os
import signal
import time

import torch
from torch import nn

import checkpoint
import dataset
import inference
import launch
import network
import settings
from eval import evaluate
from log import Log
from settings import UsageError, UserError

TINY = 1e-12  # what a count is taken for where no pixel counts; the sum is 0 there


def learning_rate(step):
    """The rate in force during a step (the first is 1), before the multipliers of the groups."""
    s, done = settings, step - 1
    if s.LR_POLICY == 'poly':
        at = step // s.LR_DECAY * s.LR_DECAY if s.LR_DECAY else done
        left = (1 - at / s.ITER_MAX) ** s.POLY_POWER
    elif s.LR_POLICY == 'cosine':
        left = 0.5 * (1 + math.cos(math.pi * done / s.ITER_MAX))
    else:
        left = 0.1 ** sum(done >= at for at in s.LR_STEPS)
    rate = (
        max(s.LR * left, s.LR_MIN) if s.LR_POLICY == 'step' else (s.LR - s.LR_MIN) * left + s.LR_MIN
    )
    return rate * (1e-3 + (1 - 1e-3) * done / s.WARMUP if done < s.WARMUP else 1)


def param_groups(net):
    """Groups for SGD, as the official code has them: convolution weights decay, the others do not, biases learn at twice the rate.

    With HEAD_LR_MULT each comes twice, once for the trunk and once for the rest.
    """
    s, groups = settings, {}
    for name, p in net.named_parameters():
        kind = (
            '2x'
            if name.endswith('bias')
            else '1x'
            if name.endswith('weight') and p.ndim > 1
            else '1y'
        )
        head = s.HEAD_LR_MULT != 1 and not name.startswith('extractor.')
        group = groups.setdefault(
            (head, kind),
            dict(
                params=[],
                names=[],
                lr_mult=(s.BIAS_LR_MULT if kind == '2x' else 1) * (s.HEAD_LR_MULT if head else 1),
                weight_decay=s.WEIGHT_DECAY if kind == '1x' or s.DECAY == 'all' else 0.0,
            ),
        )
        group['params'].append(p)
        group['names'].append(name)
    return [groups[key] for key in sorted(groups)]


def rng_state(place):
    """The state of torch's generators, of every process, as plain tensors."""
    mine = dict(
        cpu=torch.get_rng_state(),
        cuda=[torch.cuda.get_rng_state(d) for d in place.devices] if place.cuda else [],
    )
    return place.gather(mine)


def set_rng_state(place, everyone):
    if len(everyone) == place.world and len(everyone[place.rank]['cuda']) == (
        len(place.devices) if place.cuda else 0
    ):
        torch.set_rng_state(everyone[place.rank]['cpu'])
        for device, state in zip(place.devices, everyone[place.rank]['cuda']):
            torch.cuda.set_rng_state(state, device)


def wrap(net, place):
    """The network for training: compiled, and in the engine of this place."""
    if settings.COMPILE:
        net.compile()
    if place.world > 1:
        ddp = nn.parallel.DistributedDataParallel
        sync = next(
            k
            for k in ('forward_sync_buffers', 'broadcast_buffers')
            if k in inspect.signature(ddp).parameters
        )  # newer, older torch
        return ddp(
            net,
            [place.device] if place.cuda else None,
            gradient_as_bucket_view=True,
            **{sync: False},
        )  # they agree already
    if len(place.devices) > 1:
        net.amp = place.amp()
        return nn.DataParallel(net, place.devices)
    return net


def check(place, data, val, per_device):
    """Stops with a sentence where settings, data and devices do not go together, or a sample of the files cannot be used."""
    parts = settings.ACCUMULATE * place.world
    if settings.BATCH_SIZE % parts or per_device < 1:
        raise UsageError(
            f'BATCH_SIZE = {settings.BATCH_SIZE} cannot be dealt out to {place.world} processes x {len(place.devices)} devices '
            f'x {settings.ACCUMULATE} parts; take a multiple of {parts * len(place.devices)}'
        )
    if len(data) < settings.BATCH_SIZE:
        raise UsageError(
            f'the split {data.split} of {settings.DATASET} has {len(data)} images, fewer than BATCH_SIZE = {settings.BATCH_SIZE}; lower it'
        )
    if settings.COMPILE and place.engine == 'DataParallel':
        raise UsageError(
            'COMPILE does not go with several GPUs in one process; start with torchrun, one process per GPU'
        )
    if settings.AMP == 'fp16' and not place.cuda:
        raise UsageError('AMP=fp16 needs a GPU; AMP=bf16 or AMP=off run on a CPU')
    data.check()
    if val:
        if not val.labelled:
            raise UsageError(
                f'the split VAL_SPLIT = {val.split!r} has no labels to score; take another, or ITER_VAL=0 for no validation'
            )
        val.check(4)


def check_finite(losses, step, data, batches):
    """UserError if one of the losses of the steps up to `step` is not finite."""
    for bad, loss in enumerate(losses, step - len(losses) + 1):
        if not math.isfinite(loss):
            files = [
                data.pairs[batches.index(p)][0]
                for p in range((bad - 1) * batches.batch, bad * batches.batch)
            ]
            raise UserError(
                f'the loss is not finite since step {bad}, in the interval up to {step}; files of that step: {", ".join(files)}. '
                'Nothing was saved since; lower LR, warm up (WARMUP), or try AMP=off'
            )


def warn_of_statistics(place):
    """Print one line if BN_MOM is too small for running statistics that start afresh to arrive by ITER_MAX.

    From scratch these are all, with PRETRAINED those of the head, with INIT none.
    """
    values = settings.in_force()
    momentum = settings.bn_momentum(values)
    if values['INIT'] or momentum >= 0.1:
        return
    left = (1 - momentum) ** values['ITER_MAX']
    if left > 0.05:
        whose = 'of the head' if values['PRETRAINED'] else 'of all layers'
        place.say(
            f'warning: BN_MOM {momentum:g} is too small for a run this short: after ITER_MAX = {values["ITER_MAX"]} steps the running statistics {whose} '
            f'still hold {100 * left:.0f} % of their initial values, so evaluation will be far worse than training; use BN_MOM=0.1'
        )


def warn_of_collapse(place, curves):
    """Print one line, and return True, if the curves of the EM unit (EMAU.curves) say that it does not cluster."""
    collapsed = curves.get('em/entropy', 0) > 0.98 or curves.get('em/cosine', 0) > 0.95
    if collapsed:
        place.say(
            f'warning: the EM unit does not cluster (em/entropy {curves["em/entropy"]:.3f}, em/cosine {curves["em/cosine"]:.3f}): its bases are alike, '
            'and every pixel gets the mean of the picture. Usual causes: emau.conv1 at another scale than std sqrt(2 / EM_CHANNELS), as from INIT or an '
            'edited start; features that are alike since the run has diverged or hardly begun (LR, WARMUP)'
        )
    return collapsed


def resume(place, net, optimizer, scaler, data):
    """The state of the run's latest checkpoint, put in force, or None. UserError if it was made with other settings."""
    path = os.path.join(checkpoint.folder(), 'latest.pth')
    if not os.path.isfile(path):
        return None
    try:
        state = checkpoint.read(path)
    except UserError as e:
        raise UserError(f'{e}; or move it away, to start over') from None
    if not isinstance(state, dict) or not {'net', 'opt', 'scaler', 'step', 'best', 'rng'} <= set(
        state
    ):
        raise UserError(
            f'{path} is no training state (weights alone?); move it away; INIT=FILE starts from weights'
        )
    differ = checkpoint.differences(
        state.get('settings', {}), [n for n in settings.in_force() if n not in settings.FREE]
    )
    if differ:
        raise UserError(
            f'{path} is of a run with other settings ({"; ".join(differ)}); take another NAME, the old settings, or clean.sh'
        )
    if state.get('images', len(data)) != len(data):
        raise UserError(
            f'{path} is of a run on {state["images"]} images, {data.split} has {len(data)} now: what comes next would not be the same run; '
            'put the images back, or take another NAME'
        )
    try:
        net.load_state_dict(state['net'])
        optimizer.load_state_dict(state['opt'])
        scaler.load_state_dict(state['scaler'])
    except (RuntimeError, ValueError, KeyError) as e:
        raise UserError(
            f'{path} does not hold this network ({str(e).splitlines()[0]}); move it away, to start over'
        ) from None
    place.say(f'resuming {settings.NAME} at step {state["step"]} from {path}')
    return state


def keep(place, name, net, step, **more):
    """Saves models/RUN/NAME.pth, once for all processes; UserError if the weights are not finite."""
    if place.rank == 0:
        state = net.state_dict()
        if not all(v.isfinite().all() for v in state.values()):
            raise UserError(
                f'the weights are not finite at step {step}; they are not saved, the checkpoints before are whole; '
                'lower LR, warm up (WARMUP), or try AMP=off'
            )
        checkpoint.save(
            os.path.join(checkpoint.folder(), name + '.pth'),
            dict(net=state, step=step, settings=settings.in_force(), **more),
        )


def main():
    place = launch.start()
    s = settings
    per_device = s.BATCH_SIZE // (place.world * len(place.devices) * s.ACCUMULATE)
    data = dataset.Dataset(s.TRAIN_SPLIT, train=True)
    val = dataset.Dataset(s.VAL_SPLIT, train=False) if s.ITER_VAL else None
    check(place, data, val, per_device)
    how = inference.protocol().single()  # of validation
    os.makedirs(checkpoint.folder(), exist_ok=True)

    net = network.build(weights=dataset.class_weights(data, place))
    optimizer = torch.optim.SGD(param_groups(net), lr=s.LR, momentum=s.LR_MOM, fused=True)
    scaler = torch.amp.GradScaler(place.device.type, enabled=s.AMP == 'fp16')
    net.to(place.device, memory_format=torch.channels_last)
    state = resume(place, net, optimizer, scaler, data)
    start = state['step'] if state else 0
    if place.sum(torch.tensor(float(start), device=place.device)).item() != start * place.world:
        raise UserError(
            f'the processes found different checkpoints in {checkpoint.folder()}; MODEL_DIR must be a folder that all machines share'
        )
    if start >= s.ITER_MAX:
        place.say(
            f'{s.NAME} is finished: {start} of {s.ITER_MAX} steps; raise ITER_MAX to go on, or take another NAME'
        )
        return
    if not state:
        trunk = checkpoint.load_trunk(net)
        place.say(
            'trunk weights:',
            trunk or 'none (PRETRAINED is empty)' + ('' if s.INIT else ': training from scratch'),
        )
        if s.INIT:
            place.say('INIT:', checkpoint.load_weights(net, s.INIT, 'any'))
    if place.world > 1 and place.cuda:
        net = nn.SyncBatchNorm.convert_sync_batchnorm(net)
    model = wrap(net, place)
    best = state['best'] if state else {'mIoU': -1.0, 'step': 0}

    batches = dataset.Batches(
        len(data), s.SEED, s.BATCH_SIZE, s.ACCUMULATE, place.rank, place.world, start
    )
    stream = iter(dataset.train_loader(data, batches, place.cuda))
    log = Log(place, start)
    half = place.amp()
    note = ''.join(
        f'; its makers have {d.usual} in {d.split}'
        for d in (data, val)
        if d and d.usual not in (None, len(d))
    )
    place.say(
        f'{s.DATASET}: {len(data)} images in {s.TRAIN_SPLIT}, {len(val) if val else 0} in {s.VAL_SPLIT}, {net.n_classes} classes, in {data.root}{note}\n'
        f'{s.HEAD} on ResNet-{s.N_LAYERS} at stride {s.STRIDE}: {sum(p.numel() for p in net.parameters()) / 1e6:.2f} M parameters; '
        f'BN_MOM {settings.bn_momentum(s.in_force()):g}, {"from scratch" if settings.from_scratch(s.in_force()) else "from trained weights"}\n'
        f'batch {s.BATCH_SIZE} = {per_device} per device x {place.world * len(place.devices)} devices ({place.device.type}, {place.engine}) '
        f'x {s.ACCUMULATE} accumulated; {half or torch.float32}; {s.ITER_MAX * s.BATCH_SIZE / len(data):.1f} epochs'
    )

    warn_of_statistics(place)
    stops = []

    def ask(number, frame):
        stops.append(number)
        signal.signal(
            number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
        )  # the second one is final

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, ask)
    torch.manual_seed(s.SEED + place.rank)  # dropout differs from process to process
    set_rng_state(place, state['rng'] if state else [])
    model.train()
    losses, began, told, warned = [], time.time(), False, best['step'] > 0
    with place.bar(total=s.ITER_MAX, initial=start, desc=s.NAME) as bar:
        for step in range(start + 1, s.ITER_MAX + 1):
            # set the rate of this step
            rate = learning_rate(step)
            for group in optimizer.param_groups:
                group['lr'] = rate * group['lr_mult']

            # gradient of the loss: sum / count over the global batch, whatever it is spread over
            summed, count, mu_sum = 0, 0, None
            for part in range(1, s.ACCUMULATE + 1):
                image, label = (t.to(place.device, non_blocking=True) for t in next(stream))
                last = part == s.ACCUMULATE
                with contextlib.nullcontext() if last or place.world == 1 else model.no_sync():
                    with place.autocast():
                        loss_sum, valid, mu = model(image, label)
                    asked = torch.tensor(float(len(stops))).to(
                        place.device, non_blocking=True
                    )  # all processes must leave together
                    total = place.sum(torch.stack([loss_sum.detach().sum(), valid.sum(), asked]))
                    if part > 1:
                        shrink = count.clamp(min=TINY) / (count + total[1]).clamp(min=TINY)
                        for p in net.parameters():
                            if p.grad is not None:
                                p.grad.mul_(shrink)
                    summed, count = summed + total[0], count + total[1]
                    scaler.scale(loss_sum.sum() * (place.world / count.clamp(min=TINY))).backward()
                if mu is not None:
                    mu_sum = mu.detach().sum(0) + (0 if mu_sum is None else mu_sum)  # c k

            # move the parameters and the bases
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad(set_to_none=True)
            if mu_sum is not None:
                net.update_bases(place.sum(mu_sum) / s.BATCH_SIZE)
            losses.append(summed / count.clamp(min=TINY))
            bar.update()

            # read the interval's losses: the only wait for the device
            validate = s.ITER_VAL and (step % s.ITER_VAL == 0 or step == s.ITER_MAX)
            save = step % s.ITER_SAVE == 0 or step == s.ITER_MAX
            if not (
                step % s.ITER_LOG == 0
                or validate
                or save
                or not place.cuda
                and total[2]
                or stops
                and place.world == 1
            ):
                continue
            numbers = torch.stack([*losses, total[2]])
            if net.statistics() is not None:
                numbers = torch.cat([numbers, place.sum(net.statistics().clone()) / place.world])
            numbers = numbers.tolist()
            values, stopping, statistics = (
                numbers[: len(losses)],
                numbers[len(losses)],
                numbers[len(losses) + 1 :],
            )
            check_finite(values, step, data, batches)
            curves = network.EMAU.curves(statistics) if statistics else {}
            if step == len(losses) and not warned:  # the first interval of the run
                warned = warn_of_collapse(place, curves)
            speed = len(values) * s.BATCH_SIZE / (time.time() - began)
            if not told and step - start > len(values):  # the first interval has start-up in it
                told = True
                place.say(
                    f'{speed:.1f} images/s: about {(s.ITER_MAX - step) * s.BATCH_SIZE / speed / 60:.0f} minutes to go'
                )
            bar.set_postfix(
                loss=f'{values[-1]:.4f}', lr=f'{rate:.2e}', images_s=f'{speed:.1f}', refresh=False
            )
            log.scalars(
                step,
                dict(loss=sum(values) / len(values), lr=rate, images_per_s=speed)
                | curves
                | ({'memory_GB': place.memory()} if place.cuda else {}),
            )
            losses = []

            # save; latest comes after the others, so that a run killed in between writes them again
            def keep_latest():
                keep(
                    place,
                    'latest',
                    net,
                    step,
                    opt=optimizer.state_dict(),
                    scaler=scaler.state_dict(),
                    best=best,
                    rng=rng_state(place),
                    images=len(data),
                )

            if save:
                keep(place, 'final' if step == s.ITER_MAX else f'step_{step}', net, step)
            if save or stopping:
                keep_latest()

            # score, and keep the best
            if validate and not stopping:
                found = evaluate(net, val, place, how, log.picture(step, val), 4)
                log.validation(step, found, net, val, place)
                if not warned:  # at the first validation
                    warn_of_collapse(place, curves)
                warned = True
                place.say(
                    f'step {step}: loss {values[-1]:.4f}, mIoU {100 * found["mIoU"]:.2f}, pAcc {100 * found["pAcc"]:.2f} on {s.VAL_SPLIT}'
                )
                if found['mIoU'] > best['mIoU']:
                    best = {'mIoU': found['mIoU'], 'step': step}
                    keep(place, 'best', net, step, scores=found)
                    if save:
                        keep_latest()
            if stopping:
                place.say(
                    f'stopped at step {step}, saved in {checkpoint.folder()}/latest.pth; the same command goes on from there'
                )
                return 128 + (stops or [signal.SIGTERM])[0]
            began = time.time()
    scored = f', best mIoU {100 * best["mIoU"]:.2f} at step {best["step"]}' if best['step'] else ''
    place.say(f'finished: {s.ITER_MAX} steps{scored}; checkpoints in {checkpoint.folder()}')


if __name__ == '__main__':
    launch.run(main)
