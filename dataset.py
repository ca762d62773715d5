"""Data sets as samples, their order, and the loaders.

A sample is uint8 from the file to the device: image (n, h, w), of as many channels as MEAN and STD
have, and label (h, w) in train ids.
datasets/table.py says where the files lie, datasets/files.py what is in them. The augmentation of
a training sample (datasets/transforms.py) follows from (SEED, position of the sample in the run)
alone, whatever the number of workers and processes.
"""

import functools
import os

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, get_worker_info

import settings
from datasets import balance, identity, own, table
from datasets import cache as pixel_cache
from datasets.files import UNKNOWN, LabelMap, read_classes, read_image
from datasets.layouts import Segments
from datasets.table import entry, listings, locate
from datasets.transforms import Augment
from loss import median_frequency
from utils import config, distributed
from utils.config import UsageError, UserError

MANY = 500  # labels that are read before a class is said never to occur


def classes():
    """Return the class table of the data set; that of DATASET='folder' is DATA_ROOT/classes.txt."""
    if settings.DATASET == 'folder':
        return own.read_table(os.path.abspath(settings.DATA_ROOT))
    name = entry().classes or settings.DATASET
    here = os.path.dirname(os.path.abspath(__file__))
    return read_classes(os.path.join(here, 'datasets', 'classes', name + '.txt'))


def n_classes():
    """Return N_CLASSES, or as many as the data set has."""
    return settings.N_CLASSES or len(classes().names)


def class_names():
    """Return n_classes() names; UsageError if N_CLASSES or IGNORE_LABEL do not fit the table."""
    names, n = list(classes().names), n_classes()
    if n < len(names):
        raise UsageError(
            f'N_CLASSES = {n} is less than the {len(names)} classes of {classes().path}; '
            'N_CLASSES=None uses all of them in training. A checkpoint has as many as it was '
            'trained with: give it its own data (DATASET=NAME, or DATA_ROOT=FOLDER) and table'
        )
    if n > settings.IGNORE_LABEL or settings.IGNORE_LABEL == UNKNOWN:
        raise UsageError(f'IGNORE_LABEL = {settings.IGNORE_LABEL} is taken; 255 is free')
    return names + [f'class {i}' for i in range(len(names), n)]


# ----------------------------------------------------------------------------------------- samples


