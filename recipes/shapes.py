# The main job without any download: ResNet-18 EMANet from scratch on drawn scenes, minutes on two
# CPU cores.
DATASET = 'shapes'
TRAIN_SPLIT = 'train'
NUM_WORKERS = 1
CROP_SIZE = 113
SCALES = (0.75, 0.875, 1.0)  # never beyond the crop: a class may depend on anything in the scene
N_LAYERS = 18
STEM = 'plain'
PRETRAINED = ''
BN_MOM = 0.1
HEAD_CHANNELS = 256
EM_CHANNELS = 256
EM_BASES = 32
SECOND_CONV = False
BATCH_SIZE = 16
ITER_MAX = 500
ITER_VAL = 250
ITER_SAVE = 250
LR = 5e-2
WARMUP = 50
LR_DECAY = 0
TEST_BATCH = 8
