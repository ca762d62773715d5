"""Labels as text: YOLO's outlines, and run lengths in a CSV file, as on Kaggle."""

import collections
import csv
import functools
import os

import numpy as np

from datasets import own, recognise
from preparation import lookup, marks, yolo_yaml
from preparation.assemble import Names, Sample, Source
from utils.config import UserError

IDS = (  # columns
    'imageid', 'id', 'image', 'img', 'filename', 'imagename', 'fname', 'imgid', 'imagefile', 'file',
    'name',
)  # fmt: skip
CLASSES = ('classid', 'class', 'label', 'categoryid', 'classname', 'category')
BOXES = 'objects have a box and no outline, and are not drawn'
SCORES = 'text files end each line with a confidence, which is not read'
LARGEST = 10_000_000  # characters of a field of a CSV file


# ----------------------------------------------------------------------------------------- YOLO


def yolo(root):
    """Return the Source of YOLO's outlines: images/ and labels/ of one structure, and data.yaml.

    Larger objects lie below smaller ones. A picture without a text file has no object.
    """
    near = recognise.near_files(root)
    yamls = [path for path in near if path.lower().endswith(('.yaml', '.yml'))]
    described = next((path for path in yamls if recognise.source_of(path) == 'yolo'), None)
    listed = class_names(root, described)
    names, samples, unlabelled = Names('background'), [], 0
    counts, used = collections.Counter(), set()
    train_ids = [names.add(name) for name in listed]
    splits, lines = yolo_yaml.divide(root, described)
    for image in yolo_yaml.pictures(root):
        path = text_of(root, image)
        split = lookup.split_of(os.path.dirname(image), root)
        if splits and image not in splits:
            continue
        split = splits.get(image, split)
        objects = []
        if os.path.isfile(path):
            objects = read_objects(path, train_ids, counts)
            used.add(path)
        unlabelled += not os.path.isfile(path)
        draw = functools.partial(marks.draw, marks=objects)
        samples.append(Sample(image, split, path, draw))
    if samples and unlabelled == len(samples):
        path = text_of(root, samples[0].image)
        raise UserError(
            f'{path}: this file is missing, like all others; {lookup.other_source(root, "yolo")}'
        )
    if counts[BOXES] and not counts['outlines']:
        raise UserError(
            f'{root}: all {counts[BOXES]:,} objects are boxes, not outlines: these are labels for '
            'detection; export segmentation'
        )
    if unlabelled:
        lines.append(f'{unlabelled:,} images have no text file: they are background')
    lines += [f'{count:,} {kind}' for kind, count in counts.items() if kind != 'outlines']
    return Source(samples, names.names, lines + without_picture(root, used, splits))


def without_picture(root, used, splits):
    """Return a line about the text files in labels/ that belong to no picture, if there are any."""
    rest = []
    for path in lookup.walk(root, ('.txt',)):
        *folders, name = os.path.relpath(path, root).split(os.sep)
        if 'labels' in folders and path not in used and name != 'classes.txt':
            rest.append(path)
    if splits or not rest:  # those of the other pictures are counted there
        return []
    return [f'warning: {len(rest):,} text files belong to no picture, such as {rest[0]}']


def text_of(root, image):
    """Return the path of YOLO's labels of a picture: the last images/ is labels/, or beside it."""
    parts = os.path.relpath(image, root).split(os.sep)
    if 'images' in parts:
        parts[len(parts) - 1 - parts[::-1].index('images')] = 'labels'
    return os.path.splitext(os.path.join(root, *parts))[0] + '.txt'


def read_objects(path, train_ids, counts):
    """Return the Marks of a text file, larger ones first: lines `class x y x y ...` in shares.

    Where all lines have a number too many, the last is the confidence of a prediction. Boxes are
    no outlines; what is left out is added to `counts`.
    """
    with open(path, encoding='utf-8-sig', errors='replace') as f:
        rows = [(number, line.split()) for number, line in enumerate(f, 1) if line.strip()]
    if rows and all(len(words) > 5 and len(words) % 2 == 0 for _, words in rows):
        rows = [(number, words[:-1]) for number, words in rows]
        counts[SCORES] += 1
    objects = []
    for number, words in rows:
        mark = read_line(words, f'{path}, line {number}', train_ids)
        counts['outlines' if mark else BOXES] += 1
        objects += [mark] if mark else []
    return sorted(objects, key=lambda mark: -marks.area(mark.data))


