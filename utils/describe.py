"""What a checkpoint file tells about the network in it, in settings: for checkpoint.load_network.

File      a checkpoint, read: its family, its state dict with this project's names, what else it has
describe  the settings of its network, from its tensors and from the release it belongs to
source    the line that says what came from where
"""

import math
import shlex
from typing import NamedTuple

import settings
from utils import config, conversion
from utils.config import UserError
from utils.conversion import FAMILIES, OWN
from utils.kept import check_sizes, shown, sift
from utils.older import deep_with_strides_in_1x1
from utils.printable import printable
from utils.weights import STEPS

# Settings that decide what a network computes; a checkpoint brings them along.
NETWORK = (
    'HEAD', 'HEAD_ARGS', 'N_LAYERS', 'STEM', 'STRIDE', 'MULTI_GRID', 'FIRST_BLOCK', 'UPSAMPLE',
    'HEAD_CHANNELS', 'SECOND_CONV', 'EM_CHANNELS', 'EM_BASES', 'STAGE_NUM', 'EM_NORM', 'EM_GRAD',
    'AUX_WEIGHT', 'MEAN', 'STD', 'CHANNELS',
)  # fmt: skip
# Those that decide which tensors there are.
TENSORS = (
    'HEAD', 'HEAD_ARGS', 'N_LAYERS', 'STEM', 'HEAD_CHANNELS', 'SECOND_CONV', 'EM_CHANNELS',
    'EM_BASES', 'AUX_WEIGHT', 'N_CLASSES',
)  # fmt: skip
TRUNK = 'STEM', 'MULTI_GRID', 'FIRST_BLOCK', 'MEAN', 'STD', 'CHANNELS'  # no tensor tells these
EM_UNIT = 'SECOND_CONV', 'EM_CHANNELS', 'EM_BASES', 'STAGE_NUM', 'EM_NORM', 'EM_GRAD'
BLOCKS = {  # of layer1..4, and whether they are bottlenecks: number of layers
    (2, 2, 2, 2, False): 18,
    (3, 4, 6, 3, False): 34,
    (3, 4, 6, 3, True): 50,
    (3, 4, 23, 3, True): 101,
    (3, 8, 36, 3, True): 152,
}
HEAD_MARKS = {  # with what names of its tensors begin; the first one that fits
    'ema': 'emau.',
    'psp': 'head.ppm.',
    'psa': 'head.directions.',
    'danet': 'head.position.',
    'deeplabv3plus': 'head.low.',
    'acfnet': 'head.coarse.',
    'deeplabv3': 'head.aspp.',
    'denseaspp': 'head.steps.',
    'nonlocal': 'head.block.query.',
    'a2net': 'head.block.feature.',
    'semanticfpn': 'head.laterals.',
    'att2scale': 'head.score.',
    'bisenet': 'head.spatial.',
    'fcn': 'head.out.',
}
CLASSIFIERS = 'fc2.weight', 'head.out.2.weight', 'head.out.1.weight', 'head.score.2.weight'
PSA_CELLS = 'head.directions.0.attention.1.weight'
PSA_SECOND = 'head.directions.1.reduce.conv.weight'


class File(NamedTuple):
    """A checkpoint file, read."""

    path: str
    family: str
    state: dict  # with this project's names
    step: int | None
    settings: dict  # kept in the file, in today's names; {} = it keeps none
    kept: dict  # the same as they are in the file
    invalid: dict  # {name: text} of kept settings whose values this version does not know
    official: bool  # the official EMANet's, which has the names of this project
    n_classes: int | None  # as the file says, not its tensors
    data: str = ''  # dataset.Dataset.digest() of what it was trained on; '' = it does not say

    @property
    def foreign(self):
        """Tell whether other code made it."""
        return not self.settings and (self.family != OWN or self.official)

    @property
    def format(self):
        if self.family.endswith('ResNet trunk'):
            stem = 'deep' if 'extractor.0.0.weight' in self.state else 'plain'
            return f'{stem}-stem {self.family}'
        if self.family == OWN:
            return 'EMANet' if 'emau.mu' in self.state else 'network'
        return self.family

    @property
    def is_trunk(self):
        return all(key.startswith(('extractor.', 'fc.')) for key in self.state)

    @property
    def shapes(self):
        shapes = {}
        for key, value in self.state.items():
            shapes[key] = () if value.is_nested else tuple(value.shape)
        return shapes


