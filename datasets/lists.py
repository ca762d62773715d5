"""List files: names of pictures, or paths of images and labels, one sample a line."""

import hashlib
import os
import re
from pathlib import Path

from utils.config import UserError

LINE = 8192  # characters of a line, at most
CONTROL = re.compile(r'[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]')  # such characters are in no text


class Missing(UserError):
    """A list or JSON file, at .path, is not there; most likely its archive is not."""

    def __init__(self, message, path=''):
        super().__init__(message)
        self.path = path


def read_list(path):
    """Return the lines of a list file that are not blank, whatever ends them."""
    lines = []
    try:
        with open(path, encoding='utf-8-sig') as f:
            while line := f.readline(LINE):
                if len(line) == LINE or CONTROL.search(line):
                    raise ValueError(f'its line {len(lines) + 1} is no text, or too long')
                lines.append(line.strip())
    except FileNotFoundError:
        raise Missing(f'{path}: this list of pictures is missing', path) from None
    except (OSError, ValueError) as e:
        reason = getattr(e, 'strerror', None) or e
        raise UserError(
            f'{path}: this list of pictures cannot be read ({reason}); '
            'write the path of a picture on each line, in UTF-8'
        ) from None
    return [line for line in lines if line]


def read_columns(root, path, folders):
    """Return {image: label} of a list with two paths a line, in which there are no blanks.

    Each path starts at `root` or at its one of two `folders` there, or is absolute; those that are
    returned start at `root`, or are absolute. UserError if an image has two labels.
    """
    pairs = {}
    for line in read_list(path):
        words = slashes(line).split()
        if len(words) != 2:
            raise UserError(
                f'{path}: {line!r} is not the path of an image and that of its label; '
                'is the list whole?'
            )
        image, label = map(place, (root, root), folders, words)
        other = pairs.setdefault(image, label)
        if other != label:
            raise UserError(
                f'{path}: the image {image} has two labels, {other} and {label}; '
                'remove one of the lines'
            )
    return pairs


def place(root, folder, file):
    """Return where a file lies, from `root` on: there, or in its `folder`; or as an absolute path.

    Of a missing one it is the place that its own folders suggest.
    """
    file = Path(file)  # without `./`
    if file.is_relative_to(os.path.abspath(root)):
        file = file.relative_to(os.path.abspath(root))
    file = str(file)
    inside = os.path.join(folder, file)
    for path in (file, inside):
        if os.path.isfile(os.path.join(root, path)):
            return path
    start = os.path.dirname(file)
    return file if start and os.path.isdir(os.path.join(root, start)) else inside


def slashes(text):
    """Return a path as other systems than Windows write it."""
    return text.replace('\\', '/')


def read_pairs(root, path, alone=False):
    """Return [(image, label)] of a list with two paths a line; [] if each line names one file.

    Paths start at `root`, or are absolute. A tab or a blank lies between the two; they may hold
    blanks themselves. With `alone`, lines that name an image that is there give (image, None).
    """
    pairs, single = [], []
    for line in read_list(path):
        pair = split_line(root, path, line)
        if pair:
            pairs.append(pair)
        else:
            single.append(line)
    if pairs and single:
        raise UserError(
            f'{path}: {single[0]!r} names one file, other lines an image and its label; '
            'give every line both'
        )
    images = [file_at(root, line) for line in single]
    if alone and any(map(os.path.isfile, images)):
        for image in images:
            if not os.path.isfile(image):
                raise UserError(f'{image}: this image is missing; {path} names it')
        return [(image, None) for image in images]
    return pairs


def file_at(root, file):
    """Return the path of a file that a list names from `root` on, perhaps as Windows writes it."""
    path = os.path.join(root, file)
    if '\\' in file and not os.path.isfile(path):
        return os.path.join(root, slashes(file))
    return path


def split_line(root, path, line):
    """Return the two files that a line of the list `path` names; None if it names one."""
    if os.path.isfile(file_at(root, line)):
        return None
    blank = '\t' if '\t' in line else ' '
    words = line.split(blank)
    cuts = []
    for i in range(1, len(words)):
        image, label = ' '.join(words[:i]).strip(), ' '.join(words[i:]).strip()
        cuts.append((file_at(root, image), file_at(root, label)))
    for image, label in cuts:
        if os.path.isfile(image) and os.path.isfile(label):
            return image, label
    if not cuts:
        return None
    image, label = cuts[len(cuts) // 2]
    lost = label if os.path.isfile(image) else image
    raise UserError(f'{lost}: this file is missing; {path} names it: {line!r}')


def share(names):
    """Return {'train': names, 'val': names} of files that nothing else divides.

    A fifth is to validate on, at least one: those whose names have the smallest SHA-256, so that
    the same files are always divided in the same way.
    """
    names = sorted(names)
    count = max(1, len(names) // 5) if len(names) > 1 else 0
    val = set(sorted(names, key=digest)[:count])
    return {
        'train': [name for name in names if name not in val],
        'val': [name for name in names if name in val],
    }


def digest(name):
    return hashlib.sha256(name.encode(errors='surrogateescape')).hexdigest()
