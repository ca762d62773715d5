"""Every hyperparameter. The values below are the paper's VOC recipe: EMANet, ResNet-101, stride 8.

Edit this file, or name a recipe and single values on the command line:
    python train.py recipes/camvid.py BATCH_SIZE=8 LR=5e-3
"""

import ast
import difflib
import math
import os
import sys
from types import UnionType
from typing import Literal, Union, get_args, get_origin, get_type_hints

# ---- run
NAME = ''  # name of the run: its folders in LOG_DIR and MODEL_DIR; '' = the recipe's name, else 'default'
SEED = 0  # initial weights, order of the images, augmentation, dropout
DEVICES: Literal['auto', 'cpu'] | tuple[int, ...] = (
    'auto'  # 'auto' = every GPU there is, else the CPU; or GPU numbers: (0, 1)
)
LOG_DIR = './logdir'  # events, log.jsonl, scores and a copy of the settings
MODEL_DIR = './models'  # checkpoints of the runs; trunk weights in MODEL_DIR/pretrained

# ---- data
DATASET = 'voc'  # a name in dataset.DATASETS
DATA_ROOT = './data'  # the folder that holds the data set's folder, or that folder itself
TRAIN_SPLIT = 'trainaug'  # splits as dataset.DATASETS lists them
VAL_SPLIT = 'val'
N_CLASSES: int | None = None  # None = as many as the data set's table has
IGNORE_LABEL = 255  # train id of void pixels: in no loss and no score
MEAN: tuple[float, float, float] = (0.485, 0.456, 0.406)  # of the RGB channels in 0..1
STD: tuple[float, float, float] = (0.229, 0.224, 0.225)
CHANNELS: Literal['rgb', 'bgr'] = 'rgb'  # order in which the trunk sees them; bgr: detectron2's
NUM_WORKERS = 4  # loader processes per training process; 0 = load in the training process

# ---- augmentation, in this order
SCALES: tuple[float, ...] = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0)  # of the image; see SCALE_MODE
SCALE_MODE: Literal['choice', 'range'] = (
    'choice'  # one of SCALES or SHORT_SIDE, or anything between first and last
)
ROTATE = 0.0  # degrees, at most, either way
ROTATE_PROB = 1.0  # probability of a rotation (semseg: 0.5)
CROP_SIZE: int | tuple[int, int] = 513  # pixels: the side, or (height, width)
CAT_MAX_RATIO = 1.0  # a crop of which one class fills more than this share is drawn again, at most ten times; 1 = never
SHORT_SIDE: tuple[int, ...] | None = (
    None  # pixels: whole images instead of crops, the short side one of these; padded to each other, padding is void
)
LONG_SIDE = 0  # pixels: with SHORT_SIDE, the long side is never longer; 0 = no limit
BLUR = 0.0  # probability of a 5x5 Gaussian blur
JITTER = 0.0  # brightness, contrast and saturation change by at most this share
FLIP = 0.5  # probability of a mirror image

