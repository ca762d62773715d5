# The main job without any download: ResNet-10 EMANet from scratch on drawn scenes, minutes on two
# CPU cores, in float32 too. AdamW, because from scratch SGD is 7 points lower after as many steps.
DATASET = 'shapes'
TRAIN_SPLIT = 'train'
NUM_WORKERS = 1
CROP_SIZE = 89
SCALES = (1.0,)  # the whole scene: a class may depend on anything in it
N_LAYERS = 10
STEM = 'plain'
PRETRAINED = ''
BN_MOM = 0.1
HEAD_CHANNELS = 256
EM_CHANNELS = 256
EM_BASES = 32
SECOND_CONV = False
BATCH_SIZE = 8
ITER_MAX = 400
ITER_VAL = 200
ITER_SAVE = 200
OPTIMIZER = 'adamw'
LR = 3e-3
WEIGHT_DECAY = 1e-2
WARMUP = 40
LR_DECAY = 0
TEST_BATCH = 8
