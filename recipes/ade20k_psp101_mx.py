# PSPNet on ADE20K as MXNetSeg trains it. Quoted (MXNetSeg, val, single scale / scales and mirror
# images): 42.9 / 43.7 mIoU.
# No settings of this run are shipped: sizes, batch and rates are those of its VOC runs, 120 epochs
# our choice. The first figure is what this recipe tests, in windows of CROP_SIZE. Departures:
# docs/recipes.md.
# 120 epochs of 20,210 // 16 = 1,263 steps.
DATASET = 'ade20k'
TRAIN_SPLIT = 'train'
BASE_SIZE = 520
SCALES = (0.5, 2.0)
CROP_SIZE = 480
BLUR = 0.5
HEAD = 'psp'
MULTI_GRID = (1, 1, 1)
BN_MOM = 0.1
ITER_MAX = 151560
ITER_VAL = 10000
LR = 1e-3
LR_DECAY = 0
DECAY = 'all'
BIAS_LR_MULT = 1.0
HEAD_LR_MULT = 10.0
TEST_CROP = 480
TEST_BASE_SIZE = 520