# ---- network
HEAD = 'ema'  # a name in network.HEADS
N_LAYERS: Literal[18, 34, 50, 101, 152] = 101
STEM: Literal['deep', 'plain'] = 'deep'  # three 3x3 convolutions, or one 7x7 (torchvision's)
STRIDE: Literal[8, 16, 32] = 8  # input pixels per pixel of the trunk's output
MULTI_GRID: tuple[int, int, int] = (
    1,
    2,
    4,
)  # times the dilation of layer4's blocks; with FIRST_BLOCK='half' or 'split' not of the first one
FIRST_BLOCK: Literal['half', 'split', 'layer4', 'all'] = (
    'half'  # of dilated stages: half the dilation; in basic blocks half, then full (GluonCV); full in layer4; in layer3 too
)
STRIDE_IN_1X1 = False  # bottlenecks are strided in their first 1x1 convolution, as the detectron2 DANet's; else in the 3x3
PRETRAINED = './models/pretrained/resnet101-2a57e44d.pth'  # trunk weights: a file, 'torchvision' (fetched), '' = from scratch
INIT = ''  # another segmentation checkpoint to start from; what fits is loaded
BN_MOM: float | None = (
    None  # weight of the new batch; None = the paper's 3e-4 from trunk weights or INIT, 0.1 from scratch
)
DROPOUT = 0.1  # probability of dropping a channel before the classifier
AUX_WEIGHT = 0.0  # weight of the loss of a second head on layer3; 0 = no such head
EXTRA_WEIGHTS: tuple[float, ...] | None = (
    None  # of the losses of the head's own further outputs, in order; None = those it was published with
)
UPSAMPLE: Literal['corners', 'centres', 'crop'] = (
    'corners'  # logits to the image: align_corners; not; not, by STRIDE and then cropped
)
HEAD_CHANNELS = 256  # width of the 3x3 convolution before the classifier
EM_CHANNELS = 512  # width of the EM unit (the paper: 512, 256)
EM_BASES = 64  # K
STAGE_NUM = 3  # EM iterations in training
TEST_STAGE_NUM: int | None = None  # EM iterations in evaluation; None = STAGE_NUM
EM_MOM = 0.9  # weight of the old bases in the moving average
EM_UPDATE: Literal['moving_avg', 'none', 'learnt'] = (
    'moving_avg'  # how the initial bases change from step to step
)
EM_NORM: Literal['l2', 'layer', 'none'] = 'l2'  # of each basis, after every iteration
EM_GRAD = False  # True = gradient through the last responsibilities
SECOND_CONV = True  # that 3x3 convolution after the unit; False = the head of the paper's Table 1
PSP_BINS: tuple[int, ...] = (1, 2, 3, 6)  # sides of the pooled maps
PSA_TYPE: Literal['collect', 'distribute', 'both'] = 'both'
PSA_COMPACT = False  # True = attention between fixed positions: images of the training size alone
PSA_SHRINK = 2  # attention on a map this many times smaller than the trunk's
PSA_MASK: int | tuple[int, int] | None = (
    None  # side (or height, width) of the predicted mask; None = follows from CROP_SIZE
)
PSA_SOFTMAX = True  # of the attention, over the positions it gathers from
DANET_D2 = False  # True = the detectron2 version: attention without parameters, one output
DEEPLABV3_PAPER = False  # True = the classifier directly after the pyramid, rates 12, 24, 36
DEEPLABV3_RATES: tuple[int, ...] | None = (
    None  # dilations of the pyramid; None = those of DEEPLABV3_PAPER
)
DEEPLABV3PLUS_RATES: tuple[int, ...] = (
    12,
    24,
    36,
)  # dilations of the pyramid; the paper has 6, 12, 18 at stride 16

# ---- optimisation
BATCH_SIZE = 16  # images per step, over all devices and accumulation
ACCUMULATE = 1  # parts a batch is cut into, one after the other on the device
ITER_MAX = 30000  # steps
LR = 9e-3
LR_MIN = 0.0  # the rate falls towards this, or no lower ('step'); mmsegmentation: 1e-4
LR_MOM = 0.9  # momentum of SGD
WEIGHT_DECAY = 1e-4
DECAY: Literal['conv', 'all'] = 'conv'  # what decays: convolution weights, or all parameters
BIAS_LR_MULT = 2.0  # learning rate of biases, times LR
HEAD_LR_MULT = 1.0  # learning rate of all that is not trunk, times LR
LR_POLICY: Literal['poly', 'cosine', 'step'] = 'poly'
POLY_POWER = 0.9
LR_DECAY = (
    10  # poly is refreshed at steps this divides, as the official code does; 0 = before every step
)
LR_STEPS: tuple[int, ...] = (20000, 26000)  # LR_POLICY 'step': where the rate falls to a tenth
WARMUP = 0  # steps of linear warm-up from a thousandth
LOSS: Literal['ce', 'ohem', 'focal', 'dice'] = (
    'ce'  # cross entropy, that of the hard pixels, focal, dice; loss.py has the formulas
)
OHEM_THRESHOLD = 0.7  # hard: the true class has at most this probability
OHEM_KEEP = (
    100_000  # pixels per image that count as hard, at least; ranked over the images of a device
)
FOCAL_GAMMA = 2.0
LABEL_SMOOTHING = 0.0  # share of the target spread over all classes; LOSS 'ce' and 'ohem'
CLASS_WEIGHTS: Literal['', 'median_freq'] | tuple[float, ...] = (
    ''  # of the loss; 'median_freq' = counted in TRAIN_SPLIT at the start
)
LOSS_AVG: Literal['all', 'valid'] = (
    'all'  # 'ce', 'focal' and 'ohem' are divided by all pixels (official), or by those not void ('ohem': by the hard ones)
)
AMP: Literal['auto', 'bf16', 'fp16', 'off'] = (
    'auto'  # 'auto' = bf16 where the device computes in it
)
COMPILE = False  # torch.compile of the training step: minutes to start, then faster on GPUs

# ---- logging and checkpoints, in steps
ITER_LOG = 20  # the losses are read and checked
ITER_VAL = 2000  # validation; the best score keeps its checkpoint; 0 = never
ITER_SAVE = 2000  # latest.pth, from which a run resumes

