# FCN on Cityscapes, ResNet-18 at stride 8, as MXNetSeg trains it. Quoted (MXNetSeg, val, single
# scale / scales and mirror images): 68.3 / 69.9 mIoU.
# Settings as shipped (configs/pretty-surf-1.yaml); the first figure is what this recipe tests, in
# windows of CROP_SIZE. Departures: docs/recipes.md.
# 200 epochs of 2,975 // 8 = 371 steps.
DATASET = 'cityscapes'
TRAIN_SPLIT = 'train'
BASE_SIZE = 2048
SCALES = (0.5, 2.0)
CROP_SIZE = 768
BLUR = 0.5
HEAD = 'fcn'
N_LAYERS = 18
STEM = 'plain'
PRETRAINED = 'torchvision'
MULTI_GRID = (1, 1, 1)
FIRST_BLOCK = 'split'
BN_MOM = 0.1
BATCH_SIZE = 8
ITER_MAX = 74200
ITER_VAL = 10000
LR = 1e-3
LR_DECAY = 0
DECAY = 'all'
BIAS_LR_MULT = 1.0
HEAD_LR_MULT = 10.0
TEST_CROP = 768
TEST_BASE_SIZE = 2048
