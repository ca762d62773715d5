# EMANet at stride 16 on whole Cityscapes images, the detectron2 variant (leftthomas/EMANet).
# Quoted (that repository, val): 74.02 mIoU; with ResNet-50 72.28, with ResNet-152 75.12.
# Images go in as BGR, as there, though the trunk's weights were made with RGB. 30,000 steps of 16
# are 161 epochs of 2,975.
DATASET = 'cityscapes'
TRAIN_SPLIT = 'train'
SHORT_SIDE = (800, 832, 864, 896, 928, 960, 992, 1024), 2048
CHANNELS = 'bgr'
STRIDE = 16
FIRST_BLOCK = 'layer4'
EM_GRAD = True
LR_POLICY = 'cosine'
WARMUP = 1000
BIAS_LR_MULT = 1.0  # theirs: 2 for the biases of two convolutions, 1 for those of batch norms
LOSS_AVG = 'valid'
TEST_SHORT_SIDE = 1024, 2048
