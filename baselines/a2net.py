"""A2-Nets (Chen, Kalantidis, Li, Yan, Feng, NeurIPS 2018, section 3): double attention where EMANet has its EM unit.

Gather: each attention map, a softmax over positions, collects one vector. Distribute: each position mixes the vectors by a softmax over
them (several ports take it over positions; that is not the paper). m = n = a quarter of the width.
Departures: a batch norm that starts at zero on the block's output (common use; the block starts as the identity); EMANet's frame.
"""

from torch import nn

from baselines.pooling import Framed


class DoubleAttention(nn.Module):
    """x + W G V, with G = A softmax(B) (equations 3 - 5): (b, c, h, w) -> the same shape."""

    def __init__(self, c, norm):
        super().__init__()
        self.feature, self.gather, self.distribute = (
            nn.Conv2d(c, c // 4, 1) for _ in range(3)
        )  # A, B, V
        self.restore = nn.Sequential(nn.Conv2d(c // 4, c, 1, bias=False), norm(c))
        nn.init.zeros_(self.restore[1].weight)

    def gathered(self, x):
        """n vectors of length m, each a mean over positions: (b, c, h, w) -> (b, m, n)."""
        a, b = self.feature(x).flatten(2), self.gather(x).flatten(2)  # b m hw, b n hw
        return a @ b.softmax(2).transpose(1, 2)

    def weights(self, x):
        """The share of each of the n vectors at each position: (b, c, h, w) -> (b, n, hw)."""
        return self.distribute(x).flatten(2).softmax(1)

    def attend(self, x):
        return (self.gathered(x) @ self.weights(x)).unflatten(2, x.shape[2:])  # b m h w

    def forward(self, x):
        return x + self.restore(self.attend(x))


class A2Net(Framed):
    def __init__(self, widths, n_classes, *, channels, dropout, norm, width=512):
        super().__init__(
            widths[3],
            n_classes,
            DoubleAttention(width, norm),
            width=width,
            channels=channels,
            dropout=dropout,
            norm=norm,
        )
