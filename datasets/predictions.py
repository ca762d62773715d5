"""Predictions as files: pictures, what the server of a benchmark wants, and what is rescored."""

import contextlib
import glob
import itertools
import os

import numpy as np
import torch

import settings
from datasets import layouts
from datasets.files import read_indices
from datasets.layouts import Segments
from datasets.table import entry, locate
from utils import script, visualize
from utils.config import UsageError, UserError
from utils.files import check_writable, protect

# ------------------------------------------------------------------------ what is not written over


def data_files():
    """Return the files of all splits of the data set in force, and the folders for them.

    These are the ones in its root, whether they exist or not. Nothing is returned if it is not
    there.
    """
    source = entry()._replace(make=None)  # none is made for this
    try:
        root = locate(source)
    except UserError:
        return [], []
    files = glob.glob(os.path.join(glob.escape(root), '*.txt'))  # lists, classes.txt
    parents = set()
    for split in splits(source, root):
        with contextlib.suppress(UserError, OSError):
            for listing in source.layout(root, split):
                files += listing.images.values()
                files += map(label_file, (listing.labels or {}).values())
                parents |= {listing.image_dir, listing.label_dir}
    parents.update(os.path.dirname(path) for path in files)
    folders = set()
    for parent in parents:
        inner = os.path.relpath(parent, root).split(os.sep)[0]
        if inner not in (os.curdir, os.pardir):
            folders.add(os.path.join(root, inner))
    return files, sorted(folders)


def splits(source, root):
    """Return the splits of an Entry that are to be looked at for files."""
    if source.layout is layouts.coco_panoptic:
        return []  # its JSON takes gigabytes
    if source.splits is not None:
        return list(source.splits)
    names = {settings.TRAIN_SPLIT, settings.VAL_SPLIT}
    for name in os.listdir(root):
        if name.endswith('.txt'):
            names.add(name.removesuffix('.txt'))
        elif name.endswith('annot'):
            names.add(name.removesuffix('annot'))
    return sorted(names)


def label_file(label):
    """Return the path of a label of a Listing."""
    return label.path if isinstance(label, Segments) else label


# ----------------------------------------------------------------------------- what eval.py writes


def writer(data, image_iou, checkpoint):
    """Return what writes predictions for a split into SAVE_DIR, or None.

    A split without labels gets the files for its server, or, where some class has no value in label
    files, pictures; a split with labels gets pictures, if there is a SAVE_DIR. UsageError if they
    would lie among the files of the data set or replace the checkpoint.
    image_iou  (pred (h, w), label (h, w), number of classes) -> mIoU of an image
    """
    folder = settings.SAVE_DIR
    if not folder and data.labelled:
        return None
    if not folder:
        raise UsageError(
            f'the split {data.split!r} of {settings.DATASET} has no labels to score; '
            'say where its predictions go: SAVE_DIR=FOLDER'
        )
    if not data.labelled and ServerFiles.possible(data):
        on_image = ServerFiles(folder, data)
    else:
        on_image = Saver(folder, data, image_iou)
    targets = on_image.targets()
    files, folders = data_files()
    files.append(checkpoint)
    for image, label in data.pairs:
        files.append(image)
        if label is not None:
            files.append(label_file(label))
    protect(targets, files, folders)
    check_writable(folder)
    for target_dir in sorted({os.path.dirname(target) for target in targets}):
        check_writable(target_dir)
    return on_image


