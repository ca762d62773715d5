"""SETR (Zheng et al., CVPR 2021, section 3): a transformer's tokens, decoded in one of three ways.

Its trunk: TRUNK='vit_l_16' or 'vit_b_16', STRIDE=16; any other fits. The maps are the tokens after
four blocks, see trunks.torchvision.ViT; each has a layer norm of its own, the last one's in the
trunk.

Form: MXNetSeg's, without its mistakes: positions are the pre-trained ones, resized to the grid; the
classifier of PUP is a 1x1 with bias (a 3x3 with batch norm and ReLU there).

Departures from the paper:
    - PUP enlarges three times, to stride 2 (four times there)
    - MLA does not enlarge its streams by 4 before they are concatenated
Departure from both: dropout of channels before the main classifier (DROPOUT=0: none, as there).

Auxiliary heads on the other maps have weight 0.4. Bilinear resizing is align_corners.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import nn

from heads.blocks import ConvBNReLU, Head
from heads.pooling import up


class MapNorm(nn.LayerNorm):
    """Layer norm over the channels of each pixel: (b, c, h, w) -> the same shape."""

    def __init__(self, c):
        super().__init__(c, eps=1e-6)

    def forward(self, x):
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class Score(nn.Sequential):
    """1x1 convolution, dropout, classifier: (b, c_in, h, w) -> logits (b, n_classes, h, w)."""

    def __init__(self, c_in, n_classes, width, dropout, norm):
        super().__init__(
            ConvBNReLU(c_in, width, 1, norm), nn.Dropout2d(dropout), nn.Conv2d(width, n_classes, 1)
        )


class Progressive(nn.Sequential):
    """Four 3x3s, x2 between them; dropout, classifier: (b, c_in, h, w) -> (b, n, 8h, 8w)."""

    def __init__(self, c_in, n_classes, width, dropout, norm):
        super().__init__()
        for i in range(4):
            self.append(ConvBNReLU(width if i else c_in, width, 3, norm))
        self.append(nn.Dropout2d(dropout))
        self.append(nn.Conv2d(width, n_classes, 1))

    def forward(self, x):
        for i, layer in enumerate(self):
            if 1 <= i <= 3:
                x = F.interpolate(x, scale_factor=2, mode='bilinear', align_corners=True)
            x = layer(x)
        return x


class MultiLevel(nn.Module):
    """Sums from the last map upwards, a stream on each, concatenated, classifier.

    maps (b, c_i, h, w), from the first to the last one -> logits (b, n_classes, h, w)
    """

    def __init__(self, widths, n_classes, width, dropout, norm):
        super().__init__()
        half = max(width // 2, 1)
        self.sides = nn.ModuleList(ConvBNReLU(c, width, 1, norm) for c in reversed(widths))
        self.streams = nn.ModuleList()
        for _ in widths:
            self.streams.append(
                nn.Sequential(
                    ConvBNReLU(width, width, 3, norm),
                    ConvBNReLU(width, half, 3, norm),
                    ConvBNReLU(half, half, 3, norm),
                )
            )
        self.out = nn.Sequential(nn.Dropout2d(dropout), nn.Conv2d(len(widths) * half, n_classes, 1))

    def forward(self, *maps):
        streams, total = [], 0
        for x, side, stream in zip(reversed(maps), self.sides, self.streams, strict=True):
            total = up(side(x), maps[-1]) + total
            streams.append(stream(total))
        return self.out(torch.cat(streams, 1))


class SETR(Head):
    """SETR's head; its logits have the trunk's stride, with 'pup' an eighth of it.

    decoder  'naive', 'pup' (progressive upsampling) or 'mla' (multi-level aggregation)
    """

    mark = 'norms.'

    def __init__(
        self,
        widths,
        n_classes,
        *,
        channels,
        dropout,
        norm,
        decoder: Literal['naive', 'pup', 'mla'] = 'pup',
    ):
        super().__init__()
        self.decoder = decoder
        self.norms = nn.ModuleList(MapNorm(c) for c in widths[:3])
        if decoder == 'mla':
            self.out = MultiLevel(widths, n_classes, channels, dropout, norm)
        else:
            kind = Score if decoder == 'naive' else Progressive
            self.out = kind(widths[3], n_classes, channels, dropout, norm)
        last = 3 if decoder == 'naive' else 4  # whose own logits are those of the main output
        self.aux = nn.ModuleList()
        for c in reversed(widths[:last]):
            self.aux.append(Score(c, n_classes, channels, 0, norm))
        self.aux_weights = (0.4,) * last

    @classmethod
    def told(cls, shapes):
        if 'head.out.sides.0.conv.weight' in shapes:
            return {'decoder': 'mla'}
        return {'decoder': 'pup' if 'head.out.3.conv.weight' in shapes else 'naive'}

    def forward(self, *maps):
        if self.decoder != 'mla' and not self.training:
            return {'out': self.out(maps[3])}
        maps = [*(norm(x) for norm, x in zip(self.norms, maps[:3], strict=True)), maps[3]]
        outputs = {'out': self.out(*maps) if self.decoder == 'mla' else self.out(maps[3])}
        if self.training:
            scored = reversed(maps[: len(self.aux)])
            outputs['aux'] = [score(x) for score, x in zip(self.aux, scored, strict=True)]
        return outputs
