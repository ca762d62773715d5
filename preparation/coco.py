"""COCO's JSON of instances, as CVAT, Roboflow, Label Studio and others write it, too."""

import functools
import importlib.util
import os
from typing import NamedTuple

import numpy as np

from preparation import lookup, marks
from preparation.assemble import Names, Sample, Source
from preparation.convert import decode_counts
from utils.config import UserError


class Object(NamedTuple):
    """An object, in the order in which objects are drawn: crowds first, then larger ones first."""

    crowd: bool
    area: float  # in pixels
    mark: marks.Mark


def read(root):
    """Return the Source of all COCO files of instances in a folder.

    A file's split is what its name or folder says. Crowds are void and lie below all.
    """
    pictures, names = lookup.Pictures(root), Names('background')
    samples, lines, boxes, has_instances = [], [], 0, False
    for path in sorted(lookup.files_of(root, 'coco'), key=is_of_keypoints):
        content = lookup.read_json(path)
        try:
            of_keypoints = any('keypoints' in one for one in content.get('categories', ()))
            reason = why_left_out(content, of_keypoints and has_instances)
            if reason:
                lines.append(f'{path}: it has {reason} and is left out')
                continue
            has_instances |= not of_keypoints
            of_file, of_boxes = read_file(content, path, root, pictures, names)
        except lookup.BROKEN as e:
            raise UserError(
                f'{path}: this is no COCO file of instances, or only part of one '
                f'({type(e).__name__}: {e}); export it again'
            ) from None
        samples += of_file
        boxes += of_boxes
    if lines and not samples and not pictures.gone:
        raise UserError(f'{lines[0]}; export instances')
    if boxes:
        lines.append(f'{boxes:,} objects have a box and no outline, and are not drawn')
    rule = 'a pixel belongs to a polygon if its centre lies in it'
    if has_pycocotools():
        rule = 'pycocotools draws the polygons'
    return Source(samples, names.names, [*lines, rule, *pictures.lines()])


def is_of_keypoints(path):
    return 'keypoints' in os.path.basename(path)


def why_left_out(content, is_second):
    """Return what a file of COCO has, or lacks, that is not read; '' if it is read.

    is_second  whether its objects are those of another file once more, with keypoints
    """
    for key in ('categories', 'annotations'):
        if key not in content:
            return f'no {key}'
    if any('segments_info' in one for one in content['annotations'][:1]):
        return 'panoptic segments'
    return 'keypoints beside the instances of another file' if is_second else ''


def has_pycocotools():
    return importlib.util.find_spec('pycocotools') is not None


def read_file(content, path, root, pictures, names):
    """Return the Samples of a COCO file, and how many objects have no outline."""
    train_ids = category_ids(content, names)
    objects, boxes = {}, 0
    for one in content['annotations']:
        if one['category_id'] not in train_ids:
            number = one['category_id']
            raise UserError(
                f'{path}: an object of the category {number}, which is not named; add it to the '
                'categories there'
            )
        try:
            item = read_object(one, train_ids[one['category_id']])
        except lookup.BROKEN as e:
            raise UserError(
                f'{path}: the outline of the object {one.get("id", "without an id")} of the image '
                f'{one["image_id"]} is none ({e}); mend or remove it'
            ) from None
        boxes += item is None
        if item:
            objects.setdefault(one['image_id'], []).append(item)
    samples, split, ids = [], lookup.split_of(path, root), set()
    ids_by_name = {}
    for image in content['images']:
        name = image['file_name']
        if image['id'] in ids:
            raise ValueError(f'two images of the id {image["id"]}')
        ids.add(image['id'])
        if ids_by_name.setdefault(name, image['id']) != image['id']:
            raise UserError(
                f'{path}: the images {ids_by_name[name]} and {image["id"]} have one file_name, '
                f'{name!r}; remove one of them, or give it its own'
            )
        ordered = sorted(objects.pop(image['id'], []), key=lambda one: (-one.crowd, -one.area))
        draw = functools.partial(draw_marks, marks_of=[one.mark for one in ordered])
        file = pictures.get(name, path, os.path.dirname(path), split)
        if file:
            samples.append(Sample(file, split, path, draw, size_of(image)))
    if objects:
        raise UserError(
            f'{path}: objects of the image {next(iter(objects))}, which is not named; '
            'add it to the images there, or remove them'
        )
    return samples, boxes


def size_of(image):
    """Return the size (h, w) of an image, None if it is not given; ValueError if it is no size."""
    size = image.get('height'), image.get('width')
    if size == (None, None):
        return None
    if any(type(side) not in (int, float) or side != int(side) for side in size):
        raise ValueError(f'{image["file_name"]}: no size')
    return int(size[0]), int(size[1])


def category_ids(content, names):
    """Return {category id: train id}; a category that only stands above others is left out."""
    used = {one.get('category_id') for one in content['annotations']}
    above = {one.get('supercategory') for one in content['categories']}
    train_ids = {}
    for one in sorted(content['categories'], key=lambda one: one['id']):
        if one['id'] in train_ids:
            raise ValueError(f'two categories of the id {one["id"]}')
        if one['id'] in used or one['name'] not in above - {one.get('supercategory')}:
            train_ids[one['id']] = names.add(one['name'])
    return train_ids


def read_object(one, train_id):
    """Return the Object of an annotation; None if it has no outline."""
    shape, crowd = one.get('segmentation'), bool(one.get('iscrowd', 0))
    if not shape:
        return None
    value = marks.Mark(255 if crowd else train_id, 'runs', shape)
    if isinstance(shape, dict):
        counts = shape['counts']
        counts = decode_counts(counts) if isinstance(counts, str) else counts
        return Object(crowd, sum(counts[1::2]), value)
    if not isinstance(shape[0], list):  # one outline, not a list of them
        shape = [shape]
    outlines = [np.array(polygon, float).reshape(-1, 2) for polygon in shape]
    return Object(crowd, marks.area(outlines), value._replace(kind='polygons', data=outlines))


def draw_marks(size, marks_of):
    """Return the label (h, w) and notes of Marks; pycocotools draws polygons where it is there."""
    if has_pycocotools():
        marks_of = [as_runs(mark, size) for mark in marks_of]
    return marks.draw(size, marks_of)


def as_runs(mark, size):
    """Return a Mark of polygons as one of run lengths, as pycocotools draws it."""
    if mark.kind != 'polygons':
        return mark
    from pycocotools import mask

    flat = [outline.ravel().tolist() for outline in mark.data if len(outline) > 2]
    if not flat:
        return mark
    runs = mask.merge(mask.frPyObjects(flat, *size))
    return mark._replace(kind='runs', data={'size': size, 'counts': runs['counts'].decode()})