class Saver:
    """Pictures in FOLDER/index (train ids), FOLDER/colour and FOLDER/overlay, named as the images.

    It is an on_image of eval.evaluate(). `error` is why one could not be written: no more are then,
    but images are still scored.
    """

    KINDS = ('index', 'colour', 'overlay')
    CHARTS = ('worst.png', 'best.png', 'confusion.png', 'classes.png')

    def __init__(self, folder, data, image_iou):
        self.folder = folder
        self.data = data
        self.image_iou = image_iou
        self.names = visualize.output_names([image for image, _ in data.pairs])
        self.scores = []  # (mIoU, index) of images that have labelled pixels
        self.written = [f'{kind}/' for kind in self.KINDS]
        self.error = None

    def path(self, index, kind):
        return os.path.join(self.folder, kind, self.names[index] + '.png')

    def targets(self):
        """Return the paths of all files that may be written."""
        paths = []
        for kind in self.KINDS:
            paths += [self.path(index, kind) for index in range(len(self.names))]
        if self.data.labelled:
            paths += [os.path.join(self.folder, name) for name in self.CHARTS]
        return paths

    def __call__(self, index, image, label, pred):
        if label is not None and (label < len(self.data.names)).any():
            self.scores.append((self.image_iou(pred, label, len(self.data.names)), index))
        if self.error:
            return
        try:
            self.save(index, image, pred)
        except OSError as e:
            if label is None:  # pictures are all that is asked for
                raise
            self.error = e

    def save(self, index, image, pred):
        """Write the pictures of an image (n, h, w) and its prediction (h, w)."""
        colours = self.data.classes.colours
        pixels = visualize.visible(image.permute(1, 2, 0).numpy())
        coloured = visualize.colour(pred.numpy(), colours)
        visualize.save(self.path(index, 'index'), pred.numpy(), colours)
        visualize.save(self.path(index, 'colour'), coloured)
        visualize.save(self.path(index, 'overlay'), visualize.overlay(pixels, coloured))

    def contact_sheet(self, scores):
        """Return a row of image, truth, prediction and errors for each of some (mIoU, index)."""
        colours, n = self.data.classes.colours, len(self.data.names)
        tiles = []
        for iou, index in scores:
            image, label = self.data.read(index)
            pred = read_indices(self.path(index, 'index'))
            tiles.append((self.names[index], visualize.visible(image)))
            tiles.append(('label', visualize.colour(label, colours)))
            tiles.append((f'prediction, mIoU {100 * iou:.1f}', visualize.colour(pred, colours)))
            tiles.append(('errors', visualize.errors(label, pred, n)))
        return visualize.sheet(tiles, 4)

    def gather(self, world):
        """Return the scores of all processes, which must all call this; learn of their errors."""
        errors = [error for error in world.gather(self.error) if error]
        self.error = errors[0] if errors else None
        return list(itertools.chain.from_iterable(world.gather(self.scores)))

    def charts(self, result, scores, count=8):
        """Write worst.png, best.png, confusion.png and classes.png.

        OSError if these, or pictures before them, could not be written; if a chart cannot be drawn,
        a sentence is printed.
        result  of eval.evaluate()
        scores  (mIoU, index) of the images of all processes
        """
        if self.error:
            raise self.error
        if not scores:
            return
        names, ordered = self.data.names, sorted(scores)
        title = f'{settings.NAME}, {settings.DATASET} {self.data.split}: '
        title += f'mIoU {100 * result["mIoU"]:.2f} %'
        charts = {
            'worst.png': (self.contact_sheet, ordered[:count]),
            'best.png': (self.contact_sheet, ordered[::-1][:count]),
            'confusion.png': (visualize.confusion, result['confusion'].numpy(), names),
            'classes.png': (visualize.bars, result['class_iou'], names, title),
        }
        for name, (draw, *args) in charts.items():
            path = os.path.join(self.folder, name)
            try:
                picture = draw(*args)
            except Exception as e:  # of matplotlib, fonts: the scores are what counts
                script.complain(f'{path} is not drawn: {type(e).__name__}: {e}')
                continue
            visualize.save(path, picture)
            self.written.append(name)

    def __str__(self):
        return f'pictures in {self.folder}: {" ".join(self.written)}'


