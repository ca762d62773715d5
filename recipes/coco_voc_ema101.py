# First of three runs for the VOC test set (paper): EMANet on COCO train2017 with the 21 VOC labels.
# voc_ema101_coco.py is the second, voc_ema101_trainval.py the third.
# The length is this project's choice: 150,000 steps of 16 are 20 epochs of all 118,287.
DATASET = 'coco_voc'
TRAIN_SPLIT = 'train'
ITER_MAX = 150000
ITER_VAL = 10000
