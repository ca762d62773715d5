"""What trunks share: the base class and the blocks of those that are written out here."""

import torch.nn.functional as F
from torch import nn

from heads.blocks import ConvBNReLU


class Trunk(nn.Module):
    """A trunk, see trunks/__init__.py; base class.

    multiple  images are padded to sides that this divides
    smallest  images are padded to sides of at least this
    """

    allowed = (32,)  # values of STRIDE
    finest = 4  # stride of the first map
    multiple = 1
    smallest = 1

    def __init__(self, widths, strides):
        super().__init__()
        self.widths = list(widths)
        self.strides = list(strides)
        self.stride = self.strides[-1]

    def padded(self, size):
        """Return the size (h, w) to which maps() pads images of a size."""
        sides = [max(n, self.smallest) for n in size]
        return tuple(-(-n // self.multiple) * self.multiple for n in sides)

    def pad(self, x):
        """Return images (b, 3, h, w) padded on the right and at the bottom with the mean colour."""
        h, w = self.padded(x.shape[2:])
        if (h, w) == tuple(x.shape[2:]):
            return x
        return F.pad(x, (0, w - x.shape[3], 0, h - x.shape[2]))


def linear(c_in, c_out, kernel, norm, stride):
    """Return a convolution with batch norm and nothing after it."""
    conv = ConvBNReLU(c_in, c_out, kernel, norm, stride)
    conv.relu = nn.Identity()
    return conv


def start(net):
    """Draw the weights of all convolutions as ResNet's are: normal, by fan out."""
    for m in net.modules():
        if isinstance(m, nn.Conv2d):
            nn.init.kaiming_normal_(m.weight, mode='fan_out', nonlinearity='relu')
