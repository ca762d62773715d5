"""Panoptic FPN's semantic branch (Kirillov, Girshick, He, Dollar, CVPR 2019, section 3): a feature pyramid, all its levels summed at stride 4.

MXNetSeg's form, but each level is resized to the next finer one's size instead of by 2, so that any size goes in.
Departures from the paper: batch norm and ReLU after every convolution (paper: none in the pyramid, GroupNorm in the branch), bilinear
top-down path with its 3x3 inside. From both: dropout of channels before the classifier (DROPOUT = 0: none, as there).
The branch has half of `channels`.
"""

from torch import nn

from baselines.blocks import ConvBNReLU
from baselines.pooling import Lateral, up


class SemanticFPN(nn.Module):
    strides = (32,)

    def __init__(self, widths, n_classes, *, channels, dropout, norm, width=256):
        super().__init__()
        m = max(channels // 2, 1)
        self.top = ConvBNReLU(widths[3], width, 1, norm)
        self.laterals = nn.ModuleList(
            Lateral(c, width, norm) for c in widths[2::-1]
        )  # of c3, c2, c1
        self.branches = nn.ModuleList(
            nn.ModuleList(ConvBNReLU(m if i else width, m, 3, norm) for i in range(n))
            for n in (1, 1, 2, 3)
        )
        self.out = nn.Sequential(nn.Dropout2d(dropout), nn.Conv2d(m, n_classes, 1))

    def pyramid(self, c1, c2, c3, c4):
        """The levels p2, p3, p4, p5, at strides 4, 8, 16, 32."""
        levels = [self.top(c4)]
        for lateral, low in zip(self.laterals, (c3, c2, c1), strict=True):
            levels.insert(0, lateral(levels[0], low))
        return levels

    def forward(self, c1, c2, c3, c4):
        levels, summed = self.pyramid(c1, c2, c3, c4), 0
        for i, branch in enumerate(self.branches):
            x = levels[i]
            for conv, finer in zip(branch, levels[max(i - 1, 0) :: -1], strict=True):
                x = up(conv(x), finer)
            summed = summed + x
        return {'out': self.out(summed)}
