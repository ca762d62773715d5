"""What benchmarks compare with: how the original code and papers do it, as simple as possible."""

import os

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

import settings
from utils import config

# --------------------------------------------------------------------------------------------- data


def draw(folder, width, height, ending):
    """Draw a data set laid out as CamVid: up to 40 clouds with noise, and blobs as their labels.

    Files are about as large, and as hard to decode, as those of VOC ('jpg') and Cityscapes ('png').
    """
    rng = np.random.default_rng(0)
    count = min(40, 8_000_000 // (width * height) + 1)
    grain = 6 if ending == 'jpg' else 2
    for kind in ('train', 'trainannot'):
        os.makedirs(os.path.join(folder, 'camvid', kind))
    for i in range(count):
        pixels = np.full((height, width, 3), 128.0)
        for side in (2, 4, 8, 32, 64):
            pixels += grain * side**0.7 * noise(rng, width, height, side, 3)
        picture = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
        picture.save(os.path.join(folder, 'camvid', 'train', f'{i}.{ending}'), quality=90)
    for i in range(count):
        blobs = noise(rng, width, height, height // 6, 11).argmax(2)
        picture = Image.fromarray(blobs.astype(np.uint8))
        picture.putpalette([*range(256)] * 3)
        picture.save(os.path.join(folder, 'camvid', 'trainannot', f'{i}.png'))


def noise(rng, width, height, side, channels):
    """Return smooth noise (height, width, channels), whose spots are about `side` pixels wide."""
    coarse = rng.normal(size=(height // side + 2, width // side + 2, channels))
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)


def sample(data, position, index):
    """Return a training sample as the original code makes it: in floats, the whole image resized.

    Image (3, h, w) float32, normalised, and label (h, w) int64 of a training Dataset.
    """
    draws = np.random.default_rng((settings.SEED, position, 1)).random(4)
    image_path, label_path = data.pairs[index]
    image = torch.from_numpy(np.array(Image.open(image_path).convert('RGB'))).float() / 255
    image = (image - torch.tensor(settings.MEAN)) / torch.tensor(settings.STD)
    image = image.permute(2, 0, 1)[None]
    raw = np.array(Image.open(label_path))
    label = torch.from_numpy(cv2.LUT(raw, data.label_map.tables['raw'][:256]))
    label = label[None, None].float()

    scale = settings.SCALES[int(draws[0] * len(settings.SCALES))]
    size = [max(1, int(n * scale)) for n in label.shape[2:]]
    image = F.interpolate(image, size, mode='bilinear', align_corners=True)
    label = F.interpolate(label, size, mode='nearest')

    crop = config.sides(settings.CROP_SIZE)
    top = int(draws[1] * (max(size[0] - crop[0], 0) + 1))
    left = int(draws[2] * (max(size[1] - crop[1], 0) + 1))
    # padding that is negative crops
    window = (-left, left + crop[1] - size[1], -top, top + crop[0] - size[0])
    image = F.pad(image, window)[0]
    label = F.pad(label, window, value=settings.IGNORE_LABEL)[0, 0].long()
    if draws[3] < settings.FLIP:
        return image.flip(2), label.flip(1)
    return image, label


# ------------------------------------------------------------------------------------- unit, metric


def textbook(unit, x):
    """Return what an EMAU makes of x (b, c, h, w), as the official code does, and its bases.

    conv1 works on the pixels, and the attention path has no gradient.
    """
    pixels = unit.conv1(x).flatten(2)  # b c n
    with torch.no_grad():
        mu = unit.mu.expand(len(x), -1, -1)  # b c k
        for _ in range(unit.stage_num):
            z = torch.bmm(pixels.transpose(1, 2), mu).softmax(2)  # b n k
            mu = unit.normalise(torch.bmm(pixels, z / (1e-6 + z.sum(1, keepdim=True))))
        y = torch.bmm(mu, z.transpose(1, 2)).view_as(x)
    return F.relu(unit.conv2(F.relu(y)) + x), mu


def confusion(pred, label, n):
    """Return counts (n, n) int64 of pixels, from int64 maps; void is masked out first."""
    mask = (label >= 0) & (label < n)
    return torch.bincount(n * label[mask] + pred[mask], minlength=n * n).view(n, n)


# -------------------------------------------------------------------------------------------- views


def views(net, image, scales, crop):
    """Return probabilities (h, w, n) float64 of an image (h, w, 3) uint8, averaged over all views.

    Views are windows of `crop` (height, width) pixels every 2/3 of that, straight and mirrored, at
    all scales: one after the other, summed in numpy.
    """
    h, w = image.shape[:2]
    total = 0
    for scale in scales:
        long = round(scale * max(h, w))
        new_h, new_w = round(long / max(h, w) * h), round(long / max(h, w) * w)
        scaled = cv2.resize(image.astype(np.float32), (new_w, new_h))
        total = total + cv2.resize(sliding(net, scaled, crop), (w, h))
    return total / len(scales)


def sliding(net, image, crop):
    """Return probabilities (h, w, n) float64 of an image (h, w, 3), averaged over windows."""
    h, w = image.shape[:2]
    pad_h, pad_w = max(crop[0] - h, 0), max(crop[1] - w, 0)
    top, left = pad_h // 2, pad_w // 2
    sides = top, pad_h - top, left, pad_w - left
    mean = 255 * np.array(settings.MEAN)
    image = cv2.copyMakeBorder(image, *sides, cv2.BORDER_CONSTANT, value=mean)
    total, count = None, np.zeros(image.shape[:2])
    for y in window_starts(image.shape[0], crop[0]):
        for x in window_starts(image.shape[1], crop[1]):
            window = slice(y, y + crop[0]), slice(x, x + crop[1])
            prob = probabilities(net, image[window])
            if total is None:
                total = np.zeros((*image.shape[:2], prob.shape[2]))
            total[window] += prob
            count[window] += 1
    return (total / count[..., None])[top : top + h, left : left + w]


def window_starts(length, crop):
    """Return where windows begin along an axis, the last one moved back inside."""
    step = -(-2 * crop // 3)
    count = -(-(length - crop) // step) + 1
    return [min(i * step, length - crop) for i in range(count)]


def probabilities(net, window):
    """Return probabilities (h, w, n) of a window (h, w, 3), the mean of straight and mirrored."""
    mean, std = 255 * np.array(settings.MEAN), 255 * np.array(settings.STD)
    pixels = ((window - mean) / std).transpose(2, 0, 1).astype(np.float32)
    view = torch.from_numpy(pixels)[None].to(next(net.parameters()).device)
    view = torch.cat([view, view.flip(3)])
    logits = net.decode(net.maps(view), view)['out'].float()
    prob = F.interpolate(logits, window.shape[:2], mode='bilinear', align_corners=True).softmax(1)
    prob = (prob[0] + prob[1].flip(2)) / 2
    return prob.permute(1, 2, 0).cpu().numpy()
