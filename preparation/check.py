"""Open what is there of a split, and report on it: prepare.py --check."""

import collections
import functools
from typing import NamedTuple

import cv2
import numpy as np

import dataset
import loss
import settings
from datasets import files, layouts, own, table
from preparation import propose
from utils import script
from utils.config import UsageError, UserError
from utils.table import table as text_table

SHOWN = 10  # unusable files that are printed, per split


class Absent(Exception):
    """A split is not there; the text says why."""


def open_split(split):
    """Return the Dataset of the pairs that are there, and the paths of missing files.

    The paths have no ending. Absent if there are no images or no list of them; UserError if no pair
    is complete.
    """
    try:
        listings = dataset.listings(split)
    except layouts.Missing as e:
        raise Absent(f'there is no {e.path}') from None
    for listing in listings:
        table.check_accepted(listing)  # there, but not accepted
        if not listing.images:
            raise Absent(f'no images in {listing.image_dir}')
    pairs, missing = table.pair_present(listings), table.missing(listings)
    if len(missing) == 1 and not pairs:
        raise UserError(f'{missing[0]}: this file is missing; no pair of {split} is complete')
    if missing and not pairs:
        raise UserError(
            f'{missing[0]}: this file is missing, and {len(missing) - 1} more; '
            f'no pair of {split} is complete'
        )
    return dataset.Dataset(split, train=False, pairs=pairs), missing


def splits_there(names):
    """Yield (Dataset, missing files, None) of splits, or (None, [], fault) of unusable ones.

    Without names these are all splits of the data set that are there.
    """
    entry = dataset.entry()
    root = dataset.locate(entry)
    expected = entry.splits or ('train', 'val', 'test')
    wanted = names or [split for split in expected if split != 'trainval']
    count = 0
    for split in wanted:
        try:
            data, missing = open_split(split)
        except Absent as e:
            print(f'{settings.DATASET}, {split}: not there ({e})', flush=True)
            if not names:
                continue
            yield None, [], f'{split}: {e}'
        except UsageError:
            raise
        except UserError as e:
            print(f'{settings.DATASET}, {split}: {e}', flush=True)
            yield None, [], str(e)
        else:
            yield data, missing, None
        count += 1
    if not count:
        here = f'; {own.contents(root)}' if settings.DATASET == 'folder' else ''
        raise UserError(f'{root}: none of {", ".join(wanted)} is there: {entry.get}{here}')


def incomplete_splits(name):
    """Print how many images each split has, and return as text which have fewer than expected.

    UserError if files that belong together are not both there.
    """
    incomplete, faults, total = [], [], 0
    for split, expected in (dataset.entry().splits or {}).items():
        try:
            data, missing = open_split(split)
        except Absent as e:
            print(f'{split}: not there ({e})')
            continue
        total += len(data)
        print(f'{split}: {len(data):,} images')
        if missing:
            faults.append(f'{missing[0]}: this file is missing, {split} lacks {len(missing):,}')
        elif len(data) < (expected or 0):
            incomplete.append(f'{split} {len(data):,} of {expected:,}')
    if faults or not total:
        reason = '; '.join(faults) or 'there are no images'
        raise UserError(
            f'{name} is incomplete: {reason}. Delete what is half there and give the same command '
            'again'
        )
    return ', '.join(incomplete)


