# The baseline of voc_psp101.py: the same but for the head, semseg's network without its pyramid. No
# published number for it.
# 50 epochs of 10,582 // 16 = 661 steps.
HEAD = 'fcn'
CROP_SIZE = 473
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
TEST_CROP = 473
TEST_BASE_SIZE = 512
