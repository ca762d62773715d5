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
    samples, lines, boxes = [], [], 0
    for path in lookup.files_of(root, 'coco'):
        content = lookup.read_json(path)
        if 'categories' not in content:
            lines.append(f'{path}: it has no categories and is left out')
            continue
        try:
            of_file, of_boxes = read_file(content, path, root, pictures, names)
        except lookup.BROKEN as e:
            raise UserError(
                f'{path}: this is no COCO file of instances, or only part of one '
                f'({type(e).__name__}: {e}); export it again'
            ) from None
        samples += of_file
        boxes += of_boxes
    if boxes:
        lines.append(f'{boxes:,} objects have a box and no outline, and are not drawn')
    rule = 'a pixel belongs to a polygon if its centre lies in it'
    if has_pycocotools():
        rule = 'pycocotools draws the polygons'
    return Source(samples, names.names, [*lines, rule, *pictures.unused()])


def has_pycocotools():
    return importlib.util.find_spec('pycocotools') is not None


def read_file(content, path, root, pictures, names):
    """Return the Samples of a COCO file, and how many objects have no outline."""
    train_ids = category_ids(content, names)
    objects, boxes = {}, 0
    for one in content['annotations']:
        if 'segments_info' in one:
            raise UserError(f'{path}: this file is of panoptic segmentation; export instances')
        if one['category_id'] not in train_ids:
            number = one['category_id']
            raise UserError(
                f'{path}: an object of the category {number}, which is not named; add it to the '
                'categories there'
            )
        item = read_object(one, train_ids[one['category_id']])
        boxes += item is None
        if item:
            objects.setdefault(one['image_id'], []).append(item)
    samples, split, ids = [], lookup.split_of(path, root), set()
    for image in content['images']:
        size = image.get('height'), image.get('width')
        if size == (None, None):
            size = None
        elif any(type(side) is not int for side in size):
            raise ValueError(f'{image["file_name"]}: no size')
        if image['id'] in ids:
            raise ValueError(f'two images of the id {image["id"]}')
        ids.add(image['id'])
        ordered = sorted(objects.pop(image['id'], []), key=lambda one: (-one.crowd, -one.area))
        draw = functools.partial(draw_marks, marks_of=[one.mark for one in ordered])
        file = pictures.find(image['file_name'], path, os.path.dirname(path), split)
        samples.append(Sample(file, split, path, draw, size))
    if objects:
        raise UserError(
            f'{path}: objects of the image {next(iter(objects))}, which is not named; '
            'add it to the images there, or remove them'
        )
    return samples, boxes


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
