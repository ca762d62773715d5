"""What prepare.py makes of data sets as they come: labels in a form that is read faster, and what cannot be read at all before.

Every folder is written whole or not at all, and not again where it is there.
"""

import contextlib
import functools
import json
import os

import numpy as np
import scipy.io
from PIL import Image

import dataset
import layouts
import settings
from launch import Place
from preparation import fetch
from settings import UserError

NYUV2 = 'nyu_depth_v2_labeled.mat', 'labels40.mat', 'splits.mat'
MANY = 1000  # labelled pixels of an image of COCO that is used to train on VOC's classes


class Absent(Exception):
    """A split is not there; the text says why."""


def find(split):
    """The Dataset of the pairs of `split` that are there, and the paths (without ending) of files that are missing. Absent if there are no images
    or no list of them."""
    missing, strict = [], layouts.pair

    def lenient(wanted, images, labels, image_folder, label_folder):
        wanted = sorted({*images, *(labels or ())}) if wanted is None else wanted
        if not images:
            raise Absent(f'no images in {image_folder}')
        for found, folder in ((images, image_folder), (labels, label_folder)):
            missing.extend(
                os.path.join(folder, n) for n in wanted if found is not None and n not in found
            )
        known = [n for n in wanted if n in images and (labels is None or n in labels)]
        return [(images[n], labels[n] if labels is not None else None) for n in known]

    layouts.pair = lenient
    try:
        return dataset.Dataset(split, train=False), missing
    except UserError as e:
        path = str(e).partition(': ')[0]
        if path.endswith(('.txt', '.json')) and not os.path.exists(path):
            raise Absent(f'there is no {path}') from None
        if missing:
            raise UserError(
                f'{missing[0]}: this file is missing, and {len(missing) - 1} others; no pair of {split} is whole'
            ) from None
        raise
    finally:
        layouts.pair = strict


def whole_split(split):
    """The Dataset of a split, None if it is not there; UserError if files are missing."""
    try:
        data, missing = find(split)
    except Absent:
        return None
    if missing:
        raise UserError(
            f'{missing[0]}: this file is missing, {len(missing)} are; unpack the whole archive'
        )
    return data


@contextlib.contextmanager
def written(folder):
    """A new folder that becomes `folder` if all goes well, and else is removed."""
    with fetch.workshop(os.path.dirname(folder)) as work:
        os.mkdir(os.path.join(work, 'new'))
        yield os.path.join(work, 'new')
        os.rename(os.path.join(work, 'new'), folder)


def write_lines(path, lines):
    with open(path + '.part', 'w') as f:
        f.writelines(line + '\n' for line in lines)
    os.replace(path + '.part', path)


def save(path, pixels, colours=None, shift=0):
    """A PNG file; where there are colours, those of the values from `shift` on."""
    picture = Image.fromarray(pixels)
    if colours is not None:
        palette = np.full((256, 3), (224, 224, 192), np.uint8)
        palette[:shift], palette[shift : shift + len(colours)] = 0, colours
        picture.putpalette(palette.tobytes())
    try:
        picture.save(path)
    except OSError as e:
        raise UserError(f'{path}: could not be written ({e.strerror}); is the disk full?') from None


def stem(path):
    return os.path.splitext(os.path.basename(path))[0]


def write_labels(folder, splits, shift=0):
    """The labels of Datasets as palette PNG of train id + `shift` in `folder`; void is 255, or 0 with a shift."""
    with written(folder) as work:
        for data in splits:
            for _ in dataset.spread(
                functools.partial(write_label, data, work, shift),
                range(len(data)),
                f'{os.path.basename(folder)}, {data.split}',
            ):
                pass
    print(f'{folder}: {sum(map(len, splits)):,} labels')


def write_label(data, folder, shift, index):
    image, label = data.pairs[index]
    ids = data.legend.read(label)
    ids = np.where(ids < len(data.classes.names), ids + shift, 0 if shift else 255).astype(np.uint8)
    save(os.path.join(folder, stem(image) + '.png'), ids, data.classes.colours, shift)


# ------------------------------------------------------------------------------------------------ one for each data set


