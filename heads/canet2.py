"""CANet, second version (Tang et al., IEEE T-ITS 2022): context at four depths, chosen per pixel.

Three small encoder-decoders of growing depth on the last map, and the map before it; each pixel
takes a mixture of the four.

Form: MXNetSeg's CANetv2, by the paper's authors. The paper itself was not compared.

Departures from it:
    - HEAD_CHANNELS wide before the classifier (256 there)
    - dropout before the classifier is of whole channels

The global flow has one value per channel and image, so training needs two images per device.
Bilinear resizing is align_corners.
"""

import torch
from torch import nn

from heads.blocks import ConvBNReLU, Head
from heads.fcn import FCNHead
from heads.pooling import GlobalFlow, up


class Down(nn.Module):
    """A bottleneck of stride 2, no ReLU after the sum: (b, c, h, w) -> (b, c, h / 2, w / 2)."""

    def __init__(self, c, norm):
        super().__init__()
        narrow = max(c // 4, 1)
        self.convs = nn.Sequential(
            ConvBNReLU(c, narrow, 1, norm),
            ConvBNReLU(narrow, narrow, 3, norm, stride=2),
            ConvBNReLU(narrow, c, 1, norm),
        )
        self.shortcut = nn.Sequential(nn.Conv2d(c, c, 1, 2, bias=False), norm(c))

    def forward(self, x):
        return self.convs(x) + self.shortcut(x)


class EncoderDecoder(nn.Module):
    """`depth` halvings, 3x3, back to size, 1x1: (b, c, h, w) -> the same shape."""

    def __init__(self, c, depth, norm):
        super().__init__()
        self.encoder = nn.Sequential(*(Down(c, norm) for _ in range(depth)))
        self.encoder.append(ConvBNReLU(c, c, 3, norm))
        self.decoder = ConvBNReLU(c, c, 1, norm)

    def forward(self, x):
        return self.decoder(up(self.encoder(x), x))


def names_of_mxnetseg():
    """Return the names of tensors in MXNetSeg's files and those here, see Head.mxnet."""
    names = {
        'head.comp_c4.': 'head.deep.',
        'head.comp_c3.': 'head.near.',
        'head.gap.conv1x1.': 'head.context.',
        'head.conv1.': 'head.choose.0.',
        'head.conv2.conv.': 'head.choose.1.',
        'head.conv2.bn.': 'head.choose.2.',
        'head.seg.conv1.': 'head.out.0.',
        'head.seg.conv2.': 'head.out.2.',
    }
    for depth in (1, 2, 3):
        there, here = f'head.ed{depth}.', f'head.streams.{depth - 1}.'
        names[f'{there}conv3x3.'] = f'{here}encoder.{depth}.'
        names[f'{there}conv1x1.'] = f'{here}decoder.'
        for i in range(depth):
            block = f'{here}encoder.{i}.'
            for j in range(3):
                names[f'{there}encoder.{i}.conv{j + 1}.'] = f'{block}convs.{j}.'
            names[f'{there}encoder.{i}.conv4.conv.'] = f'{block}shortcut.0.'
            names[f'{there}encoder.{i}.conv4.bn.'] = f'{block}shortcut.1.'
    return names


class CANet2(Head):
    """The head of CANet's second version.

    width    channels of each of the four
    context  channels of the global flow, which the classifier's 3x3 sees as well
    """

    mark = 'streams.'
    mxnet = names_of_mxnetseg()
    strides = (8, 16)  # maps of layer3 and layer4 have one size

    def __init__(
        self, widths, n_classes, *, channels, dropout, norm, width: int = 512, context: int = 48
    ):
        super().__init__()
        _, _, c3, c4 = widths
        self.deep = ConvBNReLU(c4, width, 1, norm)
        self.near = ConvBNReLU(c3, width, 1, norm)
        self.context = GlobalFlow(c4, context, norm)
        self.streams = nn.ModuleList(EncoderDecoder(width, depth, norm) for depth in (1, 2, 3))
        self.choose = nn.Sequential(
            ConvBNReLU(4 * width, width, 1, norm), nn.Conv2d(width, 4, 1, bias=False), norm(4)
        )
        self.out = FCNHead(width + context, n_classes, channels, dropout, norm)

    def mix(self, maps):
        """Return four maps (b, c, h, w), each pixel's weighted by shares that sum to one."""
        shares = self.choose(torch.cat(maps, 1)).softmax(1)  # b 4 h w
        return sum(share * x for share, x in zip(shares.split(1, 1), maps, strict=True))

    def forward(self, c1, c2, c3, c4):
        deep = self.deep(c4)
        x = self.mix([*(stream(deep) for stream in self.streams), self.near(c3)])
        return {'out': self.out(torch.cat([x, self.context(c4)], 1))}