class Dataset(torch.utils.data.Dataset):
    """A split of the data set that settings name.

    Training: self[position, index] -> uint8 image (n, h, w), label (h, w), augmented.
    Evaluation: self[index] -> uint8 image (n, h, w), label (h, w) or None, index; the whole image.
    It copies the settings it needs, so that loader processes started afresh agree. `pairs` are the
    files to use, [(image, label or None)]; None = those of the split, and none may be missing.
    """

    def __init__(self, split, train, pairs=None):
        source = entry()
        self.root = locate(source)
        self.classes = classes()
        self.split, self.train = split, train
        self.pairs = table.pair(listings(split)) if pairs is None else pairs
        if not self.pairs:
            raise UserError(
                f'{self.root}: the split {split} of {settings.DATASET} has no images; {source.get}'
            )
        self.expected = (source.splits or {}).get(split)  # number of images that its makers give
        self.labelled = self.pairs[0][1] is not None
        if train and not self.labelled:
            raise UsageError(
                f'the split {split!r} of {settings.DATASET} has no labels to train on; '
                'eval.py predicts it'
            )
        self.names = class_names()
        self.label_map = LabelMap(
            self.classes,
            source.void,
            settings.IGNORE_LABEL,
            source.stores_train_ids,
            colours=settings.DATASET == 'folder',
            hint=source.hint,
        )
        self.cache_dir = os.path.join(self.root, 'pixels')  # prepare.py --cache fills it
        self.cached = os.path.isdir(self.cache_dir)
        self.seed = settings.SEED
        self.channels = len(settings.MEAN)
        self.augment = Augment()
        self.identity = None  # of its files, once digest() has been asked

    def __len__(self):
        return len(self.pairs)

    def decode(self, index):
        """Return image (h, w, n) and label (h, w) in train ids, or None, from their files."""
        image_path, label_path = self.pairs[index]
        image = read_image(image_path, channels=self.channels)
        if label_path is None:
            return image, None
        label = self.label_map.read(label_path)
        if label.shape != image.shape[:2]:
            raise wrong_size(image_path, image, label_path, label)
        return image, label

    def read(self, index):
        """Return the same from the cache, read-only and mapped into memory, or from the files."""
        return self.read_cache(index) or self.decode(index)

    def read_cache(self, index):
        """Return image and label of the cache, or None if it does not have them."""
        if not self.cached:
            return None
        return pixel_cache.load(self.cache_path(index), self.channels)

    def cache_path(self, index):
        return pixel_cache.cache_path(
            self.cache_dir, *self.pairs[index], self.label_map, self.channels
        )

    def save(self, index):
        """Put the decoded pixels of a pair into the cache, if it lacks them; return the index."""
        path = self.cache_path(index)
        if pixel_cache.load(path, self.channels) is None:
            pixel_cache.store(path, *self.decode(index))
        return index

    def count(self, index):
        """Return the number of pixels (256,) of each train id of a label."""
        cached = self.read_cache(index)
        label = cached[1] if cached else self.label_map.read(self.pairs[index][1])
        return np.bincount(label.ravel(), minlength=256)

    def check(self, count=16):
        """Read `count` pairs spread over the split, and return what may be wrong with labels.

        UserError if a pair cannot be used, or if labels and class table make no sense together.
        """
        pixels = np.zeros(256, int)
        for index in self.spread(count):
            _, label = self.read(index)
            if label is not None:
                pixels += np.bincount(label.ravel(), minlength=256)
        if not self.labelled:
            return []
        is_own = settings.DATASET == 'folder'
        verdict = self.judge(pixels)
        if (verdict.faults or (is_own and verdict.warnings)) and len(self) > count:
            pixels = sum(self.count(index) for index in self.spread(MANY))
            verdict = self.judge(pixels)
        sentences = verdict.faults + (verdict.warnings if is_own else [])
        sentences = [f'{self.root}, {self.split}: {sentence}' for sentence in sentences]
        n = len(self.classes.names)
        may_be_rare = n > 1 and pixels[:n].any() and len(self) > MANY  # and in the other labels
        if verdict.faults and not may_be_rare:
            raise UserError(sentences[0])
        return sentences

    def spread(self, count):
        """Return the indices of at most `count` samples, spread over the split."""
        return np.linspace(0, len(self) - 1, min(count, len(self))).astype(int)

    def judge(self, pixels, strict=False):
        """Return the balance.Verdict on labels with so many pixels (256,) of each train id.

        strict  colours of the table that mean two things are faults if no label needs them, too
        """
        n, classes = len(self.classes.names), self.classes
        if settings.DATASET != 'folder':
            return balance.judge(pixels, int(pixels[n:].sum()), classes, own=False)
        labels = [self.pairs[index][1] for index in self.spread(4)]
        verdict = balance.judge_table(classes, any(map(balance.is_colour, labels)), strict)
        may_lack = not self.split.startswith('train')
        return verdict + balance.judge(
            pixels, int(pixels[n:].sum()), classes, own=True, may_lack=may_lack
        )

    def digest(self):
        """Return two short numbers, `hex-hex`: of the names of all files in order, and the table.

        Names start at the folder of the data set, which may be moved.
        """
        if self.identity is None:
            is_own = settings.DATASET == 'folder'
            names = identity.names_digest(self.pairs, self.root)
            self.identity = f'{names}-{identity.table_digest(self.classes, is_own)}'
        return self.identity

    def __getitem__(self, key):
        if not self.train:
            image, label = self.read(key)
            image, label = as_tensor(image), None if label is None else as_tensor(label)
            to_shared_memory(*[tensor for tensor in (image, label) if tensor is not None])
            return image, label, key
        position, index = key
        rng = np.random.default_rng((self.seed, position, 1))
        image, label = self.augment(*self.read(index), rng)
        return as_tensor(image), as_tensor(label)

    def collate(self, samples):
        """Return samples (image, label) as tensors (b, n, h, w), (b, h, w).

        Whole images of different sizes get mean colour and void on the right and below.
        """
        h = max(label.shape[0] for _, label in samples)
        w = max(label.shape[1] for _, label in samples)
        images = torch.tensor(self.augment.fill, dtype=torch.uint8).repeat(len(samples), h, w, 1)
        labels = torch.full((len(samples), h, w), self.augment.ignore, dtype=torch.uint8)
        for i, (image, label) in enumerate(samples):
            h, w = label.shape
            images[i, :h, :w] = image.permute(1, 2, 0)
            labels[i, :h, :w] = label
        to_shared_memory(images, labels)
        return images.permute(0, 3, 1, 2), labels


