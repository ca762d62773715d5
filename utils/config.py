"""Settings in force: settings.py, then recipe files and KEY=value of the command line, checked.

config.current()        all settings as they stand, {name: value}
config.override(words)  put recipes and KEY=value in force
"""

import ast
import difflib
import glob
import math
import os
from types import UnionType
from typing import Literal, Union, get_args, get_origin, get_type_hints

import settings
from utils import older

PATHS = (  # ~ in these is the home folder
    'LOG_DIR', 'MODEL_DIR', 'DATA_ROOT', 'PRETRAINED', 'INIT', 'CHECKPOINT', 'SAVE_DIR',
)  # fmt: skip
AT_LEAST_ONE = (
    'CROP_SIZE', 'BASE_SIZE', 'SHORT_SIDE', 'N_CLASSES', 'MULTI_GRID', 'HEAD_CHANNELS',
    'EM_CHANNELS', 'EM_BASES', 'STAGE_NUM', 'BATCH_SIZE', 'ACCUMULATE', 'ITER_MAX', 'ITER_LOG',
    'ITER_SAVE', 'TEST_CROP', 'TEST_BASE_SIZE', 'TEST_SHORT_SIDE', 'TEST_BATCH',
)  # fmt: skip
AT_MOST_ONE = (
    'CAT_MAX_RATIO', 'BLUR', 'JITTER', 'FLIP', 'BN_MOM', 'EM_MOM', 'LR_MOM',
)  # fmt: skip
OF_RESNET = ('N_LAYERS', 'STEM', 'MULTI_GRID', 'FIRST_BLOCK')  # other trunks do not read them
ABOVE_ZERO = ('STD', 'SCALES', 'CAT_MAX_RATIO', 'TEST_SCALES')
AT_MOST = {'SCALES': 100, 'TEST_SCALES': 100, 'SEED': 2**63 - 1, 'DROPOUT': 0.99, 'ROTATE': 180,
           'BASE_SIZE': 100_000, 'IGNORE_LABEL': 255, 'N_CLASSES': 254}  # fmt: skip


class UserError(Exception):
    """A mistake the user can mend: a sentence without a traceback; `code` is the exit status."""

    code = 1


class UsageError(UserError):
    """Wrong words on the command line, or settings that do not go together."""

    code = 2


# ------------------------------------------------------------------------------------ settings


def current():
    """Return all settings as they stand: {name: plain value}."""
    return {name: value for name, value in vars(settings).items() if name.isupper()}


def sides(size):
    """Return (height, width) of a setting that may be the side of a square."""
    if isinstance(size, tuple):
        return size
    return size, size


def pair(value, second):
    """Return a setting that is one value or two as two, `second` by default."""
    if isinstance(value, tuple):
        return value
    return value, second


def flat(value):
    """Return the parts of a setting that is one value, a tuple, or a tuple of tuples, in a list."""
    if not isinstance(value, tuple):
        return [value]
    parts = []
    for one in value:
        parts += flat(one)
    return parts


def trunk_name():
    """Return the trunk that settings describe, in words."""
    if settings.TRUNK == 'resnet':
        return f'ResNet-{settings.N_LAYERS}'
    return settings.TRUNK


def as_text(values):
    """Return settings as lines of a recipe."""
    return ''.join(f'{name} = {value!r}\n' for name, value in values.items())


def nearest(word, words):
    """Return '; did you mean ...?' for error messages, or ''."""
    near = difflib.get_close_matches(word, list(words), 1, 0.5)
    return f'; did you mean {near[0]}?' if near else ''


def from_scratch(values):
    """Tell whether a run with these settings {name: value} starts from random weights."""
    return not values.get('PRETRAINED') and not values.get('INIT')


def bn_momentum(values):
    """Return BN_MOM of settings {name: value}; None means a number that follows from the start."""
    if values['BN_MOM'] is not None:
        return values['BN_MOM']
    if from_scratch(values):
        return 0.1
    return 3e-4


