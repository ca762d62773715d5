"""What bench.py compares with: the ways of the original code, of papers and of drawn pictures, as plain as they come. Nothing else uses them."""

import os

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

import inference
import settings


def draw(folder, width, height, ending):
    """Up to 40 clouds with noise as JPEG or PNG and blobs as palette PNG, about as hard to decode as photographs and their labels."""
    rng, count = np.random.default_rng(0), min(40, 8_000_000 // (width * height) + 1)
    grain = (
        6 if ending == 'jpg' else 2
    )  # files of about the size that those of VOC and of Cityscapes (2.2 MB) have
    noise = lambda k, c: cv2.resize(
        rng.normal(size=(height // k + 2, width // k + 2, c)),
        (width, height),
        interpolation=cv2.INTER_CUBIC,
    )
    for kind in ('train', 'trainannot'):
        os.makedirs(os.path.join(folder, 'camvid', kind))
        for i in range(count):
            pixels = (
                128 + sum(grain * k**0.7 * noise(k, 3) for k in (2, 4, 8, 32, 64))
                if kind == 'train'
                else noise(height // 6, 11).argmax(2)
            )
            picture = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
            if kind == 'trainannot':
                picture.putpalette([*range(256)] * 3)
            picture.save(
                os.path.join(folder, 'camvid', kind, f'{i}.{ending if kind == "train" else "png"}'),
                quality=90,
            )


def sample(data, position, index):
    """A training sample in floats from file to device, as the original code makes it: the whole image is resized, then cropped."""
    draw = np.random.default_rng((data.seed, position, 1)).random(4)
    image, label = (Image.open(path) for path in data.pairs[index])
    image = torch.from_numpy(np.array(image.convert('RGB'))).float() / 255
    image = ((image - torch.tensor(settings.MEAN)) / torch.tensor(settings.STD)).permute(2, 0, 1)[
        None
    ]
    label = torch.from_numpy(cv2.LUT(np.array(label), data.legend.tables['raw'][:256]))[
        None, None
    ].float()
    scale = data.augment.scales[int(draw[0] * len(data.augment.scales))]
    size = [max(1, int(n * scale)) for n in label.shape[2:]]
    image, label = (
        F.interpolate(image, size, mode='bilinear', align_corners=True),
        F.interpolate(label, size, mode='nearest'),
    )
    top, left = (int(d * (max(n - c, 0) + 1)) for d, n, c in zip(draw[1:], size, data.augment.crop))
    window = (
        -left,
        left + data.augment.crop[1] - size[1],
        -top,
        top + data.augment.crop[0] - size[0],
    )  # crops where negative
    image, label = F.pad(image, window)[0], F.pad(label, window, value=data.augment.ignore)[0, 0]
    return (
        (image.flip(2), label.flip(1).long())
        if draw[3] < data.augment.flip
        else (image, label.long())
    )


def textbook(unit, x):
    """The unit as in the official code: conv1 on the pixels, no gradient on the attention path."""
    pixels = unit.conv1(x).flatten(2)  # b c n
    with torch.no_grad():
        mu = unit.mu.expand(len(x), -1, -1)  # b c k
        for _ in range(unit.stage_num if unit.training else unit.test_stage_num):
            z = torch.bmm(pixels.transpose(1, 2), mu).softmax(2)  # b n k
            mu = unit.normalise(torch.bmm(pixels, z / (1e-6 + z.sum(1, keepdim=True))))
        y = torch.bmm(mu, z.transpose(1, 2)).view_as(x)
    return F.relu(unit.conv2(F.relu(y)) + x)


def confusion(pred, label, n):
    """Counts (n, n) int64 of pixels, from int64 maps: void is masked out first."""
    mask = (label >= 0) & (label < n)
    return torch.bincount(n * label[mask] + pred[mask], minlength=n * n).view(n, n)


def views(net, image, p):
    """Probabilities (h, w, n) float64 of an image (h, w, 3) uint8 by an inference.Protocol with windows, one window after the other, summed in numpy."""
    h, w = image.shape[:2]
    mean, total = 255 * np.array(settings.MEAN), 0
    for scale in p.scales:
        new_h, new_w = inference.scaled_size(h, w, scale, p.base)
        scaled = cv2.resize(image.astype(np.float32), (new_w, new_h))
        lack = [max(side - n, 0) for side, n in zip(p.crop, (new_h, new_w))]
        top, left = (n // 2 for n in lack)
        scaled = cv2.copyMakeBorder(
            scaled, top, lack[0] - top, left, lack[1] - left, cv2.BORDER_CONSTANT, value=mean
        )
        found, seen = None, np.zeros(scaled.shape[:2])
        for y in inference.windows(scaled.shape[0], p.crop[0], p.rate):
            for x in inference.windows(scaled.shape[1], p.crop[1], p.rate):
                part = slice(y, y + p.crop[0]), slice(x, x + p.crop[1])
                view = (
                    (scaled[part].transpose(2, 0, 1) - mean[:, None, None])
                    / (255 * np.array(settings.STD)[:, None, None])
                ).astype(np.float32)
                view = torch.from_numpy(view)[None].to(next(net.parameters()).device)
                logits = net(torch.cat([view, view.flip(3)][: 1 + p.flip]), coarse=True)
                prob = F.interpolate(
                    logits.float(), p.crop, mode='bilinear', align_corners=True
                ).softmax(1)
                prob = (
                    ((prob[0] + prob[1].flip(2)) / 2 if p.flip else prob[0])
                    .permute(1, 2, 0)
                    .cpu()
                    .numpy()
                )
                found = np.zeros((*scaled.shape[:2], prob.shape[2])) if found is None else found
                found[part] += prob
                seen[part] += 1
        found = (found / seen[..., None])[top : top + new_h, left : left + new_w]
        total = total + cv2.resize(found, (w, h))
    return total / len(p.scales)