def wrong_size(image_path, image, label_path, label):
    """Return the UserError about a label (h, w) whose size is not that of its image."""
    if isinstance(label_path, Segments):
        label_path = label_path.path
    h, w = image.shape[:2]
    label_h, label_w = label.shape
    if (label_h, label_w) == (w, h):
        return UserError(
            f'{label_path}: this label is {label_w}x{label_h}, its image {image_path} {w}x{h}; '
            'they must agree in the pixels as they are stored, not as EXIF turns them'
        )
    return UserError(
        f'{label_path}: this label is {label_w}x{label_h}, its image {image_path} {w}x{h}; '
        'save the label at the size of its image'
    )


def as_tensor(array):
    """Wrap an array as a tensor; copy it if it is read-only or not contiguous.

    An image (h, w, n) becomes (n, h, w), channels_last.
    """
    if not (array.flags.c_contiguous and array.flags.writeable):
        array = array.copy()
    tensor = torch.from_numpy(array)
    return tensor.permute(2, 0, 1) if array.ndim == 3 else tensor


def parallel_map(task, indices, what, world=None):
    """Yield task(index) of each index, in their order, computed by NUM_WORKERS processes.

    A progress bar shows `what`. The processes have ended when this does, by an error, too.
    """
    world = world or distributed.World([])
    loader = DataLoader(indices, batch_size=None, collate_fn=task, **worker_options())
    bar = world.bar(total=len(indices), desc=what)
    with distributed.ending(start_loader(loader)) as results, bar:
        for result in results:
            yield result
            bar.update()


def cache(data):
    """Save the decoded pixels of an evaluation Dataset in ROOT/pixels.

    The folder can be deleted at any time.
    """
    for _ in parallel_map(data.save, range(len(data)), f'{settings.DATASET}, {data.split}'):
        pass


def class_weights(data, world):
    """Return CLASS_WEIGHTS as a list of n_classes() floats, or None.

    'median_freq' counts the pixels of all labels; each process counts its share of them.
    """
    if settings.CLASS_WEIGHTS == '':
        return None
    if settings.CLASS_WEIGHTS != 'median_freq':
        return list(settings.CLASS_WEIGHTS)
    n = n_classes()
    of_class = torch.zeros(n, dtype=torch.float64)  # pixels
    of_images = torch.zeros(n, dtype=torch.float64)  # pixels of the images in which it occurs
    for counts in parallel_map(data.count, world.share(len(data)), 'counting pixels', world):
        counts = torch.from_numpy(counts)[:n]
        of_class += counts
        of_images += (counts > 0) * counts.sum()
    sums = world.all_reduce(torch.stack([of_class, of_images]).to(world.device)).cpu()
    return median_frequency(*sums)


# ----------------------------------------------------------------------------------------- loaders


LARGEST_BATCH = 32  # images in evaluation: each is an open file until it arrives


