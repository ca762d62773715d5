"""DeepLabv3 (Chen, Papandreou, Schroff, Adam, arXiv 1706.05587, section 3.3): an atrous spatial pyramid on the trunk's last map.

By default MXNetSeg's form: rates 6, 12, 18 whatever the trunk's stride, and a 3x3 between pyramid and classifier.
    paper=True                            the paper's at stride 8: rates 12, 24, 36, the classifier directly after the pyramid
    rates=(12, 24, 36), dropout=0         torchvision's deeplabv3_resnet*, layer by layer (branches = convs, project = project, out = 1, 2, 4)
Departures: dropout before the classifier is of whole channels; the paper names no dropout at all (paper=True keeps only that one).
At stride 16 the paper's rates are 6, 12, 18 (DEEPLABV3_RATES). MXNetSeg adds an auxiliary head on layer3 (AUX_WEIGHT).
Multi-grid is the trunk's (MULTI_GRID = 1, 2, 4 is the paper's).
"""

from torch import nn

from baselines.fcn import FCNHead
from baselines.pooling import ASPP


class DeepLabV3(nn.Module):
    def __init__(
        self, widths, n_classes, *, channels, dropout, norm, width=256, paper=False, rates=None
    ):
        super().__init__()
        self.aspp = ASPP(
            widths[3],
            width,
            rates or ((12, 24, 36) if paper else (6, 12, 18)),
            norm,
            dropout=0 if paper else 0.5,
        )
        if paper:
            self.out = nn.Sequential(nn.Dropout2d(dropout), nn.Conv2d(width, n_classes, 1))
        else:
            self.out = FCNHead(width, n_classes, channels, dropout, norm)

    def forward(self, c1, c2, c3, c4):
        return {'out': self.out(self.aspp(c4))}
