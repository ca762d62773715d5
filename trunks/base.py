"""What trunks share: the base class and the blocks of those that are written out here."""

import torch.nn.functional as F
from torch import nn

from heads.blocks import ConvBNReLU


class Trunk(nn.Module):
    """A trunk, see trunks/__init__.py; base class.

    multiple    images are padded to sides that this divides
    smallest    images are padded to sides of at least this
    pad_factor  times both, see padded()
    """

    allowed = (32,)  # values of STRIDE
    finest = 4  # stride of the first map
    multiple = 1
    smallest = 1
    pad_factor = 1

    def __init__(self, widths, strides):
        super().__init__()
        self.widths = list(widths)
        self.strides = list(strides)
        self.stride = self.strides[-1]

    def padded(self, size, factor=None):
        """Return the size (h, w) to which images of a size are padded.

        factor  1: as maps() needs it; 2: so that it needs nothing more for half of the image
                either; None: pad_factor
        """
        factor = factor or self.pad_factor
        multiple, smallest = (n if n == 1 else factor * n for n in (self.multiple, self.smallest))
        return tuple(-(-max(n, smallest) // multiple) * multiple for n in size)

    def pad(self, x, factor=None):
        """Return images (b, 3, h, w) padded on the right and at the bottom with the mean colour."""
        h, w = self.padded(x.shape[2:], factor)
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
