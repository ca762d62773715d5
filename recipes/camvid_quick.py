# CamVid on two CPU cores in minutes: streets are recognisable, small things are not. DATA_ROOT is
# where camvid/ lies.
DATASET = 'camvid'
TRAIN_SPLIT = 'train'
NUM_WORKERS = 1
CROP_SIZE = (161, 209)
SCALES = (0.4, 0.5, 0.6, 0.75)
N_LAYERS = 18
STEM = 'plain'
STRIDE = 16
PRETRAINED = ''
BN_MOM = 0.1
EM_CHANNELS = 256
EM_BASES = 32
SECOND_CONV = False
BATCH_SIZE = 8
ITER_MAX = 400
ITER_VAL = 100
ITER_SAVE = 200
LR = 3e-2
WARMUP = 40
LR_DECAY = 0
