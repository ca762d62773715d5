"""The YAML file of a YOLO data set, as far as it is needed: class names, and what divides it."""

import os
import re

from datasets.layouts import IMAGES
from datasets.lists import read_list, slashes
from preparation import lookup
from utils.config import UserError

QUOTED = r'(?<![^\s\[{,:-])(?:"(?:[^"\\]|\\.)*"|\'(?:[^\']|\'\')*\')'  # where a scalar begins


def names(path):
    """Return what `names:` of a YAML file lists, by the number if it numbers them."""
    by_number = {}
    for i, item in enumerate(items_of(path, 'names')):
        key = re.match(r'["\']?(\d+)["\']?\s*:\s*(.+)', item)
        number, name = (int(key[1]), key[2]) if key else (i, item)
        by_number[number] = unquoted(name)
    if not by_number or sorted(by_number) != list(range(len(by_number))):
        raise UserError(f'{path}: names: is no list of class names from 0 on; mend it')
    return [by_number[i] for i in range(len(by_number))]


def items_of(path, key):
    """Return the items that a YAML file has for a key, [] if it has none.

    Only that is read: a, [a, b], {0: a}, or lines `- a` or `0: a`.
    """
    with open(path, encoding='utf-8-sig', errors='replace') as f:
        lines = [strip_comment(line) for line in f]
    start = next((i for i, line in enumerate(lines) if line.startswith(key + ':')), None)
    if start is None:
        return []
    text = lines[start].removeprefix(key + ':').strip()
    items = []
    if text in ('~', 'null'):
        return []
    if text:
        while text[0] in '[{' and text[-1] not in ']}' and start + 1 < len(lines):
            start += 1
            text += ' ' + lines[start].strip()
        return split_items(text.strip('[]{}')) if text[0] in '[{' else [text]
    for line in lines[start + 1 :]:
        if line.strip() and not line.startswith((' ', '-', '\t')):
            break
        if line.strip():
            items.append(line.strip().removeprefix('-').strip())
    return items


def strip_comment(line):
    """Return a line of YAML without its comment, which a blank and # begin outside of quotes."""
    return re.match(rf'(?:{QUOTED}|(?!(?:^|\s)#).)*', line.rstrip('\r\n'))[0].rstrip()


def split_items(text):
    """Return the items of `a, "b, c", d's`."""
    return [item.strip() for item in re.findall(rf'(?:{QUOTED}|[^,])+', text) if item.strip()]


def unquoted(text):
    """Return a scalar of YAML without its quotes, of which '' and \\" stand for one in them."""
    text = text.strip()
    if len(text) > 1 and text[0] == text[-1] == "'":
        return text[1:-1].replace("''", "'").strip()
    if len(text) > 1 and text[0] == text[-1] == '"':
        return re.sub(r'\\(.)', r'\1', text[1:-1]).strip()
    return text


def divide(root, path):
    """Return {picture: split} by train:, val: and test: of a YAML file, and lines about it.

    {} if it has no val:, or if what it names is not here: then the names of folders divide.
    """
    if not path or not items_of(path, 'train') or not items_of(path, 'val'):
        return {}, []
    there = pictures(root)
    splits, twice = {}, 0
    for split in ('train', 'val', 'test'):
        try:
            images = pictures_of(root, path, split, there)
        except LookupError as e:
            if split == 'test':
                continue
            return {}, [f'{path}: its {split}: {e}; the names of folders divide, if they do']
        for image in images:
            twice += splits.setdefault(image, split) != split
    lines = []
    if twice:
        lines.append(f'{twice:,} pictures are in two splits of {path}, and stay in the first')
    left = [image for image in there if image not in splits]
    if left:
        lines.append(f'{len(left):,} pictures are in no split of {path}, and left out')
    return splits, lines


def pictures(root):
    """Return the sorted paths of the pictures in folders named images, however deep.

    If there are none, those with a text file beside them, as Darknet has it.
    """
    paths = lookup.walk(root, IMAGES)
    in_images = [p for p in paths if 'images' in os.path.relpath(p, root).split(os.sep)[:-1]]
    return in_images or [p for p in paths if os.path.isfile(os.path.splitext(p)[0] + '.txt')]


def pictures_of(root, path, split, there):
    """Return those of the pictures `there` that a split names; LookupError if there are none."""
    bases, images = [os.path.dirname(path), root], []
    for base in items_of(path, 'path')[:1]:
        bases.insert(0, os.path.join(os.path.dirname(path), unquoted(base)))
    for item in items_of(path, split):
        place = resolve(root, bases, item)
        if place and os.path.isdir(place):
            inside = [image for image in there if image.startswith(place + os.sep)]
            if not inside:
                raise LookupError(f'{item} holds no pictures in a folder named images')
            images += inside
        elif place and place.endswith('.txt'):
            if place == os.path.join(root, f'{split}.txt'):
                raise UserError(
                    f'{place}: the new list goes there; rename it, in {path} too, and give the '
                    'same command again'
                )
            listed = [
                resolve(root, [os.path.dirname(place), *bases], line) for line in read_list(place)
            ]
            if not listed or not set(listed) <= set(there):
                raise LookupError(f'{item} lists no pictures, or some that are not here')
            images += listed
        else:
            raise LookupError(f'{item} is not here')
    return images


def resolve(root, bases, item):
    """Return the path in `root` that an item of a YAML file or list names, or None."""
    item = slashes(unquoted(item))
    for name in (item, re.sub(r'^(\.{1,2}/)+', '', item)):
        for base in bases:
            path = os.path.normpath(os.path.join(base, name))
            if os.path.exists(path) and os.path.join(path, '').startswith(root + os.sep):
                return path
    return None
