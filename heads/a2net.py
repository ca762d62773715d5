"""A2-Nets (Chen, Kalantidis, Li, Yan, Feng, NeurIPS 2018, section 3): double attention.

Form: the paper's block, where EMANet has its EM unit.
    gather      each attention map, a softmax over positions, collects one vector
    distribute  each position mixes the vectors by a softmax over the vectors; several ports take
                that softmax over positions, the paper does not
    m = n = a quarter of the width

Departures from the paper:
    - the batch norm on the block's output starts at zero, so the block starts as the identity
      (common use)
    - EMANet's frame around the block
"""

from torch import nn

from heads.pooling import Framed


class DoubleAttention(nn.Module):
    """x + W G V, with G = A softmax(B) (equations 3 - 5): (b, c, h, w) -> the same shape."""

    def __init__(self, c, norm):
        super().__init__()
        m = max(c // 4, 1)
        self.feature = nn.Conv2d(c, m, 1)  # A
        self.gather = nn.Conv2d(c, m, 1)  # B
        self.distribute = nn.Conv2d(c, m, 1)  # V
        self.restore = nn.Sequential(nn.Conv2d(m, c, 1, bias=False), norm(c))
        nn.init.zeros_(self.restore[1].weight)

    def gathered(self, x):
        """Return n vectors of length m (b, m, n), each a mean over positions of x (b, c, h, w)."""
        a = self.feature(x).flatten(2)  # b m hw
        b = self.gather(x).flatten(2)  # b n hw
        return a @ b.softmax(2).transpose(1, 2)

    def weights(self, x):
        """Return the share of each of the n vectors at each position (b, n, hw)."""
        return self.distribute(x).flatten(2).softmax(1)

    def attend(self, x):
        """Return each position's mixture of the gathered vectors (b, m, h, w) of x (b, c, h, w)."""
        return (self.gathered(x) @ self.weights(x)).unflatten(2, x.shape[2:])  # b m h w

    def forward(self, x):
        return x + self.restore(self.attend(x))


class A2Net(Framed):
    """A2-Net's head.

    width  channels of the map that the block works on
    """

    mark = 'block.feature.'

    def __init__(self, widths, n_classes, *, channels, dropout, norm, width: int = 512):
        block = DoubleAttention(width, norm)
        super().__init__(widths[3], n_classes, block, width, channels, dropout, norm)
