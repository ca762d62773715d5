"""Blocks that several heads share."""

from torch import nn


class ConvBNReLU(nn.Module):
    """Convolution without bias, batch norm, ReLU: (b, c_in, h, w) -> (b, c_out, h', w'), the same size at stride 1."""

    def __init__(self, c_in, c_out, kernel, norm, stride=1, dilation=1):
        super().__init__()
        self.conv = nn.Conv2d(
            c_in, c_out, kernel, stride, dilation * (kernel // 2), dilation, bias=False
        )
        self.bn = norm(c_out)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x):
        return self.relu(self.bn(self.conv(x)))
