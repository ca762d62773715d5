"""DenseASPP (Yang, Yu, Zhang, Li, Yang, CVPR 2018, section 3): a dense atrous pyramid.

Dilated 3x3s in a row, each of which reads the trunk's last map and all 3x3s before it.

Form: MXNetSeg's. It adds an auxiliary head on layer3 (AUX_WEIGHT).

Departures from the paper:
    - a ResNet instead of a dilated DenseNet
    - batch norm and ReLU after each convolution instead of before
    - between pyramid and classifier a 1x1, dropout of elements (0.5) and a 3x3
    - dropout before the classifier is of whole channels (in MXNetSeg of elements)
"""

import torch
from torch import nn

from heads.blocks import ConvBNReLU, Head
from heads.fcn import FCNHead


class DenseASPP(Head):
    """DenseASPP's head.

    width    channels that each step adds
    between  channels to which a step after the first reduces its input
    rates    dilation of each step
    """

    mark = 'steps.'
    mxnet = {
        'head.dense_aspp.dilate1.': 'head.steps.0.0.',
        'head.dense_aspp.dilate2.': 'head.steps.1.1.',
        'head.dense_aspp.dilate3.': 'head.steps.2.1.',
        'head.dense_aspp.dilate4.': 'head.steps.3.1.',
        'head.dense_aspp.dilate5.': 'head.steps.4.1.',
        'head.dense_aspp.trans1.': 'head.steps.1.0.',
        'head.dense_aspp.trans2.': 'head.steps.2.0.',
        'head.dense_aspp.trans3.': 'head.steps.3.0.',
        'head.dense_aspp.trans4.': 'head.steps.4.0.',
        'head.dense_aspp.projection.': 'head.project.0.',
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
        between: int = 1024,
        rates: tuple[int, ...] = (3, 6, 12, 18, 24),
    ):
        super().__init__()
        c = widths[3]
        self.steps = nn.ModuleList()
        self.steps.append(nn.Sequential(ConvBNReLU(c, width, 3, norm, dilation=rates[0])))
        for rate in rates[1:]:
            c += width
            reduce = ConvBNReLU(c, between, 1, norm)
            self.steps.append(
                nn.Sequential(reduce, ConvBNReLU(between, width, 3, norm, dilation=rate))
            )
        c += width
        self.project = nn.Sequential(ConvBNReLU(c, width, 1, norm), nn.Dropout(0.5))
        self.out = FCNHead(width, n_classes, channels, dropout, norm)

    def forward(self, c1, c2, c3, c4):
        x = c4
        for step in self.steps:
            x = torch.cat([x, step(x)], 1)
        return {'out': self.out(self.project(x))}
