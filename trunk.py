"""The ResNet trunk (He et al., CVPR 2016), dilated, with a stem of one 7x7 or of three 3x3 convolutions; keys and numbers of the official EMANet."""

from torch import nn


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut (He et al., CVPR 2016, figure 5 left); `second` is the dilation of the second one."""

    expansion = 1

    def __init__(self, c_in, c, stride, dilation, second, norm):
        super().__init__()
        self.conv1 = nn.Conv2d(c_in, c, 3, stride, dilation, dilation, bias=False)
        self.bn1 = norm(c)
        self.conv2 = nn.Conv2d(c, c, 3, 1, second, second, bias=False)
        self.bn2 = norm(c)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = shortcut(c_in, c, stride, norm)

    def forward(self, x):
        y = self.relu(self.bn1(self.conv1(x)))
        return self.relu(self.bn2(self.conv2(y)).add_(self.downsample(x)))


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 and a shortcut (figure 5 right), the stride on the 3x3 (resnet() can move it); it has no `second` 3x3 to dilate."""

    expansion = 4

    def __init__(self, c_in, c, stride, dilation, second, norm):
        super().__init__()
        self.conv1 = nn.Conv2d(c_in, c, 1, bias=False)
        self.bn1 = norm(c)
        self.conv2 = nn.Conv2d(c, c, 3, stride, dilation, dilation, bias=False)
        self.bn2 = norm(c)
        self.conv3 = nn.Conv2d(c, 4 * c, 1, bias=False)
        self.bn3 = norm(4 * c)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = shortcut(c_in, 4 * c, stride, norm)

    def forward(self, x):
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(y)))
        return self.relu(self.bn3(self.conv3(y)).add_(self.downsample(x)))


def shortcut(c_in, c_out, stride, norm):
    if c_in == c_out and stride == 1:
        return nn.Sequential()
    return nn.Sequential(nn.Conv2d(c_in, c_out, 1, stride, bias=False), norm(c_out))


RESNETS = {
    18: (BasicBlock, (2, 2, 2, 2)),
    34: (BasicBlock, (3, 4, 6, 3)),
    50: (Bottleneck, (3, 4, 6, 3)),
    101: (Bottleneck, (3, 4, 23, 3)),
    152: (Bottleneck, (3, 8, 36, 3)),
}


def dilations(stride, blocks, multi_grid, first='half'):
    """(stride, dilation, dilation of a basic block's second convolution) of each block of layer1..4; in layer4 the grid multiplies the dilations.

    first  the first block of a dilated stage has 'half': half the stage's dilation, without the grid (official EMANet, torchvision);
           'split': the same, but a basic block's second convolution has the whole (GluonCV's ResNet-18 and 34);
           'layer4': in layer4 its full share (detectron2 EMANet, official DANet); 'all': in layer3 too (semseg, detectron2 DANet).
    """
    plan = [[(1, 1, 1)] * blocks[0], [(2, 1, 1)] + [(1, 1, 1)] * (blocks[1] - 1)]
    dilation = 1
    for strided, n, grid, full in (
        (16, blocks[2], (1,), first == 'all'),
        (32, blocks[3], multi_grid, first in ('layer4', 'all')),
    ):
        if stride >= strided:
            plan.append([(2, 1, 1)] + [(1, 1, 1)] * (n - 1))
            continue
        dilation *= 2
        stage = []
        for i in range(n):
            d = dilation * grid[i % len(grid)]
            stage.append((1, d, d))
        if not full:
            stage[0] = (1, dilation // 2, dilation if first == 'split' else dilation // 2)
        plan.append(stage)
    return plan


def resnet(n_layers, stem, stride, multi_grid, first, in_1x1, norm):
    """The trunk as Sequential(stem convolutions, norm, relu, pool, layer1, layer2, layer3, layer4), and the widths of its four maps."""
    block, blocks = RESNETS[n_layers]
    if stem == 'deep':
        c_in = 128
        convs = nn.Sequential(
            nn.Conv2d(3, 64, 3, 2, 1, bias=False),
            norm(64),
            nn.ReLU(inplace=True),
            nn.Conv2d(64, 64, 3, 1, 1, bias=False),
            norm(64),
            nn.ReLU(inplace=True),
            nn.Conv2d(64, c_in, 3, 1, 1, bias=False),
        )
    else:
        c_in = 64
        convs = nn.Conv2d(3, c_in, 7, 2, 3, bias=False)
    layers = [convs, norm(c_in), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1)]
    widths = []
    for i, plan in enumerate(dilations(stride, blocks, multi_grid, first)):
        stage = []
        for s, d, second in plan:
            stage.append(block(c_in, 64 * 2**i, s, d, second, norm))
            c_in = 64 * 2**i * block.expansion
        layers.append(nn.Sequential(*stage))
        widths.append(c_in)
    for m in nn.ModuleList(layers).modules():
        if in_1x1 and isinstance(m, Bottleneck):
            m.conv1.stride, m.conv2.stride = m.conv2.stride, (1, 1)
        if isinstance(m, nn.Conv2d):
            nn.init.kaiming_normal_(m.weight, mode='fan_out', nonlinearity='relu')
    return nn.Sequential(*layers), widths
