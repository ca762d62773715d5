"""ACFNet (Zhang et al., ICCV 2019, section 3): attentional class features.

Coarse logits give the centre of each class, and each pixel gets a mixture of the centres.

Form: MXNetSeg's layers with the paper's attention. In its place MXNetSeg (and a public PyTorch
port) has DANet's channel attention, between coarse logits and features, with the same layers:
HEAD_ARGS={'attention': 'channels'}, for its files.

Departures:
    - from MXNetSeg: the attention; dropout before classifiers is of whole channels
    - from the paper: the pyramid has no image-level branch; there is a 3x3 before each classifier

The paper adds an auxiliary head on layer3 with weight 0.4 (AUX_WEIGHT).
"""

from typing import Literal

import torch
from torch import nn

from heads.blocks import ConvBNReLU, Head
from heads.fcn import FCNHead
from heads.pooling import ASPP, energies


class ClassAttention(nn.Module):
    """Class centres and their mixture (equations 2 and 3).

    x (b, c, h, w) and coarse logits (b, n, h, w) -> (b, c, h, w)
    kind  'centres'; 'channels': what MXNetSeg has in their place
    """

    def __init__(self, c, norm, kind='centres'):
        super().__init__()
        self.kind = kind
        self.before = ConvBNReLU(c, c, 1, norm)
        self.after = ConvBNReLU(c, c, 1, norm)

    def mix(self, x, coarse):
        """Return for each pixel of x the mixture of class centres, by its coarse probabilities."""
        p = coarse.flatten(2).softmax(1)  # b n hw, over the classes
        share = p / p.sum(2, keepdim=True).clamp(min=1e-6)  # b n hw, of each pixel in its class
        centres = share @ x.flatten(2).transpose(1, 2)  # b n c
        return (centres.transpose(1, 2) @ p).view_as(x)  # b c h w

    def mix_channels(self, x, coarse):
        """Return for each channel of x the mixture of coarse logits that differ most from it."""
        logits = coarse.flatten(2)  # b n hw
        e = energies(logits.transpose(1, 2), x.flatten(2).transpose(1, 2))  # b n c
        share = (e.amax(2, keepdim=True) - e).softmax(2)  # over the channels
        return (share.to(x.dtype).transpose(1, 2) @ logits.to(x.dtype)).view_as(x)

    def forward(self, x, coarse):
        mix = self.mix_channels if self.kind == 'channels' else self.mix
        return self.after(mix(self.before(x), coarse))


class ACFNet(Head):
    """ACFNet's head; its coarse logits are supervised too.

    width      channels of pyramid and attention
    rates      dilations of the pyramid
    attention  'centres', or 'channels' as in MXNetSeg
    """

    mark = 'coarse.'
    mxnet = {
        'head.aspp.branches.': 'head.aspp.branches.',
        'head.aspp.branches.4.conv1x1.': 'head.aspp.branches.4.',
        'head.aspp.projection.': 'head.aspp.project.',
        'head.coarse_head.conv1.': 'head.coarse.0.',
        'head.coarse_head.conv2.': 'head.coarse.2.',
        'head.acf.conv_1.': 'head.attention.before.',
        'head.acf.conv_2.': 'head.attention.after.',
        'head.head.conv1.': 'head.out.0.',
        'head.head.conv2.': 'head.out.2.',
    }
    mxnet_settings = {'HEAD_ARGS': {'attention': 'channels'}}
    main_weight = 0.7
    aux_weights = (0.6,)

    def __init__(
        self,
        widths,
        n_classes,
        *,
        channels,
        dropout,
        norm,
        width: int = 512,
        rates: tuple[int, ...] = (12, 24, 36),
        attention: Literal['centres', 'channels'] = 'centres',
    ):
        super().__init__()
        self.aspp = ASPP(widths[3], width, rates, norm, pool=False)
        self.coarse = FCNHead(width, n_classes, channels, dropout, norm)
        self.attention = ClassAttention(width, norm, attention)
        self.out = FCNHead(2 * width, n_classes, channels, dropout, norm)

    def forward(self, c1, c2, c3, c4):
        x = self.aspp(c4)
        coarse = self.coarse(x)
        outputs = {'out': self.out(torch.cat([x, self.attention(x, coarse)], 1))}
        if self.training:
            outputs['aux'] = [coarse]
        return outputs
