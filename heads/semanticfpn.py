"""Panoptic FPN's semantic branch (Kirillov, Girshick, He, Dollar, CVPR 2019, section 3).

A feature pyramid whose levels are all summed at stride 4.

Form: MXNetSeg's, but each level is resized to the size of the next finer one instead of by 2, so
that any size goes in. The branch has half of HEAD_CHANNELS.

Departures from the paper:
    - batch norm and ReLU after every convolution (there none in the pyramid, and group norm in the
      branch)
    - the top-down path is bilinear, with its 3x3 inside
Departure from both: dropout of channels before the classifier (DROPOUT=0: none, as there).
"""

from torch import nn

from heads.blocks import ConvBNReLU, Head
from heads.pooling import Lateral, up


class SemanticFPN(Head):
    """Semantic FPN's head; its logits have stride 4.

    width  channels of the pyramid
    """

    strides = (32,)

    def __init__(self, widths, n_classes, *, channels, dropout, norm, width: int = 256):
        super().__init__()
        c1, c2, c3, c4 = widths
        m = max(channels // 2, 1)
        self.top = ConvBNReLU(c4, width, 1, norm)
        self.laterals = nn.ModuleList(Lateral(c, width, norm) for c in (c3, c2, c1))
        self.branches = nn.ModuleList()
        for n in (1, 1, 2, 3):  # convolutions of p2, p3, p4, p5
            branch = nn.ModuleList([ConvBNReLU(width, m, 3, norm)])
            for _ in range(n - 1):
                branch.append(ConvBNReLU(m, m, 3, norm))
            self.branches.append(branch)
        self.out = nn.Sequential(nn.Dropout2d(dropout), nn.Conv2d(m, n_classes, 1))

    def pyramid(self, c1, c2, c3, c4):
        """Return the levels p2, p3, p4, p5, at strides 4, 8, 16, 32."""
        levels = [self.top(c4)]
        for lateral, fine in zip(self.laterals, (c3, c2, c1), strict=True):
            levels.insert(0, lateral(levels[0], fine))
        return levels

    def forward(self, c1, c2, c3, c4):
        levels = self.pyramid(c1, c2, c3, c4)
        total = self.branches[0][0](levels[0])
        for i in (1, 2, 3):
            x = levels[i]
            for step, conv in enumerate(self.branches[i]):
                x = up(conv(x), levels[i - 1 - step])
            total = total + x
        return {'out': self.out(total)}
