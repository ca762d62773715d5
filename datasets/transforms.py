"""Augmentation of a training sample: scale, rotation, crop, blur, jitter, mirror.

It works on uint8 arrays, by one map for image and label. Scale and crop window are drawn first,
and only the source pixels that the crop needs are resized. A crop that reaches beyond the scaled
image is padded with the mean colour and void, on the right and at the bottom. Scales are those of
the image, or with BASE_SIZE of an image whose long side that is. With SHORT_SIDE the crop is the
whole scaled image.
"""

import math
from fractions import Fraction
from typing import NamedTuple

import cv2
import numpy as np
import torch
import torchvision.transforms.v2.functional as tv

import settings
from utils import config

DENOMINATOR = 32  # of a scale, at most, where the size need not be met exactly; see span()


def span(scale, start, length, size):
    """Find the source of the resized pixels start..start+length of an axis of `size` pixels.

    Output pixel i lies at source (i + 0.5) / scale - 0.5. With scale = p / q, p output pixels cover
    q source pixels exactly, so a source window that starts at a multiple of q is resized just as
    the whole axis would be.
    Returns source start and stop, and how many output pixels the source start lies before `start`.
    """
    p, q = scale.numerator, scale.denominator
    # one block more: the first pixel is interpolated with what lies before it
    blocks = max(start // p - 1, 0)
    stop = min(size, math.ceil((start + length) / scale) + 1)
    return blocks * q, stop, start - blocks * p


def resize(image, scale, form):
    """Return an image resized by a Fraction."""
    return cv2.resize(image, None, fx=float(scale), fy=float(scale), interpolation=form)


def scale_to(length, size):
    """Return a Fraction p / q, q as small as may be, that makes `size` pixels `length`: whole ones.

    The exact quotient mostly has a large q, for which span() would read nearly the whole axis.
    """
    middle = Fraction(2 * length + 1, 2 * size)  # of all scales that do
    limit = DENOMINATOR
    while int(size * middle.limit_denominator(limit)) != length:
        limit *= 2
    return middle.limit_denominator(limit)


def resize_crop(image, scale, top, left, height, width, smooth=False):
    """Return rows top..top+height, columns left..left+width of the image resized by a Fraction.

    Only the source pixels they need are read. Bilinear; with `smooth`, each pixel of a smaller
    image is the mean of the source pixels that it covers.
    """
    y0, y1, dy = span(scale, top, height, image.shape[0])
    x0, x1, dx = span(scale, left, width, image.shape[1])
    window = image[y0:y1, x0:x1]
    if scale != 1:
        form = cv2.INTER_AREA if smooth and scale < 1 else cv2.INTER_LINEAR
        window = in_threes(lambda x, _: resize(x, scale, form), window)
    return window[dy : dy + height, dx : dx + width]


def in_threes(task, image, fill=None):
    """Return task(image, fill) of an image (h, w, n) or label (h, w); three channels at a time.

    Some functions of OpenCV have no more than four; so each channel becomes what it would in RGB.
    """
    if image.ndim == 2 or image.shape[2] == 3:
        return task(image, fill)
    n = image.shape[2]
    parts = []
    for start in range(0, n, 3):
        three = [min(i, n - 1) for i in range(start, start + 3)]
        colour = fill and [fill[i] for i in three]
        parts.append(task(np.ascontiguousarray(image[..., three]), colour))
    return np.ascontiguousarray(np.concatenate(parts, 2)[..., :n])


def nearest_crop(label, scale, top, left, height, width):
    """Return the same of a label: output pixel i is source pixel floor((i + 0.5) / scale)."""
    if scale == 1:
        return label[top : top + height, left : left + width]
    p, q = scale.numerator, scale.denominator
    rows, columns = np.arange(top, top + height), np.arange(left, left + width)
    rows = (2 * rows + 1) * q // (2 * p)
    columns = (2 * columns + 1) * q // (2 * p)
    if scale > 1:  # the axis that makes it smaller comes first
        return label.take(columns, axis=1)[rows]
    return label[rows].take(columns, axis=1)


class Window(NamedTuple):
    """What is cut out of an image and its label."""

    scale: Fraction
    size: tuple  # (h, w) of the scaled image
    crop: tuple  # (h, w) of what is cut out of it
    top: int
    left: int
    degrees: float | None  # by which the scaled image is turned about its centre; None = not at all

    def at(self, draws):
        """Return the window with its corner drawn anew, from two numbers in 0..1."""
        rows = max(self.size[0] - self.crop[0], 0) + 1
        columns = max(self.size[1] - self.crop[1], 0) + 1
        return self._replace(top=int(draws[0] * rows), left=int(draws[1] * columns))


class Augment:
    """The augmentation that settings describe.

    They are copied, so that loader processes started afresh agree.
    """

    def __init__(self):
        self.scales = settings.SCALES
        self.base = settings.BASE_SIZE
        self.short_side, self.long_side = settings.SHORT_SIDE, None
        if isinstance((self.short_side or [0])[0], tuple):
            self.short_side, self.long_side = settings.SHORT_SIDE
        self.rotate, self.rotate_prob = config.pair(settings.ROTATE, 1.0)
        self.crop = config.sides(settings.CROP_SIZE)
        self.cat_max_ratio = settings.CAT_MAX_RATIO
        self.blur = settings.BLUR
        self.jitter = settings.JITTER
        self.flip = settings.FLIP
        self.ignore = settings.IGNORE_LABEL
        self.fill = [round(255 * value) for value in settings.MEAN]

    def __call__(self, image, label, rng):
        """Return an augmented image (h, w, n) and label (h, w); `rng` is a numpy Generator."""
        draw = rng.random(8)
        window, cut_label = self.choose_window(label, draw, rng)
        image, label = self.cut(image, window), cut_label
        if draw[4] < self.blur:
            image = in_threes(lambda x, _: cv2.GaussianBlur(x, (5, 5), 0), image)
        if self.jitter:
            image = self.change_colours(image, draw[5:8])
        if rng.random() < self.flip:
            image = in_threes(lambda x, _: cv2.flip(x, 1), image)
            label = cv2.flip(label, 1)
        return image, label

    def choose_window(self, label, draw, rng):
        """Return a Window and what it cuts out of the label.

        Windows that CAT_MAX_RATIO does not allow are drawn again, up to ten times; only the label
        is cut for that, which costs little.
        """
        scale = self.scale(label.shape, draw[0])
        size = [max(1, int(n * scale)) for n in label.shape]
        crop = size if self.short_side else self.crop
        window = Window(scale, size, crop, 0, 0, self.degrees(draw[3])).at(draw[1:3])
        cut_label = self.cut(label, window)
        if self.cat_max_ratio < 1 and not self.short_side:
            for _ in range(10):
                if self.is_mixed(cut_label):
                    break
                window = window.at(rng.random(2))
                cut_label = self.cut(label, window)
        return window, cut_label

    def scale(self, size, draw):
        """Return the factor, a Fraction, for an image of `size` (h, w), from a number in 0..1.

        Two SCALES or SHORT_SIDEs are a range, one or more than two a choice.
        """
        if self.short_side:
            sides = self.short_side
            if len(sides) == 2:
                sides = range(min(sides), max(sides) + 1)
            scale = Fraction(sides[int(draw * len(sides))], min(size))
            if self.long_side:
                scale = min(scale, Fraction(self.long_side, max(size)))
        else:
            if len(self.scales) == 2:
                factor = self.scales[0] + draw * (self.scales[1] - self.scales[0])
            else:
                factor = self.scales[int(draw * len(self.scales))]
            if self.base:
                scale = scale_to(max(1, round(factor * self.base)), max(size))
            else:
                scale = Fraction(factor).limit_denominator(DENOMINATOR)
                scale = max(scale, Fraction(1, DENOMINATOR))
        if 2 * scale * min(size) <= 1:  # not even one pixel would be left
            return Fraction(1, min(size))
        return scale

    def degrees(self, draw):
        """Return the angle, -ROTATE..ROTATE, for a number in 0..1; None from its probability on."""
        if not self.rotate or draw >= self.rotate_prob:
            return None
        return self.rotate * (2 * draw / self.rotate_prob - 1)

    def is_mixed(self, label):
        """Tell whether there are valid pixels and no class has more than CAT_MAX_RATIO of them."""
        counts = np.bincount(label.ravel(), minlength=256)
        counts[self.ignore] = 0
        return 0 < counts.max() <= self.cat_max_ratio * counts.sum()

    def cut(self, pixels, window):
        """Return what a Window cuts out of an image or label, padded with the colour or void."""
        is_label = pixels.ndim == 2
        fill = self.ignore if is_label else self.fill
        if window.degrees is not None:
            return in_threes(lambda x, colour: cut_turned(x, window, colour), pixels, fill)
        (h, w), scale = window.crop, window.scale
        height = min(window.size[0], h)
        width = min(window.size[1], w)
        box = window.top, window.left, height, width
        if is_label:
            pixels = nearest_crop(pixels, scale, *box)
        else:
            pixels = resize_crop(pixels, scale, *box, smooth=bool(self.short_side))
        below = h - pixels.shape[0]
        right = w - pixels.shape[1]
        if below or right:
            pixels = in_threes(lambda x, colour: pad(x, below, right, colour), pixels, fill)
        return pixels

    def change_colours(self, image, draws):
        """Change brightness, contrast and saturation by at most JITTER; three draws in 0..1.

        Of other than three channels each is a grey picture of its own, which has no saturation.
        """
        image = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))
        n = len(image)
        if n != 3:
            image = image[:, None]
        brightness, contrast, saturation = 1 + self.jitter * (2 * draws - 1)
        image = tv.adjust_brightness(image, brightness)
        image = tv.adjust_contrast(image, contrast)
        image = tv.adjust_saturation(image, saturation)
        image = image.view(n, *image.shape[-2:])
        return np.ascontiguousarray(image.numpy().transpose(1, 2, 0))


def pad(pixels, below, right, fill):
    """Return an image or label with a colour or number below and on the right."""
    return cv2.copyMakeBorder(pixels, 0, below, 0, right, cv2.BORDER_CONSTANT, value=fill)


def cut_turned(pixels, window, fill):
    """Return what a Window cuts out of a turned image or label, by one affine map for both."""
    h, w = window.size
    scale = float(window.scale)
    zoom = np.diag([scale, scale, 1.0])
    zoom[:2, 2] = (scale - 1) / 2  # pixel centres: (i + 0.5) * scale - 0.5
    centre = (w - 1) / 2, (h - 1) / 2
    turn = np.eye(3)
    turn[:2] = cv2.getRotationMatrix2D(centre, window.degrees, 1)
    turn[:2, 2] -= window.left, window.top
    return cv2.warpAffine(
        pixels,
        (turn @ zoom)[:2],
        (window.crop[1], window.crop[0]),
        flags=cv2.INTER_NEAREST if pixels.ndim == 2 else cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_CONSTANT,
        borderValue=fill,
    )
