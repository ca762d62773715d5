# PSPNet on NYUv2 as MXNetSeg trains it. Quoted (MXNetSeg, val, single scale / scales and mirror
# images): 43.0 / 43.6 mIoU.
# Settings as shipped (configs/grateful-vortex-8.yaml); the first figure is what this recipe tests,
# in windows of CROP_SIZE. Departures: docs/recipes.md.
# 180 epochs of 795 // 16 = 49 steps.
DATASET = 'nyuv2'
TRAIN_SPLIT = 'train'
BASE_SIZE = 640
SCALES = (0.5, 2.0)
CROP_SIZE = 480
BLUR = 0.5
HEAD = 'psp'
MULTI_GRID = (1, 1, 1)
BN_MOM = 0.1
ITER_MAX = 8820
LR = 1e-2
LR_DECAY = 0
DECAY = 'all'
BIAS_LR_MULT = 1.0
TEST_CROP = 480
TEST_BASE_SIZE = 640
