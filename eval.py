"""Scores a network, and writes its predictions.

python eval.py recipes/camvid.py                          the run's best checkpoint on VAL_SPLIT
python eval.py recipes/camvid.py CHECKPOINT=net.pth SAVE_DIR=out    and pictures: predictions, best and worst images, charts
python eval.py TEST_SCALES=0.5,0.75,1,1.25,1.5,1.75 TEST_FLIP=True  beside scale 1 alone; TEST_CROP=513: in sliding windows
python eval.py TEST_MODE=test SAVE_DIR=out                the files that the benchmark's server takes
torchrun --nproc_per_node=4 eval.py recipes/camvid.py     the same score, sooner
python eval.py DATASET=voc --rescore DIR                  scores index pictures that any program saved: train ids; --raw: values of label files
"""

import json
import os
import time

import numpy as np
import torch

import checkpoint
import dataset
import inference
import launch
import metric
import network
import pictures
import reading
import settings
from settings import UsageError, UserError


@torch.no_grad()
def evaluate(net, data, place, how=None, on_image=None, count=None):
    """Scores of `net` on an evaluation Dataset by a Protocol (that of settings), summed over the processes: metric.scores and `confusion`, the matrix (n, n); None where
    it has no labels. If there is more to the protocol than scale 1, `single` holds the scores of that alone.

    The images are dealt out to the processes, none twice. A copy of the network is used, with batch norms folded into convolutions.
    on_image(index, image (3, h, w), label (h, w) or None, pred (h, w)), uint8 on the CPU, is called for the images of this process, or the first `count`.
    """
    net, how = network.fold(net), how or inference.protocol()
    beside = data.labelled and how != how.single()
    matrices = torch.zeros(
        1 + beside, net.n_classes, net.n_classes, dtype=torch.int64, device=place.device
    )
    mine, done = range(place.rank, len(data), place.world), 0
    with (
        place.autocast(),
        place.bar(total=len(mine), desc='evaluating', unit='image', leave=False) as bar,
    ):
        for image, label, indices in dataset.eval_batches(data, mine, how.budget, place.cuda):
            try:
                found = inference.predict(
                    net, image.to(place.device, non_blocking=True), how, beside
                )
            except UserError as e:
                raise UserError(f'{data.pairs[indices[0]][0]}: {e}') from None
            if label is not None:
                true = label.to(place.device, non_blocking=True)
                matrices += torch.stack(
                    [metric.confusion(pred, true, net.n_classes) for pred in found]
                )
            if on_image and (count is None or done < count):
                pred = found[0].cpu()
                for i, index in enumerate(indices):
                    on_image(index, image[i], None if label is None else label[i], pred[i])
            done += len(indices)
            bar.update(len(indices))
    return report(place.sum(matrices), data) if data.labelled else None


def load(place, path):
    """The network that settings describe, on the device, with the weights of a checkpoint, and its step if it tells; says what matched."""
    net = network.build()
    kept = checkpoint.load_weights(net, path)
    place.say(kept)
    for line in checkpoint.differences(kept.settings, checkpoint.network_settings(settings.HEAD)):
        place.say(f'note: when this checkpoint was trained, {line}')
    return net.to(place.device, memory_format=torch.channels_last), kept.step


def report(matrices, data):
    """metric.scores of the first of some confusion matrices (m, n, n), with `confusion`; `single`: those of the second, if there is one."""
    try:
        first, *second = map(metric.scores, matrices)
    except ValueError as e:
        raise UserError(f'{data.root}, split {data.split}: {e}') from None
    return first | dict(confusion=matrices[0].cpu()) | dict(zip(['single'], second))


