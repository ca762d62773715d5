"""Scores a network, and writes its predictions.

    python eval.py recipes/camvid.py                          the run's best checkpoint on VAL_SPLIT
    python eval.py recipes/camvid.py CHECKPOINT=net.pth SAVE_DIR=out
    torchrun --nproc_per_node=4 eval.py recipes/camvid.py     the same score, sooner
"""
import json
import os
import time

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

import checkpoint
import dataset
import launch
import metric
import network
import settings
from settings import UserError


def pad(image, stride):
    """Zeros on the right and at the bottom of (b, 3, h, w), until both sides are 1 mod stride: no pixel of the trunk's maps hangs over."""
    h, w = image.shape[2:]
    return F.pad(image, (0, (1 - w) % stride, 0, (1 - h) % stride))


def predict(net, image):
    """Train ids (b, h, w) uint8 of images (b, 3, h, w) uint8 on the network's device; whole images, one scale."""
    h, w = image.shape[2:]
    logits = net(pad(net.normalise(image), settings.STRIDE))[..., :h, :w]
    return logits.max(1)[1].to(torch.uint8)  # on CPU argmax(1) is several times slower


@torch.no_grad()
def evaluate(net, data, place, on_image=None):
    """Scores of `net` on an evaluation Dataset, summed over the processes: metric.scores, or None where it has no labels.

    The images are dealt out to the processes, none twice. A copy of the network is used, with batch norms folded into convolutions.
    on_image(index, image (3, h, w), label (h, w) or None, pred (h, w)), uint8 on the CPU, is called for the images of this process.
    """
    net = network.fold(net)
    matrix = torch.zeros(net.n_classes, net.n_classes, dtype=torch.int64, device=place.device)
    mine = range(place.rank, len(data), place.world)
    bar = place.bar(total=len(mine), desc='evaluating', unit='image', leave=False)
    with place.autocast(), bar:
        for image, label, indices in dataset.eval_batches(data, mine, settings.TEST_BATCH, place.cuda):
            pred = predict(net, image.to(place.device, non_blocking=True))
            if label is not None:
                matrix += metric.confusion(pred, label.to(place.device, non_blocking=True), net.n_classes)
            if on_image:
                for i, index in enumerate(indices):
                    on_image(index, image[i], None if label is None else label[i], pred[i].cpu())
            bar.update(len(indices))
    if not data.labelled:
        return None
    try:
        return metric.scores(place.sum(matrix))
    except ValueError as e:
        raise UserError(f'{data.root}, split {data.split}: {e}') from None


def colour(ids, colours):
    """(h, w) train ids -> (h, w, 3) uint8 RGB; what the table lacks is black."""
    table = np.zeros((256, 3), np.uint8)
    table[:len(colours)] = colours
    return table[np.asarray(ids)]


def overlay(image, coloured):
    """An image (3, h, w) uint8 under a coloured map (h, w, 3), half and half."""
    return (image.permute(1, 2, 0).numpy() // 2 + coloured // 2).astype(np.uint8)


def saver(folder, data):
    """on_image for evaluate(): FOLDER/index (train ids), FOLDER/colour and FOLDER/overlay, each named after the image."""
    for kind in ('index', 'colour', 'overlay'):
        os.makedirs(os.path.join(folder, kind), exist_ok=True)

    def save(index, image, label, pred):
        name = os.path.splitext(os.path.basename(data.pairs[index][0]))[0] + '.png'
        coloured = colour(pred, data.classes.colours)
        for kind, pixels in (('index', pred.numpy()), ('colour', coloured), ('overlay', overlay(image, coloured))):
            Image.fromarray(pixels).save(os.path.join(folder, kind, name))
    return save


def main():
    place = launch.start()
    data = dataset.Dataset(settings.VAL_SPLIT, train=False)
    if not data.labelled and not settings.SAVE_DIR:
        raise UserError(f'the split {data.split!r} of {settings.DATASET} has no labels to score; SAVE_DIR=FOLDER saves the predictions')
    path = checkpoint.to_evaluate()
    net = network.build()
    report = checkpoint.load_weights(net, path)
    place.say(report)
    for line in checkpoint.differences(report.settings, checkpoint.NETWORK):
        place.say(f'note: when this checkpoint was trained, {line}')
    net.to(place.device, memory_format=torch.channels_last)
    half = place.amp()
    place.say(f'{settings.DATASET} {data.split}: {len(data)} images in {data.root}; {place.world} x {place.device}, {half or "float32"}')
    begin = time.time()
    found = evaluate(net, data, place, saver(settings.SAVE_DIR, data) if settings.SAVE_DIR else None)
    if place.rank == 0:
        if found:
            found |= dict(dataset=settings.DATASET, split=data.split, images=len(data), checkpoint=path, step=report.step, classes=data.names)
            out = os.path.join(settings.LOG_DIR, settings.NAME, 'scores.json')
            os.makedirs(os.path.dirname(out), exist_ok=True)
            text = json.dumps(found, indent=1)
            with open(out + '.part', 'w') as f:
                f.write(text)
            os.replace(out + '.part', out)
            print(metric.table(found, data.names))
            print(f'{len(data) / (time.time() - begin):.1f} images/s; scores in {out}')
        if settings.SAVE_DIR:
            print(f'pictures in {settings.SAVE_DIR}: index/ colour/ overlay/')


if __name__ == '__main__':
    launch.run(main)
