"""DeepLabv3+ (Chen, Zhu, Papandreou, Schroff, Adam, ECCV 2018, section 3).

DeepLabv3's pyramid, refined by the trunk's first map.

Form: MXNetSeg's, with rates 12, 24, 36 whatever the trunk's stride. The paper has them at stride 8,
and at stride 16, its usual one, HEAD_ARGS={'rates': (6, 12, 18)}.

Departures from the paper:
    - full convolutions instead of depthwise separable ones, a ResNet instead of Xception
    - a 3x3 (1x1 there) to 48 channels on the first map
    - dropout in pyramid and decoder, of elements; before the classifier of whole channels
"""

import torch
from torch import nn

from heads.blocks import ConvBNReLU, Head
from heads.fcn import FCNHead
from heads.pooling import ASPP, up


class DeepLabV3Plus(Head):
    """DeepLabv3+'s head; its logits have stride 4.

    width  channels of pyramid and decoder
    low    channels to which the first map is reduced
    rates  dilations of the pyramid
    """

    def __init__(
        self,
        widths,
        n_classes,
        *,
        channels,
        dropout,
        norm,
        width: int = 256,
        low: int = 48,
        rates: tuple[int, ...] = (12, 24, 36),
    ):
        super().__init__()
        self.aspp = ASPP(widths[3], width, rates, norm)
        self.low = ConvBNReLU(widths[0], low, 3, norm)
        self.fuse = nn.Sequential(ConvBNReLU(low + width, width, 3, norm), nn.Dropout(0.5))
        self.out = FCNHead(width, n_classes, channels, dropout, norm)

    def forward(self, c1, c2, c3, c4):
        low = self.low(c1)
        high = up(self.aspp(c4), low)
        return {'out': self.out(self.fuse(torch.cat([low, high], 1)))}
