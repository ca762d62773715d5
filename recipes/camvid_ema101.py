# EMANet on CamVid 360x480 from ImageNet weights. No published number for it.
# The length is this project's choice: 6,000 steps of 16 are 262 epochs of 367.
DATASET = 'camvid'
TRAIN_SPLIT = 'train'
CROP_SIZE = 361
BN_MOM = 0.1
ITER_MAX = 6000
ITER_VAL = 500
LR = 1e-2
