"""PSANet (Zhao, Zhang, Liu, Shi, Loy, Lin, Jia, ECCV 2018, section 3): each position predicts how much it takes from, or gives to, each other one.

semseg's layers. The paper's over-complete map (section 3.3) is re-indexed by one gather; no extension to compile.
Departures from semseg: any image size works, but for `compact`; the 3x3 before the classifier is HEAD_CHANNELS wide (there 512); there is no
normalisation factor: semseg divides the attended map by `normalization_factor`, which its settings have at 1.0 (there None means the mask's area),
so the weights of `proj` of a file trained with another factor must be divided by it. The trunk of its models is FIRST_BLOCK='all', MULTI_GRID=(1, 1, 1).
"""

import torch
import torch.nn.functional as F
from torch import nn

from baselines.blocks import ConvBNReLU
from baselines.fcn import FCNHead
from baselines.pooling import up
from settings import UsageError


def mask_side(crop, stride, shrink, compact):
    """(height, width) of the mask for training crops of a side or (height, width).

    It covers all offsets between positions of the shrunk map, or (compact) the map itself.
    """
    crop = crop if isinstance(crop, tuple) else (crop, crop)
    side = tuple((n - 1) // stride // shrink + 1 for n in crop)
    return side if compact else tuple(2 * n - 1 for n in side)


def cells(h, w, mask, device=None):
    """Which cell of the mask at one position stands for another one: index (hw, hw), at [other, one], and whether the mask reaches so far."""
    (u, in_u), (v, in_v) = (
        (a, (a >= 0) & (a < m))
        for a, m in (
            (
                torch.arange(n, device=device)[:, None]
                - torch.arange(n, device=device)
                + (m - 1) // 2,
                m,
            )
            for n, m in zip((h, w), mask)
        )
    )
    index = (
        u.clamp(0, mask[0] - 1)[:, None, :, None] * mask[1]
        + v.clamp(0, mask[1] - 1)[None, :, None, :]
    )  # h w h w
    return index.reshape(h * w, h * w), (in_u[:, None, :, None] & in_v[None, :, None, :]).reshape(
        h * w, h * w
    )


def reindex(x, index, inside, distribute):
    """Over-complete map (b, cells, h, w) -> attention (b, source hw, target hw), 0 where the mask does not reach.

    A position's cells weigh the sources it collects from, or the targets it distributes to.
    """
    pairs = (
        x.flatten(2).gather(1, index.expand(len(x), -1, -1)).masked_fill(~inside, 0)
    )  # b other one
    return pairs.transpose(1, 2) if distribute else pairs


class Direction(nn.Module):
    """What every position predicts: its feature (b, width, h, w), and its mask (b, cells, h, w), both on the shrunk map."""

    def __init__(self, c_in, width, n_cells, norm):
        super().__init__()
        self.reduce = ConvBNReLU(c_in, width, 1, norm)
        self.attention = nn.Sequential(
            ConvBNReLU(width, width, 1, norm), nn.Conv2d(width, n_cells, 1, bias=False)
        )

    def forward(self, x, size):
        r = F.interpolate(self.reduce(x), size, mode='bilinear', align_corners=True)
        return r, self.attention(r)


class PSA(nn.Module):
    """type     'collect', 'distribute' or 'both'
    mask     side, or (height, width), of the mask that each position predicts
    compact  the mask is of positions, not of offsets: then it must be the shrunk map
    shrink   the attention is computed on a map this many times smaller
    """

    def __init__(
        self,
        widths,
        n_classes,
        *,
        channels,
        dropout,
        norm,
        mask,
        type='both',
        compact=False,
        shrink=2,
        softmax=True,
        width=512,
    ):
        super().__init__()
        c = widths[-1]
        self.mask = mask if isinstance(mask, tuple) else (mask, mask)
        if not compact and not all(n % 2 for n in self.mask):
            raise UsageError(
                f'PSA_MASK = {mask!r}: a mask of offsets has a middle, so its sides are odd; PSA_COMPACT=True takes masks of positions'
            )
        self.types, self.compact, self.shrink, self.softmax = (
            ('collect', 'distribute') if type == 'both' else (type,),
            compact,
            shrink,
            softmax,
        )
        self.directions = nn.ModuleList(
            Direction(c, width, self.mask[0] * self.mask[1], norm) for _ in self.types
        )
        self.proj = ConvBNReLU(len(self.types) * width, c, 1, norm)
        self.out = FCNHead(2 * c, n_classes, channels, dropout, norm)
        self.indices = {}  # of the map sizes met last

    def index(self, size, device):
        if (size, device) not in self.indices:
            if len(self.indices) == 4:
                self.indices.clear()
            self.indices[size, device] = cells(*size, self.mask, device)
        return self.indices[size, device]

    def attention(self, x, kind):
        """Predicted masks (b, cells, h, w) -> (b, source hw, target hw), in which the columns sum to one (with `softmax`)."""
        if self.compact:
            if x.shape[2:] != self.mask:
                raise UsageError(
                    f'PSA_COMPACT=True takes images of the size that its mask was made for, {self.mask[0]}x{self.mask[1]} positions, '
                    f'and this one has {x.shape[2]}x{x.shape[3]}; CROP_SIZE must be the size it was trained with, and TEST_CROP the same'
                )
            pairs = x.flatten(2)
            pairs = pairs.transpose(1, 2) if kind == 'distribute' else pairs
        else:
            pairs = reindex(x, *self.index(tuple(x.shape[2:]), x.device), kind == 'distribute')
        return pairs.softmax(1) if self.softmax else pairs

    def forward(self, c1, c2, c3, c4):
        size = tuple((n - 1) // self.shrink + 1 for n in c4.shape[2:])
        found = []
        for kind, direction in zip(self.types, self.directions):
            r, masks = direction(c4, size)
            found.append(
                (r.flatten(2) @ self.attention(masks, kind).to(r.dtype)).unflatten(2, size)
            )
        return {'out': self.out(torch.cat([c4, up(self.proj(torch.cat(found, 1)), c4)], 1))}