class Saver:
    """on_image for evaluate(): FOLDER/index (train ids), FOLDER/colour and FOLDER/overlay, each named after the image."""

    def __init__(self, folder, data):
        self.folder, self.data, self.names, self.image_iou = (
            folder,
            data,
            pictures.stems([image for image, _ in data.pairs]),
            [],
        )

    def path(self, index, kind):
        return os.path.join(self.folder, kind, self.names[index] + '.png')

    def __call__(self, index, image, label, pred):
        pred, colours = pred.numpy(), self.data.classes.colours
        coloured = pictures.colour(pred, colours)
        pictures.save(self.path(index, 'index'), pred, colours)
        pictures.save(self.path(index, 'colour'), coloured)
        pictures.save(
            self.path(index, 'overlay'), pictures.overlay(image.permute(1, 2, 0).numpy(), coloured)
        )
        if label is not None and (label < len(self.data.names)).any():
            matrix = metric.confusion(torch.from_numpy(pred), label, len(self.data.names))
            self.image_iou.append((metric.scores(matrix)['mIoU'], index))

    def contact_sheet(self, indices, iou):
        """Images beside truth, prediction and errors, a row each."""
        tiles, colours = [], self.data.classes.colours
        for index in indices:
            image, label = self.data.read(index)
            pred = reading.read_indices(self.path(index, 'index'), None)
            tiles += [
                (self.names[index], image),
                ('label', pictures.colour(label, colours)),
                (f'prediction, mIoU {100 * iou[index]:.1f}', pictures.colour(pred, colours)),
                ('errors', pictures.errors(label, pred, len(self.data.names))),
            ]
        return pictures.sheet(tiles, 4)

    def charts(self, found, image_iou, count=8):
        """FOLDER/worst.png and best.png by the images' own mIoU, confusion.png and classes.png."""
        iou = {index: value for value, index in sorted(image_iou)}
        for name, some in (('worst', list(iou)[:count]), ('best', list(iou)[::-1][:count])):
            pictures.save(os.path.join(self.folder, name + '.png'), self.contact_sheet(some, iou))
        names, title = (
            self.data.names,
            f'{settings.NAME}, {settings.DATASET} {self.data.split}: mIoU {100 * found["mIoU"]:.2f} %',
        )
        pictures.save(
            os.path.join(self.folder, 'confusion.png'),
            pictures.confusion(found['confusion'].numpy(), names),
        )
        pictures.save(
            os.path.join(self.folder, 'classes.png'),
            pictures.bars(found['class_iou'], names, title),
        )


def server_files(folder, data):
    """on_image for evaluate(): what the server of the data set's benchmark takes, and FOLDER/... where it is: palette PNG of the values that label
    files have (VOC: 0..20, Cityscapes: labelIds, ADE20K: 1..150), named after the images."""
    raw = data.classes.raw
    if None in raw or len(raw) < len(data.names):
        raise UserError(
            f'{data.classes.path}: not every class has a value to write into files; name a value for each, or take TEST_MODE=testval'
        )
    table, colours = (
        np.zeros(256, np.uint16 if max(raw) > 255 else np.uint8),
        np.zeros((256, 3), np.uint8),
    )
    table[: len(raw)] = raw
    colours[[v for v in raw if v < 256]] = [c for v, c in zip(raw, data.classes.colours) if v < 256]
    folder, names = (
        os.path.join(folder, dataset.entry().server),
        pictures.stems([image for image, _ in data.pairs]),
    )

    def save(index, image, label, pred):
        pictures.save(
            os.path.join(folder, names[index] + '.png'),
            table[pred.numpy()],
            colours if table.dtype == np.uint8 else None,
        )

    return save, folder


class Rescore:
    """task(index) -> confusion matrix (n, n) of the label of an image and its index picture, which any program saved in `folder`, under the image's name.

    raw  the pictures hold values of label files (Cityscapes: labelIds), not train ids
    """

    def __init__(self, folder, data, raw):
        folder = (
            os.path.join(folder, 'index')
            if os.path.isdir(os.path.join(folder, 'index'))
            else folder
        )
        if not os.path.isdir(folder):
            raise UserError(f'{folder}: there is no such folder of predictions')
        there, bare = {}, {}
        for path in sorted(
            os.path.join(d, f)
            for d, _, some in os.walk(folder)
            for f in some
            if f.lower().endswith('.png')
        ):
            stem = os.path.splitext(path)[0]
            there[os.path.relpath(stem, folder)] = path
            bare.setdefault(os.path.basename(stem), []).append(path)
        names = pictures.stems([image for image, _ in data.pairs])
        for name in [n for n in names if n not in there and n in bare]:
            if len(bare[name]) > 1:
                raise UserError(
                    f'{bare[name][0]} and {bare[name][1]}: both may be the prediction of {name}; name the folder of one set'
                )
            there[name] = bare[name][0]
        lost = [name for name in names if name not in there]
        if lost:
            raise UserError(
                f'{os.path.join(folder, lost[0])}.png: this prediction is missing, {len(lost)} of {len(names)} are; '
                'they are PNG of class indices with the names of the images'
            )
        self.data, self.raw, self.paths = data, raw, [there[name] for name in names]

    def __call__(self, index):
        path, n = self.paths[index], len(self.data.names)
        values = reading.read_indices(path, None)
        label = self.data.read(index)[1]
        if values.shape != label.shape:
            raise UserError(
                f'{path}: this prediction is {values.shape[1]}x{values.shape[0]}, the label of its image {label.shape[1]}x{label.shape[0]}'
            )
        ids = self.data.legend.tables['raw'][values] if self.raw else values
        if (ids >= n).any():
            raise UserError(
                f'{path}: the value {values[ids >= n][0]} is no class of {settings.DATASET}'
                + (
                    ''
                    if self.raw
                    else ' as a train id; if these are values of label files, say --raw'
                )
            )
        return metric.confusion(
            torch.from_numpy(ids.astype(np.uint8)), torch.from_numpy(np.array(label)), n
        )