# ---- evaluation
CHECKPOINT = ''  # file; '' = best, else final, else latest of the run
TEST_MODE: Literal['val', 'test', 'testval'] = (
    'val'  # score VAL_SPLIT; write what the benchmark's server takes of split 'test'; pictures of VAL_SPLIT, unscored
)
TEST_SCALES: tuple[float, ...] = (
    1.0,
)  # of the image, or of TEST_BASE_SIZE; the paper's: (0.5, 0.75, 1.0, 1.25, 1.5, 1.75) with TEST_FLIP
TEST_FLIP = False  # mirror images, too
TEST_CROP: int | tuple[int, int] | None = (
    None  # pixels: sliding windows of this side, or (height, width); None = whole images
)
TEST_STRIDE_RATE = 2 / 3  # step from window to window, of their side
TEST_BASE_SIZE: int | None = None  # pixels: long side of an image at scale 1; None = as it is
TEST_SHORT_SIDE: int | None = (
    None  # pixels: short side of an image at scale 1, as detectron2 tests; None = as it is
)
TEST_LONG_SIDE: int | None = (
    None  # pixels: with TEST_SHORT_SIDE, the long side is never longer; None = no limit
)
TEST_AVERAGE: Literal['prob', 'logit'] = (
    'prob'  # what is averaged over scales, mirror images and windows
)
TEST_GRID = 1  # several scales are summed at every so-many-th pixel, then enlarged: cheaper, but 1 alone is exact
TEST_BATCH = 4  # crops (CROP_SIZE) whose pixels go through the network at once: bounds memory
SAVE_DIR = ''  # folder for index and colour pictures, overlays and charts; '' = none

# Settings that a run may change when it resumes.
FREE = (
    'NAME',
    'ITER_MAX',
    'ITER_LOG',
    'ITER_VAL',
    'ITER_SAVE',
    'NUM_WORKERS',
    'DEVICES',
    'DATA_ROOT',
    'LOG_DIR',
    'MODEL_DIR',
    'CHECKPOINT',
    'TEST_MODE',
    'TEST_SCALES',
    'TEST_FLIP',
    'TEST_CROP',
    'TEST_STRIDE_RATE',
    'TEST_BASE_SIZE',
    'TEST_SHORT_SIDE',
    'TEST_LONG_SIDE',
    'TEST_AVERAGE',
    'TEST_GRID',
    'TEST_BATCH',
    'SAVE_DIR',
    'COMPILE',
    'PRETRAINED',
    'INIT',
)
# Smallest and largest value of settings and of each entry of tuples; None = no bound.
RANGES = dict(
    IGNORE_LABEL=(0, 255),
    NUM_WORKERS=(0, None),
    STD=(1e-9, None),
    SCALES=(0.02, 100),
    ROTATE=(0, 180),
    ROTATE_PROB=(0, 1),
    CROP_SIZE=(1, None),
    CAT_MAX_RATIO=(1e-9, 1),
    SHORT_SIDE=(1, None),
    LONG_SIDE=(0, None),
    BLUR=(0, 1),
    JITTER=(0, 1),
    FLIP=(0, 1),
    N_CLASSES=(1, 254),
    MULTI_GRID=(1, None),
    BN_MOM=(0, 1),
    DROPOUT=(0, 0.99),
    AUX_WEIGHT=(0, None),
    EXTRA_WEIGHTS=(0, None),
    HEAD_CHANNELS=(1, None),
    EM_CHANNELS=(1, None),
    EM_BASES=(1, None),
    STAGE_NUM=(1, None),
    TEST_STAGE_NUM=(1, None),
    EM_MOM=(0, 1),
    PSP_BINS=(1, None),
    PSA_SHRINK=(1, None),
    PSA_MASK=(1, 513),
    DEEPLABV3_RATES=(1, None),
    DEEPLABV3PLUS_RATES=(1, None),
    BATCH_SIZE=(1, None),
    ACCUMULATE=(1, None),
    ITER_MAX=(1, None),
    LR=(0, None),
    LR_MIN=(0, None),
    LR_MOM=(0, 1),
    WEIGHT_DECAY=(0, None),
    OHEM_THRESHOLD=(0, 1),
    OHEM_KEEP=(1, None),
    FOCAL_GAMMA=(0, None),
    LABEL_SMOOTHING=(0, 0.99),
    CLASS_WEIGHTS=(0, None),
    BIAS_LR_MULT=(0, None),
    HEAD_LR_MULT=(0, None),
    LR_DECAY=(0, None),
    WARMUP=(0, None),
    ITER_LOG=(1, None),
    ITER_VAL=(0, None),
    ITER_SAVE=(1, None),
    TEST_SCALES=(0.02, 100),
    TEST_CROP=(1, None),
    TEST_STRIDE_RATE=(0.01, 1),
    TEST_BASE_SIZE=(1, None),
    TEST_SHORT_SIDE=(1, None),
    TEST_LONG_SIDE=(1, None),
    TEST_GRID=(1, 8),
    TEST_BATCH=(1, None),
    DEVICES=(0, None),
    SEED=(0, 2**63 - 1),
    POLY_POWER=(0, None),
)


