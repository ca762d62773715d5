"""Sizes of images that fit the stride of a trunk."""

import settings
from utils import config


def fitting(size, form, stride):
    """Return (h, w) enlarged, where need be, to where logits lie on the pixels they belong to.

    There the centre of every `stride`-th pixel is that of a logit, from border to border: aligned
    corners need 1 mod stride, half-pixel centres 0 mod stride (and 'crop' is made to fit).
    """
    rest = 0 if form == 'centres' else 1
    return tuple(n + (rest - n) % stride for n in size)


def crop_doubts():
    """Return a sentence if logits lie elsewhere in training crops than in evaluation, or []."""
    crop = config.sides(settings.CROP_SIZE)
    same_window = settings.TEST_CROP is not None and config.sides(settings.TEST_CROP) == crop
    if same_window or settings.UPSAMPLE == 'crop' or settings.TRUNK != 'resnet':
        return []
    fit = fitting(crop, settings.UPSAMPLE, settings.STRIDE)
    if fit == crop:
        return []
    size = fit[0] if fit[0] == fit[1] else f'"{fit}"'
    return [
        f'CROP_SIZE = {settings.CROP_SIZE}: logits lie elsewhere in the crops than in evaluation, '
        f'which pads images to what fits STRIDE = {settings.STRIDE}; use CROP_SIZE={size}, '
        'or test in windows of the same size (TEST_CROP)'
    ]
