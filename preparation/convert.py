"""Convert data sets as they come: labels to a form that is read faster, and what no loader reads.

Every folder is written completely or not at all, and not again where it is there.
"""

import collections
import contextlib
import functools
import json
import math
import os
from typing import NamedTuple

import numpy as np
import scipy.io
from PIL import Image

import dataset
import settings
from datasets import layouts, table
from preparation import archives
from preparation.check import Absent, open_split
from utils.config import UserError
from utils.distributed import World
from utils.files import atomic_write

NYUV2 = 'nyu_depth_v2_labeled.mat', 'labels40.mat', 'splits.mat'
MANY = 1000  # labelled pixels of an image of COCO that is used to train on VOC's classes


def complete_split(split):
    """Return the Dataset of a split, None if it is not there; UserError if files are missing."""
    try:
        data, missing = open_split(split)
    except Absent:
        return None
    if missing:
        raise UserError(
            f'{missing[0]}: this file is missing, {len(missing)} are; unpack the whole archive'
        )
    return data


@contextlib.contextmanager
def new_folder(folder):
    """Give a new folder that becomes `folder` if all goes well, and is removed if not."""
    with archives.staging(os.path.dirname(folder)) as work:
        new = os.path.join(work, 'new')
        os.mkdir(new)
        yield new
        os.rename(new, folder)


def write_lines(path, lines):
    with atomic_write(path) as f:
        f.write(''.join(line + '\n' for line in lines).encode())


def save_png(path, pixels, colours=None, shift=0):
    """Write a PNG file; with colours, one of a palette: those of the values from `shift` on."""
    picture = Image.fromarray(pixels)
    if colours is not None:
        palette = np.full((256, 3), (224, 224, 192), np.uint8)
        palette[:shift] = 0
        palette[shift : shift + len(colours)] = colours
        picture.putpalette(palette.tobytes())
    try:
        picture.save(path)
    except OSError as e:
        raise UserError(f'{path}: could not be written ({e.strerror}); is the disk full?') from None


def write_labels(folder, splits, shift=0):
    """Write the labels of Datasets to `folder` as palette PNG of train id + `shift`.

    Void is 255, or 0 with a shift.
    """
    with new_folder(folder) as work:
        for data in splits:
            write = functools.partial(write_label, data, work, shift)
            title = f'{os.path.basename(folder)}, {data.split}'
            for _ in dataset.parallel_map(write, range(len(data)), title):
                pass
    print(f'{folder}: {sum(map(len, splits)):,} labels')


def write_label(data, folder, shift, index):
    image, label = data.pairs[index]
    ids = data.label_map.read(label)
    void = 0 if shift else 255
    ids = np.where(ids < len(data.classes.names), ids + shift, void).astype(np.uint8)
    save_png(
        os.path.join(folder, layouts.bare_name(image) + '.png'), ids, data.classes.colours, shift
    )


# ------------------------------------------------------------------------- VOC and PASCAL Context


def trainaug(root, count=None):
    """Make VOC's SegmentationClassAug/ and trainaug.txt: the labels of VOC and SBD together.

    UserError unless there are `count` (10,582) images.
    """
    count = count or table.DATASETS['voc'].splits['trainaug']
    label_dir = os.path.join(root, 'SegmentationClassAug')
    lists = os.path.join(root, 'ImageSets', 'Segmentation')
    path = os.path.join(lists, 'trainaug.txt')
    if os.path.isdir(label_dir):
        data, folder = None, label_dir
        labels = layouts.find_files(label_dir, ('.png',))
        names = sorted(set(labels) - set(layouts.read_names(os.path.join(lists, 'val.txt'))))
    else:
        data, folder = complete_split('trainaug'), root
        if data is None:
            raise UserError(
                f'{root}: trainaug needs the labels of SBD: benchmark.tgz, unpacked to '
                'benchmark_RELEASE/dataset/ in DATA_ROOT'
            )
        names = [layouts.bare_name(image) for image, _ in data.pairs]
    if len(names) != count:
        raise UserError(
            f'{folder}: trainaug has {len(names):,} images, not {count:,}; is SBD complete, and '
            'are the lists those of VOC 2012 and SBD?'
        )
    if not os.path.exists(path):
        write_lines(path, names)
    if data:
        write_labels(label_dir, [data])
    print(f'{path}: {count:,} images, as it should be')


