"""GFFNet (Li, Zhao, Han, Tong, Yang, AAAI 2020, section 3): gated fusion of all levels.

Each level sends what its gate opens, and receives from the others where its own gate is shut; a
dense pyramid follows.

Form: MXNetSeg's layers, with the paper's fusion of all levels at once. MXNetSeg puts each fused
level in the place of the unfused one before it computes the next: HEAD_ARGS={'fusion': 'in_turn'},
for its files.

Departures from the paper: gates of as many channels as the maps (one for all, it seems).
Departure from both: dropout before the classifier is of whole channels.

The paper adds an auxiliary head on layer3 (AUX_WEIGHT=0.4). Bilinear resizing is align_corners.
"""

from typing import Literal

import torch
from torch import nn

from heads.blocks import ConvBNReLU, Head
from heads.fcn import FCNHead
from heads.pooling import PPM, up


class GFFNet(Head):
    """GFFNet's head; its logits have stride 4.

    width   channels of every level
    fusion  'at_once', or 'in_turn', from fine to coarse, as in MXNetSeg
    """

    mark = 'gates.'
    mxnet = {
        'head.ppm.0.conv1.': 'head.ppm.branches.0.1.',
        'head.ppm.0.conv2.': 'head.ppm.branches.1.1.',
        'head.ppm.0.conv3.': 'head.ppm.branches.2.1.',
        'head.ppm.0.conv4.': 'head.ppm.branches.3.1.',
        'head.ppm.1.': 'head.context.',
        'head.conv1x1_1.': 'head.sides.0.',
        'head.conv1x1_2.': 'head.sides.1.',
        'head.conv1x1_3.': 'head.sides.2.',
        'head.conv1x1_4.': 'head.sides.3.',
        'head.gate_1.conv.': 'head.gates.0.',
        'head.gate_2.conv.': 'head.gates.1.',
        'head.gate_3.conv.': 'head.gates.2.',
        'head.gate_4.conv.': 'head.gates.3.',
        'head.fusion_1.': 'head.smooth.0.',
        'head.fusion_2.': 'head.smooth.1.',
        'head.fusion_3.': 'head.smooth.2.',
        'head.fusion_4.': 'head.smooth.3.',
        'head.dfp.blk_4.': 'head.pyramid.0.',
        'head.dfp.blk_3.': 'head.pyramid.1.',
        'head.dfp.blk_2.': 'head.pyramid.2.',
        'head.dfp.blk_1.': 'head.pyramid.3.',
        'head.dfp.head.conv1.': 'head.out.0.',
        'head.dfp.head.conv2.': 'head.out.2.',
    }
    mxnet_settings = {'HEAD_ARGS': {'fusion': 'in_turn'}}
    reads_c1 = True

    def __init__(
        self,
        widths,
        n_classes,
        *,
        channels,
        dropout,
        norm,
        width: int = 256,
        fusion: Literal['at_once', 'in_turn'] = 'at_once',
    ):
        super().__init__()
        self.in_turn = fusion == 'in_turn'
        self.ppm = PPM(widths[3], (1, 2, 3, 6), norm)
        self.context = ConvBNReLU(self.ppm.width, width, 1, norm)
        self.sides = nn.ModuleList(ConvBNReLU(c, width, 1, norm) for c in widths)
        self.gates = nn.ModuleList(nn.Conv2d(c, width, 1) for c in widths)
        self.smooth = nn.ModuleList()
        for _ in widths:
            convs = ConvBNReLU(width, width, 3, norm), ConvBNReLU(width, width, 3, norm)
            self.smooth.append(nn.Sequential(*convs))
        self.pyramid = nn.ModuleList(ConvBNReLU(n * width, width, 3, norm) for n in (2, 3, 4, 5))
        self.out = FCNHead(5 * width, n_classes, channels, dropout, norm)

    def fuse(self, levels, gates):
        """Return the levels (b, width, h_i, w_i), each with what the gates let through to it."""
        levels, fused = list(levels), []
        for i, gate in enumerate(gates):
            x = levels[i]
            received = 0
            for j, other in enumerate(levels):
                if j != i:
                    received = received + up(gates[j] * other, x)
            y = x + gate * x + (1 - gate) * received
            fused.append(y)
            if self.in_turn:
                levels[i] = y
        return fused

    def forward(self, *maps):
        context = up(self.context(self.ppm(maps[3])), maps[0])
        gates = [gate(x).sigmoid() for gate, x in zip(self.gates, maps, strict=True)]
        levels = [side(x) for side, x in zip(self.sides, maps, strict=True)]
        levels = self.fuse(levels, gates)
        levels = [smooth(x) for smooth, x in zip(self.smooth, levels, strict=True)]
        outputs = [context]  # of the pyramid, from coarse to fine
        for i, conv in enumerate(self.pyramid):
            inputs = [up(levels[3 - i], context), *outputs[-2::-1]]
            outputs.append(conv(torch.cat([outputs[-1], *inputs], 1)))
        return {'out': self.out(torch.cat(outputs, 1))}