def check(splits):
    """Walk the splits that are there; UserError in the end if anything is wrong with them."""
    if settings.DATASET == 'folder':
        propose.check_table()
    faults, disagreements, incomplete = [], [], []
    for data, missing, fault in splits_there(splits):
        if fault:
            faults.append(fault)
            continue
        of_files, of_labels = examine(data, missing)
        faults += of_files
        disagreements += of_labels
        if len(data) < (data.expected or 0):
            incomplete.append(f'{data.split} has {len(data):,} of {data.expected:,} pairs')
    if faults:
        raise UserError(
            f'{len(faults):,} of the files of {settings.DATASET} cannot be used; '
            f'the first: {faults[0]}'
        )
    if disagreements:
        raise UserError(
            f'the labels of {settings.DATASET} and its class table do not go together: '
            f'{disagreements[0]}'
        )
    state = 'what is there is in order'
    if settings.DATASET == 'folder' and not splits and not has_val():
        state += (
            ', but there is no split val, which training asks for: list some pictures in val.txt '
            'or put them into images/val/ and labels/val/, or train with ITER_VAL=0'
        )
    if incomplete:
        state += f', but it is not all: {", ".join(incomplete)}'
    print(f'\n{settings.DATASET}: {state}')


def has_val():
    """Tell whether there are pictures to validate on."""
    try:
        return len(open_split('val')[0]) > 0
    except (Absent, UserError):
        return False


# ------------------------------------------------------------------------------------ one split


class Facts(NamedTuple):
    """What a usable pair holds."""

    size: tuple  # height, width
    pixels: np.ndarray  # (256,) of each train id; zeros where there is no label
    mean: np.ndarray  # (n,) of the channels in 0..1
    square: np.ndarray  # (n,) mean of their squares


class Fault(NamedTuple):
    """What is wrong with a pair."""

    sentence: str
    path: str = ''  # of a label with unknown values
    values: tuple = ()


def inspect(data, index):
    """Return the Facts or the Fault of a pair."""
    try:
        image, label = data.decode(index)
    except files.UnknownValues as e:
        return Fault(str(e), e.path, tuple(e.values))
    except (UserError, OSError) as e:
        return Fault(script.sentence(e))
    mean, std = moments(image)
    pixels = np.zeros(256, int)
    if label is not None:
        pixels = np.bincount(label.ravel(), minlength=256)
    return Facts(image.shape[:2], pixels, mean, std**2 + mean**2)


def moments(image):
    """Return mean and standard deviation (n,) of the channels of an image (h, w, n), in 0..1."""
    parts = []  # OpenCV has no more than four channels here
    for start in range(0, image.shape[2], 3):
        part = np.ascontiguousarray(image[..., start : start + 3])
        parts.append(np.concatenate(cv2.meanStdDev(part), 1))
    mean, std = np.concatenate(parts).T / 255
    return mean, std


class Totals:
    """Sums over the usable pairs of a split with n classes."""

    def __init__(self, n):
        self.sizes = collections.Counter()
        self.pixels = np.zeros(n, int)  # of each class
        self.seen = np.zeros(n, int)  # pixels with a class, in the images where each class occurs
        self.images = np.zeros(n, int)  # in which each class occurs
        self.void = 0
        self.all_pixels = np.zeros(256, int)  # of each train id
        self.mean = self.square = 0  # (channels,), times the pixels

    def add(self, facts):
        n, area = len(self.pixels), facts.size[0] * facts.size[1]
        pixels = facts.pixels[:n]
        occurs = pixels > 0
        self.sizes[facts.size] += 1
        self.pixels += pixels
        self.seen[occurs] += pixels.sum()
        self.images += occurs
        self.void += facts.pixels[n:].sum()
        self.all_pixels += facts.pixels
        self.mean = self.mean + facts.mean * area
        self.square = self.square + facts.square * area

    def print_images(self):
        """Print sizes, and the mean and standard deviation of the channels."""
        common, count = self.sizes.most_common(1)[0]
        smallest, largest = min(self.sizes, key=np.prod), max(self.sizes, key=np.prod)
        print(
            f'sizes: smallest {size_text(smallest)}, largest {size_text(largest)}, '
            f'most frequent {size_text(common)} ({count:,} of {self.sizes.total():,})'
        )
        mean, std = self.moments()
        print(f'MEAN = {as_tuple(mean)}')
        print(f'STD = {as_tuple(std)}')

    def moments(self):
        """Return mean and standard deviation (n,) of the channels in 0..1."""
        area = sum(h * w * count for (h, w), count in self.sizes.items())
        mean, square = self.mean / area, self.square / area
        return mean, np.sqrt((square - mean**2).clip(0))

    def print_classes(self, names):
        """Print the table of classes."""
        weights = loss.median_frequency(self.pixels.tolist(), self.seen.tolist())
        total = self.pixels.sum()
        rows = []
        for i, name in enumerate(names):
            percent = 100 * self.pixels[i] / max(1, total)
            rows.append(
                {
                    'class': name,
                    'pixels': f'{self.pixels[i]:,}',
                    'percent': f'{percent:.3f}',
                    'images': f'{self.images[i]:,}',
                    'median-frequency weight': f'{weights[i]:.4f}',
                }
            )
        percent = 100 * self.void / (total + self.void)
        rows.append(
            {
                'class': 'void',
                'pixels': f'{self.void:,}',
                'percent': f'{percent:.3f}',
                'images': '',
                'median-frequency weight': '',
            }
        )
        print('\n'.join(text_table(rows, right=('pixels', 'percent', 'images'))))
        print('percent: of the pixels that have a class; void: of all pixels')


