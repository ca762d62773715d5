"""EMANet: Expectation-Maximization Attention Networks for Semantic Segmentation (Li et al., ICCV 2019), and the frame of its rivals.

From the bottom up: the ResNet trunk, the EM attention unit `EMAU` (paper, section 3; it can be lifted out of here), the networks.
    net = build()              what settings describe, on the CPU, random weights
    net(image)                 logits (b, n, h, w) at the size of the image
    net(image, label)          loss_sum (b,), count (b,), mu (b, c, k) or None, for training
A uint8 image is normalised inside, a float image is taken as it is. Any size goes in.
"""
import copy
import functools
import math

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torch.utils.checkpoint import checkpoint

import dataset
import loss
import settings
from baselines.blocks import ConvBNReLU
from baselines.fcn import FCN, FCNHead
from sync_bn import BatchNorm2d

# ---------------------------------------------------------------------------------------------------------------- trunk


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut (He et al., CVPR 2016, figure 5 left)."""
    expansion = 1

    def __init__(self, c_in, c, stride, dilation, norm):
        super().__init__()
        self.conv1 = nn.Conv2d(c_in, c, 3, stride, dilation, dilation, bias=False)
        self.bn1 = norm(c)
        self.conv2 = nn.Conv2d(c, c, 3, 1, dilation, dilation, bias=False)
        self.bn2 = norm(c)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = shortcut(c_in, c, stride, norm)

    def forward(self, x):
        y = self.relu(self.bn1(self.conv1(x)))
        return self.relu(self.bn2(self.conv2(y)).add_(self.downsample(x)))


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 and a shortcut (figure 5 right), the stride on the 3x3."""
    expansion = 4

    def __init__(self, c_in, c, stride, dilation, norm):
        super().__init__()
        self.conv1 = nn.Conv2d(c_in, c, 1, bias=False)
        self.bn1 = norm(c)
        self.conv2 = nn.Conv2d(c, c, 3, stride, dilation, dilation, bias=False)
        self.bn2 = norm(c)
        self.conv3 = nn.Conv2d(c, 4 * c, 1, bias=False)
        self.bn3 = norm(4 * c)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = shortcut(c_in, 4 * c, stride, norm)

    def forward(self, x):
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(y)))
        return self.relu(self.bn3(self.conv3(y)).add_(self.downsample(x)))


def shortcut(c_in, c_out, stride, norm):
    if c_in == c_out and stride == 1:
        return nn.Sequential()
    return nn.Sequential(nn.Conv2d(c_in, c_out, 1, stride, bias=False), norm(c_out))


RESNETS = {18: (BasicBlock, (2, 2, 2, 2)), 34: (BasicBlock, (3, 4, 6, 3)),
           50: (Bottleneck, (3, 4, 6, 3)), 101: (Bottleneck, (3, 4, 23, 3)), 152: (Bottleneck, (3, 8, 36, 3))}


