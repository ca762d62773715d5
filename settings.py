"""Every hyperparameter. The values below are the paper's VOC recipe: EMANet, ResNet-101, stride 8.

Edit this file, or name a recipe and single values on the command line:
    python train.py recipes/camvid.py BATCH_SIZE=8 LR=5e-3
A value must be of the type that stands at its name.
"""

from typing import Literal

# ---- run
NAME: str = ''  # of the run, which names its folders; '' = the recipe's name, else 'default'
SEED: int = 0  # initial weights, order of the images, augmentation, dropout
DEVICES: Literal['auto', 'cpu'] | tuple[int, ...] = 'auto'  # all GPUs, else the CPU; or numbers
LOG_DIR: str = './logdir'  # events, log.jsonl, scores and a copy of the settings
MODEL_DIR: str = './models'  # checkpoints of the runs; trunk weights in MODEL_DIR/pretrained

# ---- data
DATASET: str = 'voc'  # a name in datasets/table.py
DATA_ROOT: str = './data'  # the folder that holds the data set's folder, or that folder itself
TRAIN_SPLIT: str = 'trainaug'  # splits as datasets/table.py lists them
VAL_SPLIT: str = 'val'
N_CLASSES: int | None = None  # None = as many as the data set's table has
IGNORE_LABEL: int = 255  # train id of void pixels: in no loss and no score
# of the RGB channels in 0..1; images of n other channels: n values each, see docs/data.md
MEAN: tuple[float, ...] = (0.485, 0.456, 0.406)
STD: tuple[float, ...] = (0.229, 0.224, 0.225)
CHANNELS: Literal['rgb', 'bgr'] = 'rgb'  # order in which the trunk sees them; bgr: detectron2's
MAX_PIXELS: int = 500_000_000  # larger pictures are refused before they are decoded
NUM_WORKERS: int = 4  # loader processes per training process; 0 = load in the training process

# ---- augmentation, in this order; SCALES and SHORT_SIDE: two values are a range, else a choice
SCALES: tuple[float, ...] = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0)  # of the image
BASE_SIZE: int | None = None  # pixels: long side of an image at scale 1; None = as it is
# pixels: whole images instead of crops; or ((sides), limit of the long side); padding is void
SHORT_SIDE: tuple[int, ...] | tuple[tuple[int, ...], int] | None = None
# degrees, at most, either way; or these and the probability of a rotation (semseg: (10, 0.5))
ROTATE: float | tuple[float, float] = 0.0
CROP_SIZE: int | tuple[int, int] = 513  # pixels: the side, or (height, width)
CAT_MAX_RATIO: float = 1.0  # crops with a larger share of one class are drawn again; 1 = never
BLUR: float = 0.0  # probability of a 5x5 Gaussian blur
JITTER: float = 0.0  # brightness, contrast and saturation change by at most this share
FLIP: float = 0.5  # probability of a mirror image

# ---- network
HEAD: str = 'ema'  # or a name in heads.HEADS
HEAD_ARGS: dict = {}  # further arguments of the head: its file in heads/ lists them
TRUNK: str = 'resnet'  # with N_LAYERS layers; or a name in trunks.TRUNKS
N_LAYERS: Literal[10, 18, 34, 50, 101, 152] = 101
STEM: Literal['deep', 'v1c', 'plain', 'caffe'] = 'deep'  # see network.ResNet
STRIDE: Literal[8, 16, 32] = 8  # input pixels per pixel of the trunk's output
MULTI_GRID: tuple[int, int, int] = (1, 2, 4)  # multiplies the dilations of layer4's blocks
FIRST_BLOCK: Literal['half', 'split', 'once', 'layer4', 'all'] = 'half'  # network.dilations
# the trunk's weights: a file, or 'torchvision'; '' = from scratch
PRETRAINED: str = './models/pretrained/resnet101-2a57e44d.pth'
INIT: str = ''  # another segmentation checkpoint to start from; what fits is loaded
BN_MOM: float | None = None  # weight of the new batch; None = 3e-4 from weights, 0.1 from scratch
NORM: Literal['batch', 'group'] = 'batch'  # in trunk and head; group: for one or two images
DROPOUT: float = 0.1  # probability of dropping a channel before the classifier
AUX_WEIGHT: float = 0.0  # weight of the loss of a second head on layer3; 0 = no such head
UPSAMPLE: Literal['corners', 'centres', 'crop'] = 'corners'  # of logits, see heads/frame.py
HEAD_CHANNELS: int = 256  # width of the 3x3 convolution before the classifier
SECOND_CONV: bool = True  # that one after the EM unit; False = the head of the paper's Table 1
EM_CHANNELS: int = 512  # width of the EM unit (the paper: 512, 256)
EM_BASES: int = 64  # K
STAGE_NUM: int = 3  # EM iterations
EM_MOM: float = 0.9  # weight of the old bases in the moving average
EM_UPDATE: Literal['moving_avg', 'none', 'learnt'] = 'moving_avg'  # how bases change
EM_NORM: Literal['l2', 'layer', 'none'] = 'l2'  # of each basis, after every iteration
EM_GRAD: bool = False  # True = gradient through the last responsibilities

