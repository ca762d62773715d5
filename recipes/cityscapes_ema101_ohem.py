# EMANet on Cityscapes with 769 crops and hard pixels, the loss of the authors' run. Quoted
# (authors, val, protocol not given): 81.14 mIoU.
# The rest is mmsegmentation's, with its OHEM and its windows of 769. Departures: docs/recipes.md.
# 80,000 steps of 8 are 215 epochs of 2,975.
DATASET = 'cityscapes'
TRAIN_SPLIT = 'train'
CROP_SIZE = 769
SCALES = (0.5, 2.0)
CAT_MAX_RATIO = 0.75
JITTER = 0.25  # theirs: contrast and saturation +-0.5, every other picture
BN_MOM = 0.1
AUX_WEIGHT = 0.4
BATCH_SIZE = 8
ITER_MAX = 80000
ITER_VAL = 8000
LR = 1e-2
LR_MIN = 1e-4
LR_DECAY = 0
WEIGHT_DECAY = 5e-4
DECAY = 'all'
BIAS_LR_MULT = 1.0
LOSS = 'ohem'
TEST_CROP = 769
