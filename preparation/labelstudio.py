"""Label Studio: its JSON with brushes and outlines, and the masks of "Brush labels to PNG"."""

import collections
import functools
import glob
import os
import re
import urllib.parse

import numpy as np

from preparation import lookup, marks
from preparation.assemble import Names, Sample, Source, read_mask
from utils.config import UserError

KINDS = 'brushlabels', 'polygonlabels', 'rectanglelabels', 'ellipselabels', 'labels'
MASK = re.compile(r'task-(\d+)-annotation-(\d+)-by-([^-]*)-(.+)-(\d+)\.png')
UPLOAD = re.compile(r'[0-9a-f]{8}-(.+)')  # what an upload puts before the name of a file


def read(root):
    """Return the Source of an export: JSON or JSON-MIN, and masks as PNG files if there are any.

    The masks name tasks, the JSON says which picture a task is of. Of several annotations of a task
    the last one counts. Later objects lie over earlier ones.
    """
    masks = find_masks(root)
    jsons = [path for path in lookup.files_of(root, 'labelstudio') if path.endswith('.json')]
    if not jsons:
        raise UserError(
            f'{root}: the names of masks such as {os.path.basename(next(iter(masks.values()))[0])} '
            'say the task, not the picture; export JSON, too, and put it there'
        )
    names, pictures = Names('background'), lookup.Pictures(root, uploaded)
    samples, unlabelled, ignored = [], 0, collections.Counter()
    for path in jsons:
        content = lookup.read_json(path)
        try:
            for task in content:
                sample = read_task(task, path, root, masks, pictures, names, ignored)
                if sample is None:
                    unlabelled += 1
                elif sample.image:
                    samples.append(sample)
        except lookup.BROKEN as e:
            raise UserError(
                f'{path}: this is no export of Label Studio, or only part of one '
                f'({type(e).__name__}: {e}); export it again'
            ) from None
    lines = []
    if unlabelled:
        lines.append(f'{unlabelled:,} tasks are not labelled, and left out')
    for kind, count in sorted(ignored.items()):
        lines.append(f'{count:,} regions are a {kind} without a label of an area: not drawn')
    return Source(samples, names.names, lines + pictures.lines())


def find_masks(root):
    """Return {task: paths of its masks} of the last annotation of each task."""
    of_tasks = {}
    for path in glob.glob(os.path.join(glob.escape(root), '**', 'task-*.png'), recursive=True):
        match = MASK.fullmatch(os.path.basename(path))
        if match:
            task, annotation = int(match[1]), int(match[2])
            of_tasks.setdefault(task, {}).setdefault(annotation, []).append(path)
    return {task: sorted(by_id[max(by_id)], key=order) for task, by_id in of_tasks.items()}


def order(path):
    match = MASK.fullmatch(os.path.basename(path))
    return int(match[5]), match[4]


def read_task(task, path, root, masks, pictures, names, ignored):
    """Return the Sample of a task, or None if it is not labelled; regions without a label count.

    Its image is None if there is no such file.
    """
    data = task.get('data', task)
    url = data.get('image') or next((one for one in data.values() if is_picture(one)), None)
    if not isinstance(url, str):
        raise UserError(f'{path}: the task {task.get("id")} has no picture; remove it there')
    results = results_of(task)
    if results is None and task['id'] not in masks:
        return None
    areas = [one for one in results or () if labels_of(one)]
    named = {one.get('id') for one in areas}
    for one in results or ():
        if is_region(one) and not labels_of(one) and one.get('id') not in named - {None}:
            ignored[one.get('type', 'region')] += 1
    if any(one.get('image_rotation') for one in areas):
        raise UserError(
            f'{path}: the picture of the task {task["id"]} was turned while it was labelled; turn '
            'it back in the tool and export again'
        )
    drawn = [as_mark(one, names.add(labels_of(one)[0])) for one in areas]
    sizes = {size_of(one) for one in areas}
    if len(sizes) > 1:
        raise UserError(
            f'{path}: the areas of the task {task["id"]} are of pictures of two sizes; make a task '
            'of each picture'
        )
    draw, size = functools.partial(marks.draw, marks=drawn), next(iter(sizes), None)
    if task['id'] in masks:
        layers = [(names.add(label_of(file, areas)), file) for file in masks[task['id']]]
        draw = functools.partial(draw_layers, layers=layers)
    image = pictures.get(picture_of(url, pictures), path)
    return Sample(image, lookup.split_of(os.path.dirname(image or root), root), path, draw, size)


