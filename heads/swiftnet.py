"""SwiftNet (Orsic, Kreso, Bevandic, Segvic, CVPR 2019, section 3): a ladder on a small trunk.

Pyramid pooling on the last map, then one light step up for each finer map.

Form: MXNetSeg's, which calls it SwiftResNet. Its trunk: STRIDE=32 N_LAYERS=18 STEM='plain'.

Departures from the paper and its authors' code:
    - the ladder is 256 wide (128 there)
    - convolution, batch norm, ReLU (batch norm, ReLU, convolution there)
    - the finer maps are taken after their stage's last ReLU, not before it
    - PSPNet's pyramid (grids 8, 4, 2 there, as wide as the image's shape asks for)
    - bilinear resizing is align_corners
    - a 3x3 before the classifier
Departure from both: dropout before the classifier is of whole channels.
"""

from torch import nn

from heads.blocks import ConvBNReLU, Head
from heads.fcn import FCNHead
from heads.pooling import PPM, Lateral, descend


class SwiftNet(Head):
    """SwiftNet's head; its logits have stride 4.

    width  channels of the ladder
    """

    mark = 'pyramid.'
    mxnet = {
        'head.ppool.conv1.': 'head.pyramid.branches.0.1.',
        'head.ppool.conv2.': 'head.pyramid.branches.1.1.',
        'head.ppool.conv3.': 'head.pyramid.branches.2.1.',
        'head.ppool.conv4.': 'head.pyramid.branches.3.1.',
        'head.conv_c4.': 'head.top.',
        'head.fusion_c3.conv1x1.': 'head.laterals.0.side.',
        'head.fusion_c3.conv3x3.': 'head.laterals.0.smooth.',
        'head.fusion_c2.conv1x1.': 'head.laterals.1.side.',
        'head.fusion_c2.conv3x3.': 'head.laterals.1.smooth.',
        'head.fusion_c1.conv1x1.': 'head.laterals.2.side.',
        'head.fusion_c1.conv3x3.': 'head.laterals.2.smooth.',
        'head.seg_head.conv1.': 'head.out.0.',
        'head.seg_head.conv2.': 'head.out.2.',
    }
    reads_c1 = True
    strides = (32,)

    def __init__(self, widths, n_classes, *, channels, dropout, norm, width: int = 256):
        super().__init__()
        c1, c2, c3, c4 = widths
        self.pyramid = PPM(c4, (1, 2, 3, 6), norm)
        self.top = ConvBNReLU(self.pyramid.width, width, 1, norm)
        self.laterals = nn.ModuleList(Lateral(c, width, norm) for c in (c3, c2, c1))
        self.out = FCNHead(width, n_classes, min(channels, width), dropout, norm)

    def forward(self, c1, c2, c3, c4):
        x = self.top(self.pyramid(c4))
        return {'out': self.out(descend(x, self.laterals, (c3, c2, c1)))}
