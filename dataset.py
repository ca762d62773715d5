"""Data sets as samples: uint8 from the file to the device, image (3, h, w) and label (h, w) in train ids, and the loaders.

layouts.py tells where the files lie, reading.py what is in them. The augmentation (augment.py) of a training sample follows from (SEED,
position of the sample in the run) alone, whatever the number of workers and processes.
"""

import os
import signal

import cv2
import numpy as np
import torch

import launch
import reading
import settings
from augment import Augment
from layouts import DATASETS, Missing
from loss import median_frequency
from settings import UsageError, UserError


def entry():
    if settings.DATASET not in DATASETS:
        near = settings.nearest(settings.DATASET, DATASETS)
        raise UsageError(
            f'DATASET = {settings.DATASET!r}: there is no such data set'
            + (near or f'; there are {", ".join(DATASETS)}')
        )
    return DATASETS[settings.DATASET]


def locate(found):
    """The folder of a data set, in DATA_ROOT or DATA_ROOT itself."""
    roots = [os.path.join(settings.DATA_ROOT, f) for f in found.folders] + [settings.DATA_ROOT]
    for root in roots:
        if any(
            os.path.isdir(os.path.join(root, marker)) for marker in found.marker.split() or ['']
        ):
            return root
    if found.make:
        found.make(roots[0])
        return roots[0]
    raise UserError(
        f'{settings.DATASET} is not in DATA_ROOT = {settings.DATA_ROOT!r} (no folder {" or ".join(found.marker.split())} in {" or ".join(roots)}): '
        f'{found.get}. python prepare.py {settings.DATASET} does that, or says what is due'
    )


def classes():
    """The class table of the data set: classes/NAME.txt; that of DATASET='folder' is DATA_ROOT/classes.txt."""
    found, name = entry(), settings.DATASET
    here = os.path.dirname(os.path.abspath(__file__))
    own = os.path.join(os.path.abspath(settings.DATA_ROOT), 'classes.txt')
    return reading.read_classes(
        own if name == 'folder' else os.path.join(here, 'classes', (found.classes or name) + '.txt')
    )


def n_classes():
    """N_CLASSES, or as many as the data set has."""
    return settings.N_CLASSES or len(classes().names)


# ------------------------------------------------------------------------------------------------------- the data set