def context(root):
    """Make PASCAL Context's SegmentationClassContext/: PNG of train id + 1, 0 = none of the 59."""
    folder = os.path.join(root, 'SegmentationClassContext')
    if not os.path.isdir(folder):
        splits = [complete_split('train'), complete_split('val')]
        write_labels(folder, [data for data in splits if data], shift=1)


# ------------------------------------------------------------------------------------------ COCO


class Instance(NamedTuple):
    """An object of COCO."""

    crowd: int  # 1: a group of objects, which is void
    area: float  # in pixels
    train_id: int
    shape: list | dict  # polygons [x, y, x, y, ...], or run lengths


class Picture(NamedTuple):
    """An image of COCO and its objects."""

    name: str
    height: int
    width: int
    instances: list


def panoptic(root):
    """Make panoptic_stuff_SPLIT2017/ of COCO panoptic: PNG of train ids."""
    for split in ('train', 'val'):
        folder = os.path.join(root, f'panoptic_stuff_{split}2017')
        data = None if os.path.isdir(folder) else complete_split(split)
        if data:
            write_labels(folder, [data])


def coco_voc(root):
    """Make coco_voc_SPLIT2017/ (PNG of train ids in VOC's classes) and a list to train on.

    The labels are drawn from the instances, unless COCO-Stuff's labels are there. The list,
    coco_voc_train2017.txt, names the images with MANY labelled pixels.
    """
    stuff = layouts.first(root, 'stuffthingmaps_trainval2017', 'stuffthingmaps')
    if not os.path.isdir(stuff):
        for split in ('train', 'val'):
            folder = os.path.join(root, f'coco_voc_{split}2017')
            path = os.path.join(root, f'annotations/instances_{split}2017.json')
            _, images = layouts.coco_images(root, split)
            if images and os.path.isfile(path) and not os.path.isdir(folder):
                draw_instances(path, folder)
    path = os.path.join(root, 'coco_voc_train2017.txt')
    data = None if os.path.exists(path) else complete_split('train')
    if data:
        task = functools.partial(count_labelled, data)
        counts = dataset.parallel_map(task, range(len(data)), os.path.basename(path))
        names = []
        for (image, _), count in zip(data.pairs, counts, strict=True):
            if count >= MANY:
                names.append(layouts.bare_name(image))
        write_lines(path, names)
        print(f'{path}: {len(names):,} of {len(data):,} images have {MANY:,} labelled pixels')


def count_labelled(data, index):
    """Count the pixels of a label that are neither void nor background."""
    ids = data.label_map.read(data.pairs[index][1])
    return int(((ids > 0) & (ids < len(data.classes.names))).sum())


def draw_instances(path, folder):
    """Draw the instances of a COCO JSON as PNG of train ids."""
    classes = dataset.classes()
    pictures = read_instances(path, classes)
    with new_folder(folder) as work:
        task = functools.partial(draw_picture, pictures, classes.colours, work, path)
        for _ in dataset.parallel_map(task, range(len(pictures)), os.path.basename(folder)):
            pass
    print(f'{folder}: {len(pictures):,} labels')


