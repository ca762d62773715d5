"""PSPNet (Zhao, Shi, Qi, Wang, Jia, CVPR 2017, section 3): pyramid scene parsing.

The trunk's last map, pooled to several grids and joined to itself.

Form: semseg's layers, and MXNetSeg's but for its dropout of single elements. The 3x3 before the
classifier is HEAD_CHANNELS wide: 512 in semseg, 256 in MXNetSeg. The auxiliary loss is that of the
head on layer3, with weight 0.4 (AUX_WEIGHT). The trunk of the released models: FIRST_BLOCK='all',
MULTI_GRID=(1, 1, 1).

The grid of side 1 has one value per channel and image, so training needs two images per device.
"""

from heads.blocks import Head
from heads.fcn import FCNHead
from heads.pooling import PPM


class PSP(Head):
    """PSPNet's head.

    bins     sides of the grids
    corners  resizing within the head is align_corners; not so in mmsegmentation
    """

    mark = 'ppm.'
    mxnet = {
        'head.pool.conv1.': 'head.ppm.branches.0.1.',
        'head.pool.conv2.': 'head.ppm.branches.1.1.',
        'head.pool.conv3.': 'head.ppm.branches.2.1.',
        'head.pool.conv4.': 'head.ppm.branches.3.1.',
        'head.seg_head.conv1.': 'head.out.0.',
        'head.seg_head.conv2.': 'head.out.2.',
    }

    def __init__(
        self,
        widths,
        n_classes,
        *,
        channels,
        dropout,
        norm,
        bins: tuple[int, ...] = (1, 2, 3, 6),
        corners: bool = True,
    ):
        super().__init__()
        self.ppm = PPM(widths[-1], bins, norm, corners)
        self.out = FCNHead(self.ppm.width, n_classes, channels, dropout, norm)

    def forward(self, c1, c2, c3, c4):
        return {'out': self.out(self.ppm(c4))}
