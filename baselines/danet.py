"""DANet (Fu, Liu, Tian, Li, Bao, Fang, Lu, CVPR 2019, section 3): attention over positions and over channels, in two streams that are added.

Two forms.
Official: 3x3, attention, 3x3 in each stream; classifiers on the sum and on each stream, all three supervised with weight 1. Departures of that
code from the paper: the channel attention is a softmax over (row's maximum - energy). Its trunk: FIRST_BLOCK='layer4' with
MULTI_GRID=(1, 2, 4) as released (layer4 dilated by 4, 8, 16), or 'half' with (1, 1, 1). Its trainer takes two of the three outputs and fails.
`d2`, the detectron2 version (leftthomas/DANet): 3x3 with group norm, attention without parameters (no gamma; plain energies), one classifier.
It takes no DROPOUT; its convolutions start normal by fan out (c2_msra), the bias at 0. Its trunk: FIRST_BLOCK='all', MULTI_GRID=(1, 1, 1), STRIDE_IN_1X1=True; UPSAMPLE='crop', CHANNELS='bgr', STD=(1/255,) * 3.
HEAD_CHANNELS is the streams' width: 512 in the paper, 64 in the detectron2 version.
"""

import math

import torch
from torch import nn

from baselines.blocks import ConvBNReLU


def energies(q, k):
    """q^T k of (b, c, n) and (b, c, m), in float32 at least: a softmax follows, and nothing scales them down."""
    with torch.autocast(q.device.type, enabled=False):
        q, k = (x.to(torch.promote_types(x.dtype, torch.float32)) for x in (q, k))
        return q.transpose(1, 2) @ k


class PAM(nn.Module):
    """Position attention (section 3.2): x (b, c, h, w) -> gamma * (each position's mixture of all values) + x.

    bare  no parameters: x itself is queries, keys and values, and gamma is 1
    """

    def __init__(self, c, bare=False):
        super().__init__()
        self.bare = bare
        if not bare:
            self.query, self.key, self.value = (
                nn.Conv2d(c, max(c // 8, 1), 1),
                nn.Conv2d(c, max(c // 8, 1), 1),
                nn.Conv2d(c, c, 1),
            )
            self.gamma = nn.Parameter(torch.zeros(1))

    def attention(self, x):
        """(b, hw, hw), the rows sum to one."""
        q, k = (x, x) if self.bare else (self.query(x), self.key(x))
        return energies(q.flatten(2), k.flatten(2)).softmax(2)

    def forward(self, x):
        v = (x if self.bare else self.value(x)).flatten(2)  # b c n
        y = (v @ self.attention(x).transpose(1, 2).to(v.dtype)).view_as(x)
        return (y if self.bare else self.gamma * y) + x


class CAM(nn.Module):
    """Channel attention (section 3.3): x (b, c, h, w) -> gamma * (each channel's mixture of all channels) + x.

    bare  softmax of the energy itself, and gamma is 1
    """

    def __init__(self, bare=False):
        super().__init__()
        self.bare = bare
        if not bare:
            self.gamma = nn.Parameter(torch.zeros(1))

    def attention(self, x):
        """(b, c, c), the rows sum to one."""
        x = x.flatten(2).transpose(1, 2)
        energy = energies(x, x)
        return (energy if self.bare else energy.amax(2, keepdim=True) - energy).softmax(2)

    def forward(self, x):
        y = (self.attention(x).to(x.dtype) @ x.flatten(2)).view_as(x)
        return (y if self.bare else self.gamma * y) + x


class DANet(nn.Module):
    extra_weights = (
        1.0,
        1.0,
    )  # position stream, channel stream; the detectron2 version has none of them

    def __init__(self, widths, n_classes, *, channels, dropout, norm, d2=False):
        super().__init__()
        c, self.d2 = widths[-1], d2
        if d2:
            self.extra_weights = ()
            norm = lambda width: nn.GroupNorm(math.gcd(32, width), width)
        self.position = nn.Sequential(ConvBNReLU(c, channels, 3, norm), PAM(channels, bare=d2))
        self.channel = nn.Sequential(ConvBNReLU(c, channels, 3, norm), CAM(bare=d2))
        classifier = lambda: nn.Sequential(
            nn.Dropout2d(0 if d2 else dropout), nn.Conv2d(channels, n_classes, 1)
        )
        if not d2:
            self.position.append(ConvBNReLU(channels, channels, 3, norm))
            self.channel.append(ConvBNReLU(channels, channels, 3, norm))
            self.aux = nn.ModuleList([classifier(), classifier()])
        self.out = classifier()
        if d2:
            for m in self.modules():
                if isinstance(m, nn.Conv2d):
                    nn.init.kaiming_normal_(m.weight, mode='fan_out', nonlinearity='relu')
            nn.init.zeros_(self.out[1].bias)

    def forward(self, c1, c2, c3, c4):
        streams = self.position(c4), self.channel(c4)
        found = {'out': self.out(streams[0] + streams[1])}
        return (
            found | {'aux': [f(x) for f, x in zip(self.aux, streams)]}
            if self.training and not self.d2
            else found
        )
