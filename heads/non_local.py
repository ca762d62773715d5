"""Non-local networks (Wang, Girshick, Gupta, He, CVPR 2018, section 3).

Form: the embedded Gaussian block, where EMANet has its EM unit. As in the paper the block has half
the width, and a batch norm that starts at zero, so it starts as the identity.

Departures from the paper:
    - the products are divided by the root of their length (usual today)
    - EMANet's frame around the block, so that only the block differs; mmseg=True: mmsegmentation's,
      whose 3x3 after the block is followed by one over the trunk's map and that, all of them
      HEAD_CHANNELS = 512 wide
    - torch's fused kernel computes the (hw x hw) attention where there is one
"""

import torch.nn.functional as F
from torch import nn

from heads.fcn import Classifier, Joined
from heads.pooling import Framed


class NonLocalBlock(nn.Module):
    """x + W softmax(query . key) value over all pixels: (b, c, h, w) -> the same shape."""

    def __init__(self, c, norm):
        super().__init__()
        half = max(c // 2, 1)
        self.query = nn.Conv2d(c, half, 1)
        self.key = nn.Conv2d(c, half, 1)
        self.value = nn.Conv2d(c, half, 1)
        self.restore = nn.Sequential(nn.Conv2d(half, c, 1, bias=False), norm(c))
        nn.init.zeros_(self.restore[1].weight)

    def attend(self, x):
        """Return each pixel's mean of all values (b, c / 2, h, w) of x (b, c, h, w)."""
        maps = self.query(x), self.key(x), self.value(x)
        q, k, v = (t.flatten(2).transpose(1, 2).unsqueeze(1) for t in maps)  # b 1 hw c/2
        y = F.scaled_dot_product_attention(q, k, v)  # softmax over keys, scale 1 / sqrt(c / 2)
        return y.squeeze(1).transpose(1, 2).unflatten(2, x.shape[2:])

    def forward(self, x):
        return x + self.restore(self.attend(x))


class NonLocal(Framed):
    """The non-local network's head.

    width  channels of the map that the block works on
    mmseg  the form of mmsegmentation, see above; then `width` is not used
    """

    mark = 'block.query.'
    signs = {'joined.conv.conv.weight': {'mmseg': True}}

    def __init__(
        self,
        widths,
        n_classes,
        *,
        channels,
        dropout,
        norm,
        width: int = 512,
        mmseg: bool = False,
    ):
        if mmseg:
            width = channels
        block = NonLocalBlock(width, norm)
        super().__init__(widths[3], n_classes, block, width, channels, dropout, norm)
        self.joined = None
        if mmseg:
            self.joined = Joined(widths[3], width, channels, norm, 0)
            self.out = Classifier(channels, n_classes, dropout)

    def forward(self, c1, c2, c3, c4):
        if self.joined is None:
            return super().forward(c1, c2, c3, c4)
        return {'out': self.out(self.joined(self.block(self.reduce(c4)), c4))}
