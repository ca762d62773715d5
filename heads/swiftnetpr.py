"""SwiftNet, pyramid form (Orsic, Kreso, Bevandic, Segvic, CVPR 2019, section 3.3).

The trunk sees the image twice, whole and at half size; maps of one size go up the ladder together.

Form: MXNetSeg's, which calls it SwiftResNetPr. Its trunk: STRIDE=32 N_LAYERS=18 STEM='plain'.

Departures from the paper and its authors' code:
    - two scales (three there), with one set of batch norms, whose statistics move twice per step
    - maps of one size are concatenated (each reduced to 128 by a 1x1 that is shared, and summed)
    - convolution, batch norm, ReLU (batch norm, ReLU, convolution there), 3x3 before the classifier
    - the image is halved by bilinear resizing (bicubic there); all resizing is align_corners
Departures from MXNetSeg:
    - the half size is rounded up, so that maps fit at every size (down there: only sizes that
      divide fit)
    - its own auxiliary head, a 1x1 and a classifier on layer3, is HEAD_CHANNELS wide (256 there)
    - dropout before the classifier is of whole channels
    - it states no weight for the auxiliary head; it has the usual 0.4
"""

import torch
import torch.nn.functional as F
from torch import nn

from heads.blocks import ConvBNReLU, Head
from heads.fcn import AuxHead, FCNHead
from heads.pooling import Lateral, descend


def joined(x, like):
    """Return maps x, cut to the size of `like` on the right and below, and `like` as one map.

    Trunks that pad images, or halve maps with floor, make those of the small image larger.
    """
    return torch.cat([x[..., : like.shape[2], : like.shape[3]], like], 1)


class SwiftNetPR(Head):
    """The head of SwiftNet's pyramid form; it runs the trunk a second time, logits have stride 4.

    width  channels of the ladder
    aux    False: no auxiliary head, as in files that were trained without
    """

    mark = 'laterals.3.'
    mxnet = {
        'head.conv1x1.': 'head.top.',
        'head.fusion_32x.conv1x1.': 'head.laterals.0.side.',
        'head.fusion_32x.conv3x3.': 'head.laterals.0.smooth.',
        'head.fusion_16x.conv1x1.': 'head.laterals.1.side.',
        'head.fusion_16x.conv3x3.': 'head.laterals.1.smooth.',
        'head.fusion_8x.conv1x1.': 'head.laterals.2.side.',
        'head.fusion_8x.conv3x3.': 'head.laterals.2.smooth.',
        'head.final.conv1x1.': 'head.laterals.3.side.',
        'head.final.conv3x3.': 'head.laterals.3.smooth.',
        'head.seg_head.conv1.': 'head.out.0.',
        'head.seg_head.conv2.': 'head.out.2.',
        'aux_head.conv1.': 'head.aux.0.',
        'aux_head.conv2.': 'head.aux.1.',
    }
    sees_image = True
    reads_c1 = True
    strides = (32,)
    aux_weights = (0.4,)

    def __init__(
        self, widths, n_classes, *, channels, dropout, norm, width: int = 128, aux: bool = True
    ):
        super().__init__()
        c1, c2, c3, c4 = widths
        self.top = ConvBNReLU(c4, width, 1, norm)
        self.laterals = nn.ModuleList()
        for c in (c3 + c4, c2 + c3, c1 + c2, c1):
            self.laterals.append(Lateral(c, width, norm))
        self.out = FCNHead(width, n_classes, min(channels, width), dropout, norm)
        self.aux = None
        if aux:
            self.aux = AuxHead(c3, n_classes, channels, norm)
        else:
            self.aux_weights = ()

    def forward(self, c1, c2, c3, c4, *, image, trunk):
        half = [(n + 1) // 2 for n in image.shape[2:]]
        h1, h2, h3, h4 = trunk(F.interpolate(image, half, mode='bilinear', align_corners=True))
        maps = joined(h3, c4), joined(h2, c3), joined(h1, c2), c1
        outputs = {'out': self.out(descend(self.top(h4), self.laterals, maps))}
        if self.training and self.aux:
            outputs['aux'] = [self.aux(c3)]
        return outputs
