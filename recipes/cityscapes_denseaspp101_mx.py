# DenseASPP on Cityscapes as MXNetSeg trains it. Quoted (MXNetSeg, val, single scale / scales and
# mirror images): 78.7 / 79.8 mIoU.
# Settings as shipped (configs/neapolitan-pastry-1.yaml); the first figure is what this recipe
# tests, in windows of CROP_SIZE. Departures: docs/recipes.md.
# 240 epochs of 2,975 // 8 = 371 steps.
DATASET = 'cityscapes'
TRAIN_SPLIT = 'train'
BASE_SIZE = 2048
SCALES = (0.5, 2.0)
CROP_SIZE = 768
BLUR = 0.5
HEAD = 'denseaspp'
MULTI_GRID = (1, 1, 1)
BN_MOM = 0.1
BATCH_SIZE = 8
ITER_MAX = 89040
ITER_VAL = 10000
LR = 1e-2
LR_DECAY = 0
DECAY = 'all'
BIAS_LR_MULT = 1.0
TEST_CROP = 768
TEST_BASE_SIZE = 2048