class Dataset(torch.utils.data.Dataset):
    """A split of the data set that settings name. It copies what it needs from them, so that loader processes started afresh agree.

    Training: self[position, index] -> uint8 image (3, h, w), label (h, w), augmented.
    Evaluation: self[index] -> uint8 image (3, h, w), label (h, w) or None, index, whole.
    """

    def __init__(self, split, train):
        s, found = settings, entry()
        if found.splits is not None and split not in found.splits:
            raise UsageError(
                f'{s.DATASET} has no split {split!r}; it has {", ".join(found.splits)}'
            )
        self.classes, self.root, self.split, self.train = classes(), locate(found), split, train
        try:
            self.pairs = found.files(self.root, split)
        except Missing as e:
            raise UserError(f'{e}; {found.get}') from None
        if not self.pairs:
            raise UserError(
                f'{self.root}: the split {split} of {s.DATASET} has no images; {found.get}'
            )
        self.usual = (found.splits or {}).get(split)  # number of images that its makers tell
        self.labelled = self.pairs[0][1] is not None
        if train and not self.labelled:
            raise UsageError(
                f'the split {split!r} of {s.DATASET} has no labels to train on; it can be predicted by eval.py'
            )
        self.names = self.classes.names + [
            f'class {i}' for i in range(len(self.classes.names), n_classes())
        ]
        if n_classes() < len(self.classes.names):
            raise UsageError(
                f'N_CLASSES = {s.N_CLASSES} is less than the {len(self.classes.names)} classes of {s.DATASET}; None takes them all'
            )
        if s.IGNORE_LABEL < n_classes() or s.IGNORE_LABEL == reading.UNKNOWN:
            raise UsageError(f'IGNORE_LABEL = {s.IGNORE_LABEL} is taken; 255 is free')
        self.legend = reading.Legend(
            self.classes, found.void, s.IGNORE_LABEL, found.ready, s.DATASET == 'folder'
        )
        self.kept = os.path.join(
            self.root, 'pixels'
        )  # where prepare.py --cache keeps decoded pixels
        self.cached = os.path.isdir(self.kept)
        self.seed, self.augment = s.SEED, Augment()

    def __len__(self):
        return len(self.pairs)

    def forget_labels(self):
        """From here on there are images alone."""
        self.pairs, self.labelled = [(image, None) for image, _ in self.pairs], False

    def decode(self, index):
        """Image (h, w, 3) RGB and label (h, w) in train ids, or None, from their files."""
        image_path, label_path = self.pairs[index]
        image = reading.read_image(image_path)
        if label_path is None:
            return image, None
        label = self.legend.read(label_path)
        if label.shape != image.shape[:2]:
            name = getattr(label_path, 'path', label_path)
            turned = label.shape == image.shape[1::-1]
            raise UserError(
                f'{name}: this label is {label.shape[1]}x{label.shape[0]}, its image {image_path} {image.shape[1]}x{image.shape[0]}'
                + '; was it drawn on the image as EXIF turns it? Pixels are taken as they are stored'
                * turned
            )
        return image, label

    def read(self, index):
        """The same, from the cache where that has it: mapped into memory, read-only."""
        found = (
            reading.load_cached(reading.cache_path(self.kept, *self.pairs[index], self.legend))
            if self.cached
            else None
        )
        return found or self.decode(index)

    def count(self, index):
        """Pixels (256,) of each train id of a label."""
        found = (
            reading.load_cached(reading.cache_path(self.kept, *self.pairs[index], self.legend))
            if self.cached
            else None
        )
        return np.bincount(
            (found[1] if found else self.legend.read(self.pairs[index][1])).ravel(), minlength=256
        )

    def keep(self, index):
        """Puts the decoded pixels of a pair into the cache, if they are not there."""
        path = reading.cache_path(self.kept, *self.pairs[index], self.legend)
        if reading.load_cached(path) is None:
            reading.store_cached(path, *self.decode(index))
        return index

    def check(self, count=16):
        """Reads files spread over the split; UserError if one cannot be used."""
        for index in np.linspace(0, len(self) - 1, min(count, len(self))).astype(int):
            self.read(index)

    def __getitem__(self, key):
        if not self.train:
            image, label = self.read(key)
            return as_tensor(image), None if label is None else as_tensor(label), key
        position, index = key
        image, label = self.augment(
            *self.read(index), np.random.default_rng((self.seed, position, 1))
        )
        return as_tensor(image), as_tensor(label)

    def collate(self, samples):
        """[(image, label)] -> (b, 3, h, w), (b, h, w); whole images of different sizes get mean colour and void on the right and below."""
        h, w = (max(label.shape[i] for _, label in samples) for i in (0, 1))
        images = torch.tensor(self.augment.fill, dtype=torch.uint8).repeat(len(samples), h, w, 1)
        labels = torch.full((len(samples), h, w), self.augment.ignore, dtype=torch.uint8)
        for i, (image, label) in enumerate(samples):
            images[i, : label.shape[0], : label.shape[1]] = image.permute(1, 2, 0)
            labels[i, : label.shape[0], : label.shape[1]] = label
        return images.permute(0, 3, 1, 2), labels


def as_tensor(array):
    """A tensor of the array's memory, or of a copy where that is not whole or not ours to write; an image (h, w, 3) becomes (3, h, w), channels_last."""
    tensor = torch.from_numpy(
        array if array.flags.c_contiguous and array.flags.writeable else array.copy()
    )
    return tensor.permute(2, 0, 1) if array.ndim == 3 else tensor


def spread(task, indices, what, place=launch.Place([])):
    """Yields task(index) of every index, in their order, worked out by NUM_WORKERS processes; behind a bar."""
    loader = torch.utils.data.DataLoader(
        indices,
        batch_size=None,
        collate_fn=task,
        num_workers=settings.NUM_WORKERS,
        worker_init_fn=start_worker,
        generator=torch.Generator(),
    )
    with place.bar(total=len(indices), desc=what) as bar:
        for found in loader:
            yield found
            bar.update()


