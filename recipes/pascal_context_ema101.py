# EMANet on PASCAL Context, trained as on VOC (the author). Quoted (paper, val): 53.1 mIoU.
# 30,000 steps of 16 are 96 epochs of 4,998.
DATASET = 'pascal_context'
TRAIN_SPLIT = 'train'
