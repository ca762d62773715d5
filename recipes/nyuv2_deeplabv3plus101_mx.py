# DeepLabv3+ on NYUv2 as MXNetSeg trains it. Quoted (MXNetSeg, val, single scale / scales and
# mirror images): 46.0 / 47.2 mIoU.
# Settings as shipped (configs/comfy-dew-31.yaml); the first figure is what this recipe tests, in
# windows of CROP_SIZE. Departures: docs/recipes.md.
# 240 epochs of 795 // 16 = 49 steps.
DATASET = 'nyuv2'
TRAIN_SPLIT = 'train'
BASE_SIZE = 640
SCALES = (0.5, 2.0)
CROP_SIZE = 480
BLUR = 0.5
HEAD = 'deeplabv3plus'
MULTI_GRID = (1, 1, 1)
BN_MOM = 0.1
ITER_MAX = 11760
LR = 1e-3
LR_DECAY = 0
DECAY = 'all'
BIAS_LR_MULT = 1.0
HEAD_LR_MULT = 10.0
TEST_CROP = 480
TEST_BASE_SIZE = 640
