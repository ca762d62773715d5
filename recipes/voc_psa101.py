# PSANet on VOC as semseg trains it. Quoted (semseg, val, one scale / six scales): 78.70 / 79.66
# mIoU,
# both in windows of CROP_SIZE with mirror images; the first is what this recipe tests.
# 50 epochs of 10,582 // 16 = 661 steps. PRETRAINED also loads its ImageNet file, resnet101_v2.pth.
HEAD = 'psa'
CROP_SIZE = 465
SCALES = (0.5, 2.0)
ROTATE = 10.0, 0.5
BLUR = 0.5
MULTI_GRID = (1, 1, 1)
FIRST_BLOCK = 'all'
BN_MOM = 0.1
AUX_WEIGHT = 0.4
HEAD_CHANNELS = 512
ITER_MAX = 33050
LR = 1e-2
LR_DECAY = 0
HEAD_LR_MULT = 10.0
BIAS_LR_MULT = 1.0
DECAY = 'all'
LOSS_AVG = 'valid'
TEST_FLIP = True
TEST_CROP = 465
TEST_BASE_SIZE = 512
