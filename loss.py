"""Losses, each as (sum, count) per image, so that the step can divide one total by the other over the global batch."""
import torch
import torch.nn.functional as F


def cross_entropy(logits, label, ignore, average):
    """Cross entropy of (b, n, h, w) logits with (b, h, w) train ids: sums over the valid pixels (b,) and what divides them (b,).

    `average` 'all': the count is h * w, void pixels included (the official loss); 'valid': the pixels that are not `ignore`.
    The sum of an image without a valid pixel is 0.
    """
    loss = F.cross_entropy(logits, label.long(), ignore_index=ignore, reduction='none')  # b h w
    if average == 'all':
        count = torch.full_like(loss[:, 0, 0], loss[0].numel())
    else:
        count = (label != ignore).sum((1, 2)).to(loss.dtype)
    return loss.sum((1, 2)), count