def fit(kind, value):
    """Return `value` as a `kind`: a type, Literal, tuple or union; ValueError if it is none."""
    origin, args = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        for one in args:
            try:
                return fit(one, value)
            except ValueError:
                pass
        raise ValueError
    if origin is tuple:
        return fit_tuple(args, value)
    if origin is Literal:
        for choice in args:
            if type(value) is type(choice) and value == choice:
                return value
        raise ValueError
    if kind is float and type(value) is int:
        return float(value)
    if type(value) is not kind:
        raise ValueError
    return value


def fit_tuple(kinds, value):
    """Return `value` as a tuple of these kinds; if any number may come, one is a tuple of one."""
    any_number = kinds[-1] is Ellipsis
    if not isinstance(value, (tuple, list)):
        if not any_number:
            raise ValueError
        value = (value,)
    if any_number:
        kinds = kinds[:1] * len(value)
    if not value or len(kinds) != len(value):
        raise ValueError
    return tuple(fit(kind, one) for kind, one in zip(kinds, value, strict=True))


def describe(kind):
    """Return a kind in words."""
    origin, args = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        return ' or '.join(describe(one) for one in args)
    if origin is tuple:
        return 'a tuple of ' + ', '.join(
            '...' if one is Ellipsis else describe(one) for one in args
        )
    if origin is Literal:
        return ', '.join(repr(choice) for choice in args)
    if kind is type(None):
        return 'None'
    return kind.__name__


def convert(name, value, where):
    """Return `value` in the type of setting `name`; UsageError, naming `where`, if not valid."""
    values = current()
    replacement = older.replacement(name)
    if replacement:
        raise UsageError(
            f'{where}: the setting {name} was removed; {replacement} '
            '(docs/checkpoints.md, Removed settings)'
        )
    if name not in values:
        hint = nearest(name.upper(), values) or '; settings.py lists them'
        raise UsageError(f'{where}: there is no setting {name}{hint}')
    kinds = get_type_hints(settings)
    kind = kinds.get(name, type(values[name]))
    try:
        value = fit(kind, value)
    except ValueError:
        raise UsageError(
            f'{where}: {name} = {value!r} is not valid; expected {describe(kind)}'
        ) from None
    if name in PATHS:
        value = os.path.expanduser(value)
    for number in flat(value):
        if type(number) in (int, float) and name in kinds:  # the others are the user's own
            check_range(name, number, where)
    return value


def check_range(name, number, where):
    """Raise UsageError if a number is negative, not finite or outside what the lists allow."""
    if not math.isfinite(number) or number < 0:
        expected = 'a finite number, 0 or more'
    elif name in AT_LEAST_ONE and number < 1:
        expected = 'at least 1'
    elif name in AT_MOST_ONE and number > 1:
        expected = '0 to 1'
    elif name in ABOVE_ZERO and number == 0:
        expected = 'above 0'
    elif number > AT_MOST.get(name, math.inf):
        expected = f'at most {AT_MOST[name]}'
    else:
        return
    raise UsageError(f'{where}: {name} = {number!r} is out of range: expected {expected}')


def read_recipe(path):
    """Return the settings of a recipe file, {name: value}: KEY = literal lines and comments."""
    if not os.path.isfile(path):
        folder = glob.escape(os.path.dirname(path) or '.')
        there = sorted(glob.glob(os.path.join(folder, '*.py')))
        hint = nearest(path, there) or '; recipes/ holds the ones of this project'
        raise UsageError(f'{path}: there is no such recipe file{hint}')
    try:
        with open(path, encoding='utf-8-sig') as f:
            statements = ast.parse(f.read()).body
    except SyntaxError as e:
        raise UsageError(f'{path} is not a recipe: line {e.lineno}: {e.msg}') from None
    except (RecursionError, MemoryError):
        raise UsageError(f'{path} is not a recipe: it is nested too deeply') from None
    except ValueError as e:
        raise UsageError(f'{path} is not a recipe: {e}') from None
    written, lines = {}, {}
    for statement in statements:
        if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
            continue  # a docstring
        try:
            name, value = assignment(statement)
        except ValueError:
            raise UsageError(
                f'{path} is not a recipe: line {statement.lineno}: only KEY = value is allowed, a '
                'value being a number, text, True, False, None, or a tuple or dict of such'
            ) from None
        written[name], lines[name] = value, statement.lineno
    values = {}
    for name, value in older.recipe(written).items():
        values[name] = convert(name, value, f'{path}, line {lines.get(name, 1)}')
    return values


