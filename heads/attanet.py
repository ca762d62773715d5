"""AttaNet (Song, Mei, Huang, AAAI 2021; its strip attention and its attention fusion modules).

The last two maps are fused by a gate for each channel; each pixel then attends to columns, not to
pixels.

Form: MXNetSeg's. Its trunk: STRIDE=32 N_LAYERS=18 STEM='plain'.

Departures from the authors' code:
    - logits at layer3's size (nearest resizing to stride 8 and one more 3x3 there)
    - bilinear resizing, with align_corners (nearest there); the classifier has a bias
    - auxiliary head on layer3 by AUX_WEIGHT (on fused layer4 and layer2 there)
Departures from both:
    - the 3x3 before the classifier has HEAD_CHANNELS, at most `width` (128 there)
    - dropout before the classifier is of whole channels

The gate has one value per channel and image, so training needs two images per device.
"""

import torch
from torch import nn

from heads.blocks import ConvBNReLU, Head
from heads.fcn import FCNHead
from heads.pooling import Gate, energies, up


class Fusion(nn.Module):
    """Channels from the coarse map or from the fine one: (b, c_high, h', w'), (b, c_low, h, w).

    Returns (b, c, h, w).
    """

    def __init__(self, c_high, c_low, c, norm):
        super().__init__()
        self.high = ConvBNReLU(c_high, c, 3, norm)
        self.low = ConvBNReLU(c_low, c, 3, norm)
        self.mix = ConvBNReLU(c_high + c, c, 1, norm)
        self.gate = Gate(c, norm)

    def forward(self, high, low):
        low = self.low(low)
        share = self.gate(self.mix(torch.cat([up(high, low), low], 1)))  # b c 1 1
        return up(self.high(high) * share, low) + low * (1 - share)


class StripAttention(nn.Module):
    """x (b, c, h, w) -> x plus, for each pixel, a mixture of the means of all columns."""

    def __init__(self, c, norm):
        super().__init__()
        half = max(c // 2, 1)
        self.query = ConvBNReLU(c, half, 1, norm)
        self.key = ConvBNReLU(c, half, 1, norm)
        self.value = ConvBNReLU(c, c, 1, norm)

    def forward(self, x):
        k, v = self.key(x).mean(2), self.value(x).mean(2)  # of each column: b c w
        attention = energies(self.query(x).flatten(2), k).softmax(2)  # b hw w
        y = attention.to(v.dtype) @ v.transpose(1, 2)  # b hw c
        return x + y.transpose(1, 2).unflatten(2, x.shape[2:])


class AttaNet(Head):
    """AttaNet's head; its logits have layer3's size.

    width  channels of all of it
    """

    mark = 'strip.'
    mxnet = {
        'head.afm.conv3x3_high.': 'head.fusion.high.',
        'head.afm.conv3x3_low.': 'head.fusion.low.',
        'head.afm.conv1x1_1.': 'head.fusion.mix.',
        'head.afm.conv1x1_2.conv.': 'head.fusion.gate.1.',
        'head.afm.conv1x1_2.bn.': 'head.fusion.gate.2.',
        'head.conv3x3.': 'head.smooth.',
        'head.sam.query_conv.': 'head.strip.query.',
        'head.sam.key_conv.': 'head.strip.key.',
        'head.sam.value_conv.': 'head.strip.value.',
        'head.seg.conv1.': 'head.out.0.',
        'head.seg.conv2.': 'head.out.2.',
    }
    strides = (32,)

    def __init__(self, widths, n_classes, *, channels, dropout, norm, width: int = 128):
        super().__init__()
        self.fusion = Fusion(widths[3], widths[2], width, norm)
        self.smooth = ConvBNReLU(width, width, 3, norm)
        self.strip = StripAttention(width, norm)
        self.out = FCNHead(width, n_classes, min(channels, width), dropout, norm)

    def forward(self, c1, c2, c3, c4):
        return {'out': self.out(self.strip(self.smooth(self.fusion(c4, c3))))}
