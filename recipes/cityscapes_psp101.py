# PSPNet on Cityscapes as semseg trains it. Quoted (semseg, val, one scale / six scales): 78.63 /
# 79.29 mIoU,
# both in windows of CROP_SIZE with mirror images; the first is what this recipe tests.
# 200 epochs of 186 steps: its sampler fills 2,975 up to 2,976. PRETRAINED also loads its ImageNet
# file, resnet101_v2.pth.
DATASET = 'cityscapes'
TRAIN_SPLIT = 'train'
HEAD = 'psp'
CROP_SIZE = 713
SCALES = (0.5, 2.0)
ROTATE = 10.0, 0.5
BLUR = 0.5
MULTI_GRID = (1, 1, 1)
FIRST_BLOCK = 'all'
BN_MOM = 0.1
AUX_WEIGHT = 0.4
HEAD_CHANNELS = 512
ITER_MAX = 37200
LR = 1e-2
LR_DECAY = 0
HEAD_LR_MULT = 10.0
BIAS_LR_MULT = 1.0
DECAY = 'all'
LOSS_AVG = 'valid'
TEST_FLIP = True
TEST_CROP = 713
TEST_BASE_SIZE = 2048