def open_file(content, path):
    """Return what a checkpoint file holds, {name: value}, as a File."""
    family, state = conversion.rename(conversion.state_dict(content, path), path)
    kept, step, n_classes = (content.get(key) for key in ('settings', 'step', 'n_classes'))
    if kept is not None and not isinstance(kept, dict) and family == OWN:
        raise UserError(
            f'{path}: the settings in this file are no dict but {shown(kept)}; '
            'fetch or save it again'
        )
    if not isinstance(kept, dict):
        kept = {}
    check_sizes(kept, path)
    valid, invalid = sift(kept)
    if type(step) is not int or not 0 <= step <= STEPS:
        step = None
    if type(n_classes) is not int or not 1 <= n_classes <= 254:
        n_classes = None
    official = family == OWN and 'step' in content and 'emau.mu' in state and not kept
    data = content.get('data')
    data = data if isinstance(data, str) else ''
    return File(path, family, state, step, valid, kept, invalid, official, n_classes, data)


# ------------------------------------------------------------------------- what the tensors tell


def trunk_settings(shapes):
    """Return N_LAYERS and STEM that the names of tensors tell, or {}."""
    counts = []
    for i in (4, 5, 6, 7):
        counts.append(len({k.split('.')[2] for k in shapes if k.startswith(f'extractor.{i}.')}))
    n_layers = BLOCKS.get((*counts, 'extractor.4.0.conv3.weight' in shapes))
    if not n_layers:
        return {}
    stem = 'deep' if 'extractor.0.0.weight' in shapes else 'plain'
    return {'N_LAYERS': n_layers, 'STEM': stem}


def implied(shapes):
    """Return the settings that {name: shape} of a network's tensors tell.

    N_CLASSES is in them wherever there is a classifier, whatever the data set has.
    """
    told = trunk_settings(shapes)
    told['AUX_WEIGHT'] = 0.0
    if any(key.startswith('aux.') for key in shapes):
        told['AUX_WEIGHT'] = settings.AUX_WEIGHT or 0.4
    for head, mark in HEAD_MARKS.items():
        if any(key.startswith(mark) for key in shapes):
            told |= {'HEAD': head, 'HEAD_ARGS': head_arguments(head, shapes)}
            break
    head, width = told.get('HEAD'), None
    classifier = [key for key in CLASSIFIERS if len(shapes.get(key, ())) == 4]
    if classifier:
        told['N_CLASSES'], width = shapes[classifier[0]][:2]
    if head == 'ema':
        told['SECOND_CONV'] = 'fc1.0.conv.weight' in shapes
        if len(shapes.get('emau.mu', ())) == 3:
            told['EM_CHANNELS'], told['EM_BASES'] = shapes['emau.mu'][1:]
    if head == 'semanticfpn' and width:
        width *= 2  # its branches have half of HEAD_CHANNELS
    paper = told.get('HEAD_ARGS', {}).get('paper')  # a DeepLabv3 without that convolution
    if width and told.get('SECOND_CONV', True) and not paper:
        told['HEAD_CHANNELS'] = width
    return told


def head_arguments(head, shapes):
    """Return the HEAD_ARGS that tensors tell."""
    if head == 'danet':
        return {'d2': 'head.position.1.gamma' not in shapes}
    if head == 'deeplabv3':
        return {'paper': 'head.out.2.weight' not in shapes}
    if head == 'psa' and PSA_SECOND in shapes:
        return {'type': 'both'}
    return {}


def psa_arguments(shapes, args, follows, path):
    """Return the arguments of HEAD=psa with a mask of as many cells as `shapes` have.

    args     HEAD_ARGS as far as they are known
    follows  (height, width) of the mask that follows from CROP_SIZE
    A square mask is one of offsets, as released, if its side is odd.
    """
    args = dict(args)
    if args.get('type', 'both') == 'both' and PSA_SECOND not in shapes:
        args['type'] = 'collect'
    cells = 0
    if shapes.get(PSA_CELLS):
        cells = shapes[PSA_CELLS][0]
    for mask in (args.get('mask'), follows):
        if mask and math.prod(config.sides(mask)) == cells:
            return args | {'mask': mask}
    side = math.isqrt(cells)
    if side**2 != cells:
        raise UserError(
            f'{path}: the mask of this PSANet has {cells} cells, which is no square; '
            "name its sides: HEAD_ARGS={'mask': (height, width)}"
        )
    if side % 2 == 0:
        args['compact'] = True
    return args | {'mask': side or 1}


