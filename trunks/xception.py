"""Xception39, BiSeNet's small trunk, and Xception65, DeepLabv3+'s.

Both follow Chollet, CVPR 2017. Form: MXNetSeg's, which is GluonCV's for Xception65: batch norms
have epsilon 1e-5 (1e-3 in the TensorFlow original).
"""

from torch import nn

from heads.blocks import ConvBNReLU
from trunks.base import Trunk, linear, start


class SmallUnit(nn.Module):
    """3x3 of each channel alone, 1x1 with batch norm and ReLU."""

    def __init__(self, c_in, c_out, stride, norm):
        super().__init__()
        self.depthwise = nn.Conv2d(c_in, c_in, 3, stride, 1, groups=c_in, bias=False)
        self.pointwise = ConvBNReLU(c_in, c_out, 1, norm)

    def forward(self, x):
        return self.pointwise(self.depthwise(x))


class SmallBlock(nn.Module):
    """Three units and a shortcut: (b, c_in, h, w) -> (b, 4 c, h / stride, w / stride)."""

    def __init__(self, c_in, c, stride, norm):
        super().__init__()
        self.units = nn.Sequential(
            SmallUnit(c_in, c, stride, norm), SmallUnit(c, c, 1, norm), SmallUnit(c, 4 * c, 1, norm)
        )
        self.units[2].pointwise.relu = nn.Identity()
        self.shortcut = nn.Identity()
        if stride == 2:
            self.shortcut = linear(c_in, 4 * c, 1, norm, stride)

    def forward(self, x):
        return (self.units(x) + self.shortcut(x)).relu_()


class Xception39(Trunk):
    """The trunk of BiSeNet (Yu et al., ECCV 2018, section 4.1), for training from scratch.

    c1 is the pooled stem, of 8 channels.
    """

    def __init__(self, name, stride, norm):
        super().__init__((8, 64, 128, 256), (4, 8, 16, 32))
        self.stem = ConvBNReLU(3, 8, 3, norm, stride=2)
        self.pool = nn.MaxPool2d(3, 2, 1)
        c_in = 8
        for i, (c, blocks) in enumerate(((16, 4), (32, 8), (64, 4)), 1):
            layer = nn.Sequential(SmallBlock(c_in, c, 2, norm))
            for _ in range(blocks - 1):
                layer.append(SmallBlock(4 * c, c, 1, norm))
            self.add_module(f'layer{i}', layer)
            c_in = 4 * c
        start(self)

    def maps(self, x):
        maps = [self.pool(self.stem(x))]
        for layer in (self.layer1, self.layer2, self.layer3):
            maps.append(layer(maps[-1]))
        return maps


class Unit(nn.Module):
    """3x3 of each channel alone and 1x1, each with batch norm; a ReLU `before` them, or `after`."""

    def __init__(self, c_in, c_out, norm, stride=1, dilation=1, before=True, after=False):
        super().__init__()
        self.before = before
        self.after = after
        self.depthwise = nn.Conv2d(
            c_in, c_in, 3, stride, dilation, dilation, groups=c_in, bias=False
        )
        self.depthwise_bn = norm(c_in)
        self.pointwise = nn.Conv2d(c_in, c_out, 1, bias=False)
        self.pointwise_bn = norm(c_out)

    def forward(self, x):
        if self.before:
            x = x.relu()
        x = self.pointwise_bn(self.pointwise(self.depthwise_bn(self.depthwise(x))))
        return x.relu_() if self.after else x


class Block(nn.Module):
    """Three units and a shortcut, the stride in the last unit, which is then not dilated."""

    def __init__(self, widths, norm, stride=1, dilation=1, before=True):
        super().__init__()
        self.units = nn.Sequential()
        for i, (a, b) in enumerate(zip(widths[:3], widths[1:], strict=True)):
            last = i == 2
            step = stride if last else 1
            grid = 1 if step == 2 else dilation
            self.units.append(Unit(a, b, norm, step, grid, before or i > 0))
        self.shortcut = nn.Identity()
        if stride == 2 or widths[0] != widths[3]:
            self.shortcut = linear(widths[0], widths[3], 1, norm, stride)

    def forward(self, x):
        return self.units(x) + self.shortcut(x)


class Xception65(Trunk):
    """The trunk of DeepLabv3+ (Chen et al., ECCV 2018, section 3.2 and figure 4).

    Nothing follows a block's sum, so c2 and c3 are not rectified; c1 is.
    """

    allowed = (8, 16)

    def __init__(self, name, stride, norm):
        super().__init__((128, 256, 728, 2048), (4, 8, stride, stride))
        d = 16 // stride
        self.conv1 = ConvBNReLU(3, 32, 3, norm, stride=2)
        self.conv2 = ConvBNReLU(32, 64, 3, norm)
        self.block1 = Block((64, 128, 128, 128), norm, 2, before=False)
        self.block2 = Block((128, 256, 256, 256), norm, 2, before=False)
        self.block3 = Block((256, 728, 728, 728), norm, 2 // d)
        self.middle = nn.Sequential(*(Block((728,) * 4, norm, dilation=d) for _ in range(16)))
        self.block20 = Block((728, 728, 1024, 1024), norm, dilation=d)
        self.exit = nn.Sequential(
            nn.ReLU(),
            *(
                Unit(a, b, norm, dilation=2 * d, before=False, after=True)
                for a, b in ((1024, 1536), (1536, 1536), (1536, 2048))
            ),
        )
        start(self)

    def maps(self, x):
        c1 = self.block1(self.conv2(self.conv1(x))).relu_()
        c2 = self.block2(c1)
        c3 = self.middle(self.block3(c2))
        return [c1, c2, c3, self.exit(self.block20(c3))]
