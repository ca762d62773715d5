"""Settings of older versions of this project, as checkpoints and run folders keep them.

utils/config.py imports this module, which imports nothing.
"""

OLDER = {  # what files that lack these settings had
    'LR_MIN': 0.0,
    'TRUNK': 'resnet',
    'NORM': 'batch',
    'OPTIMIZER': 'sgd',
    'BASE_SIZE': None,
}
MOVED = (  # old name; now an argument of this HEAD or LOSS; its name; the value it has by default
    ('PSP_BINS', 'HEAD', 'psp', 'bins', (1, 2, 3, 6)),
    ('PSA_TYPE', 'HEAD', 'psa', 'type', 'both'),
    ('PSA_COMPACT', 'HEAD', 'psa', 'compact', False),
    ('PSA_SHRINK', 'HEAD', 'psa', 'shrink', 2),
    ('PSA_MASK', 'HEAD', 'psa', 'mask', None),
    ('PSA_SOFTMAX', 'HEAD', 'psa', 'softmax', True),
    ('DANET_D2', 'HEAD', 'danet', 'd2', False),
    ('DEEPLABV3_PAPER', 'HEAD', 'deeplabv3', 'paper', False),
    ('DEEPLABV3_RATES', 'HEAD', 'deeplabv3', 'rates', None),
    ('DEEPLABV3PLUS_RATES', 'HEAD', 'deeplabv3plus', 'rates', (12, 24, 36)),
    ('OHEM_THRESHOLD', 'LOSS', 'ohem', 'threshold', 0.7),
    ('OHEM_KEEP', 'LOSS', 'ohem', 'keep', 100_000),
    ('FOCAL_GAMMA', 'LOSS', 'focal', 'gamma', 2.0),
    ('LABEL_SMOOTHING', 'LOSS', 'ce', 'smoothing', 0.0),
    ('LABEL_SMOOTHING', 'LOSS', 'ohem', 'smoothing', 0.0),
)

# Gone for good, with the values that they had by default.
GONE = {
    'EXTRA_WEIGHTS': None,
    'TEST_STAGE_NUM': None,
    'TEST_MODE': 'val',
    'TEST_GRID': 1,
    'TEST_STRIDE_RATE': 2 / 3,
    'TEST_AVERAGE': 'prob',
}
REPLACEMENTS = {  # of settings that did not become an argument of one head or loss
    'SCALE_MODE': 'two values in SCALES or SHORT_SIDE are a range, any other number a choice',
    'STRIDE_IN_1X1': "STEM='caffe' is the plain stem with strides in the first 1x1 convolution",
    'LABEL_SMOOTHING': "use LOSS_ARGS={'smoothing': ...} with LOSS=ce or LOSS=ohem",
    'LR_STEPS': 'LR_POLICY=(20000, 26000) is the policy of these steps',
    'ROTATE_PROB': 'ROTATE=(10, 0.5) is degrees and the probability of a rotation',
    'POLY_POWER': 'LR_POLICY=0.9 is poly with this power',
    'LONG_SIDE': 'SHORT_SIDE=((640, 672), 1333) is the sides and the limit of the long one',
    'TEST_LONG_SIDE': 'TEST_SHORT_SIDE=(800, 1333) is the short side and the limit of the long one',
    'EXTRA_WEIGHTS': "aux_weights in the head's file in heads/ holds these weights",
    'TEST_STAGE_NUM': 'STAGE_NUM holds for training and evaluation',
    'TEST_MODE': 'a split without labels gives server files, and SAVE_DIR gives pictures',
    'TEST_GRID': 'scales are always summed at every pixel',
    'TEST_STRIDE_RATE': 'windows always move by 2/3 of their sides',
    'TEST_AVERAGE': 'probabilities are always averaged',
}


# into ROTATE, LR_POLICY, SHORT_SIDE, TEST_SHORT_SIDE
MERGED = 'ROTATE_PROB', 'POLY_POWER', 'LONG_SIDE', 'TEST_LONG_SIDE'


def replacement(old):
    """Return what replaces a setting of older versions, as a clause; None for all other names."""
    if old in REPLACEMENTS:
        return REPLACEMENTS[old]
    for name, choice, owner, argument, _ in MOVED:
        if name == old:
            return f"use {choice}_ARGS={{'{argument}': ...}} with {choice}={owner}"
    return None


def deep_with_strides_in_1x1(kept):
    """Tell whether kept settings describe a trunk that this version cannot build."""
    n_layers = kept.get('N_LAYERS')
    if type(n_layers) is not int or n_layers < 50:  # no bottlenecks, whose 1x1 this is
        return False
    return kept.get('STRIDE_IN_1X1') is True and kept.get('STEM') == 'deep'


