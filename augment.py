"""Augmentation of a training sample: scale, rotation, crop, blur, jitter, mirror, on uint8 arrays and by one map for image and label.

Scale and crop window are drawn first, and only the source pixels that the crop needs are resized. A crop that reaches beyond the scaled
image is padded with the mean colour and void, on the right and at the bottom. With SHORT_SIDE the crop is the whole scaled image.
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
    blocks = max(
        start // p - 1, 0
    )  # one block more: the first pixel interpolates with what lies before it
    return blocks * q, min(size, math.ceil((start + length) / scale) + 1), start - blocks * p


def resize_crop(image, scale, top, left, height, width, smooth=False):
    """Return rows top..top+height, columns left..left+width of the image resized by a Fraction, reading only what they need.

    Bilinear; with `smooth` a smaller image takes the mean over the source pixels that each pixel covers.
    """
    y0, y1, dy = span(scale, top, height, image.shape[0])
    x0, x1, dx = span(scale, left, width, image.shape[1])
    window = image[y0:y1, x0:x1]
    if scale != 1:
        form = cv2.INTER_AREA if smooth and scale < 1 else cv2.INTER_LINEAR
        window = cv2.resize(window, None, fx=float(scale), fy=float(scale), interpolation=form)
    return window[dy : dy + height, dx : dx + width]


def nearest_crop(label, scale, top, left, height, width):
    """The same of a label, by the same map: output pixel i takes source pixel floor((i + 0.5) / scale)."""
    if scale == 1:
        return label[top : top + height, left : left + width]
    p, q = scale.numerator, scale.denominator
    rows = (2 * np.arange(top, top + height) + 1) * q // (2 * p)
    columns = (2 * np.arange(left, left + width) + 1) * q // (2 * p)
    return (
        label.take(columns, axis=1)[rows] if scale > 1 else label[rows].take(columns, axis=1)
    )  # the smaller one first


class Augment:
    """What settings describe; they are copied, so that loader processes started afresh agree."""

    def __init__(self):
        s = settings
        self.ignore, self.flip, self.blur, self.jitter = s.IGNORE_LABEL, s.FLIP, s.BLUR, s.JITTER
        self.rotate, self.rotate_prob = s.ROTATE, s.ROTATE_PROB
        self.crop = s.sides(s.CROP_SIZE)
        self.scales, self.scale_mode, self.cat_max_ratio = s.SCALES, s.SCALE_MODE, s.CAT_MAX_RATIO
        self.short_side, self.long_side = s.SHORT_SIDE, s.LONG_SIDE
        self.fill = [round(255 * v) for v in s.MEAN]

    def __call__(self, image, label, rng):
        """Image (h, w, 3) RGB and label (h, w) -> those of the crop, or with SHORT_SIDE of the whole; `rng` is a numpy Generator."""
        draw = rng.random(8)
        scale = self.scale(label.shape, draw[0])
        size = [max(1, int(n * scale)) for n in label.shape]
        crop = size if self.short_side else self.crop
        place = lambda draws: [
            int(d * (max(n - c, 0) + 1)) for d, n, c in zip(draws, size, crop)
        ]  # top, left
        cut = lambda pixels: self.cut(pixels, scale, size, crop, corner, self.degrees(draw[3]))
        corner = place(draw[1:3])
        found = cut(label)
        for _ in range(
            10 if self.cat_max_ratio < 1 and not self.short_side else 0
        ):  # the label's crop alone, which costs little
            if self.mixed(found):
                break
            corner = place(rng.random(2))
            found = cut(label)
        image, label = cut(image), found
        if draw[4] < self.blur:
            image = cv2.GaussianBlur(image, (5, 5), 0)
        if self.jitter:
            image = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))
            for change, d in zip(
                (tv.adjust_brightness, tv.adjust_contrast, tv.adjust_saturation), draw[5:8]
            ):
                image = change(image, 1 + self.jitter * (2 * d - 1))
            image = np.ascontiguousarray(image.numpy().transpose(1, 2, 0))
        if rng.random() < self.flip:
            image, label = cv2.flip(image, 1), cv2.flip(label, 1)
        return image, label

    def scale(self, size, draw):
        """The factor, a Fraction, for an image of `size` (h, w), from a number in 0..1."""
        if self.short_side:
            sides = (
                self.short_side
                if self.scale_mode == 'choice'
                else range(min(self.short_side), max(self.short_side) + 1)
            )
            scale = Fraction(sides[int(draw * len(sides))], min(size))
            return min(scale, Fraction(self.long_side, max(size))) if self.long_side else scale
        if self.scale_mode == 'choice':
            scale = self.scales[int(draw * len(self.scales))]
        else:
            scale = self.scales[0] + draw * (self.scales[-1] - self.scales[0])
        return Fraction(scale).limit_denominator(32)  # see span()

    def degrees(self, draw):
        """Return the angle for a number in 0..1, spread over -ROTATE..ROTATE below ROTATE_PROB; None = no rotation."""
        if not self.rotate or draw >= self.rotate_prob:
            return None
        return self.rotate * (2 * draw / self.rotate_prob - 1)

    def mixed(self, label):
        """Whether no class fills more than CAT_MAX_RATIO of the valid pixels, of which there must be some."""
        counts = np.bincount(label.ravel(), minlength=256)
        counts[self.ignore] = 0
        return 0 < counts.max() <= self.cat_max_ratio * counts.sum()

    def cut(self, pixels, scale, size, crop, corner, degrees):
        """The crop of an image or a label: of the scaled one of `size`, turned about its centre, what lies at `corner`; colour or void beyond."""
        is_label = pixels.ndim == 2
        (top, left), fill = corner, self.ignore if is_label else self.fill
        if degrees is not None:  # one affine map for image and label
            zoom = np.diag([float(scale), float(scale), 1.0])
            zoom[:2, 2] = (float(scale) - 1) / 2  # pixel centres: (i + 0.5) * scale - 0.5
            spin = np.vstack(
                [
                    cv2.getRotationMatrix2D(((size[1] - 1) / 2, (size[0] - 1) / 2), degrees, 1),
                    [0, 0, 1],
                ]
            )
            spin[:2, 2] -= left, top
            return cv2.warpAffine(
                pixels,
                (spin @ zoom)[:2],
                (crop[1], crop[0]),
                flags=cv2.INTER_NEAREST if is_label else cv2.INTER_LINEAR,
                borderMode=cv2.BORDER_CONSTANT,
                borderValue=fill,
            )
        height, width = min(size[0], crop[0]), min(size[1], crop[1])
        if is_label:
            pixels = nearest_crop(pixels, scale, top, left, height, width)
        else:
            pixels = resize_crop(
                pixels, scale, top, left, height, width, smooth=bool(self.short_side)
            )
        below, right = crop[0] - pixels.shape[0], crop[1] - pixels.shape[1]
        return (
            cv2.copyMakeBorder(pixels, 0, below, 0, right, cv2.BORDER_CONSTANT, value=fill)
            if below or right
            else pixels
        )
