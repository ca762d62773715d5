"""Non-local networks (Wang, Girshick, Gupta, He, CVPR 2018, section 3): the embedded Gaussian block where EMANet has its EM unit.

As in the paper the block has half the width and a batch norm that starts at zero, so it starts as the identity.
Departures: the products are divided by the root of their length (usual today); EMANet's frame, so that only the block differs;
the (hw x hw) attention is left to torch's fused kernel where there is one.
"""

import torch.nn.functional as F
from torch import nn

from baselines.pooling import Framed


class NonLocalBlock(nn.Module):
    """x + W softmax(query . key) value over all pixels: (b, c, h, w) -> the same shape."""

    def __init__(self, c, norm):
        super().__init__()
        self.query, self.key, self.value = (nn.Conv2d(c, c // 2, 1) for _ in range(3))
        self.restore = nn.Sequential(nn.Conv2d(c // 2, c, 1, bias=False), norm(c))
        nn.init.zeros_(self.restore[1].weight)

    def attend(self, x):
        q, k, v = (
            f(x).flatten(2).transpose(1, 2).unsqueeze(1) for f in (self.query, self.key, self.value)
        )  # b 1 hw c/2
        y = F.scaled_dot_product_attention(q, k, v)  # softmax over keys, scale 1 / sqrt(c / 2)
        return y.squeeze(1).transpose(1, 2).unflatten(2, x.shape[2:])

    def forward(self, x):
        return x + self.restore(self.attend(x))


class NonLocal(Framed):
    def __init__(self, widths, n_classes, *, channels, dropout, norm, width=512):
        super().__init__(
            widths[3],
            n_classes,
            NonLocalBlock(width, norm),
            width=width,
            channels=channels,
            dropout=dropout,
            norm=norm,
        )