def arguments(kept, chosen_by):
    """Return HEAD_ARGS or LOSS_ARGS of kept settings, without those that have their default."""
    args = kept.get(f'{chosen_by}_ARGS')
    args = dict(args) if isinstance(args, dict) else {}
    for old, choice, owner, name, default in MOVED:
        if choice == chosen_by and kept.get(choice) == owner:
            if old in kept:
                args[name] = kept[old]
            if name in args and args[name] == default:
                del args[name]
    mask = args.get('mask')  # of HEAD=psa: a number is the side of a square
    if isinstance(mask, (tuple, list)) and mask and list(mask) == [mask[0]] * len(mask):
        args['mask'] = mask[0]
    return {name: args[name] for name in sorted(args, key=str)}


def is_number(value):
    return isinstance(value, (int, float))


def scales(name, values, mode):
    """Return SCALES or SHORT_SIDE in which two values are a range, of an older SCALE_MODE."""
    if not isinstance(values, (tuple, list)) or not all(map(is_number, values)):
        return values
    if mode == 'range' and len(values) > 2:
        if name == 'SHORT_SIDE':
            return min(values), max(values)
        return values[0], values[-1]
    if mode == 'choice' and len(values) == 2:
        a, b = values
        return a, a, b, b  # four to choose from, alike
    return values


def merged(kept):
    """Return the settings into which MERGED ones of kept settings went, {name: value}."""
    values = {}
    degrees, probability = kept.get('ROTATE'), kept.get('ROTATE_PROB', 1)
    if degrees and is_number(degrees) and probability != 1:
        values['ROTATE'] = degrees, probability
    power = kept.get('POLY_POWER', 0.9)
    if kept.get('LR_POLICY') == 'poly' and power != 0.9:
        values['LR_POLICY'] = power
    short, long = kept.get('TEST_SHORT_SIDE'), kept.get('TEST_LONG_SIDE')
    if long and short and is_number(short):
        values['TEST_SHORT_SIDE'] = short, long
    return values


def with_limit(sides, limit):
    """Return SHORT_SIDE of older sides and LONG_SIDE, which was 0 where there was no limit."""
    if not sides or not isinstance(sides, (tuple, list)) or not all(map(is_number, sides)):
        return sides
    if not limit or not is_number(limit):
        return sides
    return tuple(sides), limit


def recipe(values):
    """Return the settings of a recipe; translated if it is an older run's, which holds all."""
    holds_all = {'HEAD', 'LOSS', 'SCALES'} <= set(values)
    if holds_all and {'SCALE_MODE', 'LR_STEPS', 'POLY_POWER', 'LONG_SIDE'} & set(values):
        return translated(values)
    return values


def translated(kept):
    """Return settings {name: value} kept by this version or an older one under today's names.

    What neither version knows stays, and so does an old setting that changed the network or its
    scores and has no name today. Head and loss arguments are sorted, and left out where they have
    their default, so that two runs can be compared.
    """
    dropped = {old for old, *_ in MOVED} | {'SCALE_MODE', 'LR_STEPS', *MERGED}
    dropped |= {name for name, default in GONE.items() if kept.get(name) == default}
    if not deep_with_strides_in_1x1(kept):
        dropped.add('STRIDE_IN_1X1')
    if kept.get('TEST_STAGE_NUM') == kept.get('STAGE_NUM'):
        dropped.add('TEST_STAGE_NUM')
    values = {name: value for name, value in kept.items() if name not in dropped}
    for choice in ('HEAD', 'LOSS'):
        if choice in kept:
            values[f'{choice}_ARGS'] = arguments(kept, choice)
    drawn_from = 'SHORT_SIDE' if kept.get('SHORT_SIDE') else 'SCALES'  # the other is not used
    if 'SCALE_MODE' in kept and drawn_from in kept:
        values[drawn_from] = scales(drawn_from, kept[drawn_from], kept['SCALE_MODE'])
    if 'SHORT_SIDE' in values and 'LONG_SIDE' in kept:
        values['SHORT_SIDE'] = with_limit(values['SHORT_SIDE'], kept['LONG_SIDE'])
    if kept.get('LR_POLICY') == 'step' and 'LR_STEPS' in kept:
        values['LR_POLICY'] = kept['LR_STEPS']
    values |= merged(kept)
    has_bottlenecks = kept.get('N_LAYERS') not in (10, 18, 34)
    if has_bottlenecks and kept.get('STRIDE_IN_1X1') and kept.get('STEM') == 'plain':
        values['STEM'] = 'caffe'
    if not has_bottlenecks and kept.get('STEM') == 'caffe':
        values['STEM'] = 'plain'  # the same trunk
    return values