def assignment(statement):
    """Return (name, value) of the syntax tree of `KEY = literal`; ValueError if it is none."""
    if isinstance(statement, ast.Assign) and len(statement.targets) == 1:
        target = statement.targets[0]
    elif isinstance(statement, ast.AnnAssign) and statement.value:  # as in settings.py
        target = statement.target
    else:
        raise ValueError
    if not isinstance(target, ast.Name):
        raise ValueError
    try:
        return target.id, ast.literal_eval(statement.value)
    except (TypeError, SyntaxError, RecursionError, MemoryError):
        raise ValueError from None


def read_argument(word):
    """Return (name, value) of a word KEY=value: a Python literal, or a string without quotes."""
    name, equals, text = word.partition('=')
    if not equals and name in current():
        raise UsageError(f'{word}: a setting needs a value; write {word}=VALUE')
    is_text = get_type_hints(settings).get(name, type(current().get(name))) is str
    try:
        value = text if is_text else ast.literal_eval(text)
    except (ValueError, SyntaxError):
        value = text
    return name, convert(name, value, word)


def is_argument(word):
    """Tell whether a word of the command line is KEY=value, not a recipe with = in its name."""
    name, equals, _ = word.partition('=')
    if word.endswith('.py') and not name.isidentifier():
        return False
    return name.isupper() or (bool(equals) and not word.endswith('.py'))


def override(words):
    """Put recipe files and KEY=value in force, in order; return names: KEY and recipes' data."""
    values, explicit = {}, set()
    for name, value in current().items():
        values[name] = convert(name, value, 'settings.py')
    for word in words:
        if is_argument(word):
            name, value = read_argument(word)
            values[name] = value
            explicit.add(name)
        else:
            recipe = read_recipe(word)
            recipe.setdefault('NAME', os.path.splitext(os.path.basename(word))[0])
            values.update(recipe)
            explicit |= {'DATASET', 'DATA_ROOT', 'TRAIN_SPLIT', 'VAL_SPLIT'} & set(recipe)
    for word in words:  # a NAME on the command line goes before that of any recipe
        if word.startswith('NAME='):
            values['NAME'] = read_argument(word)[1]
    put(values)
    check()
    unread = sorted(explicit & set(OF_RESNET))
    if settings.TRUNK != 'resnet' and unread:
        raise UsageError(
            f'{unread[0]} is for TRUNK=resnet alone, and TRUNK = {settings.TRUNK!r}; leave it out'
        )
    return explicit


def put(values):
    """Put settings {name: value} in force; the only place that changes them."""
    vars(settings).update(values)


def check_base_size():
    """Raise UsageError if training images would be padding for the most part, or huge."""
    scale = max(settings.SCALES)
    side = settings.BASE_SIZE * scale
    start = (
        f'BASE_SIZE = {settings.BASE_SIZE} times {scale:g}, the largest of SCALES, is a long side '
        f'of {side:.0f} pixels'
    )
    if 2 * side < max(sides(settings.CROP_SIZE)):
        raise UsageError(
            f'{start}, not half of the crop (CROP_SIZE = {settings.CROP_SIZE!r}), most of which '
            'would always be padding; raise BASE_SIZE'
        )
    if side**2 > settings.MAX_PIXELS:
        raise UsageError(
            f'{start}: a square image would be enlarged beyond MAX_PIXELS = '
            f'{settings.MAX_PIXELS:,}, above which pictures are refused; lower BASE_SIZE'
        )