# ---------------------------------------------------------------------------- what the file tells


def describe(file, given, mask_side):
    """Return the settings that a file tells, and those that its makers' release had.

    given      settings of the command line
    mask_side  the function of heads.psa
    """
    shapes = file.shapes
    told, released = implied(shapes), {}
    if file.settings or file.invalid:
        told |= kept_network(file, told, given)
    elif file.foreign:
        family = FAMILIES[file.family]
        released = family.released | family.by_classes.get(told.get('N_CLASSES'), {})
        released['HEAD_ARGS'] = family.head_args.get(told.get('HEAD'), {})
        if 'STEM' in released:
            told.pop('STEM', None)
    else:
        told = completed_by_settings(told)
    add_classes(file, told)
    if told.get('HEAD') == 'psa':
        add_mask(file, told, released, given, mask_side)
    return told, released


def kept_network(file, told, given):
    """Return the settings of the network that a file of this project keeps.

    UserError if one that no tensor tells, nor the command line, has a value of another version.
    """
    kept = {name: file.settings[name] for name in NETWORK if name in file.settings}
    if deep_with_strides_in_1x1(file.kept):
        raise UserError(
            f'{file.path} was trained with STEM=deep and STRIDE_IN_1X1=True, which this version '
            'does not compute; use the version that trained it'
        )
    stages = file.kept.get('TEST_STAGE_NUM')  # of older versions: iterations in evaluation
    if type(stages) is int and stages > 0:
        kept['STAGE_NUM'] = stages
    unused = () if 'EM_BASES' in told else EM_UNIT
    for name in unused:
        kept.pop(name, None)
    for name, value in file.invalid.items():
        tensors_tell = name in told and name != 'HEAD_ARGS'
        if name in NETWORK and name not in (*unused, *given) and not tensors_tell:
            raise UserError(
                f'{file.path}: the file keeps {name} = {value}, which this version does not know; '
                f'use the version that saved it, or give {name}=VALUE on the command line'
            )
    return kept


def completed_by_settings(told):
    """Return what the tensors of a file without settings tell; the rest is as in settings."""
    told = dict(told)
    if settings.HEAD not in HEAD_MARKS:  # a head of the user's own, whose tensors tell nothing
        for name in ('HEAD', 'HEAD_ARGS', 'HEAD_CHANNELS'):
            told.pop(name, None)
    if told.get('HEAD') == settings.HEAD:
        told['HEAD_ARGS'] = settings.HEAD_ARGS | told['HEAD_ARGS']
    if settings.STEM == 'caffe' and told.get('STEM') == 'plain':
        del told['STEM']
    return told


def add_classes(file, told):
    """Put the number of classes into `told`, unless only the tensors of an unknown head have it."""
    if told.get('HEAD') not in HEAD_MARKS:
        told.pop('N_CLASSES', None)
    kept = file.settings.get('N_CLASSES')
    if file.family == OWN and file.n_classes:
        told['N_CLASSES'] = file.n_classes
    elif 'N_CLASSES' not in told and kept:
        told['N_CLASSES'] = kept


