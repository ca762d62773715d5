"""What a run logs of its EM unit: whether the bases cluster."""

import math

import torch
import torch.nn.functional as F


def statistics(z, mu):
    """Return (k + 2,) numbers of responsibilities z (b, n, k) and bases mu (b, c, k).

    They are the mean of z, the mean entropy of z and the mean cosine of two bases.
    """
    k = z.shape[2]
    entropy = torch.special.entr(z).sum(2).mean() / math.log(max(k, 2))
    unit = F.normalize(mu, dim=1)
    cosines = unit.sum(2).square().sum(1) - unit.square().sum((1, 2))  # b, over ordered pairs
    cosine = cosines.mean() / max(k * (k - 1), 1)
    return torch.cat([z.mean((0, 1)), entropy[None], cosine[None]])


def curves(numbers):
    """Return the curves that a run logs, {name: value}, of `statistics`, k + 2 numbers.

    em/entropy       mean entropy of z over log k: 0 = one basis per pixel, 1 = uniform
    em/bases_in_use  exp of the entropy of the mean of z: 1 to k
    em/cosine        mean cosine between two bases: 1 = all alike
    """
    *shares, entropy, cosine = numbers
    in_use = math.exp(-sum(p * math.log(p) for p in shares if p > 0))
    return {'em/entropy': entropy, 'em/bases_in_use': in_use, 'em/cosine': cosine}
