"""Panoptic FPN's semantic branch (Kirillov, Girshick, He, Dollar, CVPR 2019, section 3).

A feature pyramid whose levels are all summed at stride 4.

Form: MXNetSeg's, but each level is resized to the size of the next finer one instead of by 2, so
that any size goes in. The branch has half of HEAD_CHANNELS.
mmseg=True: mmsegmentation's, with the paper's pyramid: bare 1x1s, a nearest top-down path, bare
3x3s on its levels. With 'corners': False, as in most of its files, the branch resizes by half-pixel
centres.

Departures from the paper:
    - batch norm and ReLU after every convolution (there none in the pyramid, and group norm in the
      branch)
    - the top-down path is bilinear, with its 3x3 inside
Departure from both: dropout of channels before the classifier (DROPOUT=0: none, as there).
"""

import torch.nn.functional as F
from torch import nn

from heads.blocks import ConvBNReLU, Head
from heads.pooling import Lateral, up


class BarePyramid(nn.Module):
    """The paper's pyramid, of convolutions alone: c1..c4 -> as many levels (b, width, h, w)."""

    def __init__(self, widths, width):
        super().__init__()
        self.side = nn.ModuleList(nn.Conv2d(c, width, 1) for c in widths)
        self.smooth = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in widths)

    def forward(self, *maps):
        levels = [side(x) for side, x in zip(self.side, maps, strict=True)]
        for i in (2, 1, 0):
            levels[i] = levels[i] + F.interpolate(levels[i + 1], levels[i].shape[2:])
        return [smooth(x) for smooth, x in zip(self.smooth, levels, strict=True)]


class SemanticFPN(Head):
    """Semantic FPN's head; its logits have stride 4.

    width    channels of the pyramid
    mmseg    the form of mmsegmentation, see above
    corners  resizing within the branch is align_corners
    """

    mark = 'branches.'
    signs = {'bare.side.0.weight': {'mmseg': True}}
    mxnet = {
        'head.fpn.conv.': 'head.top.',
        'head.fpn.lateral16x.conv1x1.': 'head.laterals.0.side.',
        'head.fpn.lateral16x.conv3x3.': 'head.laterals.0.smooth.',
        'head.fpn.lateral8x.conv1x1.': 'head.laterals.1.side.',
        'head.fpn.lateral8x.conv3x3.': 'head.laterals.1.smooth.',
        'head.fpn.lateral4x.conv1x1.': 'head.laterals.2.side.',
        'head.fpn.lateral4x.conv3x3.': 'head.laterals.2.smooth.',
        'head.semantic.scale_p2.': 'head.branches.0.0.',
        'head.semantic.scale_p3.': 'head.branches.1.',
        'head.semantic.scale_p4.': 'head.branches.2.',
        'head.semantic.scale_p5.': 'head.branches.3.',
        'head.seg.': 'head.out.1.',
    }
    strides = (32,)
    reads_c1 = True

    def __init__(
        self,
        widths,
        n_classes,
        *,
        channels,
        dropout,
        norm,
        width: int = 256,
        mmseg: bool = False,
        corners: bool = True,
    ):
        super().__init__()
        c1, c2, c3, c4 = widths
        m = max(channels // 2, 1)
        self.corners = corners
        self.bare = None
        if mmseg:
            self.bare = BarePyramid(widths, width)
        else:
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
        if self.bare is not None:
            return self.bare(c1, c2, c3, c4)
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
                x = up(conv(x), levels[i - 1 - step], self.corners)
            total = total + x
        return {'out': self.out(total)}
