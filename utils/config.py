"""Settings in force: recipe files, KEY=value and flags on the command line, and how a script ends.

    config.run(main, parser)    every script's last line: put the command line in force, run main
    config.current()            all settings as they stand, {name: value}
A mistake of the user's is one sentence on stderr and status 1, wrong usage status 2.
"""

import argparse
import ast
import difflib
import glob
import math
import os
import signal
import sys
from types import UnionType
from typing import Literal, Union, get_args, get_origin, get_type_hints

import settings
from utils import older

AT_LEAST_ONE = (
    'CROP_SIZE', 'SHORT_SIDE', 'N_CLASSES', 'MULTI_GRID', 'HEAD_CHANNELS', 'EM_CHANNELS',
    'EM_BASES', 'STAGE_NUM', 'BATCH_SIZE', 'ACCUMULATE', 'ITER_MAX', 'ITER_LOG', 'ITER_SAVE',
    'TEST_CROP', 'TEST_BASE_SIZE', 'TEST_SHORT_SIDE', 'TEST_LONG_SIDE', 'TEST_BATCH',
)  # fmt: skip
AT_MOST_ONE = (
    'CAT_MAX_RATIO', 'ROTATE_PROB', 'BLUR', 'JITTER', 'FLIP', 'BN_MOM', 'EM_MOM', 'LR_MOM',
)  # fmt: skip
ABOVE_ZERO = ('STD', 'SCALES', 'CAT_MAX_RATIO', 'TEST_SCALES')
AT_MOST = {'SCALES': 100, 'TEST_SCALES': 100, 'SEED': 2**63 - 1, 'DROPOUT': 0.99,
           'IGNORE_LABEL': 255, 'N_CLASSES': 254}  # fmt: skip


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
    if name not in values:
        replacement = older.replacement(name)
        if replacement:
            raise UsageError(
                f'{where}: the setting {name} was removed; {replacement} '
                '(docs/checkpoints.md, Removed settings)'
            )
        hint = nearest(name.upper(), values) or '; settings.py lists them'
        raise UsageError(f'{where}: there is no setting {name}{hint}')
    kind = get_type_hints(settings).get(name, type(values[name]))
    try:
        value = fit(kind, value)
    except ValueError:
        raise UsageError(
            f'{where}: {name} = {value!r} is not valid; expected {describe(kind)}'
        ) from None
    for number in value if isinstance(value, tuple) else (value,):
        if type(number) in (int, float):
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
    written, lines, values = {}, {}, {}
    try:
        with open(path, encoding='utf-8-sig') as f:
            statements = ast.parse(f.read()).body
        for line in statements:
            if isinstance(line, ast.Assign) and len(line.targets) == 1:
                name = line.targets[0].id
                written[name], lines[name] = ast.literal_eval(line.value), line.lineno
            elif not (isinstance(line, ast.Expr) and isinstance(line.value, ast.Constant)):
                raise ValueError('only KEY = value lines are allowed')
        for name, value in older.recipe(written).items():
            values[name] = convert(name, value, f'{path}, line {lines.get(name, 1)}')
    except (ValueError, SyntaxError, AttributeError, UnicodeDecodeError) as e:
        raise UsageError(f'{path} is not a recipe: {e}') from None
    return values


def read_argument(word):
    """Return (name, value) of a word KEY=value: a Python literal, or a string without quotes."""
    name, equals, text = word.partition('=')
    if not equals and name in current():
        raise UsageError(f'{word}: a setting needs a value; write {word}=VALUE')
    is_text = type(current().get(name)) is str and name not in get_type_hints(settings)
    try:
        value = text if is_text else ast.literal_eval(text)
    except (ValueError, SyntaxError):
        value = text
    return name, convert(name, value, word)


def is_argument(word):
    """Tell whether a word of the command line is KEY=value, not a recipe with = in its name."""
    name, equals, _ = word.partition('=')
    return name.isupper() or (bool(equals) and not word.endswith('.py'))


def override(words):
    """Put recipe files and KEY=value in force, in order; return the names that KEY=value gave."""
    values, explicit = {}, set()
    for word in words:
        if is_argument(word):
            name, value = read_argument(word)
            values[name] = value
            explicit.add(name)
        else:
            recipe = read_recipe(word)
            recipe.setdefault('NAME', os.path.splitext(os.path.basename(word))[0])
            values.update(recipe)
    for word in words:  # a NAME on the command line goes before that of any recipe
        if word.startswith('NAME='):
            values['NAME'] = read_argument(word)[1]
    put(values)
    check()
    return explicit


def put(values):
    """Put settings {name: value} in force; the only place that changes them."""
    vars(settings).update(values)


def check():
    """Raise UsageError where settings do not go together, whatever the script."""
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
    if settings.TEST_LONG_SIDE and not settings.TEST_SHORT_SIDE:
        raise UsageError(
            f'TEST_LONG_SIDE = {settings.TEST_LONG_SIDE} limits TEST_SHORT_SIDE, which is None; '
            'set that, or TEST_BASE_SIZE for the long side alone'
        )
    if settings.LR_MIN > settings.LR:
        raise UsageError(f'LR_MIN = {settings.LR_MIN} is larger than LR = {settings.LR}; lower it')
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


