"""What the optimiser gets: parameters in groups, each with its rate and weight decay."""

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