def uploaded(name):
    """Return what a file's name and the one after its upload, which has no blanks, share."""
    name = urllib.parse.unquote(name).strip().replace(' ', '_')
    return lookup.fold(re.sub(r'[^-\w.]', '', name))


def is_picture(value):
    return isinstance(value, str) and value.lower().endswith(lookup.IMAGES)


def picture_of(url, pictures):
    """Return the path of the picture behind the address of a task, as far as it is known."""
    address = urllib.parse.urlsplit(url)
    query = urllib.parse.parse_qs(address.query)
    path = query.get('d', [urllib.parse.unquote(address.path)])[0]
    folder, _, name = path.rpartition('/')
    upload = UPLOAD.fullmatch(name)
    if upload and not pictures.by_stem.get(os.path.splitext(name)[0]):
        name = upload[1]
    return f'{folder}/{name}'.lstrip('/') if name else url


def results_of(task):
    """Return the results of the last annotation of a task in either JSON, or None."""
    annotations = task.get('annotations', task.get('completions'))
    if annotations is None:  # JSON-MIN: a key per tag
        results = []
        for value in task.values():
            if isinstance(value, list) and value and isinstance(value[0], dict):
                results += value
        return results or None
    annotations = [one for one in annotations if not one.get('was_cancelled')]
    if not annotations:
        return None
    return max(annotations, key=lambda one: (one.get('updated_at') or '', one['id']))['result']


def labels_of(one):
    """Return the labels of a result of any kind, of which the first counts; () if it is no area."""
    value = one.get('value', one)
    return next((value[kind] for kind in KINDS if value.get(kind)), ())


def is_region(one):
    """Tell whether a result has a place in the picture."""
    return not {'x', 'points', 'rle', 'vertices'}.isdisjoint(one.get('value', one))


def size_of(one):
    """Return the size (h, w) of the picture of a result."""
    return int(one['original_height']), int(one['original_width'])


def as_mark(one, train_id):
    """Return the Mark of an area; its numbers are percent of the width and height."""
    value, (h, w) = one.get('value', one), size_of(one)
    if 'rle' in value:
        return marks.Mark(train_id, 'brush', value['rle'])
    if 'points' in value:
        points = np.array(value['points'], float).reshape(-1, 2) * (w / 100, h / 100)
        return marks.Mark(train_id, 'polygons', [points])
    x, y, angle = (
        value['x'] * w / 100,
        value['y'] * h / 100,
        value.get('rotation', one.get('rotation')) or 0,
    )
    if 'radiusX' in value:
        radii = value['radiusX'] * w / 100, value['radiusY'] * h / 100
        return marks.Mark(train_id, 'ellipse', (x, y, *radii, angle))
    width, height = value['width'] * w / 100, value['height'] * h / 100
    corners = np.array([(0, 0), (width, 0), (width, height), (0, height)])
    cos, sin = np.cos(np.deg2rad(angle)), np.sin(np.deg2rad(angle))
    turned = corners @ np.array([(cos, sin), (-sin, cos)])  # around the upper left corner
    return marks.Mark(train_id, 'polygons', [turned + (x, y)])


def label_of(path, areas):
    """Return the class of a mask named task-T-annotation-A-by-B-TAG-LABEL-N.png.

    TAG and LABEL may hold hyphens: the label of an area of the task is known as a whole.
    """
    text = MASK.fullmatch(os.path.basename(path))[4]
    known = set()
    for one in areas:
        known.update(labels_of(one))
    known = [label for label in known if text == label or text.endswith('-' + label)]
    return max(known, key=len, default=text.partition('-')[2] or text)


def draw_layers(size, layers):
    """Return the label of masks [(train id, path)], whose pixels above 0 count, and no notes."""
    label = None
    for train_id, path in layers:
        values, _ = read_mask(path)
        label = np.zeros(values.shape[:2], np.uint8) if label is None else label
        label[values > 0] = train_id
    return label, []
