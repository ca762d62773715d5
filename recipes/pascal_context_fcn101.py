# FCN on PASCAL Context as mmsegmentation trains every network there; ITER_MAX=80000 is its longer schedule.
# Departure: the rate falls to 0, not to 1e-4. 40,000 steps of 16 are 128 epochs of 4,998.
DATASET = 'pascal_context'
TRAIN_SPLIT = 'train'
HEAD = 'fcn'
CROP_SIZE = 480
SCALES = (0.5, 2.0)
SCALE_MODE = 'range'
CAT_MAX_RATIO = 0.75
JITTER = 0.25                     # theirs: contrast and saturation +-0.5, every other picture
BN_MOM = 0.1
AUX_WEIGHT = 0.4
ITER_MAX = 40000
LR = 4e-3
LR_DECAY = 0
DECAY = 'all'
BIAS_LR_MULT = 1.0
LOSS_AVG = 'valid'
