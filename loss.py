"""A loss takes logits (b, n, h, w) and train ids (b, h, w), and returns sum (b,) and count (b,).

A step divides all sums by all counts, over the global batch. An image without a valid pixel has a
sum and a gradient of 0; every loss computes in float32 at least. A loss of your own is a function
here and a row in LOSSES. It gets one image at a time, unless its attribute `whole_batch` is True;
one that counts images instead of pixels sets `per_image`. LOSS_ARGS gives its keyword-only
arguments; all losses have these before them:
    ignore   train id of void pixels
    average  'all': the count is h * w, void included (official); 'valid': the valid pixels, or with
             `weight` the sum of their classes' weights (ohem: the number of hard pixels)
    weight   (n,) weights of the classes, or None: all 1
"""

import inspect
import statistics

import torch
import torch.nn.functional as F
from torch import nn

import settings
from utils import config
from utils.config import UsageError

LIMITS = {  # of arguments, both ends included
    'smoothing': (0, 0.99), 'threshold': (0, 1), 'keep': (1, 10**9), 'gamma': (0, 100),
    'eps': (0, 100),
}  # fmt: skip


def pixelwise(logits, label, ignore, weight=None, smoothing=0.0):
    """Return -(1 - e) w_y log p_y - e / n sum_c w_c log p_c of each pixel (b, h, w), 0 where void.

    w are class weights, e is the smoothing, as in torch.
    """
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    options = {'ignore_index': ignore, 'reduction': 'none', 'label_smoothing': smoothing}
    return F.cross_entropy(logits, label.long(), weight, **options)


def weight_map(label, ignore, weight, dtype):
    """Return the weight of each pixel's class (b, h, w), 0 where void."""
    valid = label != ignore
    if weight is None:
        return valid.to(dtype)
    return weight[label.long().masked_fill(~valid, 0)] * valid


def divisor(label, ignore, average, weight, dtype):
    """Return the count (b,) that `average` asks for."""
    if average == 'all':
        return torch.full((len(label),), label[0].numel(), dtype=dtype, device=label.device)
    return weight_map(label, ignore, weight, dtype).sum((1, 2))


def cross_entropy(logits, label, ignore, average, weight=None, *, smoothing=0.0):
    """Return cross entropy; `smoothing` is the share of the target spread over all classes."""
    loss = pixelwise(logits, label, ignore, weight, smoothing)
    return loss.sum((1, 2)), divisor(label, ignore, average, weight, loss.dtype)


def ohem(
    logits, label, ignore, average, weight=None, *, threshold=0.7, keep=100_000, smoothing=0.0
):
    """Return cross entropy of the hard pixels, those whose true class has probability <= threshold.

    keep  valid pixels per image that are hard in any case, those of lowest probability and ties
          with the last; ranked over the images given, in training those of one device
    With 'all' this is mmsegmentation's OHEMPixelSampler, but there probabilities are strictly below
    the threshold and ties dropped; with 'valid' the loss does not fade as hard pixels become fewer.
    """
    loss = pixelwise(logits, label, ignore, weight, smoothing)
    with torch.no_grad():
        bare = loss
        if weight is not None or smoothing:
            bare = pixelwise(logits, label, ignore)
        p = torch.exp(-bare)  # b h w, 1 where void
        lowest = p.flatten().topk(min(keep * len(p), p.numel()), largest=False, sorted=False)
        limit = lowest.values.max().clamp(min=threshold)
        hard = (label != ignore) & ~(p > limit)  # NaN is hard, so that it shows
    if average == 'valid':
        count = hard.sum((1, 2)).to(loss.dtype)
    else:
        count = divisor(label, ignore, average, weight, loss.dtype)
    return loss.masked_fill(~hard, 0).sum((1, 2)), count


ohem.whole_batch = True  # it ranks the pixels of all images together