class Batches:
    """Endless lists of (position, index) for one process; step s follows from SEED and s alone.

    A step has `batch` positions in `parts` parts (accumulation); each part is dealt out to
    `n_processes` processes in equal runs. Every epoch is a permutation of its own; batches run on
    across the ends of epochs.
    """

    def __init__(self, n, seed, batch, parts=1, rank=0, n_processes=1, start=0):
        self.n, self.seed = n, seed
        self.batch, self.parts = batch, parts
        self.rank, self.n_processes = rank, n_processes
        self.start = start  # step
        self.epoch, self.order = None, None

    def index(self, position):
        """Return the number of the sample at a position of the run."""
        epoch, i = divmod(position, self.n)
        if epoch != self.epoch:
            self.epoch = epoch
            self.order = np.random.default_rng((self.seed, epoch)).permutation(self.n)
        return int(self.order[i])

    def __iter__(self):
        size = self.batch // self.parts // self.n_processes
        first = self.start * self.batch
        while True:
            for part in range(self.parts):
                begin = first + (part * self.n_processes + self.rank) * size
                yield [(p, self.index(p)) for p in range(begin, begin + size)]
            first += self.batch


def train_batches(data, world, start):
    """Return the Batches of this process, from the one after step `start` on."""
    batch, parts = settings.BATCH_SIZE, settings.ACCUMULATE
    return Batches(len(data), settings.SEED, batch, parts, world.rank, world.size, start)


def start_worker(max_pixels, _):
    """Set up a loader process, which may have read settings.py afresh."""
    config.put({'MAX_PIXELS': max_pixels})
    distributed.keep_heap()
    distributed.end_with_parent()
    cv2.setNumThreads(0)


def start_loader(loader):
    """Start the processes of a loader and return its iterator."""
    with distributed.signals_held():  # until start_worker has set them up
        return iter(loader)


def to_shared_memory(*tensors):
    """Move the tensors of a loader process to shared memory, if this is one.

    Here a lack of room there raises; later it would be lost in a thread, and training would wait.
    """
    if get_worker_info():
        for tensor in tensors:
            tensor.share_memory_()


def worker_options():
    """Return what all loaders have in common; their generator leaves torch's own one alone."""
    return {
        'num_workers': settings.NUM_WORKERS,
        'worker_init_fn': functools.partial(start_worker, settings.MAX_PIXELS),
        'generator': torch.Generator(),
    }


def train_loader(data, batches, pin):
    """Return a loader of endless batches (b, 3, h, w), (b, h, w) of a training Dataset."""
    return DataLoader(
        data,
        batch_sampler=batches,
        collate_fn=data.collate,
        pin_memory=pin,
        **worker_options(),
    )


def eval_batches(data, indices, budget, pin):
    """Yield batches (b, 3, h, w), labels (b, h, w) or None, indices of an evaluation Dataset.

    A batch is one image, or up to LARGEST_BATCH of one size that follow each other and have
    `budget` pixels at most.
    """
    batch = []
    loader = DataLoader(data, sampler=indices, batch_size=None, **worker_options())
    with distributed.ending(start_loader(loader)) as samples:
        for sample in samples:
            if batch:
                first, image = batch[0][0], sample[0]
                pixels = (len(batch) + 1) * image[0].numel()
                is_full = pixels > budget or len(batch) == LARGEST_BATCH
                if is_full or image.shape != first.shape:
                    yield collate(batch, pin)
                    batch = []
            batch.append(sample)
    if batch:
        yield collate(batch, pin)


def collate(samples, pin):
    """Return samples (image, label or None, index) of one size as a channels_last batch."""
    images, labels, indices = zip(*samples, strict=True)
    images = torch.stack([image.permute(1, 2, 0) for image in images]).permute(0, 3, 1, 2)
    labels = None if labels[0] is None else torch.stack(labels)
    if pin:
        images = images.pin_memory()
        labels = None if labels is None else labels.pin_memory()
    return images, labels, indices
