# DANet on Cityscapes as MXNetSeg trains it. Quoted (MXNetSeg, val, single scale / scales and
# mirror images): 79.7 / 80.9 mIoU.
# No settings of this run are shipped: they are those of cityscapes_denseaspp101_mx.py, which is
# our choice. The first figure is what this recipe tests, in windows of CROP_SIZE. Departures:
# docs/recipes.md.
# 240 epochs of 2,975 // 8 = 371 steps.
DATASET = 'cityscapes'
TRAIN_SPLIT = 'train'
BASE_SIZE = 2048
SCALES = (0.5, 2.0)
CROP_SIZE = 768
BLUR = 0.5
HEAD = 'danet'
HEAD_ARGS = {'aux': False}
MULTI_GRID = (1, 1, 1)
BN_MOM = 0.1
HEAD_CHANNELS = 512  # of each stream
BATCH_SIZE = 8
ITER_MAX = 89040
ITER_VAL = 10000
LR = 1e-2
LR_DECAY = 0
DECAY = 'all'
BIAS_LR_MULT = 1.0
TEST_CROP = 768
TEST_BASE_SIZE = 2048