def trainaug(root, count=None):
    """VOC: SegmentationClassAug/ and trainaug.txt, the labels of VOC and SBD; UserError unless there are `count` (10,582) images."""
    count = count or layouts.DATASETS['voc'].splits['trainaug']
    ready, lists = (
        os.path.join(root, 'SegmentationClassAug'),
        os.path.join(root, 'ImageSets', 'Segmentation'),
    )
    chosen = os.path.join(lists, 'trainaug.txt')
    if os.path.isdir(ready):
        names = sorted(
            {*layouts.listing(ready, ('.png',))}
            - {*layouts.names(os.path.join(lists, 'val.txt'), ())}
        )
    else:
        data = whole_split('trainaug')
        if data is None:
            raise UserError(
                f'{root}: trainaug needs the labels of SBD: benchmark.tgz, unpacked to benchmark_RELEASE/dataset/ in DATA_ROOT'
            )
        names = [stem(image) for image, _ in data.pairs]
    if len(names) != count:
        raise UserError(
            f'{ready if os.path.isdir(ready) else root}: trainaug comes to {len(names):,} images, not {count:,}; is SBD whole, and are '
            'the lists those of VOC 2012 and SBD?'
        )
    if not os.path.exists(chosen):
        write_lines(chosen, names)
    if not os.path.isdir(ready):
        write_labels(ready, [data])
    print(f'{chosen}: {count:,} images, as it should be')


def panoptic(root):
    """COCO panoptic: panoptic_stuff_SPLIT2017/, PNG of train ids."""
    for split in ('train', 'val'):
        folder = os.path.join(root, f'panoptic_stuff_{split}2017')
        if not os.path.isdir(folder) and (data := whole_split(split)):
            write_labels(folder, [data])


def context(root):
    """PASCAL Context: SegmentationClassContext/, PNG of train id + 1, 0 = none of the 59."""
    folder = os.path.join(root, 'SegmentationClassContext')
    if not os.path.isdir(folder):
        write_labels(
            folder, [data for split in ('train', 'val') if (data := whole_split(split))], shift=1
        )


def coco_voc(root):
    """COCO with VOC's classes: coco_voc_SPLIT2017/ (PNG of train ids) from the instances where there is no COCO-Stuff, and the list
    coco_voc_train2017.txt of images worth training on."""
    stuff = layouts.first(root, 'stuffthingmaps_trainval2017', 'stuffthingmaps')
    for split in ('train', 'val'):
        folder, path = (
            os.path.join(root, f'coco_voc_{split}2017'),
            os.path.join(root, f'annotations/instances_{split}2017.json'),
        )
        if (
            not os.path.isdir(stuff)
            and not os.path.isdir(folder)
            and os.path.isfile(path)
            and layouts.coco_images(root, split)[1]
        ):
            draw_instances(path, folder)
    chosen = os.path.join(root, 'coco_voc_train2017.txt')
    if not os.path.exists(chosen) and (data := whole_split('train')):
        counts = dataset.spread(
            functools.partial(labelled, data), range(len(data)), 'coco_voc_train2017.txt'
        )
        names = [stem(image) for (image, _), count in zip(data.pairs, counts) if count >= MANY]
        write_lines(chosen, names)
        print(f'{chosen}: {len(names):,} of {len(data):,} images have {MANY:,} labelled pixels')


def labelled(data, index):
    """Pixels of a label that are neither void nor background."""
    ids = data.legend.read(data.pairs[index][1])
    return int(((ids > 0) & (ids < len(data.classes.names))).sum())


def draw_instances(path, folder):
    """The instances of a COCO JSON as PNG of train ids."""
    classes = dataset.classes()
    ids = {
        raw + 1: i for i, raw in enumerate(classes.raw) if raw is not None
    }  # COCO's own ids count from 1
    try:
        with open(path, encoding='utf-8') as f:
            found = json.load(f)
        things = {}
        for one in found['annotations']:
            if one['category_id'] in ids:
                things.setdefault(one['image_id'], []).append(
                    (one['iscrowd'], one['area'], ids[one['category_id']], one['segmentation'])
                )
        images = [
            (stem(i['file_name']), i['height'], i['width'], things.get(i['id'], []))
            for i in found['images']
        ]
    except (ValueError, KeyError, TypeError) as e:
        raise UserError(
            f'{path}: this is no instances JSON of COCO, or only part of one ({type(e).__name__}: {e}); unpack it again'
        ) from None
    with written(folder) as work:
        for _ in dataset.spread(
            functools.partial(draw_image, images, classes.colours, work, path),
            range(len(images)),
            os.path.basename(folder),
        ):
            pass
    print(f'{folder}: {len(images):,} labels')


def draw_image(images, colours, folder, path, index):
    name, h, w, things = images[index]
    try:
        save(os.path.join(folder, name + '.png'), draw(h, w, things), colours)
    except (ValueError, TypeError, KeyError, IndexError) as e:
        raise UserError(
            f'{path}: the instances of image {name} cannot be drawn ({type(e).__name__}: {e})'
        ) from None


