# Data of your own (docs/data.md): ResNet-50 from torchvision's ImageNet weights, which are fetched.
# Without a network: PRETRAINED= trains from scratch, which wants ten times the steps.
# python prepare.py folder --root mine --check prints the CROP_SIZE, ITER_MAX and ITER_VAL that fit.
DATASET = 'folder'
TRAIN_SPLIT = 'train'
N_LAYERS = 50
STEM = 'plain'
PRETRAINED = 'torchvision'
BN_MOM = 0.1  # runs are short, and the head's statistics start from nothing
BATCH_SIZE = 8
ITER_MAX = 4000
ITER_VAL = 400
ITER_SAVE = 400
LR = 1e-2
WARMUP = 100
LR_DECAY = 0
