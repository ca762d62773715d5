"""Blocks for several heads: pyramids, gates, the top-down step, energies, EMANet's frame."""

import torch
import torch.nn.functional as F
from torch import nn

from heads.blocks import ConvBNReLU, Head, full_precision
from heads.fcn import FCNHead


def up(x, like, corners=True):
    """Resize x to the height and width of `like`, bilinear; `corners` is align_corners."""
    tracing = torch.compiler.is_compiling()  # an exported network may meet sizes that differ
    if not tracing and x.shape[2:] == like.shape[2:]:
        return x
    return F.interpolate(x, like.shape[2:], mode='bilinear', align_corners=corners)


def energies(q, k):
    """Return q^T k (b, n, m) of (b, c, n) and (b, c, m), in float32 at least.

    A softmax follows, and nothing scales them down: half precision would change its result.
    """
    with full_precision(q):
        kind = torch.promote_types(q.dtype, torch.float32)
        return q.to(kind).transpose(1, 2) @ k.to(kind)


class GlobalFlow(ConvBNReLU):
    """Global average, 1x1: (b, c_in, h, w) -> the same vector everywhere (b, c_out, h, w).

    Its batch norm needs two images in training.
    """

    def __init__(self, c_in, c_out, norm):
        super().__init__(c_in, c_out, 1, norm)

    def forward(self, x):
        return super().forward(x.mean((2, 3), keepdim=True)).expand(-1, -1, *x.shape[2:])


class AdaptivePool(nn.AdaptiveAvgPool2d):
    """Average x (b, c, h, w) over `output_size` x `output_size` cells, of any height and width.

    In a trace it is two products of matrices, which ONNX can compute at a size not known before.
    """

    def forward(self, x):
        if not torch.compiler.is_compiling():
            return super().forward(x)
        if self.output_size == 1:
            return x.mean((2, 3), keepdim=True)
        rows, columns = (cell_weights(self.output_size, n, x) for n in x.shape[2:])
        return rows @ x @ columns.transpose(0, 1)


def cell_weights(cells, n, like):
    """Return the weight (cells, n) of each of n pixels of an axis in the mean of each cell."""
    cell = torch.arange(cells, device=like.device)[:, None]
    start, stop = cell * n // cells, ((cell + 1) * n + cells - 1) // cells
    pixel = torch.arange(n, device=like.device)
    inside = (pixel >= start) & (pixel < stop)
    return (inside / (stop - start)).to(like.dtype)


class Separable(nn.Sequential):
    """Depthwise 3x3 and 1x1, each with batch norm and ReLU: (b, c_in, h, w) -> (b, c, h, w)."""

    def __init__(self, c_in, c, norm, dilation=1):
        super().__init__(
            ConvBNReLU(c_in, c_in, 3, norm, dilation=dilation, groups=c_in),
            ConvBNReLU(c_in, c, 1, norm),
        )


class Gate(nn.Sequential):
    """A number in 0..1 for each channel, from its mean: (b, c, h, w) -> (b, c, 1, 1)."""

    def __init__(self, c, norm, *before):
        super().__init__(
            nn.AdaptiveAvgPool2d(1), *before, nn.Conv2d(c, c, 1, bias=False), norm(c), nn.Sigmoid()
        )


class PPM(nn.Module):
    """Pyramid pooling (Zhao et al., CVPR 2017, section 3.2).

    (b, c, h, w) -> [x, a map for each bin] (b, `width`, h, w), 2c where the bins divide c
    corners  see up()
    """

    def __init__(self, c, bins, norm, corners=True):
        super().__init__()
        self.corners = corners
        share = max(c // len(bins), 1)
        self.width = c + len(bins) * share
        self.branches = nn.ModuleList()
        for b in bins:
            self.branches.append(nn.Sequential(AdaptivePool(b), ConvBNReLU(c, share, 1, norm)))

    def forward(self, x):
        return torch.cat([x, *(up(branch(x), x, self.corners) for branch in self.branches)], 1)


class ASPP(nn.Module):
    """Atrous spatial pyramid pooling (Chen et al., arXiv 1706.05587, section 3.3).

    A 1x1, a 3x3 for each dilation of `rates` and (with `pool`) the global average side by side; a
    1x1 over all of them; dropout of elements: (b, c_in, h, w) -> (b, width, h, w).
    kernel     of the convolution over all of them
    separable  the dilated ones are Separable
    """

    def __init__(
        self, c_in, width, rates, norm, *, pool=True, dropout=0.5, kernel=1, separable=False
    ):
        super().__init__()
        self.branches = nn.ModuleList([ConvBNReLU(c_in, width, 1, norm)])
        for rate in rates:
            if separable:
                self.branches.append(Separable(c_in, width, norm, rate))
            else:
                self.branches.append(ConvBNReLU(c_in, width, 3, norm, dilation=rate))
        if pool:
            self.branches.append(GlobalFlow(c_in, width, norm))
        self.project = ConvBNReLU(len(self.branches) * width, width, kernel, norm)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x):
        return self.dropout(self.project(torch.cat([branch(x) for branch in self.branches], 1)))


class Lateral(nn.Module):
    """One step down a feature pyramid: the coarse map, resized, plus a 1x1 of the fine map; 3x3.

    coarse (b, c, h', w'), fine (b, c_in, h, w) -> (b, c, h, w)
    """

    def __init__(self, c_in, c, norm):
        super().__init__()
        self.side = ConvBNReLU(c_in, c, 1, norm)
        self.smooth = ConvBNReLU(c, c, 3, norm)

    def forward(self, coarse, fine):
        fine = self.side(fine)
        return self.smooth(up(coarse, fine) + fine)


def descend(x, laterals, maps):
    """Return the coarse map x (b, c, h', w') after a Lateral for each finer one of `maps`."""
    for lateral, fine in zip(laterals, maps, strict=True):
        x = lateral(x, fine)
    return x


class Framed(Head):
    """EMANet's head with another attention block in place of the EM unit.

    3x3, block, 3x3, classifier; the block maps (b, width, h, w) to the same shape.
    """

    def __init__(self, c_in, n_classes, block, width, channels, dropout, norm):
        super().__init__()
        self.reduce = ConvBNReLU(c_in, width, 3, norm)
        self.block = block
        self.out = FCNHead(width, n_classes, channels, dropout, norm)

    def forward(self, c1, c2, c3, c4):
        return {'out': self.out(self.block(self.reduce(c4)))}
