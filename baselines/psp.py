"""PSPNet (Zhao, Shi, Qi, Wang, Jia, CVPR 2017, section 3): the trunk's last map, pooled to several grids, beside itself.

semseg's layers, and MXNetSeg's but for its dropout of single elements; the 3x3 before the classifier is 512 wide in semseg, 256 in MXNetSeg (HEAD_CHANNELS).
Its auxiliary loss is that of the head on layer3, with weight 0.4 (AUX_WEIGHT). The trunk of the released models: FIRST_BLOCK='all',
MULTI_GRID=(1, 1, 1). The grid of side 1 has one value per channel and image, so training takes two images at least.
"""

from torch import nn

from baselines.fcn import FCNHead
from baselines.pooling import PPM


class PSP(nn.Module):
    def __init__(self, widths, n_classes, *, channels, dropout, norm, bins=(1, 2, 3, 6)):
        super().__init__()
        c = widths[-1]
        self.ppm = PPM(c, bins, norm)
        self.out = FCNHead(c + len(bins) * (c // len(bins)), n_classes, channels, dropout, norm)

    def forward(self, c1, c2, c3, c4):
        return {'out': self.out(self.ppm(c4))}
