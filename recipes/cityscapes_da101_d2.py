# DANet on whole Cityscapes images, the detectron2 variant (leftthomas/DANet). 24,000 steps of 8 are
# 65 epochs of 2,975.
# Departures: torchvision's trunk weights, so RGB, the usual deviation, and strides in the 3x3.
# Quoted (that repository, val): 67.57 mIoU; with ResNet-50 66.64. Trained and tested at 480x960,
# which is what the limit of the long side leaves of 1024x2048.
DATASET = 'cityscapes'
TRAIN_SPLIT = 'train'
SHORT_SIDE = (800, 832, 864, 896, 928, 960), 960
HEAD = 'danet'
HEAD_ARGS = {'d2': True}
STEM = 'plain'
PRETRAINED = 'torchvision'
MULTI_GRID = (1, 1, 1)
FIRST_BLOCK = 'all'
UPSAMPLE = 'crop'
BN_MOM = 0.1
HEAD_CHANNELS = 64  # of each stream
BATCH_SIZE = 8
ITER_MAX = 24000
LR = 1e-2
LR_POLICY = (18000,)
WARMUP = 1000
BIAS_LR_MULT = 1.0
LOSS_AVG = 'valid'
TEST_SHORT_SIDE = 800, 960
