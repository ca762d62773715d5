"""DANet (Fu, Liu, Tian, Li, Bao, Fang, Lu, CVPR 2019, section 3): dual attention.

Attention over positions and over channels, in two streams that are added.

Two forms. HEAD_CHANNELS is the width of each stream: 512 in the official form, 64 in detectron2's.

Official (default): 3x3, attention, 3x3 in each stream; classifiers on the sum and on each stream,
all three supervised with weight 1.
    - departure of that code from the paper: the channel attention is a softmax over
      (row's maximum - energy)
    - its trunk: FIRST_BLOCK='layer4' with MULTI_GRID=(1, 2, 4) as released (layer4 dilated by
      4, 8, 16), or 'half' with (1, 1, 1)
    - its trainer uses two of the three outputs and fails

d2=True, detectron2 (leftthomas/DANet): 3x3 with group norm; attention without parameters (no gamma,
plain energies); one classifier.
    - no dropout, whatever DROPOUT is; convolutions start normal by fan out (c2_msra), biases at 0
    - its trunk: STEM='caffe', FIRST_BLOCK='all', MULTI_GRID=(1, 1, 1)
    - its images: CHANNELS='bgr', STD=(1/255,) * 3; its logits: UPSAMPLE='crop'
"""

import math

import torch
from torch import nn

from heads.blocks import ConvBNReLU, Head
from heads.pooling import energies


class PAM(nn.Module):
    """Position attention (section 3.2): x (b, c, h, w) -> gamma * (mixtures of positions) + x.

    bare  no parameters: x itself is queries, keys and values, and gamma is 1
    """

    def __init__(self, c, bare=False):
        super().__init__()
        self.bare = bare
        if not bare:
            narrow = max(c // 8, 1)
            self.query = nn.Conv2d(c, narrow, 1)
            self.key = nn.Conv2d(c, narrow, 1)
            self.value = nn.Conv2d(c, c, 1)
            self.gamma = nn.Parameter(torch.zeros(1))

    def attention(self, x):
        """Return what each position takes from each other one (b, hw, hw); rows sum to one."""
        q, k = x, x
        if not self.bare:
            q, k = self.query(x), self.key(x)
        return energies(q.flatten(2), k.flatten(2)).softmax(2)

    def forward(self, x):
        v = x if self.bare else self.value(x)
        v = v.flatten(2).transpose(1, 2)  # b hw c
        y = self.attention(x).to(v.dtype) @ v
        y = y.transpose(1, 2).unflatten(2, x.shape[2:])
        if not self.bare:
            y = self.gamma * y
        return y + x


class CAM(nn.Module):
    """Channel attention (section 3.3): x (b, c, h, w) -> gamma * (mixtures of channels) + x.

    bare  softmax of the energy itself, and gamma is 1
    """

    def __init__(self, bare=False):
        super().__init__()
        self.bare = bare
        if not bare:
            self.gamma = nn.Parameter(torch.zeros(1))

    def attention(self, x):
        """Return what each channel takes from each other one (b, c, c); rows sum to one."""
        x = x.flatten(2).transpose(1, 2)  # b hw c
        energy = energies(x, x)
        if not self.bare:
            energy = energy.amax(2, keepdim=True) - energy
        return energy.softmax(2)

    def forward(self, x):
        pixels = x.flatten(2).transpose(1, 2)  # b hw c
        y = pixels @ self.attention(x).to(x.dtype).transpose(1, 2)
        y = y.transpose(1, 2).unflatten(2, x.shape[2:])
        if not self.bare:
            y = self.gamma * y
        return y + x


def group_norm(c):
    """Return a group norm of 32 groups, as released; fewer where they do not divide the channels.

    Narrow networks that were trained here have it, so it differs from blocks.group_norm.
    """
    return nn.GroupNorm(math.gcd(32, c), c)


class DANet(Head):
    """DANet's head.

    d2   the detectron2 form, see above
    aux  False: no classifiers on the streams, as in files that were trained without
    """

    mark = 'position.'
    mxnet = {
        'head.compress_pam.': 'head.position.0.',
        'head.pam.query_conv.': 'head.position.1.query.',
        'head.pam.key_conv.': 'head.position.1.key.',
        'head.pam.value_conv.': 'head.position.1.value.',
        'head.pam.gamma': 'head.position.1.gamma',
        'head.proj_pam.': 'head.position.2.',
        'head.compress_cam.': 'head.channel.0.',
        'head.cam.gamma': 'head.channel.1.gamma',
        'head.proj_cam.': 'head.channel.2.',
        'head.head.1.': 'head.out.1.',
        'aux_head.0.1.': 'head.aux.0.1.',
        'aux_head.1.1.': 'head.aux.1.1.',
    }
    aux_weights = (1.0, 1.0)  # position stream, channel stream; none with d2

    def __init__(
        self,
        widths,
        n_classes,
        *,
        channels,
        dropout,
        norm,
        d2: bool = False,
        aux: bool = True,
    ):
        super().__init__()
        self.d2 = d2
        if d2 or not aux:
            self.aux_weights = ()
        if d2:
            norm = group_norm
            dropout = 0
        c = widths[-1]
        self.position = nn.Sequential(ConvBNReLU(c, channels, 3, norm), PAM(channels, bare=d2))
        self.channel = nn.Sequential(ConvBNReLU(c, channels, 3, norm), CAM(bare=d2))

        def classifier():
            return nn.Sequential(nn.Dropout2d(dropout), nn.Conv2d(channels, n_classes, 1))

        if not d2:
            self.position.append(ConvBNReLU(channels, channels, 3, norm))
            self.channel.append(ConvBNReLU(channels, channels, 3, norm))
        if self.aux_weights:
            self.aux = nn.ModuleList([classifier(), classifier()])
        self.out = classifier()
        if d2:
            self.start_as_detectron2()

    @classmethod
    def told(cls, shapes):
        if 'head.position.1.gamma' not in shapes:
            return {'d2': True}
        return {'d2': False} | super().told(shapes)

    def start_as_detectron2(self):
        """Draw the convolutions' weights as the detectron2 version does."""
        for m in self.modules():
            if isinstance(m, nn.Conv2d):
                nn.init.kaiming_normal_(m.weight, mode='fan_out', nonlinearity='relu')
        nn.init.zeros_(self.out[1].bias)

    def forward(self, c1, c2, c3, c4):
        position, channel = self.position(c4), self.channel(c4)
        outputs = {'out': self.out(position + channel)}
        if self.training and self.aux_weights:
            outputs['aux'] = [self.aux[0](position), self.aux[1](channel)]
        return outputs
