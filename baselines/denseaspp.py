"""DenseASPP (Yang, Yu, Zhang, Li, Yang, CVPR 2018, section 3): dilated 3x3s in a row, each of which reads all before it.

MXNetSeg's form. Departures from the paper: a ResNet instead of a dilated DenseNet; batch norm and ReLU after each convolution instead of
before; between pyramid and classifier a 1x1, dropout of elements (0.5) and a 3x3; dropout before the classifier is of whole channels.
MXNetSeg adds an auxiliary head on layer3 (AUX_WEIGHT).
"""

import torch
from torch import nn

from baselines.blocks import ConvBNReLU
from baselines.fcn import FCNHead


class DenseASPP(nn.Module):
    def __init__(
        self,
        widths,
        n_classes,
        *,
        channels,
        dropout,
        norm,
        width=256,
        between=1024,
        rates=(3, 6, 12, 18, 24),
    ):
        super().__init__()
        self.steps = nn.ModuleList()
        c = widths[3]
        for i, rate in enumerate(rates):
            narrow = [ConvBNReLU(c, between, 1, norm)] if i else []
            self.steps.append(
                nn.Sequential(
                    *narrow, ConvBNReLU(between if i else c, width, 3, norm, dilation=rate)
                )
            )
            c += width
        self.project = nn.Sequential(ConvBNReLU(c, width, 1, norm), nn.Dropout(0.5))
        self.out = FCNHead(width, n_classes, channels, dropout, norm)

    def forward(self, c1, c2, c3, c4):
        x = c4
        for step in self.steps:
            x = torch.cat([x, step(x)], 1)
        return {'out': self.out(self.project(x))}