def focal(logits, label, ignore, average, weight=None, *, gamma=2.0):
    """Return (1 - p)^gamma times cross entropy (Lin et al., ICCV 2017, equation 4).

    p is the probability of the true class.
    """
    loss = pixelwise(logits, label, ignore)
    one_minus_p = -torch.expm1(-loss)
    # at 0 the slope of its power is infinite
    one_minus_p = one_minus_p.clamp(min=torch.finfo(loss.dtype).tiny)
    loss = weight_map(label, ignore, weight, loss.dtype) * one_minus_p**gamma * loss
    return loss.sum((1, 2)), divisor(label, ignore, average, weight, loss.dtype)


def dice(logits, label, ignore, average='all', weight=None, *, eps=1.0):
    """Return 1 - (2 sum py + eps) / (sum p + sum y + eps), mean over the classes in the labels.

    p is the softmax, y 1 where the label is the class, sums are over an image's valid pixels. This
    is the plain form: Milletari et al. (3DV 2016) square the terms below. `weight` weighs the
    classes in the mean. The count is 1, without a valid pixel 0; `average` changes nothing.
    """
    p = logits.to(torch.promote_types(logits.dtype, torch.float32)).softmax(1)  # b n h w
    valid = (label != ignore)[:, None]  # b 1 h w
    classes = torch.arange(p.shape[1], device=label.device)[:, None, None]
    y = (label[:, None] == classes) & valid  # b n h w
    mass = y.sum((2, 3)).to(p.dtype)  # b n
    share = (2 * (p * y).sum((2, 3)) + eps) / ((p * valid).sum((2, 3)) + mass + eps)  # b n
    return class_mean(1 - share, mass > 0, weight)


dice.per_image = True


def class_mean(values, present, weight):
    """Return the mean of values (b, n) over the classes that are present, and 1, or 0 and 0."""
    parts = present.to(values.dtype)  # b n
    if weight is not None:
        parts = parts * weight
    total = parts.sum(1)
    mean = (parts * values).sum(1) / total.masked_fill(total == 0, 1)
    return mean, (total > 0).to(values.dtype)


def ce_dice(logits, label, ignore, average, weight=None, *, smoothing=0.0, eps=1.0):
    """Return the mean cross entropy of each image plus its dice loss, with equal shares.

    The mean is over the pixels that `average` counts. The count is 1, without a valid pixel 0.
    """
    total, pixels = cross_entropy(logits, label, ignore, average, weight, smoothing=smoothing)
    overlap, count = dice(logits, label, ignore, average, weight, eps=eps)
    return total / pixels.masked_fill(pixels == 0, 1) + overlap, count


ce_dice.per_image = True


def lovasz(logits, label, ignore, average='all', weight=None):
    """Return the Lovasz-softmax of each image, mean over the classes in its labels.

    The errors of a class are 1 - p on its pixels and p on others, p the softmax; their Lovasz
    extension of the Jaccard loss is 1 - IoU for predictions of 0 and 1 (Berman et al., CVPR 2018,
    section 3.2; the authors' code ranks the whole batch unless per_image=True). `weight` weighs the
    classes in the mean. The count is 1, without a valid pixel 0; `average` changes nothing.
    """
    p = logits.to(torch.promote_types(logits.dtype, torch.float32)).softmax(1)  # b n h w
    valid = label != ignore  # b h w
    sums, present = [], []  # of a class at a time: sorted maps of all of them are large
    for c in range(p.shape[1]):
        y = (label == c) & valid
        error = torch.where(y, 1 - p[:, c], p[:, c])
        slope = jaccard_slope(error.detach(), y, valid)
        sums.append((error * slope).sum((1, 2)))
        present.append(y.any(2).any(1))
    return class_mean(torch.stack(sums, 1), torch.stack(present, 1), weight)


lovasz.per_image = True


