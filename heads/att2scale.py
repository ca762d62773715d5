"""Attention to Scale (Chen, Yang, Wang, Xu, Yuille, CVPR 2016, section 3).

The trunk sees the image twice, whole and at half size; each pixel's scores are a mixture of both.

Form: MXNetSeg's, with scales 1 and 1/2, one trunk (its batch norm statistics move twice per step)
and one scoring head.

Departures from the paper:
    - a ResNet instead of VGG
    - the features of the half scale are resized, not their scores
    - a sigmoid, which is the softmax over two scales
    - each scale is supervised by a head of its own
Departures from MXNetSeg:
    - the half size is at least one pixel
    - scoring and auxiliary heads are HEAD_CHANNELS wide (256 there)
    - dropout before the classifier is of whole channels
    - it states no weights for the auxiliary heads; they have the paper's 1
"""

import torch
import torch.nn.functional as F
from torch import nn

from heads.blocks import ConvBNReLU, Head
from heads.fcn import AuxHead, FCNHead
from heads.pooling import up


class AttentionToScale(Head):
    """Attention to Scale's head; it runs the trunk a second time.

    width  channels of the attention between the scales
    aux    False: no auxiliary heads, as in files that were trained without
    """

    mark = 'score.'
    mxnet = {
        'head.seg_head.conv1.': 'head.score.0.',
        'head.seg_head.conv2.': 'head.score.2.',
        'head.conv3x3.': 'head.attention.0.',
        'head.conv1x1.': 'head.attention.1.',
        'aux_head.0.conv1.': 'head.aux.0.0.',
        'aux_head.0.conv2.': 'head.aux.0.1.',
        'aux_head.1.conv1.': 'head.aux.1.0.',
        'aux_head.1.conv2.': 'head.aux.1.1.',
    }
    sees_image = True
    aux_weights = (1.0, 1.0)  # whole image, half size

    def __init__(
        self, widths, n_classes, *, channels, dropout, norm, width: int = 512, aux: bool = True
    ):
        super().__init__()
        c = widths[3]
        self.score = FCNHead(c, n_classes, channels, dropout, norm)
        self.attention = nn.Sequential(
            ConvBNReLU(2 * c, width, 3, norm), nn.Conv2d(width, 1, 1), nn.Sigmoid()
        )
        self.aux = None
        if aux:
            self.aux = nn.ModuleList(AuxHead(c, n_classes, channels, norm) for _ in range(2))
        else:
            self.aux_weights = ()

    def forward(self, c1, c2, c3, c4, *, image, trunk):
        half = [max(n // 2, 1) for n in image.shape[2:]]
        image = F.interpolate(image, half, mode='bilinear', align_corners=True)
        small = trunk(image)[3]
        resized = up(small, c4)
        w = self.attention(torch.cat([c4, resized], 1))  # b 1 h w
        outputs = {'out': w * self.score(c4) + (1 - w) * self.score(resized)}
        if self.training and self.aux:
            outputs['aux'] = [self.aux[0](c4), self.aux[1](small)]
        return outputs
