"""ACFNet (Zhang et al., ICCV 2019, section 3): attentional class features.

Coarse logits give the centre of each class, and each pixel gets a mixture of the centres.

Form: MXNetSeg's layers with the paper's attention. In its place MXNetSeg (and a public PyTorch
port) has DANet's channel attention, with the same layers: its files load, but the network then
computes something else.

Departures:
    - from MXNetSeg: the attention; dropout before classifiers is of whole channels
    - from the paper: the pyramid has no image-level branch; there is a 3x3 before each classifier

The paper adds an auxiliary head on layer3 with weight 0.4 (AUX_WEIGHT).
"""

import torch
from torch import nn

from heads.blocks import ConvBNReLU, Head
from heads.fcn import FCNHead
from heads.pooling import ASPP


class ClassAttention(nn.Module):
    """Class centres and their mixture (equations 2 and 3).

    x (b, c, h, w) and coarse logits (b, n, h, w) -> (b, c, h, w)
    """

    def __init__(self, c, norm):
        super().__init__()
        self.before = ConvBNReLU(c, c, 1, norm)
        self.after = ConvBNReLU(c, c, 1, norm)

    def mix(self, x, coarse):
        """Return for each pixel of x the mixture of class centres, by its coarse probabilities."""
        p = coarse.flatten(2).softmax(1)  # b n hw, over the classes
        share = p / p.sum(2, keepdim=True).clamp(min=1e-6)  # b n hw, of each pixel in its class
        centres = share @ x.flatten(2).transpose(1, 2)  # b n c
        return (centres.transpose(1, 2) @ p).view_as(x)  # b c h w

    def forward(self, x, coarse):
        return self.after(self.mix(self.before(x), coarse))


class ACFNet(Head):
    """ACFNet's head; its coarse logits are supervised too.

    width  channels of pyramid and attention
    rates  dilations of the pyramid
    """

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
    ):
        super().__init__()
        self.aspp = ASPP(widths[3], width, rates, norm, pool=False)
        self.coarse = FCNHead(width, n_classes, channels, dropout, norm)
        self.attention = ClassAttention(width, norm)
        self.out = FCNHead(2 * width, n_classes, channels, dropout, norm)

    def forward(self, c1, c2, c3, c4):
        x = self.aspp(c4)
        coarse = self.coarse(x)
        outputs = {'out': self.out(torch.cat([x, self.attention(x, coarse)], 1))}
        if self.training:
            outputs['aux'] = [coarse]
        return outputs
