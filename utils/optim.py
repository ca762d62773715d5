"""What the optimiser gets: parameters in groups, each with its rate and weight decay."""

import settings


def param_groups(net):
    """Return groups for SGD as in the official code.

    Convolution weights decay, biases learn at twice the rate. With HEAD_LR_MULT each comes twice,
    once for the trunk and once for the rest.
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
