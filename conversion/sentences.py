"""Settings of networks in checkpoints: joined, compared, and put into sentences."""

import math
import shlex

import settings
from conversion.families import OWN
from utils.config import UserError
from utils.kept import shown
from utils.printable import printable

# Those that decide which tensors there are.
TENSORS = (
    'HEAD', 'HEAD_ARGS', 'TRUNK', 'N_LAYERS', 'STEM', 'NORM', 'HEAD_CHANNELS', 'SECOND_CONV',
    'EM_CHANNELS', 'EM_BASES', 'AUX_WEIGHT', 'N_CLASSES',
)  # fmt: skip


def join(*layers):
    """Return settings of which later ones take precedence; HEAD_ARGS are joined."""
    values = {}
    for layer in layers:
        args = values.get('HEAD_ARGS', {}) | layer.get('HEAD_ARGS', {})
        values |= layer
        if 'HEAD_ARGS' in values:
            values['HEAD_ARGS'] = args
    return values


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
    differ, names = overridden(values, given), TENSORS
    if 'MEAN' in differ and len(differ['MEAN']) != len(values['MEAN']):  # channels of the images
        names = *TENSORS, 'MEAN', 'STD'
    return {name: differ[name] for name in names if name in differ}


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
        place = {}
        if trained_on == 'folder' and isinstance(file.settings.get('DATA_ROOT'), str):
            place = {'DATA_ROOT': file.settings['DATA_ROOT']}
        parts.append('it was trained on ' + as_arguments({'DATASET': trained_on} | place))
    elif trained_on != settings.DATASET:
        parts.append(f'it was trained on {shown(trained_on)}, a data set that is not here')
    return '\n' + '; '.join(parts)
