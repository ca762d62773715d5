# The paper's VOC recipe (Li et al., ICCV 2019): settings.py as it stands. 30,000 steps of 16 are 45
# epochs of 10,582.
# Its figures are of float32: AMP='off' is closest to them where the device computes in bf16.
# Quoted (paper, val, single scale / multi-scale and flip): 80.05 / 81.32 mIoU.
# The same crop and schedule with another network: python train.py recipes/voc_ema101.py HEAD=fcn
# NAME=voc_fcn101_paper
