"""SeENet (Pang, Li, Shen, Shao, ICCV 2019, section 3): the semantic gap between levels, bridged.

Each of the trunk's last three maps is seen at four scales, together with what the one before it
became; the first map then adds detail where the result is not sure: at boundaries.

Form: MXNetSeg's. By its own remark it has full convolutions where depthwise ones were expected.
Departures from it:
    - the 3x3 before the classifier has HEAD_CHANNELS, at most `width` (128 there)
    - dropout before the classifier is of whole channels
Whether the paper differs further was not compared.
"""

import torch
from torch import nn

from heads.blocks import ConvBNReLU, Head
from heads.fcn import FCNHead
from heads.pooling import up


class CrossConv(nn.Module):
    """3x1 then 1x3, plus 1x3 then 3x1, nothing between them: (b, c, h, w) -> the same shape."""

    def __init__(self, c):
        super().__init__()
        self.left = nn.Sequential(
            nn.Conv2d(c, c, (3, 1), padding=(1, 0)), nn.Conv2d(c, c, (1, 3), padding=(0, 1))
        )
        self.right = nn.Sequential(
            nn.Conv2d(c, c, (1, 3), padding=(0, 1)), nn.Conv2d(c, c, (3, 1), padding=(1, 0))
        )

    def forward(self, x):
        return self.left(x) + self.right(x)


class SeEM(nn.Module):
    """Semantic enhancement: (b, c_in, h, w) at four scales and as it is -> (b, c, h, w).

    full  with a CrossConv in each branch
    """

    def __init__(self, c_in, c, rates, norm, full=False):
        super().__init__()
        self.branches = nn.ModuleList()
        for rate in rates:
            branch = nn.Sequential(ConvBNReLU(c_in, c, 1, norm))
            if full:
                branch.append(CrossConv(c))
            branch.append(ConvBNReLU(c, c, 3, norm, dilation=rate))
            self.branches.append(branch)
        self.project = ConvBNReLU(c_in + len(rates) * c, c, 1, norm)

    def forward(self, x):
        return self.project(torch.cat([x, *(branch(x) for branch in self.branches)], 1))


class BoundaryAttention(nn.Module):
    """Add detail where features are weak: (b, c, h, w), fine (b, c_fine, h, w) -> (b, c, h, w)."""

    def __init__(self, c, c_fine, norm):
        super().__init__()
        self.gate = nn.Sequential(nn.Conv2d(c, c_fine, 1, bias=False), norm(c_fine), nn.Sigmoid())
        self.detail = nn.Sequential(ConvBNReLU(c_fine, c, 1, norm), ConvBNReLU(c, c, 3, norm))

    def forward(self, x, fine):
        return x + self.detail(fine * (1 - self.gate(x)))


def names_of_mxnetseg():
    """Return the names of tensors in MXNetSeg's files and those here, see Head.mxnet."""
    names = {
        'head.bam.conv1x1.conv.': 'head.boundary.gate.0.',
        'head.bam.conv1x1.bn.': 'head.boundary.gate.1.',
        'head.bam.fconv1x1.': 'head.boundary.detail.0.',
        'head.bam.fconv3x3.': 'head.boundary.detail.1.',
        'head.bam.cconv3x3.': 'head.out.0.',
        'head.bam.cconv1x1.': 'head.out.2.',
    }
    for level in (2, 3, 4):
        there, here = f'head.seemc{level}.', f'head.enhance{level}.'
        names[f'{there}proj.'] = f'{here}project.'
        for i in range(4):
            branch = f'{here}branches.{i}.'
            names[f'{there}branch{i + 1}.'] = branch
            if level == 4:
                cross = f'{there}branch{i + 1}.1.conv_'
                names[f'{cross}l1.'] = f'{branch}1.left.0.'
                names[f'{cross}l2.'] = f'{branch}1.left.1.'
                names[f'{cross}r1.'] = f'{branch}1.right.0.'
                names[f'{cross}r2.'] = f'{branch}1.right.1.'
    return names


class SeENet(Head):
    """SeENet's head; its logits have stride 4.

    width  channels of every branch and of what the levels become
    """

    mark = 'enhance2.'
    mxnet = names_of_mxnetseg()
    reads_c1 = True
    strides = (8,)  # maps of layer2, 3 and 4 are concatenated

    def __init__(self, widths, n_classes, *, channels, dropout, norm, width: int = 128):
        super().__init__()
        c1, c2, c3, c4 = widths
        self.enhance2 = SeEM(c2, width, (1, 2, 4, 8), norm)
        self.enhance3 = SeEM(width + c3, width, (3, 6, 9, 12), norm)
        self.enhance4 = SeEM(width + c4, width, (7, 13, 19, 25), norm, full=True)
        self.boundary = BoundaryAttention(width, c1, norm)
        self.out = FCNHead(width, n_classes, min(channels, width), dropout, norm)

    def forward(self, c1, c2, c3, c4):
        x = self.enhance2(c2)
        x = self.enhance3(torch.cat([x, c3], 1))
        x = self.enhance4(torch.cat([x, c4], 1))
        return {'out': self.out(self.boundary(up(x, c1), c1))}