def tell(found, name, data, **facts):
    """Prints the scores, and writes them to LOG_DIR/NAME/`name`."""
    print(metric.table(found, data.names), flush=True)
    out = os.path.join(settings.LOG_DIR, settings.NAME, name)
    plain = {key: value for key, value in found.items() if key != 'confusion'}
    with pictures.whole(out) as f:
        f.write(
            json.dumps(
                plain
                | dict(
                    dataset=settings.DATASET, split=data.split, images=len(data), classes=data.names
                )
                | facts,
                indent=1,
            ).encode()
        )
    print(f'scores in {out}')


def main(flags):
    place, mode, folder = launch.start(), settings.TEST_MODE, settings.SAVE_DIR
    if '--raw' in flags and '--rescore' not in flags:
        raise UsageError('--raw goes with --rescore DIR')
    if mode != 'val' and not folder and '--rescore' not in flags:
        raise UsageError(f'TEST_MODE={mode} writes files; say where: SAVE_DIR=FOLDER')
    data = dataset.Dataset(
        'test' if mode == 'test' and '--rescore' not in flags else settings.VAL_SPLIT, train=False
    )
    if (mode == 'val' or '--rescore' in flags) and not data.labelled:
        raise UserError(
            f'the split {data.split!r} of {settings.DATASET} has no labels to score; TEST_MODE=testval SAVE_DIR=FOLDER saves the predictions'
        )
    if '--rescore' in flags:
        matrix = torch.zeros(1, *[len(data.names)] * 2, dtype=torch.int64)
        for one in dataset.spread(
            Rescore(flags['--rescore'], data, '--raw' in flags),
            range(place.rank, len(data), place.world),
            'scoring',
            place,
        ):
            matrix += one
        found = report(place.sum(matrix.to(place.device)), data)
        return (
            tell(found, 'rescore.json', data, predictions=flags['--rescore'])
            if place.rank == 0
            else None
        )
    if mode != 'val':
        data.forget_labels()
    on_image, where = (
        server_files(folder, data)
        if mode == 'test'
        else (Saver(folder, data) if folder else None, folder)
    )
    path, how = checkpoint.to_evaluate(), inference.protocol()
    net, step = load(place, path)
    place.say(
        f'{settings.DATASET} {data.split}: {len(data)} images in {data.root}; {place.world} x {place.device}, {place.amp() or "float32"}\n{how}'
    )
    if mode == 'val':
        os.makedirs(
            os.path.join(settings.LOG_DIR, settings.NAME), exist_ok=True
        )  # rather now than after hours
    begin = time.time()
    found = evaluate(net, data, place, how, on_image)
    speed = len(data) / (time.time() - begin)
    images = (
        [one for some in place.gather(on_image.image_iou) for one in some]
        if found and on_image
        else []
    )
    if place.rank == 0:
        if found:
            tell(found, 'scores.json', data, checkpoint=path, step=step, views=str(how))
        if images:
            on_image.charts(found, images)
        print(
            f'{speed:.1f} images/s'
            + (
                f'; {len(data)} files for the server in {where}'
                if mode == 'test'
                else f'; pictures in {where}: index/ colour/ overlay/'
                + ' worst.png best.png confusion.png classes.png' * bool(images)
                if folder
                else ''
            )
        )


if __name__ == '__main__':
    launch.run(main, {'--rescore': 'DIR', '--raw': ''})
