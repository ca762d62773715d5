# EMANet on the 54 COCO panoptic stuff classes with ResNet-50, the detectron2 variant
# (leftthomas/EMANet). Quoted (that repository, val): 42.71 mIoU.
# Images go in as BGR, as there, though the trunk's weights were made with RGB; tested with the
# short side 800.
# 30,000 steps of 16 are 4 epochs of 118,287.
DATASET = 'coco_panoptic'
TRAIN_SPLIT = 'train'
SHORT_SIDE = (640, 672, 704, 736, 768, 800), 1333  # detectron2's own
CHANNELS = 'bgr'
FIRST_BLOCK = 'layer4'
N_LAYERS = 50
PRETRAINED = './models/pretrained/resnet50-25c4b509.pth'
EM_GRAD = True
LR_POLICY = 'cosine'
WARMUP = 1000
BIAS_LR_MULT = 1.0  # theirs: 2 for the biases of two convolutions, 1 for those of batch norms
LOSS_AVG = 'valid'
ITER_VAL = 10000
TEST_SHORT_SIDE = 800, 1333
