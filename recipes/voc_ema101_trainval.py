# Third of three runs for the VOC test set (paper): trainval, from voc_ema101_coco.py. Quoted
# (paper, test): 87.7 mIoU.
# val is in trainval, so nothing is left to validate on; eval.py with SAVE_DIR=out writes the files
# for the server.
TRAIN_SPLIT = 'trainval'
VAL_SPLIT = 'test'
INIT = './models/voc_ema101_coco/final.pth'
PRETRAINED = ''  # INIT brings the trunk
ITER_VAL = 0
