"""EPRNet (Tang, Liu, Jiang, Yang, Zhang, IEEE T-ITS 2021): a light network, the work in its trunk.

A 3x3 convolution with PReLU and a classifier on the trunk's last map. Its trunk: TRUNK='eprnet' or
'eprnet_light', STRIDE=8; any other fits.

Form: MXNetSeg's, whose authors are the paper's, without dropout. Departure: dropout of channels
before the classifier (DROPOUT=0: none, as there).
"""

from torch import nn

from heads.blocks import ConvBNReLU, Head


class ConvBNPReLU(ConvBNReLU):
    """Convolution without bias, batch norm, and a PReLU with one slope, which starts at 0.25."""

    def __init__(self, c_in, c_out, kernel, norm, stride=1, dilation=1, groups=1):
        super().__init__(c_in, c_out, kernel, norm, stride, dilation, groups)
        self.relu = nn.PReLU()


class EPRNet(Head):
    """EPRNet's head; it has no arguments of its own."""

    mark = 'out.0.relu.'
    mxnet = {
        'head.conv1.': 'head.out.0.',
        'head.conv1.act.act.': 'head.out.0.relu.',
        'head.conv2.': 'head.out.2.',
    }

    def __init__(self, widths, n_classes, *, channels, dropout, norm):
        super().__init__()
        width = min(channels, widths[3])
        self.out = nn.Sequential(
            ConvBNPReLU(widths[3], width, 3, norm),
            nn.Dropout2d(dropout),
            nn.Conv2d(width, n_classes, 1),
        )

    def forward(self, c1, c2, c3, c4):
        return {'out': self.out(c4)}