# ----------------------------------------------------------------------------- how a script ends


class Parser(argparse.ArgumentParser):
    """The parser of a script; words that are no flags are settings, or its `inputs`."""

    def __init__(self, description, inputs=None):
        super().__init__(
            description=description,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        self.inputs = inputs
        self.epilog = 'Settings are recipe files and KEY=value; settings.py lists them.'
        kinds = ['recipe.py', 'KEY=value']
        if inputs:
            kinds.insert(0, inputs)
        self.add_argument('words', nargs='*', metavar=' | '.join(kinds))

    def read(self, words):
        """Return the flags of a command line; .settings and .inputs hold its other words."""
        flags = self.parse_intermixed_args(words)
        flags.settings, flags.inputs = [], []
        for word in flags.words:
            name, equals, _ = word.partition('=')
            is_setting = word.endswith('.py') or (equals and name.isupper())
            if is_setting or not self.inputs:
                flags.settings.append(word)
            else:
                flags.inputs.append(word)
        return flags

    def error(self, message):
        unknown = message.partition('unrecognized arguments: ')[2]
        if unknown:
            word = unknown.split()[0]
            flags = [flag for flag in self._option_string_actions if flag.startswith('--')]
            hint = nearest(word.partition('=')[0], flags) or f'; there are {", ".join(flags)}'
            message = f'{word}: there is no such flag{hint}'
        raise UsageError(message)


def sentence(error):
    """Return what to tell the user about an exception, or None if it is not the user's mistake.

    Errors of modules that are not imported here are known by the names of their types.
    """
    text, kind = str(error), type(error).__name__
    if isinstance(error, UserError) or kind == 'SettingsError':
        return text.rsplit(f'{kind}: ', 1)[-1].strip()  # loader processes wrap it in a traceback
    if is_out_of_memory(error):
        return (
            'out of memory; lower BATCH_SIZE (or raise ACCUMULATE, which keeps the batch), '
            'CROP_SIZE or TEST_BATCH, test in windows (TEST_CROP), or use AMP=bf16. '
            'Checkpoints written so far are whole'
        )
    if isinstance(error, (FileExistsError, NotADirectoryError)):
        return f'{error.filename}: this is a file, not a folder; move it, or choose another folder'
    if isinstance(error, OSError):
        default = f'a file in LOG_DIR = {settings.LOG_DIR!r} or SAVE_DIR = {settings.SAVE_DIR!r}'
        reason = error.strerror or text.strip().splitlines()[-1]
        return f'{error.filename or default}: {reason}'
    if kind == 'BrokenBarrierError':
        return (
            'a replica of nn.DataParallel failed while the others waited for it, most likely out '
            'of memory; lower BATCH_SIZE, or start with torchrun'
        )
    if 'Expected more than 1 value per channel' in text:
        return (
            'batch norm has a single value per channel to train on: a map of 1x1, as '
            f'HEAD={settings.HEAD} may pool, of one image per device; '
            'raise BATCH_SIZE or CROP_SIZE, or lower ACCUMULATE'
        )
    closed = 'Connection closed by peer', 'Connection reset by peer', 'remote process'
    if any(words in text for words in closed):
        return 'another process failed; its own message says why'
    if 'DataLoader worker' in text and ('killed' in text or 'exited unexpectedly' in text):
        reason = text.splitlines()[0]
        return f'a loader process died ({reason}); lower NUM_WORKERS, or give /dev/shm more room'
    return None


def exit_status(error):
    """Return the exit status of a script that ends by this exception."""
    if type(error).__name__ == 'SettingsError':
        return UsageError.code
    if isinstance(error, UserError):
        return error.code
    return 1


def is_out_of_memory(error):
    """Tell whether an exception of torch, OpenCV, numpy or a loader means that memory ran out."""
    if isinstance(error, MemoryError) or type(error).__name__ == 'OutOfMemoryError':
        return True
    signs = (
        "can't allocate memory",
        'Insufficient memory',
        'Unable to allocate',
        'MemoryError',
    )
    return any(words in str(error) for words in signs)


def run(main, parser):
    """Put the command line in force, call main(flags) and end the process.

    The status is what main returns, or 0; a mistake of the user's prints one sentence and gives 1,
    or 2 for wrong usage. flags.explicit holds the names that were given as KEY=value.
    """
    script = os.path.basename(sys.argv[0])
    try:
        flags = parser.read(sys.argv[1:])
        flags.explicit = override(flags.settings)
        status = main(flags) or 0
    except KeyboardInterrupt:
        print('stopped', file=sys.stderr)
        status = 128 + signal.SIGINT
    except Exception as error:
        words = sentence(error)
        if words is None:
            raise
        print(f'{script}: {words}', file=sys.stderr)
        status = exit_status(error)
    distributed = sys.modules.get('torch.distributed')
    if status == 0 and distributed and distributed.is_initialized():
        distributed.destroy_process_group()
    sys.exit(status)
