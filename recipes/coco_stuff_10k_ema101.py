# EMANet on COCO-Stuff 10k, trained as on VOC (the author). Quoted (paper, test): 39.9 mIoU.
# 30,000 steps of 16 are 53 epochs of 9,000.
DATASET = 'coco_stuff_10k'
TRAIN_SPLIT = 'train'
VAL_SPLIT = 'test'