def dilations(stride, blocks, multi_grid):
    """(stride, dilation) of each block of layer1..4, as in the released trunk.

    A dilated stage's first block has half the stage's dilation; in layer4 the grid multiplies the dilation of the others.
    """
    plan = [[(1, 1)] * blocks[0], [(2, 1)] + [(1, 1)] * (blocks[1] - 1)]
    dilation = 1
    for strided, n, grid in ((16, blocks[2], (1,)), (32, blocks[3], multi_grid)):
        if stride >= strided:
            plan.append([(2, 1)] + [(1, 1)] * (n - 1))
        else:
            dilation *= 2
            plan.append([(1, dilation // 2)] + [(1, dilation * grid[i % len(grid)]) for i in range(1, n)])
    return plan


def resnet(n_layers, stem, stride, multi_grid, norm):
    """The trunk as Sequential(stem convolutions, norm, relu, pool, layer1, layer2, layer3, layer4), and the widths of its four maps."""
    block, blocks = RESNETS[n_layers]
    if stem == 'deep':
        c_in = 128
        first = nn.Sequential(nn.Conv2d(3, 64, 3, 2, 1, bias=False), norm(64), nn.ReLU(inplace=True),
                              nn.Conv2d(64, 64, 3, 1, 1, bias=False), norm(64), nn.ReLU(inplace=True),
                              nn.Conv2d(64, c_in, 3, 1, 1, bias=False))
    else:
        c_in = 64
        first = nn.Conv2d(3, c_in, 7, 2, 3, bias=False)
    layers = [first, norm(c_in), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1)]
    widths = []
    for i, plan in enumerate(dilations(stride, blocks, multi_grid)):
        stage = []
        for s, d in plan:
            stage.append(block(c_in, 64 * 2 ** i, s, d, norm))
            c_in = 64 * 2 ** i * block.expansion
        layers.append(nn.Sequential(*stage))
        widths.append(c_in)
    for m in nn.ModuleList(layers).modules():
        if isinstance(m, nn.Conv2d):
            nn.init.kaiming_normal_(m.weight, mode='fan_out', nonlinearity='relu')
    return nn.Sequential(*layers), widths


# ---------------------------------------------------------------------------------------------------- the EM attention unit


class EMAU(nn.Module):
    """Expectation-maximization attention (paper, section 3.2): (b, c, h, w) -> the same shape, and the bases mu (b, c, k).

    With n = h w pixels x_n (after the 1x1 convolution conv1) and k bases mu_k, `stage_num` times:
        E: z_nk = softmax_k(x_n . mu_k)                  (equation 5)
        M: mu_k = sum_n z_nk x_n / sum_n z_nk, then `norm` over channels (equation 6)
    and the pixels are rebuilt from the bases: x~ = z mu (equation 7), ReLU, conv2, plus the input.

    test_stage_num  iterations in evaluation, None = stage_num
    momentum        weight of the old bases in update_bases
    update          'moving_avg': the initial bases follow the batches (update_bases); 'none': they stay as drawn;
                    'learnt': they are a parameter, and gradient flows through all iterations
    norm            'l2', 'layer' (zero mean, unit variance over channels) or 'none'
    grad            True: gradient through the last z, as in the detectron2 version. False: the official form, in which nothing on the
                    attention path but conv2 gets any, conv1 included; it is frozen, so that it costs nothing and upsets no DDP.
    norm_layer      of conv2

    conv1 is linear and serves the iterations alone, so it is moved from the n pixels to the k bases:
    (W x + b) . mu = x . (W^T mu) + b . mu, and a sum over W x + b is W times a sum over x, plus b. Same numbers, fewer products.
    Of half precision only the products over bfloat16 pixels are left inside.
    """

    def __init__(self, c, k, stage_num=3, *, test_stage_num=None, momentum=0.9, update='moving_avg', norm='l2', grad=False,
                 norm_layer=nn.BatchNorm2d):
        super().__init__()
        self.stage_num, self.test_stage_num = stage_num, test_stage_num or stage_num
        self.momentum, self.update, self.norm, self.grad = momentum, update, norm, grad
        self.conv1 = nn.Conv2d(c, c, 1)
        self.conv2 = nn.Sequential(nn.Conv2d(c, c, 1, bias=False), norm_layer(c))
        mu = self.normalise(torch.randn(1, c, k) * math.sqrt(2 / k))
        if update == 'learnt':
            self.mu = nn.Parameter(mu)
        else:
            self.register_buffer('mu', mu)
        if update != 'learnt' and not grad:
            self.conv1.requires_grad_(False)

    def normalise(self, mu):  # b c k
        if self.norm == 'l2':
            return mu / (1e-6 + mu.norm(dim=1, keepdim=True))
        if self.norm == 'layer':
            return F.layer_norm(mu.transpose(1, 2), mu.shape[1:2]).transpose(1, 2)
        return mu

    def attend(self, x):
        """x (b, c, h, w) -> rebuilt x~ (b, c, h, w), mu (b, c, k).

        With x in bfloat16 the products over pixels are in bfloat16; softmax, both normalisations and the bases are in float32 at least.
        """
        size, half = x.shape[2:], x.dtype
        x = x.flatten(2).transpose(1, 2)  # b n c
        weight, bias = self.conv1.weight.flatten(1), self.conv1.bias  # c c, c
        mu = self.mu.expand(len(x), -1, -1)  # b c k
        stages = self.stage_num if self.training else self.test_stage_num
        enabled = torch.is_grad_enabled()
        for stage in range(stages):
            last = stage == stages - 1
            with torch.set_grad_enabled(enabled and (self.update == 'learnt' or self.grad and last)):
                on_bases = (bias @ mu).unsqueeze(1)  # b 1 k
                z = torch.baddbmm(on_bases.to(half), x, (weight.t() @ mu).to(half)).to(mu.dtype).softmax(2)  # b n k
            with torch.set_grad_enabled(enabled and self.update == 'learnt'):
                mass = z.sum(1, keepdim=True)  # b 1 k
                mu = weight @ (x.transpose(1, 2) @ z.to(half)).to(mu.dtype) + bias[:, None] * mass  # b c k
                mu = self.normalise(mu / (1e-6 + mass))
        x = z.to(half) @ mu.to(half).transpose(1, 2)  # b n c
        return x.transpose(1, 2).unflatten(2, size), mu

    def forward(self, x):
        with torch.autocast(x.device.type, enabled=False):
            y, mu = self.attend(x.float() if x.dtype == torch.float16 else x)  # sums over pixels leave the range of float16
        return self.conv2(y.relu_()).add_(x).relu_(), mu

    @torch.no_grad()
    def update_bases(self, mu):
        """The initial bases follow `mu` (c, k), the mean of the batch's bases: once a step, in training."""
        if self.update == 'moving_avg':
            self.mu.mul_(self.momentum).add_(mu, alpha=1 - self.momentum)


# --------------------------------------------------------------------------------------------------------------- networks


class SegNet(nn.Module):
    """A trunk and a head: normalisation of uint8 images, auxiliary head and loss inside, so that DataParallel moves bytes and is balanced.

    trunk          (extractor, widths) of resnet()
    head           module: maps c1..c4 -> {'out': logits (b, n, h', w')}
    criterion      (logits (b, n, h, w), label (b, h, w), weight (n,) or None) -> sum (b,), count (b,)
    whole          the criterion compares the images of the batch: it gets them all at once
    class_weights  n numbers for the criterion, or None
    """
    amp = None  # type of mixed precision; for nn.DataParallel, whose threads do not know the one in force outside

    def __init__(self, trunk, head, n_classes, *, criterion, whole, class_weights, aux_weight, dropout, norm, mean, std):
        super().__init__()
        self.extractor, widths = trunk
        self.n_classes, self.criterion, self.whole, self.aux_weight = n_classes, criterion, whole, aux_weight
        if head:
            self.head = head
        if aux_weight:
            self.aux = FCNHead(widths[2], n_classes, 256, dropout, norm)
        self.register_buffer('mean', torch.tensor(mean).view(3, 1, 1), persistent=False)
        self.register_buffer('std', torch.tensor(std).view(3, 1, 1), persistent=False)
        self.register_buffer('class_weights', None if class_weights is None else torch.tensor(class_weights, dtype=self.mean.dtype), persistent=False)

    def normalise(self, image):
        """uint8 (b, 3, h, w) -> (image / 255 - MEAN) / STD; another type as it is."""
        return (image.to(self.mean.dtype) / 255 - self.mean) / self.std if image.dtype == torch.uint8 else image

    def maps(self, image):
        """The outputs of layer1..4."""
        x, maps = self.extractor[:4](self.normalise(image)), []
        for layer in self.extractor[4:]:
            x = layer(x)
            maps.append(x)
        return maps

    def decode(self, maps):
        return self.head(*maps)

    def forward(self, image, label=None):
        if self.amp is None:
            return self.compute(image, label)
        with torch.autocast(image.device.type, self.amp):
            return self.compute(image, label)

    def compute(self, image, label):
        size = image.shape[2:]
        maps = self.maps(image)
        found = self.decode(maps)
        if label is None:
            return upsample(found['out'], size)
        loss_sum, count = self.loss(found['out'], label)
        if self.aux_weight:
            aux_sum, aux_count = self.loss(self.aux(maps[2]), label)
            ratio = count.sum() / aux_count.sum().clamp(min=1e-6)  # 1, but for OHEM: each head has hard pixels of its own
            loss_sum = loss_sum + self.aux_weight * ratio * aux_sum
        return loss_sum, count, found.get('mu')

    def loss(self, logits, label):
        """The criterion of (b, n, h', w') logits at the size of the label: one image after the other, and again in backward, so that
        full-size logits are never held for more than one image (unless it needs the `whole` batch)."""
        one = lambda x, y: self.criterion(upsample(x, y.shape[1:]), y, weight=self.class_weights)
        parts = (t.split(len(label) if self.whole else 1) for t in (logits.contiguous(), label))
        found = [checkpoint(one, x, y, use_reentrant=False, preserve_rng_state=False) for x, y in zip(*parts, strict=True)]
        return tuple(map(torch.cat, zip(*found)))

    def update_bases(self, mu):
        """What the network keeps from a training step: nothing."""


class EMANet(SegNet):
    """The paper's network (figure 2), with the official state-dict keys."""

    def __init__(self, trunk, n_classes, *, unit, width, dropout, norm, **frame):
        super().__init__(trunk, None, n_classes, dropout=dropout, norm=norm, **frame)
        c = unit.conv1.in_channels
        self.fc0 = ConvBNReLU(trunk[1][-1], c, 3, norm)
        self.emau = unit
        self.fc1 = nn.Sequential(*[ConvBNReLU(c, width, 3, norm)] if width else [], nn.Dropout2d(dropout))
        self.fc2 = nn.Conv2d(width or c, n_classes, 1)

    def decode(self, maps):
        x, mu = self.emau(self.fc0(maps[3]))
        return {'out': self.fc2(self.fc1(x)), 'mu': mu}

    def update_bases(self, mu):
        self.emau.update_bases(mu)


def upsample(logits, size):
    """Bilinear, align_corners, in float32 at least: interpolated bf16 would change labels."""
    if logits.dtype in (torch.float16, torch.bfloat16):
        logits = logits.float()
    return F.interpolate(logits, size, mode='bilinear', align_corners=True)


HEADS = {'ema': EMANet, 'fcn': FCN}


def criterion():
    """The loss that settings name, as SegNet takes it."""
    s = settings
    if s.LABEL_SMOOTHING and s.LOSS not in ('ce', 'ohem'):
        raise settings.UsageError(f'LABEL_SMOOTHING goes with LOSS=ce and LOSS=ohem, not with {s.LOSS}; set it to 0')
    named = {'ce': functools.partial(loss.cross_entropy, average=s.LOSS_AVG, smoothing=s.LABEL_SMOOTHING),
             'ohem': functools.partial(loss.ohem, threshold=s.OHEM_THRESHOLD, keep=s.OHEM_KEEP, smoothing=s.LABEL_SMOOTHING),
             'focal': functools.partial(loss.focal, average=s.LOSS_AVG, gamma=s.FOCAL_GAMMA), 'dice': loss.dice}
    return functools.partial(named[s.LOSS], ignore=s.IGNORE_LABEL)


def build(head=None, n_layers=None, n_classes=None, weights=None):
    """The network that settings describe (arguments go before settings), on the CPU, with random weights.

    `weights`: n numbers that weigh the classes in the loss; None = equal, whatever settings say.
    """
    s = settings
    head, n_layers, n_classes = head or s.HEAD, n_layers or s.N_LAYERS, n_classes or dataset.n_classes()
    if head not in HEADS:
        raise settings.UsageError(f'HEAD = {head!r}: there is no such head' + (settings.nearest(head, HEADS) or f'; there are {", ".join(HEADS)}'))
    norm = functools.partial(BatchNorm2d, momentum=s.BN_MOM)
    trunk = resnet(n_layers, s.STEM, s.STRIDE, s.MULTI_GRID, norm)
    if weights is not None and (len(weights) != n_classes or not any(weights)):
        raise settings.UsageError(f'CLASS_WEIGHTS = {weights} will not do: {s.DATASET} takes {n_classes} numbers, one per class, not all of them 0')
    frame = dict(criterion=criterion(), whole=s.LOSS == 'ohem', class_weights=weights, aux_weight=s.AUX_WEIGHT, dropout=s.DROPOUT,
                 norm=norm, mean=s.MEAN, std=s.STD)
    if head == 'ema':
        unit = EMAU(s.EM_CHANNELS, s.EM_BASES, s.STAGE_NUM, test_stage_num=s.TEST_STAGE_NUM, momentum=s.EM_MOM, update=s.EM_UPDATE,
                    norm=s.EM_NORM, grad=s.EM_GRAD, norm_layer=norm)
        return EMANet(trunk, n_classes, unit=unit, width=s.HEAD_CHANNELS if s.SECOND_CONV else 0, **frame)
    return SegNet(trunk, HEADS[head](trunk[1], n_classes, channels=s.HEAD_CHANNELS, dropout=s.DROPOUT, norm=norm), n_classes, **frame)


def fold(net):
    """A copy for inference, in evaluation mode: every batch norm that follows a convolution is multiplied into its weights."""
    net = copy.deepcopy(net).eval()
    for parent in list(net.modules()):
        before = None
        for name, child in list(parent.named_children()):
            if before and isinstance(child, (nn.BatchNorm2d, nn.SyncBatchNorm)) and isinstance(before[2], nn.Conv2d):
                setattr(*before[:2], fuse_conv_bn_eval(before[2], child))
                setattr(parent, name, nn.Identity())
            last = isinstance(child, nn.Sequential) and len(child) and child[-1]
            before = (child, str(len(child) - 1), last) if last else (parent, name, child)
    return net
