# FCN trained as semseg trains PSPNet on VOC: the baseline of that schedule. No published number for it.
# 50 epochs of 10,582 // 16 = 661 steps.
HEAD = 'fcn'
CROP_SIZE = 473
SCALES = (0.5, 2.0)
SCALE_MODE = 'range'
ROTATE = 10.0
BLUR = 0.5
BN_MOM = 0.1
AUX_WEIGHT = 0.4
ITER_MAX = 33050
LR = 1e-2
LR_DECAY = 0
HEAD_LR_MULT = 10.0
BIAS_LR_MULT = 1.0
DECAY = 'all'
LOSS_AVG = 'valid'