# ---- optimisation
BATCH_SIZE: int = 16  # images per step, over all devices and accumulation
ACCUMULATE: int = 1  # parts a batch is cut into, one after the other on the device
ITER_MAX: int = 30000  # steps
OPTIMIZER: Literal['sgd', 'nag', 'adam', 'adamw'] = 'sgd'  # nag: SGD with Nesterov's momentum
LR: float = 9e-3  # with adamw: 1e-4 or less
LR_MIN: float = 0.0  # the rate falls towards this, or (in steps) no lower; mmsegmentation: 1e-4
LR_MOM: float = 0.9  # momentum of SGD, the first beta of Adam
WEIGHT_DECAY: float = 1e-4
# what decays: weights of convolutions and linear layers, or all parameters
DECAY: Literal['conv', 'all'] = 'conv'
BIAS_LR_MULT: float = 2.0  # learning rate of biases, times LR; with adamw 1 is usual
HEAD_LR_MULT: float = 1.0  # learning rate of all that is not trunk, times LR
# 'poly' has the power 0.9, a number is another power; or steps: to a tenth at each
LR_POLICY: Literal['poly', 'cosine'] | tuple[int, ...] | float = 'poly'
LR_DECAY: int = 10  # poly is refreshed at steps this divides (official); 0 = before every step
WARMUP: int = 0  # steps of linear warm-up from a thousandth
LOSS: str = 'ce'  # a name in loss.LOSSES
LOSS_ARGS: dict = {}  # further arguments of the loss: loss.py lists them
LOSS_AVG: Literal['all', 'valid'] = 'all'  # divided by all pixels (official), or by valid ones
CLASS_WEIGHTS: Literal['', 'median_freq'] | tuple[float, ...] = ''  # 'median_freq' = counted
AMP: Literal['auto', 'bf16', 'fp16', 'off'] = 'auto'  # bf16 where the device computes in it
COMPILE: bool = False  # torch.compile of the training step: minutes to start, then faster on GPUs

# ---- logging and checkpoints, in steps
ITER_LOG: int = 20  # the losses are read and checked
ITER_VAL: int = 2000  # validation; the best score keeps its checkpoint; 0 = never
ITER_SAVE: int = 2000  # latest.pth, from which a run resumes

# ---- evaluation
CHECKPOINT: str = ''  # file; '' = best, else final, else latest of the run
TEST_SCALES: tuple[float, ...] = (1.0,)  # the paper's: (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)
TEST_FLIP: bool = False  # mirror images, too
TEST_CROP: int | tuple[int, int] | None = None  # pixels: windows of this size; None = whole images
TEST_BASE_SIZE: int | None = None  # pixels: long side of an image at scale 1; None = as it is
# pixels: short side at scale 1, as detectron2, or (short side, limit of the long one); None = as is
TEST_SHORT_SIDE: int | tuple[int, int] | None = None
TEST_BATCH: int = 4  # crops (CROP_SIZE) whose pixels go through the network at once: bounds memory
SAVE_DIR: str = ''  # folder for predictions: pictures, overlays, charts, server files; '' = none
