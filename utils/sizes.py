"""Sizes of images that fit the stride of a trunk."""


def fitting(n, form, stride):
    """Return the length, n pixels or the next larger one, at which logits lie where they belong.

    There the centre of every `stride`-th pixel is that of a logit, from border to border: aligned
    corners need 1 mod stride, half-pixel centres 0 mod stride (and 'crop' is made to fit).
    """
    if form == 'centres':
        return n + -n % stride
    return n + (1 - n) % stride
