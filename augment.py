"""Augmentation of a training sample: scale, rotation, crop, blur, jitter, mirror, on uint8 arrays and by one map for image and label.

Scale and crop window are drawn first, and only the source pixels that the crop needs are resized. A crop that reaches beyond the scaled
image is padded with the mean colour and void, on the right and at the bottom.
"""
import math
from fractions import Fraction

import cv2
import numpy as np
import torch
import torchvision.transforms.v2.functional as tv

import settings


def span(scale, start, length, size):
    """Where the resized pixels start..start+length of an axis of `size` source pixels come from.

    Output pixel i lies at source (i + 0.5) / scale - 0.5. With scale = p / q, p output pixels cover q source pixels exactly, so a source
    window that starts at a multiple of q is resized just as the whole axis would be.
    Returns source start and stop, and how many output pixels the source start lies before `start`.
    """
    p, q = scale.numerator, scale.denominator
    blocks = max(start // p - 1, 0)  # one block more: the first pixel interpolates with what lies before it
    return blocks * q, min(size, math.ceil((start + length) / scale) + 1), start - blocks * p


def resize_crop(image, scale, top, left, height, width):
    """Rows top..top+height, columns left..left+width of the image resized by a Fraction, bilinear, reading only what they need."""
    y0, y1, dy = span(scale, top, height, image.shape[0])
    x0, x1, dx = span(scale, left, width, image.shape[1])
    window = image[y0:y1, x0:x1]
    if scale != 1:
        window = cv2.resize(window, None, fx=float(scale), fy=float(scale), interpolation=cv2.INTER_LINEAR)
    return window[dy:dy + height, dx:dx + width]


def nearest_crop(label, scale, top, left, height, width):
    """The same of a label, by the same map: output pixel i takes source pixel floor((i + 0.5) / scale)."""
    if scale == 1:
        return label[top:top + height, left:left + width]
    p, q = scale.numerator, scale.denominator
    rows = (2 * np.arange(top, top + height) + 1) * q // (2 * p)
    columns = (2 * np.arange(left, left + width) + 1) * q // (2 * p)
    return label.take(columns, axis=1)[rows] if scale > 1 else label[rows].take(columns, axis=1)  # the smaller one first


class Augment:
    """What settings describe; they are copied, so that loader processes started afresh agree."""

    def __init__(self):
        s = settings
        self.ignore, self.flip, self.rotate, self.blur, self.jitter = s.IGNORE_LABEL, s.FLIP, s.ROTATE, s.BLUR, s.JITTER
        self.crop = s.CROP_SIZE if isinstance(s.CROP_SIZE, tuple) else (s.CROP_SIZE, s.CROP_SIZE)
        self.scales, self.scale_mode = s.SCALES, s.SCALE_MODE
        self.fill = [round(255 * v) for v in s.MEAN]

    def __call__(self, image, label, rng):
        """Image (h, w, 3) RGB and label (h, w) -> those of the crop; `rng` is a numpy Generator."""
        draw = rng.random(8)
        if self.scale_mode == 'choice':
            scale = self.scales[int(draw[0] * len(self.scales))]
        else:
            scale = self.scales[0] + draw[0] * (self.scales[-1] - self.scales[0])
        scale = Fraction(scale).limit_denominator(32)  # see span()
        size = [max(1, int(n * scale)) for n in label.shape]
        top, left = (int(d * (max(n - c, 0) + 1)) for d, n, c in zip(draw[1:], size, self.crop))
        if self.rotate:
            image, label = self.turn(image, label, scale, size, top, left, self.rotate * (2 * draw[3] - 1))
        else:
            window = scale, top, left, min(size[0], self.crop[0]), min(size[1], self.crop[1])
            image, label = resize_crop(image, *window), nearest_crop(label, *window)
            below, right = self.crop[0] - label.shape[0], self.crop[1] - label.shape[1]
            if below or right:
                image = cv2.copyMakeBorder(image, 0, below, 0, right, cv2.BORDER_CONSTANT, value=self.fill)
                label = cv2.copyMakeBorder(label, 0, below, 0, right, cv2.BORDER_CONSTANT, value=self.ignore)
        if draw[4] < self.blur:
            image = cv2.GaussianBlur(image, (5, 5), 0)
        if self.jitter:
            image = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))
            for change, d in zip((tv.adjust_brightness, tv.adjust_contrast, tv.adjust_saturation), draw[5:8]):
                image = change(image, 1 + self.jitter * (2 * d - 1))
            image = np.ascontiguousarray(image.numpy().transpose(1, 2, 0))
        if rng.random() < self.flip:
            image, label = cv2.flip(image, 1), cv2.flip(label, 1)
        return image, label

    def turn(self, image, label, scale, size, top, left, degrees):
        """The crop of the scaled image turned about its centre: one affine map for image and label, void outside."""
        zoom = np.diag([float(scale), float(scale), 1.0])
        zoom[:2, 2] = (float(scale) - 1) / 2  # pixel centres: (i + 0.5) * scale - 0.5
        spin = np.vstack([cv2.getRotationMatrix2D(((size[1] - 1) / 2, (size[0] - 1) / 2), degrees, 1), [0, 0, 1]])
        spin[:2, 2] -= left, top
        to = (spin @ zoom)[:2], (self.crop[1], self.crop[0])
        image = cv2.warpAffine(image, *to, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT, borderValue=self.fill)
        return image, cv2.warpAffine(label, *to, flags=cv2.INTER_NEAREST, borderMode=cv2.BORDER_CONSTANT, borderValue=self.ignore)
