"""DeepLabv3 (Chen, Papandreou, Schroff, Adam, arXiv 1706.05587, section 3.3): an atrous pyramid.

Form: MXNetSeg's by default, with rates 6, 12, 18 whatever the trunk's stride and a 3x3 between
pyramid and classifier. Others, by HEAD_ARGS:
    {'paper': True}          the paper's at stride 8: rates 12, 24, 36, and the classifier directly
                             after the pyramid; at stride 16 add 'rates': (6, 12, 18)
    {'rates': (12, 24, 36)}  with DROPOUT=0 torchvision's deeplabv3_resnet*, layer by layer
                             (branches = convs, project = project, out = 1, 2, 4)

Departures:
    - dropout before the classifier is of whole channels; the paper names no dropout at all
      (its form here has only that one)
    - MXNetSeg adds an auxiliary head on layer3 (AUX_WEIGHT)

The paper's multi-grid is the trunk's: MULTI_GRID=(1, 2, 4).
"""

from torch import nn

from heads.blocks import Head
from heads.fcn import FCNHead
from heads.pooling import ASPP


class DeepLabV3(Head):
    """DeepLabv3's head.

    width  channels of the pyramid
    paper  the paper's form, see above
    rates  dilations of the pyramid; None: (6, 12, 18), with `paper` (12, 24, 36)
    """

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
    ):
        super().__init__()
        if paper:
            self.aspp = ASPP(widths[3], width, rates or (12, 24, 36), norm, dropout=0)
            self.out = nn.Sequential(nn.Dropout2d(dropout), nn.Conv2d(width, n_classes, 1))
        else:
            self.aspp = ASPP(widths[3], width, rates or (6, 12, 18), norm, dropout=0.5)
            self.out = FCNHead(width, n_classes, channels, dropout, norm)

    def forward(self, c1, c2, c3, c4):
        return {'out': self.out(self.aspp(c4))}