def add_mask(file, told, released, given, mask_side):
    """Add what a PSANet's mask needs to `told`, and to the arguments in `released`."""
    args = join(released, told)['HEAD_ARGS']
    crop = file.settings.get('CROP_SIZE', settings.CROP_SIZE)
    stride = join(config.current(), released, told, given)['STRIDE']
    shrink, compact = args.get('shrink', 2), args.get('compact', False)
    follows = mask_side(crop, stride, shrink, compact)
    wanted = given.get('HEAD_ARGS', {}).get('mask')
    if wanted:
        args = args | {'mask': wanted}
    args = psa_arguments(file.shapes, args, follows, file.path)
    compact = args.get('compact', False)
    if file.settings and given.get('HEAD_ARGS', {}).get('compact', compact) != compact:
        raise contradiction(file, {'HEAD_ARGS': given['HEAD_ARGS']}, {'HEAD_ARGS': args})
    published, by_tensors = released.get('HEAD_ARGS', {}), told['HEAD_ARGS']
    told['HEAD_ARGS'] = {k: v for k, v in args.items() if k not in published or k in by_tensors}
    if published:
        released['HEAD_ARGS'] = {k: args[k] for k in published if k not in by_tensors}
    if compact:  # it works in windows of the size it was trained with
        side = tuple((n - 1) * shrink * stride + 1 for n in config.sides(args['mask']))
        told['CROP_SIZE'] = crop if follows == config.sides(args['mask']) else side
        told['TEST_CROP'] = told['CROP_SIZE']


def join(*layers):
    """Return settings of which later ones take precedence; HEAD_ARGS are joined."""
    values = {}
    for layer in layers:
        args = values.get('HEAD_ARGS', {}) | layer.get('HEAD_ARGS', {})
        values |= layer
        if 'HEAD_ARGS' in values:
            values['HEAD_ARGS'] = args
    return values


# -------------------------------------------------------------------------------- what to say of it


def as_arguments(values):
    """Return settings as one types them on the command line, quoted for the shell where needed."""
    return ' '.join(as_argument(name, value) for name, value in values.items())


def as_argument(name, value):
    """Return a setting as one word of the command line; what a file says may hold anything."""
    word = printable(f'{name}={value}')
    quoted = shlex.quote(word)
    if quoted == word or set(word) & set('"$`\\!'):
        return quoted
    return f'"{word}"'  # reads better around (1, 2, 4) and {'type': 'both'}


def same(a, b):
    """Tell whether two values of a setting mean the same."""
    if isinstance(a, tuple) and isinstance(b, tuple):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, float) and isinstance(b, float):
        return math.isclose(a, b, rel_tol=1e-3)
    return a == b


def overridden(values, given):
    """Return those of the given settings that differ from `values`; of HEAD_ARGS those that do."""
    differ = {}
    for name, value in given.items():
        if name == 'HEAD_ARGS':
            args = values.get(name, {})
            value = {k: v for k, v in value.items() if k not in args or args[k] != v}
            if value:
                differ[name] = value
        elif name in values and not same(values[name], value):
            differ[name] = value
    return differ


def contradicted(given, values):
    """Return those of the given settings that differ from `values`, which tensors tell."""
    differ = overridden(values, given)
    return {name: differ[name] for name in TENSORS if name in differ}


def contradiction(file, differ, values):
    """Return the UserError for settings of the command line that the tensors contradict."""
    wanted = as_arguments(differ)
    actual = as_arguments({name: values.get(name) for name in differ})
    return UserError(
        f'{wanted} on the command line contradicts the tensors of {file.path}, which have '
        f'{actual}; leave it out'
    )


def source(file, told, released, given, data_sets):
    """Return the line that says from where the settings of a network came.

    data_sets  names that DATASET may have
    """
    differ = overridden(join(released, told), given)
    parts = []
    makers = file.family
    if makers == OWN:
        makers = 'the official code'
    for title, values in (('from the file', told), (f'as {makers} has it', released)):
        rest = {name: value for name, value in values.items() if name not in differ}
        if 'HEAD_ARGS' in values:
            args = differ.get('HEAD_ARGS', {})
            rest['HEAD_ARGS'] = {k: v for k, v in values['HEAD_ARGS'].items() if k not in args}
            if not rest['HEAD_ARGS']:
                del rest['HEAD_ARGS']
        text = as_arguments(rest)
        if text:
            parts.append(f'{title}: {text}')
    if not released and not file.settings:
        parts.append('all else as settings say')
    if differ:
        parts.append(f'kept from the command line: {as_arguments(differ)}')
    trained_on = file.settings.get('DATASET', settings.DATASET)
    if trained_on in data_sets and trained_on != settings.DATASET:
        parts.append(f'it was trained on DATASET={trained_on}')
    elif trained_on != settings.DATASET:
        parts.append(f'it was trained on {shown(trained_on)}, a data set that is not here')
    return '\n' + '; '.join(parts)