def cache(data):
    """Keeps the decoded pixels of an evaluation Dataset in ROOT/pixels; yields after each sample. The folder can be deleted at any time."""
    yield from spread(data.keep, range(len(data)), f'{settings.DATASET}, {data.split}')


def class_weights(data, place):
    """CLASS_WEIGHTS as a list of n_classes() floats, or None; 'median_freq' counts the pixels of all labels, dealt out to the processes."""
    given, n = settings.CLASS_WEIGHTS, n_classes()
    if given == '':
        return None
    if given != 'median_freq':
        return list(given)
    pixels = torch.zeros(
        2, n, dtype=torch.float64
    )  # of the class; of the images in which it occurs
    for counts in spread(
        data.count, range(place.rank, len(data), place.world), 'counting pixels', place
    ):
        found = torch.from_numpy(counts)[:n]
        pixels += torch.stack([found, (found > 0) * found.sum()])
    return median_frequency(*place.sum(pixels.to(place.device)).cpu())


# ---------------------------------------------------------------------------------------------------------- loaders


class Batches:
    """Endless lists of (position, index) for one process, from a step on: what step s holds follows from SEED and s alone.

    A step has `batch` positions in `parts` parts (accumulation); each part is dealt out to the processes in equal runs.
    Every epoch is a permutation of its own; batches run on across the ends of epochs.
    """

    def __init__(self, n, seed, batch, parts=1, rank=0, world=1, start=0):
        self.n, self.seed, self.batch, self.parts, self.rank, self.world, self.start = (
            n,
            seed,
            batch,
            parts,
            rank,
            world,
            start,
        )
        self.epoch, self.order = None, None

    def index(self, position):
        epoch, i = divmod(position, self.n)
        if epoch != self.epoch:
            self.epoch, self.order = (
                epoch,
                np.random.default_rng((self.seed, epoch)).permutation(self.n),
            )
        return int(self.order[i])

    def __iter__(self):
        size = self.batch // self.parts // self.world
        first = self.start * self.batch
        while True:
            for part in range(self.parts):
                begin = first + (part * self.world + self.rank) * size
                yield [(p, self.index(p)) for p in range(begin, begin + size)]
            first += self.batch


def stack(images):
    """A batch (b, 3, h, w) whose memory stays (b, h, w, 3)."""
    return torch.stack([image.permute(1, 2, 0) for image in images]).permute(0, 3, 1, 2)


def start_worker(_):
    launch.keep_heap()
    cv2.setNumThreads(0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the training process's to answer


def train_loader(data, batches, pin):
    """Endless batches of a training Dataset."""
    return torch.utils.data.DataLoader(
        data,
        batch_sampler=batches,
        collate_fn=data.collate,
        num_workers=settings.NUM_WORKERS,
        pin_memory=pin,
        worker_init_fn=start_worker,
        generator=torch.Generator(),
    )


def eval_batches(data, indices, budget, pin):
    """Batches (b, 3, h, w), labels (b, h, w) or None, indices: images of one size that follow each other, of `budget` pixels at most, or one."""
    loader = torch.utils.data.DataLoader(
        data,
        sampler=indices,
        batch_size=None,
        num_workers=settings.NUM_WORKERS,
        worker_init_fn=start_worker,
        generator=torch.Generator(),
    )
    held = []
    for sample in loader:
        if held and (
            (len(held) + 1) * sample[0][0].numel() > budget or held[0][0].shape != sample[0].shape
        ):
            yield together(held, pin)
            held = []
        held.append(sample)
    if held:
        yield together(held, pin)


def together(samples, pin):
    images, labels, indices = zip(*samples)
    images, labels = stack(images), None if labels[0] is None else torch.stack(labels)
    return (
        (images.pin_memory(), labels if labels is None else labels.pin_memory(), indices)
        if pin
        else (images, labels, indices)
    )
