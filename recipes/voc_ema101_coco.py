# Second of three runs for the VOC test set (paper): trainaug, from the COCO weights of
# coco_voc_ema101.py.
INIT = './models/coco_voc_ema101/final.pth'
PRETRAINED = ''  # INIT brings the trunk
