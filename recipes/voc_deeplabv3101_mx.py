# DeepLabv3 on VOC as MXNetSeg trains it. Quoted (MXNetSeg, val, single scale / scales and mirror
# images): 80.1 / 80.4 mIoU.
# Settings as shipped (configs/fearless-firefly-5.yaml); the first figure is what this recipe
# tests, in windows of CROP_SIZE. Departures: docs/recipes.md.
# 80 epochs of 10,582 // 16 = 661 steps.
BASE_SIZE = 520
SCALES = (0.5, 2.0)
CROP_SIZE = 512
BLUR = 0.5
HEAD = 'deeplabv3'
MULTI_GRID = (1, 1, 1)
BN_MOM = 0.1
ITER_MAX = 52880
LR = 1e-3
LR_DECAY = 0
DECAY = 'all'
BIAS_LR_MULT = 1.0
HEAD_LR_MULT = 10.0
TEST_CROP = 512
TEST_BASE_SIZE = 520