def jaccard_slope(error, y, valid):
    """Return what each pixel adds to the Jaccard loss where those of larger error are wrong.

    y (b, h, w) are the pixels of the class; the result is 0 where they are not valid. It changes
    with the order of the errors alone, and so is the gradient of the Lovasz extension.
    """
    order = error.masked_fill(~valid, -1).flatten(1).argsort(1, descending=True)  # void comes last
    y = y.flatten(1).gather(1, order).to(error.dtype)
    size = y.sum(1, keepdim=True)
    hit = size - y.cumsum(1)  # intersection once the pixels up to here are wrong
    union = size + (1 - y).cumsum(1)
    # a pixel of the class leaves the intersection; another one enters the union
    growth = torch.where(y > 0, 1 / union.clamp(min=1), hit / (union * (union - 1)).clamp(min=1))
    slope = torch.zeros_like(growth).scatter(1, order, growth).view_as(error)
    return slope.masked_fill(~valid, 0)


def median_frequency(pixels_of_class, pixels_of_images_with_class):
    """Return class weights median(freq) / freq_c, 0 if absent (Eigen and Fergus, ICCV 2015).

    freq_c = pixels of c / valid pixels of the images with c, as in SegNet.
    """
    pairs = zip(pixels_of_class, pixels_of_images_with_class, strict=True)
    freq = [float(pixels) / float(of_images) if pixels else 0.0 for pixels, of_images in pairs]
    middle = statistics.median([f for f in freq if f] or [0.0])
    return [middle / f if f else 0.0 for f in freq]


LOSSES = {
    'ce': cross_entropy, 'ohem': ohem, 'focal': focal, 'dice': dice, 'ce+dice': ce_dice,
    'lovasz': lovasz,
}  # fmt: skip


class Criterion(nn.Module):
    """The loss that settings name: logits (b, n, h, w), label (b, h, w) -> sum (b,), count (b,)."""

    def __init__(self, class_weights=None):
        super().__init__()
        self.function = LOSSES[settings.LOSS]
        self.whole_batch = getattr(self.function, 'whole_batch', False)
        self.per_image = getattr(self.function, 'per_image', False)
        self.arguments = {'ignore': settings.IGNORE_LABEL, 'average': settings.LOSS_AVG}
        self.arguments.update(settings.LOSS_ARGS)
        if class_weights is not None:
            class_weights = torch.tensor(class_weights, dtype=torch.get_default_dtype())
        self.register_buffer('class_weights', class_weights, persistent=False)

    def forward(self, logits, label):
        return self.function(logits, label, weight=self.class_weights, **self.arguments)


def criterion(n_classes, class_weights=None):
    """Return the Criterion of settings; class_weights are n numbers, or None: all 1."""
    if settings.LOSS not in LOSSES:
        hint = config.nearest(settings.LOSS, LOSSES) or f'; there are {", ".join(LOSSES)}'
        raise UsageError(f'LOSS = {settings.LOSS!r}: there is no such loss{hint}')
    defaults = inspect.getfullargspec(LOSSES[settings.LOSS]).kwonlydefaults or {}
    for name, value in settings.LOSS_ARGS.items():
        if name not in defaults:
            known = ', '.join(defaults) or 'none'
            raise UsageError(f'LOSS_ARGS: LOSS={settings.LOSS} has no {name!r}; it has {known}')
        kind = type(defaults[name])
        low, high = LIMITS.get(name, (None, None))
        is_kind = type(value) is kind or (type(value) is int and kind is float)
        if not is_kind or (low is not None and not low <= value <= high):
            expected = kind.__name__ if low is None else f'{kind.__name__}, {low} to {high}'
            raise UsageError(f'LOSS_ARGS: {name} = {value!r} is not valid; expected {expected}')
    if class_weights is not None and (len(class_weights) != n_classes or not any(class_weights)):
        raise UsageError(
            f'CLASS_WEIGHTS = {class_weights} is not valid; {settings.DATASET} needs {n_classes} '
            'numbers, one per class, not all of them 0'
        )
    return Criterion(class_weights)