class ServerFiles:
    """Palette PNG of the values that label files have, which the servers of benchmarks expect.

    VOC: 0 to 20, Cityscapes: labelIds, ADE20K: 1 to 150. They have the names of the images and lie
    where the server wants them. It is an on_image of eval.evaluate().
    """

    def __init__(self, folder, data):
        raw = np.array(data.classes.raw)
        values_fit = raw.max() < 256
        self.table = np.zeros(256, np.uint8 if values_fit else np.uint16)
        self.table[: len(raw)] = raw
        self.colours = None
        if values_fit:
            self.colours = np.zeros((256, 3), np.uint8)
            self.colours[raw] = data.classes.colours
        self.folder = os.path.join(folder, entry().server)
        self.names = visualize.output_names([image for image, _ in data.pairs])

    @staticmethod
    def possible(data):
        """Tell whether every class has a value to write."""
        raw = data.classes.raw
        return None not in raw and len(raw) == len(data.names)

    def targets(self):
        """Return the paths of all files that are written."""
        return [os.path.join(self.folder, name + '.png') for name in self.names]

    def __call__(self, index, image, label, pred):
        path = os.path.join(self.folder, self.names[index] + '.png')
        visualize.save(path, self.table[pred.numpy()], self.colours)

    def __str__(self):
        return f'{len(self.names)} files for the server in {self.folder}'


class Predictions:
    """Index pictures of a split that any program saved, under the names of the images.

    folder  they lie in it or in its folder `index`, at the place of the image or anywhere below
    raw     they hold the values of label files (Cityscapes: labelIds), not train ids
    """

    def __init__(self, folder, data, raw):
        if not data.labelled:
            raise UserError(
                f'the split {data.split!r} of {settings.DATASET} has no labels to score; '
                'name another one: VAL_SPLIT=val'
            )
        inner = os.path.join(folder, 'index')
        if os.path.isdir(inner):
            folder = inner
        if not os.path.isdir(folder):
            raise UserError(f'--rescore={folder}: there is no such folder of predictions')
        self.data = data
        self.raw = raw
        by_path, by_name = png_files(folder)
        names = visualize.output_names([image for image, _ in data.pairs])
        self.paths, missing = [], []
        for name in names:
            paths = by_name.get(name, [])
            if name in by_path:
                paths = [by_path[name]]
            if len(paths) > 1:
                raise UserError(
                    f'{paths[0]} and {paths[1]}: both may be the prediction of {name}; '
                    'name the folder of one set'
                )
            if not paths:
                missing.append(name)
            self.paths += paths
        if missing:
            raise UserError(
                f'{os.path.join(folder, missing[0])}.png: this prediction is missing, '
                f'{len(missing)} of {len(names)} are; expected PNG of class indices with the names '
                'of the images'
            )

    def read(self, index):
        """Return train ids and label (h, w), as tensors of uint8."""
        path = self.paths[index]
        values = read_indices(path)
        _, label = self.data.read(index)
        if values.shape != label.shape:
            raise UserError(
                f'{path}: this prediction is {values.shape[1]}x{values.shape[0]}, the label of its '
                f'image {label.shape[1]}x{label.shape[0]}; save it at the size of the image'
            )
        ids = values
        if self.raw:
            ids = self.data.label_map.tables['raw'][values]
        wrong = ids >= len(self.data.names)
        if wrong.any():
            value = values[wrong][0]
            if self.raw:
                raise UserError(
                    f'{path}: the value {value} is no class of {settings.DATASET}; '
                    '--raw expects values of label files'
                )
            raise UserError(
                f'{path}: the value {value} is no class of {settings.DATASET}; '
                'if these are values of label files, say --raw'
            )
        return torch.from_numpy(ids.astype(np.uint8)), torch.tensor(label)


def png_files(folder):
    """Return PNG files below a folder, {path from it, without ending: path} and {name: [paths]}."""
    by_path, by_name = {}, {}
    for parent, folders, files in os.walk(folder):
        folders.sort()
        for file in sorted(files):
            name, ending = os.path.splitext(file)
            if ending.lower() == '.png':
                path = os.path.join(parent, file)
                by_path[os.path.relpath(os.path.join(parent, name), folder)] = path
                by_name.setdefault(name, []).append(path)
    return by_path, by_name
