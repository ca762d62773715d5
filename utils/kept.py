"""The settings that a checkpoint file keeps, under today's names, as far as they make sense."""

import math

from utils import config
from utils.config import UserError
from utils.older import translated
from utils.printable import printable

MANY = 1000  # plain values in one setting
DEPTH = 5  # of dicts, tuples and lists in each other
LARGEST = {  # number in a setting that a network is built or run with; more is a damaged file
    'HEAD_CHANNELS': 2**16, 'EM_CHANNELS': 2**16, 'EM_BASES': 2**16, 'STAGE_NUM': 1000,
    'MULTI_GRID': 1000, 'HEAD_ARGS': 10_000, 'AUX_WEIGHT': 10_000, 'MEAN': 1000, 'STD': 1000,
    'CROP_SIZE': 2**16, 'TEST_CROP': 2**16,
}  # fmt: skip


def plain_values(value):
    """Return the plain values in dicts, tuples and lists; None if there are others, or too many.

    So files cannot ask for endless work: their lists may hold themselves.
    """
    values, rest, seen = [], [(value, 0)], 0
    while rest:
        one, depth = rest.pop()
        seen += 1
        if seen + len(rest) > MANY or depth > DEPTH:
            return None
        if isinstance(one, dict):
            rest += [(part, depth + 1) for part in (*one, *one.values())]
        elif isinstance(one, (tuple, list)):
            rest += [(part, depth + 1) for part in one]
        elif is_sensible(one):
            values.append(one)
        else:
            return None
    return values


def is_sensible(value):
    """Tell whether a value is None, a number, or text, and not of absurd size."""
    if isinstance(value, str):
        return len(value) <= 10 * MANY
    if isinstance(value, int):
        return abs(value) < 2**63
    return value is None or isinstance(value, float)


def is_plain(value):
    """Tell whether a value is made of Python's own types alone, and of sensible size."""
    return plain_values(value) is not None


def shown(value):
    """Return a kept value as it can be put into a sentence."""
    if not is_plain(value):
        return f'a {type(value).__name__} that is no setting'
    return printable(repr(value), most=80)


def sift(kept):
    """Return the valid ones of kept settings {name: value}, and {name: text} of the invalid ones.

    Both have today's names, and only those. The text is the value, to be put into a sentence.
    """
    known, plain, invalid = config.current(), {}, {}
    for name, value in kept.items():
        if not isinstance(name, str):
            continue
        if is_plain(value):
            plain[name] = value
        elif name in known:
            invalid[name] = shown(value)
    valid = {}
    for name, value in translated(plain).items():
        if name not in known:
            continue
        try:
            valid[name] = config.convert(name, value, 'kept')
        except UserError:
            invalid[name] = shown(value)
    for choice in ('HEAD', 'LOSS'):
        args = f'{choice}_ARGS'
        if args in plain and not isinstance(plain[args], dict):
            invalid[args] = shown(plain[args])
            valid.pop(args, None)
    return valid, invalid


def check_sizes(kept, path):
    """Raise UserError if a kept setting that a network is built with is of an absurd size."""
    for name, largest in LARGEST.items():
        value = kept.get(name)
        values = plain_values(value)
        sensible = values is not None and all(
            not isinstance(one, (int, float)) or abs(one) <= largest or math.isnan(one)
            for one in values
        )
        if name in kept and isinstance(value, (int, float, tuple, list, dict)) and not sensible:
            raise UserError(
                f'{path}: the file keeps {name} = {shown(value)}, which no network has; '
                'it is damaged, fetch or save it again'
            )
