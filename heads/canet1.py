"""CANet, first version (Tang et al., Image and Vision Computing 2021): chained context.

A chain of flows over the last map, each at half the size of the one before it, whose result it
reads; their sum is refined by the trunk's first map.

Form: MXNetSeg's CANetv1, by the paper's authors, with its defaults: no attention in the fusion, no
channel shuffle. The paper itself was not compared.

Departures from it:
    - pooled sizes follow the map, not the crop, and are at least one pixel
    - HEAD_CHANNELS wide before the classifier (256 there)
    - dropout before the classifier is of whole channels

Global flow and small maps have one value per channel and image, so training needs two images per
device. Bilinear resizing is align_corners.
"""

import torch
import torch.nn.functional as F
from torch import nn

from heads.blocks import ConvBNReLU, Head
from heads.fcn import FCNHead
from heads.pooling import GlobalFlow, Separable, up


class Flow(nn.Module):
    """Two separable convolutions at a fraction of the size: (b, c_in, h, w) -> (b, c, h, w).

    shrink  input pixels per pixel between them, each way
    """

    def __init__(self, c_in, c, shrink, norm):
        super().__init__()
        self.shrink = shrink
        self.convs = nn.Sequential(Separable(c_in, c, norm), Separable(c, c, norm))

    def forward(self, x):
        size = [max(n // self.shrink, 1) for n in x.shape[2:]]
        return up(self.convs(F.adaptive_avg_pool2d(x, size)), x)


def names_of_mxnetseg():
    """Return the names of tensors in MXNetSeg's files and those here, see Head.mxnet."""
    names = {
        'head.gp.conv1x1.': 'head.context.',
        'head.proj.': 'head.project.0.',
        'head.decoder.': 'head.detail.',
        'head.conv3x3.': 'head.fuse.',
        'head.seg_head.conv1.': 'head.out.0.',
        'head.seg_head.conv2.': 'head.out.2.',
    }
    for i in range(4):
        for j in range(2):
            there, here = f'head.cp{i + 1}.conv{j + 1}.', f'head.flows.{i}.convs.{j}.'
            names[f'{there}depthwise.'] = f'{here}0.'
            names[f'{there}pointwise.'] = f'{here}1.'
    return names


class CANet1(Head):
    """The head of CANet's first version; its logits have stride 4.

    width   channels of the flows; half of them afterwards
    detail  channels to which the first map is reduced
    """

    mark = 'flows.'
    mxnet = names_of_mxnetseg()
    reads_c1 = True

    def __init__(
        self, widths, n_classes, *, channels, dropout, norm, width: int = 512, detail: int = 48
    ):
        super().__init__()
        c1, _, _, c4 = widths
        half = max(width // 2, 1)
        self.context = GlobalFlow(c4, width, norm)
        self.flows = nn.ModuleList(Flow(c4 + width, width, s, norm) for s in (2, 4, 8, 16))
        self.project = nn.Sequential(ConvBNReLU(width, half, 3, norm), nn.Dropout(0.1))
        self.detail = ConvBNReLU(c1, detail, 3, norm)
        self.fuse = ConvBNReLU(half + detail, half, 3, norm)
        self.out = FCNHead(half, n_classes, channels, dropout, norm)

    def chain(self, c4):
        """Return the sum (b, width, h, w) of the global flow and all those that follow it."""
        total = flow = self.context(c4)
        for step in self.flows:
            flow = step(torch.cat([c4, flow], 1))
            total = total + flow
        return total

    def forward(self, c1, c2, c3, c4):
        x = up(self.project(self.chain(c4)), c1)
        return {'out': self.out(self.fuse(torch.cat([x, self.detail(c1)], 1)))}
