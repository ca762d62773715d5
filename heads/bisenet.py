"""BiSeNet (Yu et al., ECCV 2018, section 3): a shallow path for detail, a small trunk for context.

Form: MXNetSeg's, on ResNet-18 or 34, or on the paper's Xception39 (TRUNK='xception39' STRIDE=32).

Departures from the paper:
    - batch norm and ReLU on the 1x1s of the fusion's gate
    - a 3x3 before each attention refinement and before the classifier
    - the context maps are summed at once, all at stride 8, instead of step by step
Departures from both:
    - all heads are HEAD_CHANNELS wide (256 in MXNetSeg)
    - dropout of channels before the main classifier (DROPOUT=0: none, as there)
    - MXNetSeg states no weights for the auxiliary heads; they have the paper's 1

Bilinear resizing is align_corners.
"""

import torch
from torch import nn

from heads.blocks import ConvBNReLU, Head
from heads.fcn import FCNHead
from heads.pooling import Gate, GlobalFlow, up


class ARM(nn.Module):
    """Attention refinement: (b, c_in, h, w) -> (b, c, h, w)."""

    def __init__(self, c_in, c, norm):
        super().__init__()
        self.conv = ConvBNReLU(c_in, c, 3, norm)
        self.gate = Gate(c, norm)

    def forward(self, x):
        x = self.conv(x)
        return x * self.gate(x)


class FFM(nn.Module):
    """Feature fusion: (b, c, h, w) twice -> (b, 2c, h, w)."""

    def __init__(self, c, norm):
        super().__init__()
        self.conv = ConvBNReLU(2 * c, 2 * c, 1, norm)
        self.gate = Gate(2 * c, norm, ConvBNReLU(2 * c, 2 * c, 1, norm))

    def forward(self, spatial, context):
        x = self.conv(torch.cat([spatial, context], 1))
        return x * self.gate(x) + x


class BiSeNet(Head):
    """BiSeNet's head, with the spatial path.

    width  channels of each path
    aux    False: no auxiliary heads, as in files that were trained without
    """

    mark = 'spatial.'
    mxnet = {
        'head.spatial_path.conv7x7.': 'head.spatial.0.',
        'head.spatial_path.conv3x3_1.': 'head.spatial.1.',
        'head.spatial_path.conv3x3_2.': 'head.spatial.2.',
        'head.spatial_path.conv1x1.': 'head.spatial.3.',
        'head.global_flow.conv1x1.': 'head.tail.',
        'head.refine_c3.conv3x3.': 'head.arm3.conv.',
        'head.refine_c3.conv1x1.conv.': 'head.arm3.gate.1.',
        'head.refine_c3.conv1x1.bn.': 'head.arm3.gate.2.',
        'head.refine_c4.conv3x3.': 'head.arm4.conv.',
        'head.refine_c4.conv1x1.conv.': 'head.arm4.gate.1.',
        'head.refine_c4.conv1x1.bn.': 'head.arm4.gate.2.',
        'head.proj.': 'head.context.',
        'head.fusion.proj.': 'head.ffm.conv.',
        'head.fusion.conv1x1_1.': 'head.ffm.gate.1.',
        'head.fusion.conv1x1_2.conv.': 'head.ffm.gate.2.',
        'head.fusion.conv1x1_2.bn.': 'head.ffm.gate.3.',
        'head.seg.conv1.': 'head.out.0.',
        'head.seg.conv2.': 'head.out.2.',
        'aux_head.0.conv1.': 'head.aux.0.0.',
        'aux_head.0.conv2.': 'head.aux.0.2.',
        'aux_head.1.conv1.': 'head.aux.1.0.',
        'aux_head.1.conv2.': 'head.aux.1.2.',
    }
    sees_image = True
    image_path = 'spatial'
    layers = (18, 34, 10)
    strides = (32,)
    aux_weights = (1.0, 1.0)  # on c4, on c3

    def __init__(
        self, widths, n_classes, *, channels, dropout, norm, width: int = 128, aux: bool = True
    ):
        super().__init__()
        self.spatial = nn.Sequential(
            ConvBNReLU(3, 64, 7, norm, stride=2),
            ConvBNReLU(64, 64, 3, norm, stride=2),
            ConvBNReLU(64, 64, 3, norm, stride=2),
            ConvBNReLU(64, width, 1, norm),
        )
        self.tail = GlobalFlow(widths[3], width, norm)
        self.arm3 = ARM(widths[2], width, norm)
        self.arm4 = ARM(widths[3], width, norm)
        self.context = ConvBNReLU(width, width, 3, norm)
        self.ffm = FFM(width, norm)
        self.out = FCNHead(2 * width, n_classes, channels, dropout, norm)
        self.aux = None
        if aux:
            self.aux = nn.ModuleList()
            for c in (widths[3], widths[2]):
                self.aux.append(FCNHead(c, n_classes, channels, dropout, norm))
        else:
            self.aux_weights = ()

    def forward(self, c1, c2, c3, c4, *, image, trunk):
        spatial = self.spatial(image)  # stride 8
        parts = self.tail(c4), self.arm4(c4), self.arm3(c3)
        context = self.context(sum(up(x, spatial) for x in parts))
        outputs = {'out': self.out(self.ffm(spatial, context))}
        if self.training and self.aux:
            outputs['aux'] = [self.aux[0](c4), self.aux[1](c3)]
        return outputs