class UserError(Exception):
    """A mistake the user can mend: a sentence that is printed without a traceback; the exit status is `code`."""

    code = 1


class UsageError(UserError):
    code = 2


def in_force():
    """All settings as they stand: {name: plain value}."""
    return {
        name: value
        for name, value in globals().items()
        if name.isupper() and name not in ('FREE', 'RANGES')
    }


def from_scratch(values):
    """Tell whether a run with these settings {name: value} starts from random weights."""
    return not values.get('PRETRAINED') and not values.get('INIT')


def bn_momentum(values):
    """Return the BN_MOM of settings {name: value}; None stands for a number that follows from the start of the run."""
    if values['BN_MOM'] is not None:
        return values['BN_MOM']
    return 0.1 if from_scratch(values) else 3e-4


def sides(crop):
    """(height, width) of CROP_SIZE or the like, which may be the side of a square."""
    return crop if isinstance(crop, tuple) else (crop, crop)


def as_text(values):
    """Settings as lines of a recipe."""
    return ''.join(f'{name} = {value!r}\n' for name, value in values.items())


def nearest(word, words):
    """'; did you mean ...?' for error messages, or ''."""
    near = difflib.get_close_matches(word, list(words), 1, 0.5)
    return f'; did you mean {near[0]}?' if near else ''


def fit(kind, value):
    """`value` as a `kind`: a type, a Literal or a tuple of types, or a union of them; ValueError if it is none."""
    origin, args = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        for one in args:
            try:
                return fit(one, value)
            except ValueError:
                pass
    elif origin is tuple and isinstance(value, (tuple, list)) and value:
        kinds = args[:1] * len(value) if args[-1] is Ellipsis else args
        if len(kinds) == len(value):
            return tuple(map(fit, kinds, value))
    elif origin is tuple and args[-1] is Ellipsis and not isinstance(value, (tuple, list)):
        return (fit(args[0], value),)  # one is a tuple of one
    elif kind is float and type(value) is int:
        return float(value)
    elif (
        type(value) is kind
        or origin is Literal
        and any(type(value) is type(c) and value == c for c in args)
    ):
        return value
    raise ValueError


def describe(kind):
    """A kind in words."""
    if get_origin(kind) in (Union, UnionType):
        return ' or '.join(map(describe, get_args(kind)))
    if get_origin(kind) is tuple:
        return 'a tuple of ' + ', '.join(
            describe(k) if k is not Ellipsis else '...' for k in get_args(kind)
        )
    return ', '.join(map(repr, get_args(kind))) or kind.__name__.replace('NoneType', 'None')


def convert(name, value, where):
    """`value` in the type of setting `name`. UsageError, beginning with `where`, if there is no such setting or it takes none such."""
    now = in_force()
    if name not in now:
        raise UsageError(
            f'{where}: there is no setting {name}'
            + (nearest(name.upper(), now) or '; settings.py lists them')
        )
    kind = get_type_hints(sys.modules[__name__]).get(name, type(now[name]))
    try:
        value = fit(kind, value)
    except ValueError:
        raise UsageError(
            f'{where}: {name} = {value!r} will not do; it takes {describe(kind)}'
        ) from None
    low, high = RANGES.get(name, (None, None))
    for v in value if isinstance(value, tuple) else (value,):
        if type(v) in (int, float) and not (
            math.isfinite(v) and (low is None or v >= low) and (high is None or v <= high)
        ):
            raise UsageError(
                f'{where}: {name} = {value!r} is out of range: '
                + (f'at least {low}' if high is None else f'{low} to {high}')
            )
    return value


