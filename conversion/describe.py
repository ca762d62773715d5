"""What a checkpoint file tells about the network in it, in settings: for checkpoint.load_network.

File      a checkpoint, read: its family, its state dict with this project's names, what else it has
describe  the settings of its network, from its tensors and from the release it belongs to
"""

import math
from typing import NamedTuple

import settings
from conversion import gluon, mmseg, mmseg_config, names
from conversion.families import FAMILIES, MMSEG, MXNET, OWN
from conversion.sentences import contradiction, join
from heads import HEADS
from heads.blocks import Head
from heads.psa import mask_side
from trunks import TRUNKS, trunk_of
from utils import config
from utils.config import UserError
from utils.kept import check_sizes, shown, sift
from utils.older import deep_with_strides_in_1x1
from utils.weights import STEPS

# Settings that decide what a network computes; a checkpoint brings them along.
NETWORK = (
    'HEAD', 'HEAD_ARGS', 'TRUNK', 'N_LAYERS', 'STEM', 'NORM', 'STRIDE', 'MULTI_GRID', 'FIRST_BLOCK',
    'UPSAMPLE', 'HEAD_CHANNELS', 'SECOND_CONV', 'EM_CHANNELS', 'EM_BASES', 'STAGE_NUM', 'EM_NORM',
    'EM_GRAD', 'AUX_WEIGHT', 'MEAN', 'STD', 'CHANNELS',
)  # fmt: skip
TRUNK = 'STEM', 'MULTI_GRID', 'FIRST_BLOCK', 'MEAN', 'STD', 'CHANNELS'  # no tensor tells these
EM_UNIT = 'SECOND_CONV', 'EM_CHANNELS', 'EM_BASES', 'STAGE_NUM', 'EM_NORM', 'EM_GRAD'
BLOCKS = {  # of layer1..4, and whether they are bottlenecks: number of layers
    (1, 1, 1, 1, False): 10,
    (2, 2, 2, 2, False): 18,
    (3, 4, 6, 3, False): 34,
    (3, 4, 6, 3, True): 50,
    (3, 4, 23, 3, True): 101,
    (3, 8, 36, 3, True): 152,
}
CLASSIFIERS = (  # HEAD_CHANNELS wide; head.aux.1 is SwiftNetPR's, whose main one may be narrower
    'head.aux.1.weight', 'fc2.weight', 'head.out.2.weight', 'head.out.1.weight',
    'head.score.2.weight', 'head.aux.0.2.weight',
)  # fmt: skip
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
    notes: dict = {}  # settings that a foreign file tells, but not by tensors
    data: str = ''  # dataset.Dataset.digest() of what it was trained on; '' = it does not say
    left_out: list = []  # names of tensors in the file that are no part of the network
    classes: str = ''  # datasets.files.as_text() of its class table; '' = it keeps none

    @property
    def foreign(self):
        """Tell whether other code made it."""
        return not self.settings and (self.family != OWN or self.official)

    @property
    def format(self):
        if self.is_trunk and self.family != OWN:
            return trunk_format(self.family, trunk_settings(self.shapes))
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


def trunk_format(family, told):
    """Return what a file with a trunk alone is called, by what its tensors told."""
    maker = family.removesuffix('trunk').removesuffix('ResNet ').strip()
    if family == MXNET:
        maker = 'GluonCV'
    if told.get('TRUNK') == 'resnet':
        return f'{told["STEM"]}-stem {maker} ResNet trunk'.replace('  ', ' ')
    return f'{maker} {told.get("TRUNK", "")} trunk'.replace('  ', ' ')


def open_file(content, path):
    """Return what a checkpoint file holds, {name: value}, as a File."""
    state, left_out = names.network_of(names.state_dict(content, path), path)
    state, aux = mmseg.without_other_aux(state)
    family, state = names.rename(state, path)
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
    data, classes = content.get('data'), content.get('classes')
    data = data if isinstance(data, str) else ''
    classes = classes if isinstance(classes, str) else ''
    notes = mmseg_config.conventions(content.get('meta'), path) if family == MMSEG else {}
    return File(
        path,
        family,
        state,
        step,
        valid,
        kept,
        invalid,
        official,
        n_classes,
        notes,
        data,
        left_out + aux,
        classes,
    )


# ------------------------------------------------------------------------- what the tensors tell


def trunk_settings(shapes):
    """Return TRUNK, NORM, and of a ResNet N_LAYERS and STEM, that names and shapes tell, or {}."""
    trunk, told = trunk_of(shapes), {'NORM': 'group'}
    if any(key.startswith('extractor.') and key.endswith('.running_mean') for key in shapes):
        told['NORM'] = 'batch'
    elif trunk.startswith(('convnext', 'vit')):  # layer norms, whatever the head has
        told = {}
    if trunk:
        return {'TRUNK': trunk} | told
    counts = []
    for i in (4, 5, 6, 7):
        counts.append(len({k.split('.')[2] for k in shapes if k.startswith(f'extractor.{i}.')}))
    n_layers = BLOCKS.get((*counts, 'extractor.4.0.conv3.weight' in shapes))
    if not n_layers:
        return {}
    first = shapes.get('extractor.0.0.weight')
    stem = 'deep' if first else 'plain'
    if first and first[0] == 32:
        stem = 'v1c'
    return {'N_LAYERS': n_layers, 'STEM': stem, 'TRUNK': 'resnet'} | told


def to_use(trunk):
    """Return what has to be set, and is not, for a trunk that trunk_settings() told."""
    other = {name: value for name, value in trunk.items() if value != getattr(settings, name)}
    kind = TRUNKS.get(other.get('TRUNK'))
    if kind and settings.STRIDE not in kind.allowed:
        other['STRIDE'] = kind.allowed[0]
    return other


