"""Losses of (b, n, h, w) logits and (b, h, w) train ids, each as (sum (b,), count (b,)), so that the step can divide one total by the other
over the global batch.

All compute in float32 at least. An image without a valid pixel has a sum and a gradient of 0. In all of them
    ignore   train id of void pixels
    weight   (n,) weights of the classes, or None: all 1
    average  'all': the count is h * w, void pixels included (the official loss); 'valid': the valid pixels, or with `weight` the sum of
             their classes' weights (OHEM: the hard pixels)
"""

import statistics

import torch
import torch.nn.functional as F


def pixelwise(logits, label, ignore, weight=None, smoothing=0.0):
    """Cross entropy of each pixel (b, h, w), 0 where void; with class weights w and smoothing e, in torch's form,
    -(1 - e) w_y log p_y - e / n sum_c w_c log p_c."""
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return F.cross_entropy(
        logits,
        label.long(),
        weight,
        ignore_index=ignore,
        reduction='none',
        label_smoothing=smoothing,
    )


def weight_map(label, ignore, weight, dtype):
    """The weight of each pixel's class (b, h, w), 0 where void."""
    valid = label != ignore
    return (
        valid.to(dtype) if weight is None else weight[label.long().masked_fill(~valid, 0)] * valid
    )


def divisor(label, ignore, average, weight, dtype):
    """The count (b,) that `average` asks for."""
    if average == 'all':
        return torch.full((len(label),), label[0].numel(), dtype=dtype, device=label.device)
    return weight_map(label, ignore, weight, dtype).sum((1, 2))


def cross_entropy(logits, label, ignore, average, weight=None, smoothing=0.0):
    loss = pixelwise(logits, label, ignore, weight, smoothing)
    return loss.sum((1, 2)), divisor(label, ignore, average, weight, loss.dtype)


def ohem(logits, label, ignore, average, threshold, keep, weight=None, smoothing=0.0):
    """Cross entropy of the hard pixels alone: those whose true class has at most `threshold` probability p, and in any case the `keep`
    valid ones per image of lowest p (all of them, if they are fewer; equals of the last one come along).

    They are ranked over the images given, which in training are those that one device holds: the choice depends on how a batch is spread.
    With average 'all' this is mmsegmentation's OHEMPixelSampler, except that there a pixel must be strictly below the threshold, and ties
    with the last one are dropped; with 'valid' the count is the hard pixels, so that the loss does not fade as they become fewer.
    """
    loss = pixelwise(logits, label, ignore, weight, smoothing)
    with torch.no_grad():
        plain = loss if weight is None and not smoothing else pixelwise(logits, label, ignore)
        p = torch.exp(-plain)  # b h w, 1 where void
        limit = (
            p.flatten()
            .topk(min(keep * len(p), p.numel()), largest=False, sorted=False)
            .values.max()
            .clamp(min=threshold)
        )
        hard = (label != ignore) & ~(p > limit)  # NaN is hard, so that it shows
    count = (
        hard.sum((1, 2)).to(loss.dtype)
        if average == 'valid'
        else divisor(label, ignore, average, weight, loss.dtype)
    )
    return loss.masked_fill(~hard, 0).sum((1, 2)), count


def focal(logits, label, ignore, average, gamma, weight=None):
    """(1 - p)^gamma times cross entropy, p the probability of the true class (Lin et al., ICCV 2017, equation 4)."""
    loss = pixelwise(logits, label, ignore)
    rest = (-torch.expm1(-loss)).clamp(
        min=torch.finfo(loss.dtype).tiny
    )  # 1 - p; where it is 0, its power would have an infinite slope
    loss = weight_map(label, ignore, weight, loss.dtype) * rest**gamma * loss
    return loss.sum((1, 2)), divisor(label, ignore, average, weight, loss.dtype)


def dice(logits, label, ignore, weight=None, eps=1.0):
    """1 - (2 sum py + eps) / (sum p + sum y + eps), the mean of it over the classes that occur in the image's labels; sums over valid pixels,
    p the softmax, y 1 where the label is the class. This is the plain form: Milletari et al. (3DV 2016) square the terms below.
    `weight` weighs the classes in the mean. The count is 1 for an image with a valid pixel, else 0.
    """
    p = logits.to(torch.promote_types(logits.dtype, torch.float32)).softmax(1)  # b n h w
    valid = (label != ignore)[:, None]
    y = (
        label[:, None] == torch.arange(p.shape[1], device=label.device)[:, None, None]
    ) & valid  # b n h w
    mass = y.sum((2, 3)).to(p.dtype)  # b n
    share = (2 * (p * y).sum((2, 3)) + eps) / ((p * valid).sum((2, 3)) + mass + eps)  # b n
    parts = (mass > 0).to(p.dtype) * (1 if weight is None else weight)  # b n, of the mean
    total = parts.sum(1)
    return (parts * (1 - share)).sum(1) / total.masked_fill(total == 0, 1), (total > 0).to(p.dtype)


def median_frequency(pixels_of_class, pixels_of_images_with_class):
    """Class weights median(freq) / freq_c, freq_c = pixels of c / valid pixels of the images in which c occurs (Eigen and Fergus, ICCV 2015,
    as SegNet has it); the median is over the classes that occur, the others have weight 0."""
    freq = [
        float(a) / float(b) if a else 0.0
        for a, b in zip(pixels_of_class, pixels_of_images_with_class, strict=True)
    ]
    middle = statistics.median([f for f in freq if f] or [0.0])
    return [middle / f if f else 0.0 for f in freq]
