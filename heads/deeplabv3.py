"""DeepLabv3 (Chen, Papandreou, Schroff, Adam, arXiv 1706.05587, section 3.3): an atrous pyramid.

Form: MXNetSeg's by default, with rates 6, 12, 18 whatever the trunk's stride and a 3x3 between
pyramid and classifier. Others, by HEAD_ARGS:
    {'paper': True}          the paper's at stride 8: rates 12, 24, 36, and the classifier directly
                             after the pyramid; at stride 16 add 'rates': (6, 12, 18)
    {'rates': (12, 24, 36)}  with DROPOUT=0 torchvision's deeplabv3_resnet*, layer by layer
                             (branches = convs, project = project, out = 1, 2, 4)
    {'mmseg': True}          mmsegmentation's: rates 12, 24, 36, a pyramid HEAD_CHANNELS = 512 wide,
                             a 3x3 over its branches, and the classifier

Departures:
    - dropout before the classifier is of whole channels; the paper names no dropout at all
      (its form here has only that one)
    - MXNetSeg adds an auxiliary head on layer3 (AUX_WEIGHT)

The paper's multi-grid is the trunk's: MULTI_GRID=(1, 2, 4).
"""

from heads.blocks import Head
from heads.fcn import Classifier, FCNHead
from heads.pooling import ASPP


class DeepLabV3(Head):
    """DeepLabv3's head.

    width  channels of the pyramid
    paper  the paper's form, see above
    rates  dilations of the pyramid; None: (6, 12, 18), with `paper` or `mmseg` (12, 24, 36)
    mmseg  mmsegmentation's form, see above; then `width` is not used
    """

    mark = 'aspp.'
    mxnet = {
        'head.aspp.branches.': 'head.aspp.branches.',
        'head.aspp.branches.4.conv1x1.': 'head.aspp.branches.4.',
        'head.aspp.projection.': 'head.aspp.project.',
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
        paper: bool = False,
        rates: tuple[int, ...] | None = None,
        mmseg: bool = False,
    ):
        super().__init__()
        if mmseg:
            rates = rates or (12, 24, 36)
            self.aspp = ASPP(widths[3], channels, rates, norm, dropout=0, kernel=3)
            self.out = Classifier(channels, n_classes, dropout)
        elif paper:
            self.aspp = ASPP(widths[3], width, rates or (12, 24, 36), norm, dropout=0)
            self.out = Classifier(width, n_classes, dropout)
        else:
            self.aspp = ASPP(widths[3], width, rates or (6, 12, 18), norm, dropout=0.5)
            self.out = FCNHead(width, n_classes, channels, dropout, norm)

    @classmethod
    def told(cls, shapes):
        project = shapes.get('head.aspp.project.conv.weight', ())
        if project[-1:] == (3,):
            return {'mmseg': True}
        return {'paper': 'head.out.2.weight' not in shapes}

    def forward(self, c1, c2, c3, c4):
        return {'out': self.out(self.aspp(c4))}