def draw(h, w, things):
    """Train ids (h, w) of instances (crowd or not, area, train id, segmentation): the smaller are drawn over the larger, crowds are void and
    below all."""
    label = np.zeros((h, w), np.uint8)
    for crowd, _, value, shape in sorted(things, key=lambda t: (-t[0], -t[1])):
        value = 255 if crowd else value
        if isinstance(shape, dict):
            label[run_lengths(shape)] = value
        else:
            for polygon in shape:
                fill(label, np.reshape(polygon, (-1, 2)), value)
    return label


def fill(label, polygon, value):
    """Sets the pixels whose centres lie in a polygon, of which pixel (0, 0) takes the square from 0 to 1."""
    h, w = label.shape
    turns = np.zeros((h, w + 1), np.uint8)
    for (x, y), (u, v) in zip(polygon, np.roll(polygon, -1, 0)):
        rows = np.arange(*np.ceil(np.array(sorted((y, v))) - 0.5).clip(0, h).astype(int))
        if len(rows):
            turns[
                rows, np.ceil(x + (rows + 0.5 - y) * (u - x) / (v - y) - 0.5).clip(0, w).astype(int)
            ] += 1
    label[np.bitwise_xor.accumulate(turns & 1, 1)[:, :w] == 1] = value


def run_lengths(shape):
    """Mask (h, w) of COCO's run lengths {'size': [h, w], 'counts': list or text}: zeros first, down the columns."""
    h, w = shape['size']
    counts = shape['counts']
    if isinstance(
        counts, str
    ):  # groups of 6 bits of which one says that more follow; from the fourth on, differences to the last but one
        text, counts, at = counts, [], 0
        while at < len(text):
            value = bits = 0
            code = 32
            while code & 32:
                code, at = ord(text[at]) - 48, at + 1
                value, bits = value | (code & 31) << bits, bits + 5
            value -= (code & 16) << bits - 4  # the sign
            counts.append(value + (counts[-2] if len(counts) > 2 else 0))
    return np.repeat(np.arange(len(counts)) % 2 == 1, counts).reshape(w, h).T


def hdf5():
    """The package that reads HDF5 files; UserError if it is not installed."""
    try:
        import h5py

        return h5py
    except ImportError:
        raise UserError(
            f'{NYUV2[0]} is an HDF5 file, which takes the package h5py: pip install h5py, then give the same command again'
        ) from None


def nyuv2(root):
    """NYUv2: images/ labels40/ train.txt val.txt of the HDF5 file, labels40.mat and splits.mat."""
    if fetch.there(root, ('images', 'labels40', 'train.txt', 'val.txt')):
        return
    h5py = hdf5()
    paths = [
        layouts.first(root, name, os.path.join(os.path.abspath(settings.DATA_ROOT), name))
        for name in NYUV2
    ]
    path = None
    try:
        path = paths[2]
        splits = scipy.io.loadmat(path)
        lists = {
            part: np.sort(splits[key].ravel()).tolist()
            for part, key in (('train', 'trainNdxs'), ('val', 'testNdxs'))
        }
        path = paths[1]
        labels = scipy.io.loadmat(path)['labels40'].astype(np.uint8)  # h w n
        path = paths[0]
        with h5py.File(path) as file, fetch.workshop(root) as work:
            images = file['images']  # n c w h
            shape, last = images.shape[:1:-1] + images.shape[:1], max(map(max, lists.values()))
            if labels.shape != shape or last > len(images):
                raise UserError(
                    f'{paths[1]} holds labels {labels.shape} (height, width, number), {path} images {shape}, {paths[2]} numbers '
                    f'up to {last}: they do not belong together'
                )
            for folder in ('images', 'labels40'):
                os.mkdir(os.path.join(work, folder))
            with Place([]).bar(total=len(images), desc='nyuv2') as bar:
                for i in range(len(images)):
                    save(
                        os.path.join(work, 'images', f'{i + 1:04d}.png'),
                        np.ascontiguousarray(images[i].transpose(2, 1, 0)),
                    )
                    save(
                        os.path.join(work, 'labels40', f'{i + 1:04d}.png'),
                        np.ascontiguousarray(labels[..., i]),
                        dataset.classes().colours,
                        1,
                    )
                    bar.update()
            for part, numbers in lists.items():
                write_lines(os.path.join(work, part + '.txt'), [f'{n:04d}' for n in numbers])
            fetch.merge(work, root)
    except FileNotFoundError:
        raise UserError(f'{path}: this file is missing') from None
    except (OSError, ValueError, KeyError, NotImplementedError, TypeError) as e:
        raise UserError(
            f'{path}: this is not the file of NYUv2 by that name, or only part of it ({type(e).__name__}: {e}); fetch it again'
        ) from None
    print(f'{root}: {labels.shape[2]:,} images with labels')
