"""AlignSeg (Huang, Wei, Wang, Shi, Liu, Huang, TPAMI 2021, section 3): aligned maps are added.

Before two maps are added, each is sampled where a learnt offset points, so that they agree.

Form: MXNetSeg's.

Departures from MXNetSeg:
    - the convolutions that predict offsets start at 0, as in the authors' code
    - it states no weight for the auxiliary head, on the last map; it has the usual 0.4
    - dropout before classifiers is of whole channels
Departures from the authors' code:
    - one branch predicts the offsets of both maps (a branch for each there)
    - context: a 1x1, or a 3x3 on the last map (1x1 to 2048, then a 3x3 on both paths), concatenated
      (summed there)
    - the auxiliary head is on the last map (on the second sum, at stride 4)

All is computed at stride 4, from fine to coarse. Bilinear resizing is align_corners.
"""

import torch
import torch.nn.functional as F
from torch import nn

from heads.blocks import ConvBNReLU, Head, full_precision
from heads.fcn import FCNHead
from heads.pooling import up


def warp(x, offsets):
    """Return x (b, c, h, w) sampled at each pixel plus its offset (b, 2, h, w), bilinear.

    Offsets are (x, y) in pixels; outside of the map there are zeros.
    """
    with full_precision(x):  # positions need all digits
        kind = torch.promote_types(x.dtype, torch.float32)
        h, w = x.shape[2:]
        columns = torch.arange(w, device=x.device, dtype=kind)
        rows = torch.arange(h, device=x.device, dtype=kind)
        dx, dy = offsets.to(kind).unbind(1)  # b h w
        column = 2 * (columns + dx) / max(w - 1, 1) - 1
        row = 2 * (rows[:, None] + dy) / max(h - 1, 1) - 1
        grid = torch.stack([column, row], 3)
        return F.grid_sample(x.to(kind), grid, align_corners=True).to(x.dtype)


def offset_branch(c_in, width, n, norm):
    """Return a 1x1 and a 3x3 that predict n numbers per pixel, at first zeros."""
    last = nn.Conv2d(width, n, 3, padding=1, bias=False)
    nn.init.zeros_(last.weight)
    return nn.Sequential(ConvBNReLU(c_in, width, 1, norm), last)


class Refine(nn.Module):
    """Residual block: (b, c_in, h, w) -> (b, c, h, w)."""

    def __init__(self, c_in, c, norm):
        super().__init__()
        between = max(c // 4, 1)
        self.squeeze = ConvBNReLU(c, between, 3, norm)
        self.bn = norm(c)  # of the sum: network.fold must not take it for a convolution's
        self.reduce = nn.Conv2d(c_in, c, 1, bias=False)
        self.expand = nn.Conv2d(between, c, 3, padding=1, bias=False)

    def forward(self, x):
        x = self.reduce(x)
        return self.bn(x + self.expand(self.squeeze(x))).relu_()


class Context(nn.Module):
    """Aligned context: c4 pooled to 3x3 and c4 itself, (b, c_in, h, w) -> (b, 2c, h, w)."""

    def __init__(self, c_in, c, norm):
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(3)
        self.pooled = ConvBNReLU(c_in, c, 1, norm)
        self.local = ConvBNReLU(c_in, c, 3, norm)
        self.offsets = offset_branch(2 * c, c, 2, norm)

    def forward(self, x):
        pooled = up(self.pooled(self.pool(x)), x)
        local = self.local(x)
        offsets = self.offsets(torch.cat([pooled, local], 1))
        return torch.cat([warp(pooled, offsets), local], 1)


class Align(nn.Module):
    """Aligned sum: coarse (b, c_in, h', w') and fine (b, c_fine, h, w) -> (b, c, h, w)."""

    def __init__(self, c_in, c_fine, c, norm):
        super().__init__()
        self.coarse = Refine(c_in, c, norm)
        self.fine = Refine(c_fine, c, norm)
        self.offsets = offset_branch(2 * c, c, 4, norm)

    def forward(self, coarse, fine):
        fine = self.fine(fine)
        coarse = up(self.coarse(coarse), fine)
        offsets = self.offsets(torch.cat([coarse, fine], 1))
        return warp(fine, offsets[:, :2]) + warp(coarse, offsets[:, 2:])


def names_of_mxnetseg():
    """Return the names of tensors in MXNetSeg's files and those here, see Head.mxnet."""
    names = {
        'head.align_cm.conv1x1.': 'head.context.pooled.',
        'head.align_cm.conv3x3.': 'head.context.local.',
        'head.align_cm.delta.': 'head.context.offsets.',
        'head.head.conv1.': 'head.out.0.',
        'head.head.conv2.': 'head.out.2.',
        'aux_head.conv1.': 'head.aux.0.',
        'aux_head.conv2.': 'head.aux.2.',
    }
    blocks = {'head.rcb.': 'head.refine.'}
    for i in range(4):
        there, here = f'head.align_{i + 1}.', f'head.steps.{i}.'
        names[there + 'align.delta.'] = here + 'offsets.'
        blocks[there + 'rcb_1.'] = here + 'coarse.'
        blocks[there + 'rcb_2.'] = here + 'fine.'
    for there, here in blocks.items():
        names[there + 'conv1x1.'] = here + 'reduce.'
        names[there + 'conv3x3_1.'] = here + 'squeeze.'
        names[there + 'conv3x3_2.'] = here + 'expand.'
        names[there + 'bn.'] = here + 'bn.'
    return names


class AlignSeg(Head):
    """AlignSeg's head; its logits have stride 4.

    width  channels of all maps
    aux    False: no auxiliary head, as in files that were trained without
    """

    mark = 'steps.0.coarse.'
    mxnet = names_of_mxnetseg()
    strides = (32,)
    reads_c1 = True
    aux_weights = (0.4,)

    def __init__(
        self, widths, n_classes, *, channels, dropout, norm, width: int = 256, aux: bool = True
    ):
        super().__init__()
        c1, c2, c3, c4 = widths
        self.context = Context(c4, width, norm)
        self.steps = nn.ModuleList([Align(c2, c1, width, norm)])
        for c in (c3, c4, 2 * width):
            self.steps.append(Align(c, width, width, norm))
        self.refine = Refine(width, width, norm)
        self.out = FCNHead(width, n_classes, channels, dropout, norm)
        self.aux = None
        if aux:
            self.aux = FCNHead(c4, n_classes, channels, dropout, norm)
        else:
            self.aux_weights = ()

    def forward(self, c1, c2, c3, c4):
        y = c1
        for step, coarse in zip(self.steps, (c2, c3, c4, self.context(c4)), strict=True):
            y = step(coarse, y)
        outputs = {'out': self.out(self.refine(y))}
        if self.training and self.aux:
            outputs['aux'] = [self.aux(c4)]
        return outputs
