"""FCN (Long, Shelhamer, Darrell, CVPR 2015, sections 3-4).

Form: the usual one on a dilated ResNet, a 3x3 convolution and a classifier on the trunk's last map.
An auxiliary head on layer3 is AUX_WEIGHT's, as for all heads here.

Departures from the paper:
    - no fc6 and fc7, no skips
    - bilinear upsampling instead of a learnt one
    - dropout is of whole channels
"""

from torch import nn

from heads.blocks import ConvBNReLU, Head


class FCNHead(nn.Sequential):
    """3x3 convolution, dropout, classifier: (b, c_in, h, w) -> logits (b, n_classes, h, w)."""

    def __init__(self, c_in, n_classes, width, dropout, norm):
        super().__init__(
            ConvBNReLU(c_in, width, 3, norm), nn.Dropout2d(dropout), nn.Conv2d(width, n_classes, 1)
        )


class FCN(Head):
    """FCN's head; it has no arguments of its own."""

    def __init__(self, widths, n_classes, *, channels, dropout, norm):
        super().__init__()
        self.out = FCNHead(widths[-1], n_classes, channels, dropout, norm)

    def forward(self, c1, c2, c3, c4):
        return {'out': self.out(c4)}
