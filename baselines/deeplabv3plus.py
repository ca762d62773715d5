"""DeepLabv3+ (Chen, Zhu, Papandreou, Schroff, Adam, ECCV 2018, section 3): DeepLabv3's pyramid, refined by the trunk's first map.

MXNetSeg's form, with rates 12, 24, 36 whatever the trunk's stride; the paper has them at stride 8 and 6, 12, 18 at stride 16, its usual one
(DEEPLABV3PLUS_RATES). Departures from the paper: full convolutions where the paper's are depthwise separable, a ResNet instead of Xception,
3x3 (paper: 1x1) to 48 on the first map, dropout in pyramid and decoder (of elements; the last one of channels).
"""

import torch
from torch import nn

from baselines.blocks import ConvBNReLU
from baselines.fcn import FCNHead
from baselines.pooling import ASPP, up


class DeepLabV3Plus(nn.Module):
    def __init__(
        self, widths, n_classes, *, channels, dropout, norm, width=256, low=48, rates=(12, 24, 36)
    ):
        super().__init__()
        self.aspp = ASPP(widths[3], width, rates, norm)
        self.low = ConvBNReLU(widths[0], low, 3, norm)
        self.fuse = nn.Sequential(ConvBNReLU(low + width, width, 3, norm), nn.Dropout(0.5))
        self.out = FCNHead(width, n_classes, channels, dropout, norm)

    def forward(self, c1, c2, c3, c4):
        low = self.low(c1)
        return {
            'out': self.out(self.fuse(torch.cat([low, up(self.aspp(c4), low)], 1)))
        }  # at stride 4