def take_flags(argv, known):
    """({flag: True, or the value that follows it, or a list of them}, the other words) of a command line.

    known  {flag: names of its values, as in '--rescore': 'DIR'}; UsageError for another word that begins with --, or if values are missing
    """
    found, rest, words = {}, [], iter(argv)
    for word in words:
        flag, equals, value = word.partition('=')
        if not word.startswith('--'):
            rest.append(word)
            continue
        if flag not in known:
            usual = ', '.join(f'{k} {v}'.strip() for k, v in known.items())
            raise UsageError(
                f'{flag}: there is no such flag' + (nearest(flag, known) or f'; there are {usual}')
            )
        names = known[flag].split()
        values = [value] * bool(equals) + [next(words, '') for _ in names[bool(equals) :]]
        if len(values) != len(names) or any(not v or v.startswith('--') for v in values):
            raise UsageError(
                f'{flag} takes '
                + (
                    f'{len(names)} values: {flag} {known[flag]}'
                    if names[1:]
                    else f'a value: {flag} {known[flag]}'
                    if names
                    else 'no value'
                )
            )
        found[flag] = values if len(values) > 1 else values[0] if values else True
    return found, rest


def is_setting(word):
    """Whether a word of the command line is a recipe or KEY=value."""
    return (
        word.endswith('.py')
        or word.startswith('-')
        or '=' in word
        and word.partition('=')[0].isupper()
    )


def override(argv):
    """Puts recipe files and KEY=value arguments in force, in their order; values are Python literals, strings need no quotes."""
    new = {}
    for arg in argv:
        name, equals, text = arg.partition('=')
        if equals and not arg.endswith('.py') or name.isupper():
            try:
                value = ast.literal_eval(text)
            except (ValueError, SyntaxError):
                value = text
            is_text = type(globals().get(name)) is str and name not in get_type_hints(
                sys.modules[__name__]
            )
            new[name] = convert(name, text if is_text else value, arg)
        else:
            recipe = read_recipe(arg)
            if not any(a.startswith('NAME=') for a in argv):
                new['NAME'] = os.path.splitext(os.path.basename(arg))[0]
            else:
                recipe.pop('NAME', None)  # the command line's
            new.update(recipe)
    globals().update(new)
    for name, crop in ('CROP_SIZE', CROP_SIZE), ('TEST_CROP', TEST_CROP or CROP_SIZE):
        if min(sides(crop)) < STRIDE:
            raise UsageError(
                f'{name} = {crop!r} is smaller than STRIDE = {STRIDE}: the trunk would have nothing left; take a larger one'
            )
    if TEST_SHORT_SIDE and TEST_BASE_SIZE:
        raise UsageError(
            f'TEST_SHORT_SIDE = {TEST_SHORT_SIDE} and TEST_BASE_SIZE = {TEST_BASE_SIZE} both give the size of an image at scale 1; set one of them to None'
        )
    if TEST_LONG_SIDE and not TEST_SHORT_SIDE:
        raise UsageError(
            f'TEST_LONG_SIDE = {TEST_LONG_SIDE} limits TEST_SHORT_SIDE, which is None; set that, or TEST_BASE_SIZE for the long side alone'
        )
    if LR_MIN > LR:
        raise UsageError(
            f'LR_MIN = {LR_MIN} is larger than LR = {LR}, from which the rate falls towards it; lower it'
        )
    if BATCH_SIZE % ACCUMULATE:
        raise UsageError(
            f'BATCH_SIZE = {BATCH_SIZE} cannot be cut into ACCUMULATE = {ACCUMULATE} equal parts; take a multiple'
        )
    if not NAME:
        globals()['NAME'] = 'default'
    if NAME in ('.', '..', 'pretrained') or os.path.basename(NAME) != NAME:
        raise UsageError(
            f'NAME = {NAME!r} cannot name a run: its folders are LOG_DIR/NAME and MODEL_DIR/NAME; take a plain word'
        )


def read_recipe(path):
    """The settings of a recipe file, {name: value}: lines KEY = literal and comments, nothing else."""
    if not os.path.isfile(path):
        folder = os.path.dirname(path) or '.'
        there = (
            [os.path.join(folder, f) for f in sorted(os.listdir(folder)) if f.endswith('.py')]
            if os.path.isdir(folder)
            else []
        )
        raise UsageError(
            f'{path}: there is no such recipe file'
            + (nearest(path, there) or '; recipes/ holds those that come along')
        )
    new = {}
    try:
        for line in ast.parse(open(path, encoding='utf-8-sig').read()).body:
            if isinstance(line, ast.Assign) and len(line.targets) == 1:
                name, where = line.targets[0].id, f'{path}, line {line.lineno}'
                new[name] = convert(name, ast.literal_eval(line.value), where)
            elif not (isinstance(line, ast.Expr) and isinstance(line.value, ast.Constant)):
                raise ValueError('only KEY = value lines are allowed')
    except (ValueError, SyntaxError, AttributeError, UnicodeDecodeError) as e:
        raise UsageError(f'{path} is not a recipe: {e}') from None
    return new
