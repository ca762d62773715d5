# EMANet on NYUv2, 40 classes. No published number for it.
# The length is this project's choice: 10,000 steps of 16 are 201 epochs of 795.
DATASET = 'nyuv2'
TRAIN_SPLIT = 'train'
CROP_SIZE = 481
BN_MOM = 0.1
ITER_MAX = 10000
ITER_VAL = 1000
LR = 1e-2