def size_text(size):
    return f'{size[1]}x{size[0]}'


def as_tuple(numbers):
    text = ', '.join(f'{number:.4f}' for number in numbers)
    return f'({text},)' if len(numbers) == 1 else f'({text})'


def examine(data, missing):
    """Walk a split and print what is in it; return sentences about what is wrong.

    Two lists: of the files that cannot be used, and of what labels and class table contradict.
    """
    totals = Totals(len(data.names))
    faults = [f'{path}: this file is missing' for path in missing]
    unknown = {}  # {value: paths of the labels that have it}
    title = f'{settings.DATASET}, {data.split}'
    inspect_pair = functools.partial(inspect, data)
    for pair in dataset.parallel_map(inspect_pair, range(len(data)), title):
        if isinstance(pair, Facts):
            totals.add(pair)
            continue
        faults.append(pair.sentence)
        for value in pair.values:
            unknown.setdefault(value, []).append(pair.path)
    print(
        f'\n{title}: {len(data):,} pairs in {data.root}; '
        f'missing {len(missing):,}, unusable {len(faults) - len(missing):,}'
    )
    for fault in faults[:SHOWN]:
        print('  ' + fault)
    if len(faults) > SHOWN:
        print(f'  ... and {len(faults) - SHOWN:,} more')
    print_unknown(data, unknown)
    if not totals.sizes:
        return faults, []
    totals.print_images()
    if not data.labelled:
        return faults, []
    totals.print_classes(data.names)
    print_fitting(data, totals)
    verdict = data.judge(totals.all_pixels, strict=True)
    for sentence in verdict.faults:
        print('wrong: ' + sentence)
    for sentence in verdict.warnings:
        print('warning: ' + sentence)
    return faults, [f'{data.split}: {sentence}' for sentence in verdict.faults]


def print_unknown(data, unknown):
    """Print values {value: paths} that the class table lacks; for one's own, lines for it, too."""
    for value, paths in unknown.items():
        print(f'value {value}, not in the table: {len(paths):,} files, first {paths[0]}')
    if unknown and settings.DATASET == 'folder':
        lines = propose.lines_for([label for _, label in data.pairs], data.classes)
        print(f'lines that {data.classes.path} lacks, to begin with:', *lines, sep='\n')


def print_fitting(data, totals):
    """Print settings that fit one's own images to train on."""
    if settings.DATASET == 'folder' and data.split == 'train':
        words = propose.command(settings.DATA_ROOT, totals.sizes, has_val())
        if data.channels != 3:
            for name, numbers in zip(('MEAN', 'STD'), totals.moments(), strict=True):
                words += f' {name}=' + ','.join(f'{number:.4f}' for number in numbers)
        print(f'settings that fit: {words}')
