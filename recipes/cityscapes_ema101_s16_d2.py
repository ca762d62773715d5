# EMANet at stride 16 on whole Cityscapes images, the detectron2 variant (leftthomas/EMANet). 30,000 steps of 16 are 161 epochs of 2,975.
DATASET = 'cityscapes'
TRAIN_SPLIT = 'train'
SHORT_SIDE = (800, 832, 864, 896, 928, 960, 992, 1024)
STRIDE = 16
EM_GRAD = True
LR_POLICY = 'cosine'
WARMUP = 1000
BIAS_LR_MULT = 1.0                # theirs: 2 for the biases of the two convolutions that have one, 1 for those of batch norms
LOSS_AVG = 'valid'