def misfit(file):
    """Return what is wrong with a file whose tensors make no whole network."""
    if file.is_trunk and trunk_settings(file.shapes):
        return (
            'this is a trunk without a head; training starts from it with PRETRAINED=FILE, and '
            'evaluation needs a whole network'
        )
    return (
        'it does not fit: part of a file, two networks in one, or a network that is not here; '
        'INIT=FILE loads what fits'
    )


def marks():
    """Return {name: beginning of the name of a tensor} of the heads that their tensors tell."""
    known = {'ema': 'emau.'}
    for name, head in HEADS.items():
        mark = vars(head).get('mark')  # a head of the user's own does not inherit it
        if mark:
            known[name] = 'head.' + mark
    return known


def head_of(shapes):
    """Return the head that names of tensors tell, the last one in HEADS that fits, or None."""
    for head, mark in reversed(marks().items()):
        if any(name.startswith(mark) for name in shapes):
            return head
    return None


def implied(shapes):
    """Return the settings that {name: shape} of a network's tensors tell.

    N_CLASSES is in them wherever there is a classifier, whatever the data set has.
    """
    told = trunk_settings(shapes)
    told['NORM'] = 'group'
    if any(key.endswith('.running_mean') for key in shapes):
        told['NORM'] = 'batch'
    told['AUX_WEIGHT'] = 0.0
    if any(key.startswith('aux.') for key in shapes):
        told['AUX_WEIGHT'] = settings.AUX_WEIGHT or 0.4
    head, width = head_of(shapes), None
    if head:
        told |= {'HEAD': head, 'HEAD_ARGS': {}}
    classifier = [key for key in CLASSIFIERS if len(shapes.get(key, ())) == 4]
    if classifier:
        told['N_CLASSES'], width = shapes[classifier[0]][:2]
    if head in HEADS:
        told['HEAD_ARGS'] = HEADS[head].told(shapes)
    if head == 'ema':
        told['HEAD_ARGS'] = {'mmseg': True} if 'fc1.fuse.conv.weight' in shapes else {}
        told['SECOND_CONV'] = any(key.startswith(('fc1.0.', 'fc1.conv.')) for key in shapes)
        if len(shapes.get('emau.mu', ())) == 3:
            told['EM_CHANNELS'], told['EM_BASES'] = shapes['emau.mu'][1:]
    if head == 'semanticfpn' and width:
        width *= 2  # its branches have half of HEAD_CHANNELS
    paper = told.get('HEAD_ARGS', {}).get('paper')  # a DeepLabv3 without that convolution
    if width and told.get('SECOND_CONV', True) and not paper:
        told['HEAD_CHANNELS'] = width
    return told


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


def describe(file, given):
    """Return the settings that a file tells, and those that its makers' release had.

    given  settings of the command line
    """
    shapes = file.shapes
    told, released = implied(shapes), {}
    if file.settings or file.invalid:
        told |= those_read(kept_network(file, told, given), told)
    elif file.foreign:
        released = published(file, told)
        if 'STEM' in released:
            told.pop('STEM', None)
    else:
        told = completed_by_settings(told)
    add_classes(file, told)
    if told.get('HEAD') == 'psa':
        add_mask(file, told, released, given)
    return told, released


def those_read(values, told):
    """Return settings of a network without those that its trunk, as tensors told, does not read."""
    if told.get('TRUNK', 'resnet') == 'resnet':
        return values
    return {name: value for name, value in values.items() if name not in config.OF_RESNET}


def published(file, told):
    """Return the settings that a foreign network needs, by what its tensors told."""
    family = file.family
    head, makers = told.get('HEAD'), FAMILIES[family]
    values = makers.released | makers.by_classes.get(told.get('N_CLASSES'), {})
    values |= {'HEAD_ARGS': makers.head_args.get(head, {})}
    if family == MXNET:
        values |= gluon.released(head, told.get('N_LAYERS'))
    if family == MMSEG and told.get('N_LAYERS') in (18, 34):
        values['FIRST_BLOCK'] = 'once'
    notes = dict(file.notes)
    if 'corners' not in values['HEAD_ARGS']:
        args = notes.get('HEAD_ARGS', {})
        notes['HEAD_ARGS'] = {k: v for k, v in args.items() if k != 'corners'}
    values = join(values, notes)
    strides = possible_strides(told)
    if values and strides and values.get('STRIDE', strides[0]) not in strides:
        values['STRIDE'] = strides[0]
    return those_read(values, told)


def possible_strides(told):
    """Return the strides of trunk and head that tensors told."""
    strides = HEADS.get(told.get('HEAD'), Head).strides
    trunk = TRUNKS.get(told.get('TRUNK'))
    if trunk:
        return [stride for stride in strides if stride in trunk.allowed]
    return strides


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
    if settings.HEAD not in marks():  # a head of the user's own, whose tensors tell nothing
        for name in ('HEAD', 'HEAD_ARGS', 'HEAD_CHANNELS'):
            told.pop(name, None)
    if told.get('HEAD') == settings.HEAD:
        told['HEAD_ARGS'] = settings.HEAD_ARGS | told['HEAD_ARGS']
    if settings.STEM == 'caffe' and told.get('STEM') == 'plain':
        del told['STEM']
    return told


def add_classes(file, told):
    """Put the number of classes into `told`, unless only the tensors of an unknown head have it."""
    if told.get('HEAD') not in marks():
        told.pop('N_CLASSES', None)
    kept = file.settings.get('N_CLASSES')
    if file.family == OWN and file.n_classes:
        told['N_CLASSES'] = file.n_classes
    elif 'N_CLASSES' not in told and kept:
        told['N_CLASSES'] = kept


def add_mask(file, told, released, given):
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
