"""The trunk of EPRNet (Tang, Liu, Jiang, Yang, Zhang, IEEE T-ITS 2021), and its light form.

Form: MXNetSeg's, whose authors are the paper's. Trained on ImageNet by them, here from scratch.
"""

import torch
from torch import nn

from heads.eprnet import ConvBNPReLU
from trunks.base import Trunk, linear, start

LAYERS = (  # modules of each: (channels in, out), rates, stride
    (((16, 32), (1, 2, 4), 1), ((32, 32), (1, 2, 4), 2)),
    (
        ((32, 64), (3, 6, 9), 1),
        ((64, 64), (3, 6, 9), 1),
        ((64, 64), (3, 6, 9), 1),
        ((64, 64), (3, 6, 9), 2),
    ),
    (((64, 128), (7, 13, 19), 1), ((128, 128), (13, 25, 37), 1)),
)


class Pyramid(nn.Module):
    """Efficient pyramid residual module: (b, a, h, w) -> (b, c, h / stride, w / stride).

    For each rate a dilated 3x3 with as many groups as channels, and a 1x1, side by side, and a 1x1
    over all of them. The light form sums the dilated ones, and has none of the 1x1s.
    """

    def __init__(self, a, c, rates, stride, norm, light):
        super().__init__()
        self.light = light
        self.branches = nn.ModuleList()
        for rate in rates:
            self.branches.append(ConvBNPReLU(a, c, 3, norm, dilation=rate, groups=a))
        if not light:
            self.branches.append(ConvBNPReLU(a, c, 1, norm))
            self.squeeze = ConvBNPReLU(len(self.branches) * c, c, 1, norm)
        self.compact = linear(c, c, 3, norm, stride)
        self.shortcut = nn.Identity()
        if stride == 2 or a != c:
            self.shortcut = linear(a, c, 1, norm, stride)
        self.act = nn.PReLU()

    def forward(self, x):
        maps = [branch(x) for branch in self.branches]
        y = sum(maps) if self.light else self.squeeze(torch.cat(maps, 1))
        return self.act(self.compact(y) + self.shortcut(x))


class EPRNet(Trunk):
    """Eight pyramids in three layers; c3 and c4 are the outputs of the last layer's two."""

    allowed = (8,)

    def __init__(self, name, stride, norm):
        super().__init__((32, 64, 128, 128), (4, 8, 8, 8))
        self.stem = ConvBNPReLU(3, 16, 3, norm, stride=2)
        for i, modules in enumerate(LAYERS, 1):
            layer = nn.Sequential()
            for (a, c), rates, step in modules:
                layer.append(Pyramid(a, c, rates, step, norm, light=name == 'eprnet_light'))
            self.add_module(f'layer{i}', layer)
        start(self)

    def maps(self, x):
        c1 = self.layer1(self.stem(x))
        c2 = self.layer2(c1)
        c3 = self.layer3[0](c2)
        return [c1, c2, c3, self.layer3[1](c3)]
