# CamVid at 360x480 from scratch, one GPU. Reference point (quoted): FC-DenseNet103 from scratch,
# 66.9 mIoU on test.
DATASET = 'camvid'
TRAIN_SPLIT = 'train'
CROP_SIZE = 361
SCALES = (0.5, 2.0)
JITTER = 0.3
N_LAYERS = 50
PRETRAINED = ''
BN_MOM = 0.1
AUX_WEIGHT = 0.4
BATCH_SIZE = 16
ITER_MAX = 6000
ITER_VAL = 500
ITER_SAVE = 1000
LR = 3e-2
WARMUP = 500
LR_DECAY = 0
NUM_WORKERS = 8
# Median-frequency class weights as published (quoted), in the order of classes/camvid.txt; without
# the mark in front they are in force:
# CLASS_WEIGHTS = (.2595, .1826, 4.564, .1417, .9051, .3826, 9.6446, 1.8418, .6823, 6.2478, 7.3614)