def read_instances(path, classes):
    """Return the Pictures of a COCO JSON, with the instances of `classes`."""
    train_ids = {}
    for train_id, raw in enumerate(classes.raw):
        if raw is not None:
            train_ids[raw + 1] = train_id  # COCO's own ids count from 1
    try:
        with open(path, encoding='utf-8') as f:
            content = json.load(f)
        instances = collections.defaultdict(list)
        for one in content['annotations']:
            if one['category_id'] in train_ids:
                train_id = train_ids[one['category_id']]
                instance = Instance(one['iscrowd'], one['area'], train_id, one['segmentation'])
                instances[one['image_id']].append(instance)
        pictures = {}
        for one in content['images']:
            name, h, w = layouts.bare_name(one['file_name']), one['height'], one['width']
            if name in pictures or not name.strip('.'):
                raise ValueError(f'the name {name!r} of two images, or of none')
            if type(h) is not int or type(w) is not int or min(h, w) < 1:
                raise ValueError(f'{name}: no size')
            if h * w > settings.MAX_PIXELS:
                raise ValueError(f'{name}: {h} x {w} pixels, more than MAX_PIXELS')
            pictures[name] = Picture(name, h, w, instances[one['id']])
        return list(pictures.values())
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as e:
        raise UserError(
            f'{path}: this is no instances JSON of COCO, or only part of one '
            f'({type(e).__name__}: {e}); unpack it again'
        ) from None


def draw_picture(pictures, colours, folder, path, index):
    picture = pictures[index]
    try:
        save_png(os.path.join(folder, picture.name + '.png'), draw(picture), colours)
    except (ValueError, TypeError, LookupError, ArithmeticError) as e:
        raise UserError(
            f'{path}: the instances of image {picture.name} cannot be drawn '
            f'({type(e).__name__}: {e})'
        ) from None


def draw(picture):
    """Return the train ids (h, w) of a Picture: smaller instances lie over larger ones.

    Crowds are void and lie below all.
    """
    label = np.zeros((picture.height, picture.width), np.uint8)
    for one in sorted(picture.instances, key=lambda one: (-one.crowd, -one.area)):
        value = 255 if one.crowd else one.train_id
        if isinstance(one.shape, dict):
            if tuple(one.shape['size']) != label.shape:
                raise ValueError('run lengths of another size')
            label[run_lengths(one.shape)] = value
            continue
        for polygon in one.shape:
            corners = np.reshape(np.array(polygon, float), (-1, 2))
            if not np.isfinite(corners).all():
                raise ValueError('a corner of a polygon that is no number')
            fill(label, corners, value)
    return label


def fill(label, polygon, value):
    """Set the pixels whose centres lie in a polygon (n, 2) of x, y; tell whether there are any.

    (0, 0) covers 0 to 1; inside means that an odd number of edges cross the row at the left of it.
    """
    h, w = label.shape
    crossings = np.zeros((h, w + 1), np.uint8)
    for (x, y), (u, v) in zip(polygon, np.roll(polygon, -1, 0), strict=True):
        first, last = np.ceil(np.array(sorted((y, v))) - 0.5).clip(0, h).astype(int)
        if first < last:
            rows = np.arange(first, last)
            crossed = x + (rows + 0.5 - y) * (u - x) / (v - y)
            columns = np.ceil(crossed - 0.5).clip(0, w).astype(int)
            crossings[rows, columns] += 1
    inside = np.bitwise_xor.accumulate(crossings & 1, 1)[:, :w]
    label[inside == 1] = value
    return inside.any()


def run_lengths(shape):
    """Return the mask (h, w) of COCO's run lengths {'size': [h, w], 'counts': list or text}.

    Zeros come first; runs go down the columns.
    """
    h, w = shape['size']
    counts = shape['counts']
    if isinstance(counts, str):
        counts = decode_counts(counts)
    if min(counts, default=0) < 0 or sum(counts) != h * w:
        raise ValueError(f'run lengths that are not of {h} x {w} pixels')
    ones = np.arange(len(counts)) % 2 == 1
    return np.repeat(ones, counts).reshape(w, h).T


def decode_counts(text):
    """Return the run lengths that COCO's compressed text stands for.

    A number is a sequence of groups of 5 bits, the lowest first, each in a character whose sixth
    bit says that more follow. From the fourth on, it is the difference from the last but one.
    """
    counts = []
    value = bits = 0
    for character in text:
        code = ord(character) - 48
        value |= (code & 31) << bits
        bits += 5
        if bits > 60:
            raise ValueError('run lengths of more than 60 bits')
        if code & 32:
            continue
        if code & 16:  # the sign
            value -= 1 << bits
        if len(counts) > 2:
            value += counts[-2]
        counts.append(value)
        value = bits = 0
    return counts