def read_line(words, where, train_ids):
    """Return the Mark of the words of a line; None if it is a box."""
    try:
        index, numbers = int(words[0]), np.array(words[1:], float)
        if not np.isfinite(numbers).all():
            raise ValueError
    except ValueError:
        raise UserError(
            f'{where}: {" ".join(words)[:80]!r} is not a class and numbers; export it again'
        ) from None
    if not 0 <= index < len(train_ids):
        raise UserError(f'{where}: the class {index}, but there are 0 to {len(train_ids) - 1}')
    if len(numbers) == 4:
        return None
    if len(numbers) < 6 or len(numbers) % 2:
        raise UserError(f'{where}: {len(numbers)} numbers are no outline; export it again')
    if numbers.min() < -1 or numbers.max() > 2:
        raise UserError(f'{where}: the outline is not in shares of the width and height, 0 to 1')
    return marks.Mark(train_ids[index], 'shares', [numbers.reshape(-1, 2)])


def class_names(root, described):
    """Return the class names of a YOLO data set: of its YAML file, or of a list of names."""
    if described:
        return yolo_yaml.names(described)
    for name in ('names.txt', 'obj.names'):
        path = os.path.join(root, name)
        if os.path.isfile(path):
            with open(path, encoding='utf-8-sig', errors='replace') as f:
                return [line.strip() for line in f if line.strip()]
    path = os.path.join(root, 'classes.txt')
    if os.path.isfile(path) and own.listed_names(path):
        raise UserError(
            f'{path}: this is a list of names, where the class table goes; rename it to names.txt'
        )
    hint = recognise.hint(root, ['yolo']) or 'write one, or names.txt with a name a line'
    raise UserError(f'{root}: there is no data.yaml with names: here; {hint}')


# ---------------------------------------------------------------------------- run lengths in CSV


def rle(root):
    """Return the Source of a CSV file with columns for the picture, its run lengths and a class.

    Runs count from 1 and go down the columns. Without a class column there is one class; the class
    may also stand at the end of the picture's name: `name.jpg_class`.
    """
    paths = lookup.files_of(root, 'rle')
    submissions = [path for path in paths if 'submission' in os.path.basename(path).lower()]
    path, *others = [path for path in paths if path not in submissions] or paths
    if others:
        raise UserError(f'{path} and {others[0]}: two files of run lengths; move one away')
    rows, columns = read_rows(path)
    lines = []
    if path not in submissions:
        lines = [f'{one}: a submission, not the labels, and left out' for one in submissions]
    of_images, classes = collections.defaultdict(list), set()
    for row in rows:
        name, kind = row[columns['id']].strip(), ''
        if columns['class'] is not None:
            kind = row[columns['class']].strip()
        elif columns['joined']:
            name, _, kind = name.rpartition('_')
        of_images[name].append((kind, row[columns['runs']].strip()))
        classes.add(kind)
    names = Names('background')
    train_ids = {}
    for kind in sorted(classes, key=lambda kind: (not kind.isdigit(), kind.zfill(9))):
        text = f'class {kind}' if kind.isdigit() else kind
        train_ids[kind] = names.add(text or 'foreground')
    pictures, samples = lookup.Pictures(root), []
    for name, runs in of_images.items():
        drawn = []
        for kind, text in runs:
            if text.lower() not in ('', '-1', 'nan'):
                drawn.append(marks.Mark(train_ids[kind], 'kaggle', text))
        image = pictures.get(name, path, split=lookup.split_of(path, root))
        if not image:
            continue
        split = lookup.split_of(os.path.dirname(image), root)
        draw = functools.partial(marks.draw, marks=drawn)
        samples.append(Sample(image, split, path, draw, upright=False))
    return Source(samples, names.names, lines + pictures.lines())


def read_rows(path):
    """Return the rows of a CSV file, and the numbers of its columns: id, runs, class, joined."""
    csv.field_size_limit(LARGEST)
    try:
        with open(path, encoding='utf-8-sig', newline='') as f:
            between = recognise.delimiter(f.readline())
            f.seek(0)
            head, *rows = [row for row in csv.reader(f, delimiter=between) if row]
    except (OSError, ValueError, csv.Error) as e:
        raise UserError(f'{path}: this CSV file cannot be read ({e}); fetch it again') from None
    words = [recognise.plain(word) for word in head]
    joined = [word for word in words if word in ('imageidclassid', 'imagelabel')]
    columns = {'joined': bool(joined), 'class': column(words, CLASSES)}
    columns['id'] = column(words, (*joined, *IDS))
    columns['runs'] = column(words, recognise.RUNS)
    if columns['id'] is None or columns['runs'] is None:
        raise UserError(
            f'{path}: its columns are {", ".join(head)}; name that of the pictures ImageId and '
            'that of the run lengths EncodedPixels'
        )
    for number, row in enumerate(rows, 2):
        if len(row) != len(head):
            raise UserError(
                f'{path}, row {number}: {len(row)} fields, not {len(head)}; fetch it again'
            )
    return rows, columns


def column(words, names):
    """Return the number of the first of these columns that is there, or None."""
    return next((words.index(name) for name in names if name in words), None)