def check_rates():
    """Raise UsageError where optimiser, rates and probabilities do not go together."""
    if pair(settings.ROTATE, 1.0)[1] > 1:
        raise UsageError(
            f'ROTATE = {settings.ROTATE!r} is out of range: expected degrees, or degrees and a '
            'probability of 0 to 1'
        )
    if settings.LR_MIN > settings.LR:
        raise UsageError(f'LR_MIN = {settings.LR_MIN} is larger than LR = {settings.LR}; lower it')
    if settings.OPTIMIZER == 'nag' and settings.LR_MOM == 0:
        raise UsageError(
            'OPTIMIZER=nag looks ahead along the momentum, and LR_MOM = 0 is none; '
            'use OPTIMIZER=sgd, or raise LR_MOM'
        )
    if settings.OPTIMIZER in ('adam', 'adamw') and settings.LR_MOM == 1:
        raise UsageError(
            f'OPTIMIZER={settings.OPTIMIZER} never moves with LR_MOM = {settings.LR_MOM}; '
            'use one below 1, such as 0.9'
        )
    steps = settings.LR_POLICY
    if isinstance(steps, tuple) and list(steps) != sorted(set(steps)):
        raise UsageError(
            f'LR_POLICY = {steps!r}: the steps at which the rate falls must increase; sort them'
        )
    if isinstance(steps, tuple) and len(steps) == 1 and steps[0] < 5:
        raise UsageError(
            f'LR_POLICY = {steps!r} is a fall to a tenth after step {steps[0]}; as a power of poly '
            f'write it with a point: LR_POLICY={steps[0]}.0'
        )


def check_channels(values):
    """Raise UsageError where settings {name: value} do not agree on the channels of images."""
    mean, std = values['MEAN'], values['STD']
    if len(mean) != len(std):
        raise UsageError(
            f'MEAN and STD have {len(mean)} and {len(std)} numbers: both must have one for each '
            f'channel of the images; give {max(len(mean), len(std))} in both'
        )
    if values['CHANNELS'] == 'bgr' and len(mean) != 3:
        raise UsageError(
            f"CHANNELS='bgr' swaps red and blue, but MEAN and STD are of {len(mean)} "
            'channels; use CHANNELS=rgb, which keeps their order'
        )


def check():
    """Raise UsageError where settings do not go together, whatever the script."""
    check_channels(current())
    for name, size in (
        ('CROP_SIZE', settings.CROP_SIZE),
        ('TEST_CROP', settings.TEST_CROP or settings.CROP_SIZE),
    ):
        if min(sides(size)) < settings.STRIDE:
            raise UsageError(
                f'{name} = {size!r} is smaller than STRIDE = {settings.STRIDE}: '
                'the trunk would have nothing left; raise it'
            )
    if settings.TEST_SHORT_SIDE and settings.TEST_BASE_SIZE:
        raise UsageError(
            f'TEST_SHORT_SIDE = {settings.TEST_SHORT_SIDE} and TEST_BASE_SIZE = '
            f'{settings.TEST_BASE_SIZE} both give the size of an image at scale 1; '
            'set one of them to None'
        )
    if settings.SHORT_SIDE and settings.BASE_SIZE:
        raise UsageError(
            f'SHORT_SIDE = {settings.SHORT_SIDE} and BASE_SIZE = {settings.BASE_SIZE} both give '
            'the size of a training image; set one of them to None'
        )
    if settings.BASE_SIZE:
        check_base_size()
    check_rates()
    if settings.BATCH_SIZE % settings.ACCUMULATE:
        raise UsageError(
            f'BATCH_SIZE = {settings.BATCH_SIZE} cannot be cut into ACCUMULATE = '
            f'{settings.ACCUMULATE} equal parts; use a multiple'
        )
    if not settings.NAME:
        put({'NAME': 'default'})
    if (
        settings.NAME in ('.', '..', 'pretrained')
        or os.path.basename(settings.NAME) != settings.NAME
    ):
        raise UsageError(
            f'NAME = {settings.NAME!r} cannot name a run: its folders are LOG_DIR/NAME and '
            'MODEL_DIR/NAME; use a plain word'
        )
