"""prepare.py --check: what is in the splits of a data set, and what is wrong with them."""

import collections
import functools
import re

import cv2
import numpy as np

import dataset
import launch
import loss
import settings
from preparation import convert
from settings import UsageError, UserError

SHOWN = 10  # bad files that are told of, per split


def look(data, index):
    """(height, width), pixels of each train id, mean and mean square of the channels of a pair; or what is wrong with it, as text."""
    try:
        image, label = data.decode(index)
    except (UserError, OSError) as e:
        return launch.sentence(e)
    mean, std = (v.ravel() / 255 for v in cv2.meanStdDev(image))
    return (
        image.shape[:2],
        np.zeros(256, int) if label is None else np.bincount(label.ravel(), minlength=256),
        mean,
        std**2 + mean**2,
    )


def examine(data, missing):
    """Walks a split and prints what is in it; returns the sentences about what is wrong."""
    n, faults, sizes, values = (
        len(data.names),
        [f'{path}: this file is missing' for path in missing],
        collections.Counter(),
        {},
    )
    pixels, seen, images, void, sums = (
        np.zeros(n, int),
        np.zeros(n, int),
        np.zeros(n, int),
        0,
        np.zeros((2, 3)),
    )
    for found in dataset.spread(
        functools.partial(look, data), range(len(data)), f'{settings.DATASET}, {data.split}'
    ):
        if isinstance(found, str):
            faults.append(found)
            if told := re.match(r'(.*): (?:label value|the colour) (.*?) is not in ', found):
                for value in re.findall(r'\(.*?\)|\d+', told[2]):
                    values.setdefault(value, []).append(told[1])
            continue
        shape, count, mean, square = found
        sizes[shape] += 1
        pixels += count[:n]
        void += count[n:].sum()
        seen += (count[:n] > 0) * count[:n].sum()
        images += count[:n] > 0
        sums += np.stack([mean, square]) * shape[0] * shape[1]
    facts = f'{len(data):,} pairs in {data.root}; missing {len(missing):,}, unusable {len(faults) - len(missing):,}'
    print(f'\n{settings.DATASET}, {data.split}: {facts}')
    for fault in faults[:SHOWN]:
        print('  ' + fault)
    if len(faults) > SHOWN:
        print(f'  ... and {len(faults) - SHOWN:,} more')
    for value, paths in values.items():
        print(f'value {value}, not in the table: {len(paths):,} files, first {paths[0]}')
    if sizes:
        area = sum(h * w * k for (h, w), k in sizes.items())
        mean, square = sums / area
        small, large, (usual, often) = (
            min(sizes, key=np.prod),
            max(sizes, key=np.prod),
            sizes.most_common(1)[0],
        )
        spans = (f'{w}x{h}' for h, w in (small, large, usual))
        print(
            'sizes: smallest {}, largest {}, most frequent {} ({:,} of {:,})'.format(
                *spans, often, sizes.total()
            )
        )
        print(
            'MEAN = ({:.4f}, {:.4f}, {:.4f})\nSTD = ({:.4f}, {:.4f}, {:.4f})'.format(
                *mean, *np.sqrt((square - mean**2).clip(0))
            )
        )
        if data.labelled:
            report(data.names, pixels, seen, images, void)
    return faults


def report(names, pixels, seen, images, void):
    """The table of classes."""
    width, total = max(map(len, names)), max(1, pixels.sum())
    print(
        f'{"class":{width}}  {"pixels":>14}  {"percent":>7}  {"images":>7}  median-frequency weight'
    )
    for name, count, among, weight in zip(
        names,
        pixels.tolist(),
        images.tolist(),
        loss.median_frequency(pixels.tolist(), seen.tolist()),
    ):
        print(f'{name:{width}}  {count:14,}  {100 * count / total:7.3f}  {among:7,}  {weight:.4f}')
    print(
        f'{"void":{width}}  {void:14,}  {100 * void / (pixels.sum() + void):7.3f}  (of all pixels; the others of those that are not void)'
    )


def splits_there(names):
    """Yields (Dataset, missing files, None) of the splits; (None, [], what is wrong) of one that cannot be opened. Those that are not there are
    passed over, unless they are asked for."""
    wanted = names or [
        s for s in dataset.entry().splits or ('train', 'val', 'test') if s != 'trainval'
    ]
    count = 0
    for split in wanted:
        try:
            yield *convert.find(split), None
        except convert.Absent as e:
            print(f'{settings.DATASET}, {split}: not there ({e})', flush=True)
            if not names:
                continue
            yield None, [], f'{split}: {e}'
        except UsageError:
            raise
        except UserError as e:
            print(f'{settings.DATASET}, {split}: {e}', flush=True)
            yield None, [], str(e)
        count += 1
    if not count:
        raise UserError(
            f'{dataset.locate(dataset.entry())}: none of {", ".join(wanted)} is there: {dataset.entry().get}'
        )


def check(splits):
    """Walks the splits that are there; UserError in the end if anything is wrong with them."""
    faults, part = [], []
    for data, missing, fault in splits_there(splits):
        faults += examine(data, missing) if data else [fault]
        part += (
            [f'{data.split} has {len(data):,} of {data.usual:,} pairs']
            if data and len(data) < (data.usual or 0)
            else []
        )
    if faults:
        raise UserError(
            f'{len(faults):,} of the files of {settings.DATASET} cannot be used; the first: {faults[0]}'
        )
    print(
        f'\n{settings.DATASET}: what is there is in order'
        + (f', but it is not all: {", ".join(part)}' if part else '')
    )
