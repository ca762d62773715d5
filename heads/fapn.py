"""FaPN (Huang, Lu, Cheng, He, ICCV 2021, section 3): a feature pyramid whose levels are aligned.

The coarse map is resized and then sampled by a deformable convolution, whose offsets come from
both maps.

Form: the authors', with torchvision's deform_conv2d and batch norm after the 1x1s of gate and
offsets. MXNetSeg's differs, with other tensors: HEAD_ARGS={'form': 'mxnetseg'}, for its files.
    - the deformable convolution, and its offsets, see the coarse map and the difference
    - ReLU after the selection; the difference is of the coarse map itself, not of twice it
    - masks are 2 * sigmoid; bilinear resizing is align_corners

Departures from the authors' code: no 3x3 after each level; the classifier follows a 3x3; dropout
before it is of whole channels.

An auxiliary head on layer3 is AUX_WEIGHT's, as for all heads here.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import nn
from torchvision.ops import deform_conv2d

from heads.blocks import ConvBNReLU, Head, SettingsError, full_precision
from heads.fcn import FCNHead
from heads.pooling import Gate

GROUPS = 8  # of channels that are sampled at the same places


class Deformable(nn.Module):
    """Modulated deformable 3x3 (Zhu et al., CVPR 2019): x (b, c_in, h, w), guide -> (b, c, h, w).

    Offsets and masks come from the guide (b, c_guide, h, w), by a 3x3 that starts at zero.
    gain  by which the sigmoid of the masks is multiplied; 2: it starts as a plain 3x3
    """

    def __init__(self, c_in, c_guide, c, gain):
        super().__init__()
        self.gain = gain
        start = nn.Conv2d(c_in, c, 3)
        self.weight, self.bias = start.weight, start.bias
        self.offset = nn.Conv2d(c_guide, 27 * GROUPS, 3, padding=1)
        nn.init.zeros_(self.offset.weight)
        nn.init.zeros_(self.offset.bias)

    def forward(self, x, guide):
        numbers = self.offset(guide)
        with full_precision(x):  # positions need all digits
            kind = self.weight.dtype
            numbers = numbers.to(kind)
            offsets, masks = numbers[:, : 18 * GROUPS], numbers[:, 18 * GROUPS :]
            masks = self.gain * masks.sigmoid()
            return deform_conv2d(
                x.to(kind), offsets, self.weight, self.bias, padding=1, mask=masks
            ).to(x.dtype)


class Align(nn.Module):
    """One step down: coarse (b, c, h', w'), fine (b, c_in, h, w) -> (b, c, h, w)."""

    def __init__(self, c_in, c, norm, of_mxnetseg):
        super().__init__()
        self.of_mxnetseg = of_mxnetseg
        self.gate = Gate(c_in, norm)
        self.select = nn.Conv2d(c_in, c, 1, bias=False)
        self.difference = ConvBNReLU(2 * c, c, 1, norm)
        if of_mxnetseg:
            self.align = Deformable(2 * c, 2 * c, c, gain=2)
        else:
            self.align = Deformable(c, c, c, gain=1)

    def forward(self, coarse, fine):
        fine = self.select(fine * self.gate(fine) + fine)
        if self.of_mxnetseg:
            fine = fine.relu()
        coarse = F.interpolate(
            coarse, fine.shape[2:], mode='bilinear', align_corners=self.of_mxnetseg
        )
        if self.of_mxnetseg:
            difference = self.difference(torch.cat([fine, coarse], 1))
            both = torch.cat([coarse, difference], 1)
            aligned = self.align(both, both)
        else:
            difference = self.difference(torch.cat([fine, 2 * coarse], 1))
            aligned = self.align(coarse, difference)
        return aligned.relu() + fine


def names_of_mxnetseg():
    """Return the names of tensors in MXNetSeg's files and those here, see Head.mxnet."""
    names = {
        'head.conv.': 'head.top.',
        'head.seg.conv1.': 'head.out.0.',
        'head.seg.conv2.': 'head.out.2.',
    }
    for i in range(3):
        there, here = f'head.align_c{3 - i}.', f'head.levels.{i}.'
        names[there + 'fsm.conv1.conv.'] = here + 'gate.1.'
        names[there + 'fsm.conv1.bn.'] = here + 'gate.2.'
        names[there + 'fsm.conv2.conv.'] = here + 'select.'
        names[there + 'offset.'] = here + 'difference.'
        names[there + 'align.deformable_conv_weight'] = here + 'align.weight'
        names[there + 'align.deformable_conv_bias'] = here + 'align.bias'
        names[there + 'align.offset_weight'] = here + 'align.offset.weight'
        names[there + 'align.offset_bias'] = here + 'align.offset.bias'
    return names


class FaPN(Head):
    """FaPN's head; its logits have stride 4.

    width  channels of the pyramid, a multiple of 8
    form   'authors' or 'mxnetseg'
    """

    mark = 'levels.0.difference.'
    mxnet = names_of_mxnetseg()
    mxnet_settings = {'HEAD_ARGS': {'form': 'mxnetseg'}}
    strides = (32,)
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
        form: Literal['authors', 'mxnetseg'] = 'authors',
    ):
        super().__init__()
        if width % GROUPS:
            raise SettingsError(
                f'HEAD_ARGS={ {"width": width} }: FaPN samples its channels in {GROUPS} groups; '
                f'use a multiple of {GROUPS}'
            )
        c1, c2, c3, c4 = widths
        self.top = ConvBNReLU(c4, width, 1, norm)
        self.levels = nn.ModuleList(Align(c, width, norm, form == 'mxnetseg') for c in (c3, c2, c1))
        self.out = FCNHead(width, n_classes, channels, dropout, norm)

    @classmethod
    def told(cls, shapes):
        weight = shapes.get('head.levels.0.align.weight', (1, 1))
        return {'form': 'authors' if weight[0] == weight[1] else 'mxnetseg'}

    def forward(self, c1, c2, c3, c4):
        x = self.top(c4)
        for level, fine in zip(self.levels, (c3, c2, c1), strict=True):
            x = level(x, fine)
        return {'out': self.out(x)}
