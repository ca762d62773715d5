# BiSeNet on Cityscapes as MXNetSeg trains it. Quoted (MXNetSeg, val, single scale / scales and
# mirror images): 71.6 / 74.7 mIoU.
# Settings as shipped (configs/silver-brook-24.yaml); the first figure is what this recipe tests,
# in windows of CROP_SIZE. Departures: docs/recipes.md.
# 240 epochs of 2,975 // 8 = 371 steps.
DATASET = 'cityscapes'
TRAIN_SPLIT = 'train'
BASE_SIZE = 2048
SCALES = (0.5, 2.0)
CROP_SIZE = 1024
BLUR = 0.5
HEAD = 'bisenet'
HEAD_ARGS = {'aux': False}
N_LAYERS = 18
STEM = 'plain'
PRETRAINED = 'torchvision'
STRIDE = 32
BN_MOM = 0.1
DROPOUT = 0.0
BATCH_SIZE = 8
ITER_MAX = 89040
ITER_VAL = 10000
LR = 1e-2
LR_DECAY = 0
DECAY = 'all'
BIAS_LR_MULT = 1.0
TEST_CROP = 1024
TEST_BASE_SIZE = 2048
