"""LadderDenseNet (Kreso, Segvic, Krapac, ICCV Workshops 2017, section 3).

A light ladder from the last map to the finest, supervised at both ends.

Form: MXNetSeg's. Its trunk: TRUNK='densenet121' STRIDE=32; any other fits.

Departures from the paper and its authors' code:
    - convolution, batch norm, ReLU (batch norm, ReLU, convolution there)
    - a 1x1 to 128 on the last map (1x1 to 512, then 3x3 to 128)
    - the finer map is added to the coarse one (concatenated there)
    - a 3x3 before the classifier
Departures from MXNetSeg:
    - dropout before the classifiers is of whole channels
    - it states no weight for the auxiliary head, on the top of the ladder; it has the usual 0.4

Bilinear resizing is align_corners.
"""

from torch import nn

from heads.blocks import ConvBNReLU, Head
from heads.fcn import FCNHead
from heads.pooling import Lateral, descend


class LadderDenseNet(Head):
    """LadderDenseNet's head; its logits have stride 4.

    width  channels of the ladder
    aux    False: no auxiliary head, as in files that were trained without
    """

    mark = 'rungs.'
    mxnet = {
        'head.conv_c4.': 'head.top.',
        'head.fusion_c3.conv1x1.': 'head.rungs.0.side.',
        'head.fusion_c3.conv3x3.': 'head.rungs.0.smooth.',
        'head.fusion_c2.conv1x1.': 'head.rungs.1.side.',
        'head.fusion_c2.conv3x3.': 'head.rungs.1.smooth.',
        'head.fusion_c1.conv1x1.': 'head.rungs.2.side.',
        'head.fusion_c1.conv3x3.': 'head.rungs.2.smooth.',
        'head.seg_head.conv1.': 'head.out.0.',
        'head.seg_head.conv2.': 'head.out.2.',
        'aux_head.conv1.': 'head.aux.0.',
        'aux_head.conv2.': 'head.aux.2.',
    }
    reads_c1 = True
    strides = (32,)
    aux_weights = (0.4,)

    def __init__(
        self, widths, n_classes, *, channels, dropout, norm, width: int = 128, aux: bool = True
    ):
        super().__init__()
        c1, c2, c3, c4 = widths
        self.top = ConvBNReLU(c4, width, 1, norm)
        self.rungs = nn.ModuleList(Lateral(c, width, norm) for c in (c3, c2, c1))
        self.out = FCNHead(width, n_classes, min(channels, width), dropout, norm)
        self.aux = None
        if aux:
            self.aux = FCNHead(width, n_classes, min(channels, width), dropout, norm)
        else:
            self.aux_weights = ()

    def forward(self, c1, c2, c3, c4):
        top = self.top(c4)
        outputs = {'out': self.out(descend(top, self.rungs, (c3, c2, c1)))}
        if self.training and self.aux:
            outputs['aux'] = [self.aux(top)]
        return outputs
