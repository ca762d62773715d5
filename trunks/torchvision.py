"""Trunks of torchvision: DenseNet, MobileNetV2, ConvNeXt, ViT, without their classifiers.

Their tensors keep torchvision's names. PRETRAINED='torchvision' starts from its ImageNet weights.
"""

import math
import re

import torch.nn.functional as F
import torchvision
from torch import nn

from trunks.base import Trunk

GRID = 14  # side of ViT's table of positions: the patches of an image of 224 pixels
DENSE_LAYER = re.compile(r'(.*denselayer\d+\.(?:norm|relu|conv))\.([12]\..*)')  # older names


def torchvision_state(state):
    """Return the tensors of a classifier of torchvision under the names that trunks here have.

    The classifier and the class token of a ViT are left out, and so is its entry in the table of
    positions, which becomes that of images of 224 pixels. None if it is no file of these trunks.
    """
    if not any(key.startswith(('features.', 'encoder.layers.')) for key in state):
        return None
    renamed = {}
    for key, value in state.items():
        if key.startswith(('classifier.', 'heads.', 'features.18.')) or key == 'class_token':
            continue
        older = DENSE_LAYER.match(key)
        if older:
            key = older[1] + older[2]
        if key == 'encoder.pos_embedding':
            value = table_of_224(value[:, 1:])
        renamed['extractor.' + key] = value
    return renamed


def table_of_224(table):
    """Return a ViT's table of positions (1, n, c) as that of images of 224 pixels, if it is not."""
    side = math.isqrt(table.shape[1])
    if side in (0, GRID) or side**2 != table.shape[1]:
        return table
    return resized(table.float(), (side, side), (GRID, GRID))


def resized(table, size, new):
    """Return a table of positions (1, h w, c) of a grid (h, w) for another grid, bicubic."""
    table = table.transpose(1, 2).unflatten(2, size)
    table = F.interpolate(table, new, mode='bicubic', align_corners=False)
    return table.flatten(2).transpose(1, 2)


def replace_norms(module, norm):
    """Put norm(channels) in the place of each batch norm of torchvision, with its epsilon."""
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d):
            new = norm(child.num_features)
            new.eps = child.eps
            setattr(module, name, new)
        else:
            replace_norms(child, norm)


class DenseNet(Trunk):
    """DenseNet (Huang, Liu, van der Maaten, Weinberger, CVPR 2017, table 1).

    c1..c3 are the concatenations that dense blocks 1..3 return, without batch norm and ReLU; c4 has
    both. Transitions halve with floor.
    """

    smallest = 32

    def __init__(self, name, stride, norm):
        features = torchvision.models.get_model(name, weights=None).features
        ends = [getattr(features, f'transition{i}').norm for i in (1, 2, 3)] + [features.norm5]
        super().__init__([end.num_features for end in ends], (4, 8, 16, 32))
        self.features = features
        replace_norms(self, norm)

    def maps(self, x):
        maps, x = [], self.pad(x, 1)
        for name, layer in self.features.named_children():
            x = layer(x)
            if name in ('denseblock1', 'denseblock2', 'denseblock3'):
                maps.append(x)
        return [*maps, x.relu()]


class MobileNetV2(Trunk):
    """MobileNetV2 (Sandler et al., CVPR 2018, table 2), without the last 1x1 convolution."""

    def __init__(self, name, stride, norm):
        super().__init__((24, 32, 96, 320), (4, 8, 16, 32))
        self.features = torchvision.models.get_model(name, weights=None).features[:18]
        replace_norms(self, norm)

    def maps(self, x):
        maps = []
        for i, layer in enumerate(self.features):
            x = layer(x)
            if i in (3, 6, 13, 17):
                maps.append(x)
        return maps


class ConvNeXt(Trunk):
    """ConvNeXt (Liu, Mao, Wu, Feichtenhofer, Darrell, Xie, CVPR 2022, section 2).

    Its convolutions with stride do not overlap, so images are padded to a multiple of 32. It has
    layer norms, whatever NORM is.
    """

    multiple = 32

    def __init__(self, name, stride, norm):
        features = torchvision.models.get_model(name, weights=None).features
        widths = [features[i][0].block[0].in_channels for i in (1, 3, 5, 7)]
        super().__init__(widths, (4, 8, 16, 32))
        self.features = features

    def maps(self, x):
        maps, x = [], self.pad(x, 1)
        for i, layer in enumerate(self.features):
            x = layer(x)
            if i % 2:
                maps.append(x)
        return maps


class ViT(Trunk):
    """The vision transformer (Dosovitskiy et al., ICLR 2021, section 3.1), without class token.

    All four maps have stride 16: the tokens after four of the blocks, the last ones normalised. The
    table of positions is that of an image of 224 pixels, as pre-trained, and is resized (bicubic)
    to each image's grid of patches; images are padded to a multiple of 16. Dropout as in SETR: 0.1
    after attention and in the MLPs.
    """

    allowed = (16,)
    finest = 16
    multiple = 16

    def __init__(self, name, stride, norm):
        net = torchvision.models.get_model(name, weights=None, dropout=0.1)
        super().__init__([net.hidden_dim] * 4, (16, 16, 16, 16))
        self.conv_proj = net.conv_proj
        self.encoder = net.encoder
        self.encoder.dropout = nn.Identity()
        self.encoder.pos_embedding = nn.Parameter(net.encoder.pos_embedding.detach()[:, 1:].clone())
        self.taps = ()
        self.tap(mla=True)

    def tap(self, mla):
        """Choose the blocks after which there are maps: each quarter, or (in 24ths) 10, 15, 20, 24.

        mla  the former, as in SETR-MLA; False: the latter, as in SETR-naive and SETR-PUP
        """
        depth, parts = len(self.encoder.layers), (10, 15, 20, 24)
        if mla:
            parts = 6, 12, 18, 24
        self.taps = tuple(round(depth * part / 24) for part in parts)

    def positions(self, size):
        """Return the table of positions for a grid of patches (h, w), as (1, h w, c)."""
        table = self.encoder.pos_embedding
        if tuple(size) == (GRID, GRID):
            return table
        return resized(table, (GRID, GRID), size)

    def maps(self, x):
        x = self.conv_proj(self.pad(x, 1))
        size = x.shape[2:]
        x = x.flatten(2).transpose(1, 2) + self.positions(size)
        maps = []
        for i, block in enumerate(self.encoder.layers, 1):
            x = block(x)
            if i in self.taps:
                maps.append(x)
        maps[-1] = self.encoder.ln(x)
        return [x.transpose(1, 2).unflatten(2, size) for x in maps]
