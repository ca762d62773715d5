"""The optimiser: parameters in groups, each with its rate and weight decay, and the schedule."""

import math

import torch

import settings


def make_optimizer(net, fused=True):
    """Return the optimiser that OPTIMIZER names, over the groups of a network's parameters."""
    groups = param_groups(net)
    if settings.OPTIMIZER in ('sgd', 'nag'):
        nesterov = settings.OPTIMIZER == 'nag'
        return torch.optim.SGD(
            groups, lr=settings.LR, momentum=settings.LR_MOM, nesterov=nesterov, fused=fused
        )
    kind = torch.optim.AdamW if settings.OPTIMIZER == 'adamw' else torch.optim.Adam
    return kind(groups, lr=settings.LR, betas=(settings.LR_MOM, 0.999), fused=fused)


def doubts():
    """Return a sentence for each choice of optimiser and rate that is allowed and seldom meant."""
    sentences = []
    is_adam = settings.OPTIMIZER in ('adam', 'adamw')
    if is_adam and settings.LR > 3e-3:
        sentences.append(
            f'LR = {settings.LR} is a rate for SGD; with OPTIMIZER={settings.OPTIMIZER} '
            '1e-4 or less is usual'
        )
    if not is_adam and settings.TRUNK.startswith(('vit_', 'convnext_')):
        sentences.append(
            f'TRUNK={settings.TRUNK} hardly trains with OPTIMIZER={settings.OPTIMIZER}; '
            'OPTIMIZER=adamw LR=1e-4 is usual'
        )
    if settings.WARMUP >= settings.ITER_MAX:
        sentences.append(
            f'WARMUP = {settings.WARMUP} does not end before ITER_MAX = {settings.ITER_MAX}, '
            'so the rate never reaches LR'
        )
    steps = settings.LR_POLICY
    if isinstance(steps, tuple) and steps[-1] >= settings.ITER_MAX:
        sentences.append(
            f'LR_POLICY = {steps}: the rate never falls at {steps[-1]}, '
            f'because ITER_MAX = {settings.ITER_MAX}'
        )
    return sentences


def param_groups(net):
    """Return groups of parameters as in the official code.

    Weights of convolutions and linear layers decay; norms, biases, tables of positions, layer
    scales and bases do not, unless DECAY is 'all'. Biases learn at BIAS_LR_MULT times the rate,
    with every optimiser. With HEAD_LR_MULT each group comes twice, once for the trunk and once for
    the rest.
    """
    groups = {}
    for name, p in net.named_parameters():
        kind = '1y'  # the official names: 1x weights of convolutions, 2x biases, 1y the rest
        if name.endswith('bias'):
            kind = '2x'
        elif name.endswith('weight') and p.ndim > 1:
            kind = '1x'
        is_head = settings.HEAD_LR_MULT != 1 and not name.startswith('extractor.')
        if (is_head, kind) not in groups:
            groups[is_head, kind] = {
                'params': [],
                'names': [],
                'lr_mult': settings.BIAS_LR_MULT if kind == '2x' else 1,
                'weight_decay': 0.0,
            }
            if is_head:
                groups[is_head, kind]['lr_mult'] *= settings.HEAD_LR_MULT
            if kind == '1x' or settings.DECAY == 'all':
                groups[is_head, kind]['weight_decay'] = settings.WEIGHT_DECAY
        groups[is_head, kind]['params'].append(p)
        groups[is_head, kind]['names'].append(name)
    return [groups[key] for key in sorted(groups)]


def take_formats(optimizer):
    """Give the optimiser's state, after it was loaded, the memory format of the parameters.

    A run may go on where another one is faster; fused steps on a CPU do not look at strides.
    """
    for p, state in optimizer.state.items():
        for key, value in state.items():
            if torch.is_tensor(value) and value.shape == p.shape:
                state[key] = torch.empty_like(p, dtype=value.dtype).copy_(value)


def learning_rate(step):
    """Return the rate during a step (the first is 1), before the multipliers of the groups."""
    done = step - 1
    if isinstance(settings.LR_POLICY, tuple):
        falls = sum(done >= at for at in settings.LR_POLICY)
        rate = max(settings.LR * 0.1**falls, settings.LR_MIN)
    else:
        power = {'poly': 0.9, 'cosine': None}.get(settings.LR_POLICY, settings.LR_POLICY)
        factor = 0.5 * (1 + math.cos(math.pi * done / settings.ITER_MAX))
        if power is not None:
            at = done
            if settings.LR_DECAY:  # the official code counts from 1 here
                at = step // settings.LR_DECAY * settings.LR_DECAY
            factor = (1 - at / settings.ITER_MAX) ** power
        rate = (settings.LR - settings.LR_MIN) * factor + settings.LR_MIN
    if done < settings.WARMUP:
        rate *= 1e-3 + (1 - 1e-3) * done / settings.WARMUP
    return rate


def set_rate(optimizer, step):
    """Set and return the learning rate of a step."""
    rate = learning_rate(step)
    for group in optimizer.param_groups:
        group['lr'] = rate * group['lr_mult']
    return rate
