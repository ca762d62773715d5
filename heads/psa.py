"""PSANet (Zhao, Zhang, Liu, Shi, Loy, Lin, Jia, ECCV 2018, section 3): spatial attention.

Each position predicts how much it takes from, or gives to, each other one.

Form: semseg's layers. The paper's over-complete map (section 3.3) is re-indexed by one gather;
there is no extension to compile. The trunk of the released models: FIRST_BLOCK='all',
MULTI_GRID=(1, 1, 1).

Departures from semseg:
    - any image size works, but for `compact`
    - the 3x3 before the classifier is HEAD_CHANNELS wide (512 there)
Its `normalization_factor` is HEAD_ARGS={'factor': ...}; None there is 'area' here.
"""

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import nn

from heads.blocks import ConvBNReLU, Head, SettingsError
from heads.fcn import FCNHead
from heads.pooling import up


def mask_side(crop, stride, shrink, compact):
    """Return (height, width) of the mask for training crops of a side or (height, width).

    It covers all offsets between positions of the shrunk map, or with `compact` the map itself.
    """
    if not isinstance(crop, tuple):
        crop = crop, crop
    sides = tuple((n - 1) // stride // shrink + 1 for n in crop)
    if compact:
        return sides
    return tuple(2 * n - 1 for n in sides)


def offsets(n, side, device):
    """Return the mask's row for each pair of rows [other, one] (n, n), and whether it has one."""
    position = torch.arange(n, device=device)
    row = position[:, None] - position + (side - 1) // 2
    return row.clamp(0, side - 1), (row >= 0) & (row < side)


def cells(h, w, mask, device=None):
    """Return which cell of one position's mask stands for another position, for all pairs.

    index (hw, hw) at [other, one], and whether the mask reaches that far, bool (hw, hw)
    """
    row, row_inside = offsets(h, mask[0], device)
    column, column_inside = offsets(w, mask[1], device)
    index = row[:, None, :, None] * mask[1] + column[None, :, None, :]  # h w h w
    inside = row_inside[:, None, :, None] & column_inside[None, :, None, :]
    return index.reshape(h * w, h * w), inside.reshape(h * w, h * w)


def reindex(x, index, inside, distribute):
    """Return attention (b, source hw, target hw) of an over-complete map x (b, cells, h, w).

    It is 0 where the mask does not reach. A position's cells weigh the sources it collects from, or
    the targets it distributes to.
    """
    pairs = x.flatten(2).gather(1, index.expand(len(x), -1, -1))  # b other one
    pairs = pairs.masked_fill(~inside, 0)
    if distribute:
        return pairs.transpose(1, 2)
    return pairs


class Direction(nn.Module):
    """What each position predicts, on the shrunk map: a feature and a mask.

    x (b, c_in, h, w) -> (b, width, *size), (b, n_cells, *size)
    """

    def __init__(self, c_in, width, n_cells, norm):
        super().__init__()
        self.reduce = ConvBNReLU(c_in, width, 1, norm)
        self.attention = nn.Sequential(
            ConvBNReLU(width, width, 1, norm), nn.Conv2d(width, n_cells, 1, bias=False)
        )

    def forward(self, x, size, corners=True):
        r = F.interpolate(self.reduce(x), size, mode='bilinear', align_corners=corners)
        return r, self.attention(r)


class PSA(Head):
    """PSANet's head.

    mask     side, or (height, width), of the mask that each position predicts; by default it
             follows from CROP_SIZE, see mask_side()
    type     'collect', 'distribute' or 'both'
    compact  the mask is of positions, not of offsets: then it must be the shrunk map
    shrink   the attention is computed on a map this many times smaller
    softmax  of the attention, over the positions it gathers from
    width    channels of the feature that is attended
    corners  resizing is align_corners; not so in mmsegmentation, which also rounds the size of the
             shrunk map down
    factor   by which the attended feature is divided; 'area': by the number of the mask's cells
    """

    mark = 'directions.'
    signs = {'directions.1.reduce.conv.weight': {'type': 'both'}}

    def __init__(
        self,
        widths,
        n_classes,
        *,
        channels,
        dropout,
        norm,
        mask: int | tuple[int, int],
        type: Literal['collect', 'distribute', 'both'] = 'both',
        compact: bool = False,
        shrink: int = 2,
        softmax: bool = True,
        width: int = 512,
        corners: bool = True,
        factor: float | Literal['area'] = 1.0,
    ):
        super().__init__()
        if isinstance(mask, int):
            mask = mask, mask
        self.factor = mask[0] * mask[1] if factor == 'area' else factor
        if not 0 < self.factor < math.inf:
            raise SettingsError(
                f'HEAD_ARGS={ {"factor": factor} } is not valid; use a number above 0'
            )
        if not compact and not all(side % 2 for side in mask):
            raise SettingsError(
                f'HEAD_ARGS={ {"mask": mask} }: a mask of offsets has a middle, so its '
                "sides are odd; use odd sides, or add 'compact': True for a mask of positions"
            )
        self.mask = tuple(mask)
        self.types = (type,)
        if type == 'both':
            self.types = 'collect', 'distribute'
        self.compact = compact
        self.shrink = shrink
        self.corners = corners
        self.softmax = softmax
        c = widths[-1]
        n_cells = mask[0] * mask[1]
        self.directions = nn.ModuleList(Direction(c, width, n_cells, norm) for _ in self.types)
        self.proj = ConvBNReLU(len(self.types) * width, c, 1, norm)
        self.out = FCNHead(2 * c, n_classes, channels, dropout, norm)
        self.indices = {}  # of the map sizes seen last

    @classmethod
    def defaults(cls, settings):
        if 'mask' in settings.HEAD_ARGS:
            return {}
        shrink = settings.HEAD_ARGS.get('shrink', 2)
        compact = settings.HEAD_ARGS.get('compact', False)
        return {'mask': mask_side(settings.CROP_SIZE, settings.STRIDE, shrink, compact)}

    def index(self, size, device):
        """Return cells() of a map's size; those of the last four sizes are kept."""
        if torch.compiler.is_compiling():
            return cells(*size, self.mask, device)  # a traced tensor must not outlive the trace
        if (size, device) not in self.indices:
            if len(self.indices) == 4:
                self.indices.clear()
            self.indices[size, device] = cells(*size, self.mask, device)
        return self.indices[size, device]

    def attention(self, x, kind):
        """Return attention (b, source hw, target hw) of predicted masks (b, cells, h, w).

        With `softmax` the columns sum to one.
        """
        size = tuple(x.shape[2:])
        if self.compact and size != self.mask:
            raise SettingsError(
                "HEAD_ARGS={'compact': True} needs images of the size its mask was made for, "
                f'{self.mask[0]}x{self.mask[1]} positions, and this one has {size[0]}x{size[1]}; '
                'set CROP_SIZE to the size it was trained with, and TEST_CROP to the same'
            )
        if self.compact:
            pairs = x.flatten(2)
            if kind == 'distribute':
                pairs = pairs.transpose(1, 2)
        else:
            index, inside = self.index(size, x.device)
            pairs = reindex(x, index, inside, distribute=kind == 'distribute')
        if self.softmax:
            return pairs.softmax(1)
        return pairs

    def forward(self, c1, c2, c3, c4):
        size = tuple((n - 1) // self.shrink + 1 for n in c4.shape[2:])
        if not self.corners:
            size = tuple(max(n // self.shrink, 1) for n in c4.shape[2:])
        attended = []
        for kind, direction in zip(self.types, self.directions, strict=True):
            r, masks = direction(c4, size, self.corners)
            attention = self.attention(masks, kind).to(r.dtype)
            attended.append((r.flatten(2) @ attention).unflatten(2, size))
        y = self.proj(torch.cat(attended, 1) / self.factor)
        return {'out': self.out(torch.cat([c4, up(y, c4, self.corners)], 1))}
