"""Whether labels and class table make sense together: judged by counts that are taken anyway.

judge        what the pixels of each class say
judge_table  what a table of one's own says by itself
"""

import os
from typing import NamedTuple

from PIL import Image

LARGE = 0.1  # share of void pixels beside which a class that never occurs is no accident


class Verdict(NamedTuple):
    """Sentences about what is surely wrong, and about what may be meant."""

    faults: list
    warnings: list

    def __add__(self, other):
        return Verdict(self.faults + other.faults, self.warnings + other.warnings)


def judge(pixels, void, classes, own, may_lack=False):
    """Return the Verdict on labels with so many pixels.

    pixels   of each class of the table, an array (n, ...) in their order
    void     pixels without a class
    classes  files.Classes
    own      whether the data are one's own, for which 255 is void unless the table names it
    may_lack whether classes may well be absent, as rare ones from a validation split
    """
    table, n = last_two(classes), len(classes.names)
    pixels = [int(count) for count in pixels[:n]]
    share = void / max(1, sum(pixels) + void)
    lost = [i for i in range(n) if not pixels[i]]
    by_default = own and void > 0 and not classes.void and 255 not in classes.raw
    if n == 1:
        name = classes.names[0]
        fault = (
            f'{table} has a single class, {name}: there is nothing to tell it from; give what is '
            f'not {name} a line of its own'
        )
    elif len(lost) == n:
        fault = (
            f'all pixels of the labels are void, none has a class of {table}; name there the '
            'values that the labels hold'
        )
    elif by_default and (len(lost) == n - 1 or (lost and share >= LARGE)):
        fault = mask_error(table, classes, lost, share)
        if may_lack and (len(lost) < n - 1 or share < LARGE):
            return Verdict([], [fault])
    elif len(lost) == n - 1:
        fault = (
            f'all pixels of the labels that have a class are {only(classes, pixels)}, and no '
            f'other class of {table} occurs; label what the others stand for'
        )
        if may_lack:
            return Verdict([], [fault])
    else:
        return Verdict([], doubts(table, classes, lost, share, by_default))
    return Verdict([fault], [])


def only(classes, pixels):
    return next(name for name, count in zip(classes.names, pixels, strict=False) if count)


def mask_error(table, classes, lost, share):
    """Return the sentence about masks that hold 255 for a class."""
    name = classes.names[lost[0]]
    colour = ' '.join(map(str, classes.colours[lost[0]].tolist()))
    value = classes.raw[lost[0]]
    value = '*' if value is None else value
    return (
        f'{table} does not name the value 255, which is void then: {share:.1%} of the pixels, '
        f'while no pixel is {name}; if 255 stands for {name}, its line is '
        f'`255 {colour} {name}`, not `{value} {colour} {name}`; if it is void, add the line '
        '`255 0 0 0 void`'
    )


def doubts(table, classes, lost, share, by_default):
    """Return the sentences about what may be meant."""
    sentences = []
    if by_default:
        sentences.append(
            f'255 is void ({share:.1%} of the pixels), though {table} does not name it; '
            'the line `255 0 0 0 void` says so'
        )
    if lost and share >= LARGE:
        some = ', '.join(classes.names[i] for i in lost[:5])
        sentences.append(
            f'{share:.1%} of the pixels are void, and none is {some}'
            f'{", ..." if len(lost) > 5 else ""}; are the values in {table} those of the labels?'
        )
    return sentences


def last_two(classes):
    """Return the folder/name of a class table."""
    return os.path.join(*classes.path.split(os.sep)[-2:])


def is_colour(path):
    """Tell whether a label file is a picture in colours, by its header."""
    try:
        with Image.open(path) as picture:
            return picture.mode in ('RGB', 'RGBA')
    except Exception:  # Pillow raises many kinds; whoever reads the label says what is wrong
        return False


def judge_table(classes, colour_labels, strict):
    """Return the Verdict on a class table of one's own.

    colour_labels  whether the labels are colour pictures, which the table's colours decode
    strict         void in the colour of a class is a fault even if they are not
    """
    table, faults, warnings = last_two(classes), [], []
    owners = {}
    for colour, name in zip(classes.colours.tolist(), classes.names, strict=True):
        owners.setdefault(tuple(colour), []).append(name)
    for colour in dict.fromkeys(classes.void_colours):
        if colour in owners:
            owners[colour].append('void')
    for colour, names in owners.items():
        if len(names) > 1:
            sentence = (
                f'{table}: the colour {colour} means {" and ".join(names[:5])}; '
                'give each a colour of its own'
            )
            if colour_labels or (strict and 'void' in names):
                faults.append(sentence)
            else:
                warnings.append(sentence)
    for name in dict.fromkeys(classes.names):
        if classes.names.count(name) > 1:
            warnings.append(f'{table}: two classes have the name {name}; is one of them another?')
        if name.lower() == 'void':
            warnings.append(
                f'{table}: {name} is a class like all others; '
                'the name that stands for no class is void, in small letters'
            )
    return Verdict(faults, warnings)
