"""FCN (Long, Shelhamer, Darrell, CVPR 2015, sections 3-4).

Form: the usual one on a dilated ResNet, a 3x3 convolution and a classifier on the trunk's last map.
mmseg=True: mmsegmentation's, two 3x3 and one over the trunk's map and theirs; HEAD_CHANNELS is 512.
An auxiliary head on layer3 is AUX_WEIGHT's, as for all heads here.

Departures from the paper:
    - no fc6 and fc7, no skips
    - bilinear upsampling instead of a learnt one
    - dropout is of whole channels
"""

import torch
from torch import nn

from heads.blocks import ConvBNReLU, Head


class FCNHead(nn.Sequential):
    """3x3 convolution, dropout, classifier: (b, c_in, h, w) -> logits (b, n_classes, h, w)."""

    def __init__(self, c_in, n_classes, width, dropout, norm):
        super().__init__(
            ConvBNReLU(c_in, width, 3, norm), nn.Dropout2d(dropout), nn.Conv2d(width, n_classes, 1)
        )


class AuxHead(nn.Sequential):
    """1x1 convolution, classifier: (b, c_in, h, w) -> logits (b, n_classes, h, w)."""

    def __init__(self, c_in, n_classes, width, norm):
        super().__init__(ConvBNReLU(c_in, width, 1, norm), nn.Conv2d(width, n_classes, 1))


class Joined(nn.Module):
    """3x3, a 3x3 over c4 and that, dropout: x (b, c_in, h, w), c4 (b, c4, h, w) -> (b, c, h, w)."""

    def __init__(self, c4, c_in, c, norm, dropout):
        super().__init__()
        self.conv = ConvBNReLU(c_in, c, 3, norm)
        self.fuse = ConvBNReLU(c4 + c, c, 3, norm)
        self.dropout = nn.Dropout2d(dropout)

    def forward(self, x, c4):
        return self.dropout(self.fuse(torch.cat([c4, self.conv(x)], 1)))


class Classifier(nn.Sequential):
    """Dropout of channels and a 1x1: (b, c, h, w) -> logits (b, n_classes, h, w)."""

    def __init__(self, c, n_classes, dropout):
        super().__init__(nn.Dropout2d(dropout), nn.Conv2d(c, n_classes, 1))


class FCN(Head):
    """FCN's head.

    mmseg  the form of mmsegmentation, see above
    """

    mark = 'out.'
    signs = {'joined.conv.conv.weight': {'mmseg': True}}
    mxnet = {
        'head.conv1.': 'head.out.0.',
        'head.conv2.': 'head.out.2.',
    }

    def __init__(self, widths, n_classes, *, channels, dropout, norm, mmseg: bool = False):
        super().__init__()
        self.mmseg = mmseg
        if mmseg:
            self.reduce = ConvBNReLU(widths[-1], channels, 3, norm)
            self.joined = Joined(widths[-1], channels, channels, norm, 0)
            self.out = Classifier(channels, n_classes, dropout)
        else:
            self.out = FCNHead(widths[-1], n_classes, channels, dropout, norm)

    def forward(self, c1, c2, c3, c4):
        if self.mmseg:
            return {'out': self.out(self.joined(self.reduce(c4), c4))}
        return {'out': self.out(c4)}
