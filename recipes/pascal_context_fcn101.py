# FCN on PASCAL Context as mmsegmentation trains every network there; ITER_MAX=80000 is its longer
# schedule.
# Tested in windows of 480 every 320 on images whose long side is 520. Departures: docs/recipes.md.
# 40,000 steps of 16 are 128 epochs of 4,998.
DATASET = 'pascal_context'
TRAIN_SPLIT = 'train'
HEAD = 'fcn'
CROP_SIZE = 480
SCALES = (0.52, 2.08)  # of images 500 long: 0.5 to 2 times 520
CAT_MAX_RATIO = 0.75
JITTER = 0.25  # theirs: contrast and saturation +-0.5, every other picture
MULTI_GRID = (1, 1, 1)
BN_MOM = 0.1
AUX_WEIGHT = 0.4
UPSAMPLE = 'centres'
HEAD_CHANNELS = 512
ITER_MAX = 40000
LR = 4e-3
LR_MIN = 1e-4
LR_DECAY = 0
DECAY = 'all'
BIAS_LR_MULT = 1.0
TEST_CROP = 480
TEST_BASE_SIZE = 520
