"""Attention to Scale (Chen, Yang, Wang, Xu, Yuille, CVPR 2016, section 3): the trunk twice, and at each pixel a mixture of both scores.

MXNetSeg's form: scales 1 and 1/2, one trunk (its batch norm statistics move twice a step), one scoring head.
Departures from the paper: a ResNet instead of VGG; features of the half scale are resized, not their scores; a sigmoid, which is the
softmax over two scales; extra supervision of each scale by a head of its own. Dropout before the classifier is of whole channels.
From MXNetSeg: the half size is at least one pixel; the auxiliary heads, and the scoring one, are HEAD_CHANNELS wide (there 256);
it states no weight for them, so they have the paper's 1.
"""

import torch
import torch.nn.functional as F
from torch import nn

from baselines.blocks import ConvBNReLU
from baselines.fcn import FCNHead
from baselines.pooling import up


class AttentionToScale(nn.Module):
    sees_image = True
    extra_weights = (1.0, 1.0)

    def __init__(self, widths, n_classes, *, channels, dropout, norm, width=512):
        super().__init__()
        c = widths[3]
        self.score = FCNHead(c, n_classes, channels, dropout, norm)
        self.attention = nn.Sequential(
            ConvBNReLU(2 * c, width, 3, norm), nn.Conv2d(width, 1, 1), nn.Sigmoid()
        )
        self.aux = nn.ModuleList(
            nn.Sequential(ConvBNReLU(c, channels, 1, norm), nn.Conv2d(channels, n_classes, 1))
            for _ in range(2)
        )

    def forward(self, c1, c2, c3, c4, *, image, trunk):
        half = [max(n // 2, 1) for n in image.shape[2:]]
        small = trunk(F.interpolate(image, half, mode='bilinear', align_corners=True))[3]
        large, resized = c4, up(small, c4)
        w = self.attention(torch.cat([large, resized], 1))  # b 1 h w
        found = {'out': w * self.score(large) + (1 - w) * self.score(resized)}
        return (
            found | {'aux': [f(x) for f, x in zip(self.aux, (large, small))]}
            if self.training
            else found
        )
