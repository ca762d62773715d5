"""DeepLabv3+ (Chen, Zhu, Papandreou, Schroff, Adam, ECCV 2018, section 3).

DeepLabv3's pyramid, refined by the trunk's first map.

Form: MXNetSeg's, with rates 12, 24, 36 whatever the trunk's stride. The paper has them at stride 8,
and at stride 16, its usual one, HEAD_ARGS={'rates': (6, 12, 18)}.
mmseg=True: mmsegmentation's, closer to the paper: separable convolutions but for the 1x1s and one
3x3 over the pyramid, a 1x1 on the first map, which comes last, HEAD_CHANNELS = 512 wide, one
dropout. With 'corners': False, as in most of its files, it resizes by half-pixel centres.

Departures from the paper:
    - full convolutions instead of depthwise separable ones in pyramid and decoder; the paper's
      trunk is TRUNK='xception65' with STRIDE=16
    - a 3x3 (1x1 there) to 48 channels on the first map
    - dropout in pyramid and decoder, of elements; before the classifier of whole channels
"""

import torch
from torch import nn

from heads.blocks import ConvBNReLU, Head
from heads.fcn import Classifier, FCNHead
from heads.pooling import ASPP, Separable, up


class DeepLabV3Plus(Head):
    """DeepLabv3+'s head; its logits have stride 4.

    width  channels of pyramid and decoder
    low    channels to which the first map is reduced
    rates  dilations of the pyramid
    mmseg  mmsegmentation's form, see above; then `width` is not used
    corners  resizing within the head is align_corners
    """

    reads_c1 = True
    mark = 'low.'
    signs = {'fuse.0.1.conv.weight': {'mmseg': True}}
    mxnet = {
        'head.aspp.branches.': 'head.aspp.branches.',
        'head.aspp.branches.4.conv1x1.': 'head.aspp.branches.4.',
        'head.aspp.projection.': 'head.aspp.project.',
        'head.conv_c1.': 'head.low.',
        'head.conv3x3.': 'head.fuse.0.',
        'head.head.conv1.': 'head.out.0.',
        'head.head.conv2.': 'head.out.2.',
    }

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
        mmseg: bool = False,
        corners: bool = True,
    ):
        super().__init__()
        self.mmseg = mmseg
        self.corners = corners
        if mmseg:
            self.aspp = ASPP(widths[3], channels, rates, norm, dropout=0, kernel=3, separable=True)
            self.low = ConvBNReLU(widths[0], low, 1, norm)
            self.fuse = nn.Sequential(
                Separable(low + channels, channels, norm), Separable(channels, channels, norm)
            )
            self.out = Classifier(channels, n_classes, dropout)
            return
        self.aspp = ASPP(widths[3], width, rates, norm)
        self.low = ConvBNReLU(widths[0], low, 3, norm)
        self.fuse = nn.Sequential(ConvBNReLU(low + width, width, 3, norm), nn.Dropout(0.5))
        self.out = FCNHead(width, n_classes, channels, dropout, norm)

    def forward(self, c1, c2, c3, c4):
        low = self.low(c1)
        high = up(self.aspp(c4), low, self.corners)
        maps = [high, low] if self.mmseg else [low, high]
        return {'out': self.out(self.fuse(torch.cat(maps, 1)))}
