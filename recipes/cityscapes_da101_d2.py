# DANet on whole Cityscapes images, the detectron2 variant (leftthomas/DANet). 24,000 steps of 8 are 65 epochs of 2,975.
# Departures: torchvision's trunk weights, so RGB, the usual deviation, and strides in the 3x3.
# Quoted, of another code base (MXNetSeg, val, single scale / multi-scale and flip): 79.7 / 80.9 mIoU.
DATASET = 'cityscapes'
TRAIN_SPLIT = 'train'
SHORT_SIDE = (800, 832, 864, 896, 928, 960)
LONG_SIDE = 960
HEAD = 'danet'
DANET_D2 = True
STEM = 'plain'
PRETRAINED = 'torchvision'
MULTI_GRID = (1, 1, 1)
FIRST_BLOCK = 'all'
UPSAMPLE = 'crop'
BN_MOM = 0.1
HEAD_CHANNELS = 512
BATCH_SIZE = 8
ITER_MAX = 24000
LR = 1e-2
LR_POLICY = 'step'
LR_STEPS = (18000,)
WARMUP = 1000
BIAS_LR_MULT = 1.0
LOSS_AVG = 'valid'