# ----------------------------------------------------------------------------------------- NYUv2


def import_h5py():
    """Return the package that reads HDF5 files; UserError if it is not installed."""
    try:
        import h5py
    except ImportError:
        raise UserError(
            f'{NYUV2[0]} is an HDF5 file, which needs the package h5py: pip install h5py, '
            'then give the same command again'
        ) from None
    return h5py


@contextlib.contextmanager
def reading(path):
    """Raise UserError about a file of NYUv2 if it cannot be read."""
    try:
        yield
    except FileNotFoundError:
        raise UserError(f'{path}: this file is missing') from None
    except (OSError, ValueError, KeyError, NotImplementedError, TypeError) as e:
        raise UserError(
            f'{path}: this is not the file of NYUv2 by that name, or only part of it '
            f'({type(e).__name__}: {e}); fetch it again'
        ) from None


def read_mat(path, name):
    """Return an array of a MATLAB file; ValueError, before it is unpacked, if of absurd size."""
    for known, shape, _ in scipy.io.whosmat(path):
        if known == name and math.prod(shape) > 2**30:
            raise ValueError(f'{name} has {math.prod(shape):,} values')
    return scipy.io.loadmat(path, variable_names=[name])[name]


def nyuv2(root):
    """Make NYUv2's images/ labels40/ train.txt val.txt from the three files of its makers."""
    if archives.contains(root, ('images', 'labels40', 'train.txt', 'val.txt')):
        return
    h5py = import_h5py()
    data_root = os.path.abspath(settings.DATA_ROOT)
    paths = [layouts.first(root, name, os.path.join(data_root, name)) for name in NYUV2]
    with reading(paths[2]):
        numbers = {}
        for part, name in (('train', 'trainNdxs'), ('val', 'testNdxs')):
            numbers[part] = np.sort(read_mat(paths[2], name).ravel().astype(int)).tolist()
        first, last = min(map(min, numbers.values())), max(map(max, numbers.values()))
        if first < 1:
            raise ValueError(f'the number {first}, but they count from 1')
    with reading(paths[1]):
        labels = read_mat(paths[1], 'labels40').astype(np.uint8)  # (h, w, n)
    with reading(paths[0]), h5py.File(paths[0]) as file, archives.staging(root) as work:
        images = file['images']  # (n, c, w, h)
        n, _, w, h = images.shape
        if labels.shape != (h, w, n) or last > n:
            raise UserError(
                f'{paths[1]} holds labels {labels.shape} (height, width, number), {paths[0]} '
                f'images {(h, w, n)}, {paths[2]} numbers up to {last}: they do not belong together'
            )
        write_nyuv2(work, images, labels)
        for part, of_part in numbers.items():
            write_lines(os.path.join(work, part + '.txt'), [f'{i:04d}' for i in of_part])
        archives.add(work, root)
    print(f'{root}: {labels.shape[2]:,} images with labels')


def write_nyuv2(folder, images, labels):
    """Write images (n, c, w, h) and labels (h, w, n) as images/0001.png, labels40/0001.png, ..."""
    colours = dataset.classes().colours
    image_dir, label_dir = os.path.join(folder, 'images'), os.path.join(folder, 'labels40')
    os.mkdir(image_dir)
    os.mkdir(label_dir)
    with World([]).bar(total=len(images), desc='nyuv2') as bar:
        for i in range(len(images)):
            name = f'{i + 1:04d}.png'
            image = np.ascontiguousarray(images[i].transpose(2, 1, 0))
            label = np.ascontiguousarray(labels[..., i])
            save_png(os.path.join(image_dir, name), image)
            save_png(os.path.join(label_dir, name), label, colours, shift=1)
            bar.update()
