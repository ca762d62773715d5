"""EMANet: Expectation-Maximization Attention Networks (Li et al., ICCV 2019).

From the bottom up: the ResNet trunk, the EM attention unit EMAU (paper, section 3), the network
and build(), which also makes its rivals. It needs heads/, sync_bn/, and for other trunks trunks/.

    net = build(n_classes, settings)    the network that settings describe, CPU, random weights
    net(image)                          logits (b, n, h, w) at the size of the image
    net(image, label)                   loss_sum (b,), count (b,), mu (b, c, k) or None: training
A uint8 image is normalised inside, a float image is used as it is. Any size goes in.
"""

import functools
import math

import torch
import torch.nn.functional as F
from torch import nn

from heads import make_head
from heads.blocks import ConvBNReLU, check_arguments, full_precision, group_norm
from heads.curves import curves, statistics
from heads.fcn import FCNHead, Joined
from heads.frame import SegNet, export, fold, load  # noqa: F401 (network.fold and so on)
from sync_bn import BatchNorm2d

# --------------------------------------------------------------------------------------- ResNet


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut (He et al., CVPR 2016, figure 5 left).

    dilation  of the first convolution; `second` is that of the second one
    """

    expansion = 1

    def __init__(self, c_in, c, stride, dilation, second, norm):
        super().__init__()
        self.conv1 = nn.Conv2d(c_in, c, 3, stride, dilation, dilation, bias=False)
        self.bn1 = norm(c)
        self.conv2 = nn.Conv2d(c, c, 3, 1, second, second, bias=False)
        self.bn2 = norm(c)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = shortcut(c_in, c, stride, norm)

    def forward(self, x):
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return self.relu(y.add_(self.downsample(x)))


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 and a shortcut (figure 5 right), the stride on the 3x3; `second` is unused."""

    expansion = 4

    def __init__(self, c_in, c, stride, dilation, second, norm):
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
        y = self.bn3(self.conv3(y))
        return self.relu(y.add_(self.downsample(x)))


def shortcut(c_in, c_out, stride, norm):
    """Return a 1x1 convolution and a norm where the shape changes, else the identity."""
    if c_in == c_out and stride == 1:
        return nn.Sequential()
    return nn.Sequential(nn.Conv2d(c_in, c_out, 1, stride, bias=False), norm(c_out))


RESNETS = {
    10: (BasicBlock, (1, 1, 1, 1)),
    18: (BasicBlock, (2, 2, 2, 2)),
    34: (BasicBlock, (3, 4, 6, 3)),
    50: (Bottleneck, (3, 4, 6, 3)),
    101: (Bottleneck, (3, 4, 23, 3)),
    152: (Bottleneck, (3, 8, 36, 3)),
}


def dilations(stride, blocks, grid=(1, 2, 4), first='half'):
    """Return (stride, dilation, second dilation) of each block of layer1..4.

    blocks  number of blocks of each layer
    grid    multiplies the dilations of layer4
    first   dilation of the first block of a dilated layer:
            'half'    half the layer's, without the grid (official EMANet, torchvision)
            'split'   the same, but a basic block's second convolution has all of it (GluonCV)
            'once'    the same, but no basic block's second convolution is dilated (mmsegmentation)
            'layer4'  in layer4 all of it (detectron2 EMANet, official DANet)
            'all'     in layer3 too (semseg, detectron2 DANet)
    """
    plan = [[(1, 1, 1)] * blocks[0], [(2, 1, 1)] + [(1, 1, 1)] * (blocks[1] - 1)]
    dilation = 1
    layer3 = (16, blocks[2], (1,), first == 'all')
    layer4 = (32, blocks[3], grid, first in ('layer4', 'all'))
    for strided, n, factors, full in (layer3, layer4):
        if stride >= strided:
            plan.append([(2, 1, 1)] + [(1, 1, 1)] * (n - 1))
            continue
        half, dilation = dilation, 2 * dilation
        layer = []
        for i in range(n):
            d = dilation * factors[i % len(factors)]
            layer.append((1, d, 1 if first == 'once' else d))
        if not full:
            second = {'split': dilation, 'once': 1}.get(first, half)
            layer[0] = (1, half, second)
        plan.append(layer)
    return plan


def deep_stem(c, norm):
    """Return three 3x3 convolutions in place of one 7x7: (b, 3, h, w) -> (b, 2 c, h / 2, w / 2)."""
    return nn.Sequential(
        nn.Conv2d(3, c, 3, 2, 1, bias=False),
        norm(c),
        nn.ReLU(inplace=True),
        nn.Conv2d(c, c, 3, 1, 1, bias=False),
        norm(c),
        nn.ReLU(inplace=True),
        nn.Conv2d(c, 2 * c, 3, 1, 1, bias=False),
    )


class ResNet(nn.Sequential):
    """The trunk (He et al., CVPR 2016), dilated: (stem convolutions, norm, relu, pool, layer1..4).

    stem        'deep': three 3x3 convolutions; 'v1c': the same, half as wide, as mmsegmentation's;
                'plain': one 7x7, as torchvision; 'caffe': one 7x7, and bottlenecks have their
                stride in the first 1x1, as detectron2's
    stride      input pixels per pixel of the last map: 8, 16 or 32
    grid, first see dilations()
    norm        number of channels -> batch norm
    Attributes: `widths` are the channels of the four maps, `strides` their input pixels per pixel.
    """

    allowed = (8, 16, 32)  # values of `stride`

    def __init__(
        self, n_layers=101, stem='deep', stride=8, grid=(1, 2, 4), first='half', norm=BatchNorm2d
    ):
        block, blocks = RESNETS[n_layers]
        c = 128 if stem == 'deep' else 64
        convs = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        if stem in ('deep', 'v1c'):
            convs = deep_stem(c // 2, norm)
        layers = [convs, norm(c), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1)]
        widths = []
        for i, plan in enumerate(dilations(stride, blocks, grid, first)):
            layer = nn.Sequential()
            for step, dilation, second in plan:
                layer.append(block(c, 64 * 2**i, step, dilation, second, norm))
                c = 64 * 2**i * block.expansion
            layers.append(layer)
            widths.append(c)
        super().__init__(*layers)
        self.stride = stride
        self.strides = [4, 8, min(16, stride), stride]
        self.widths = widths
        for m in self.modules():
            if stem == 'caffe' and isinstance(m, Bottleneck):
                m.conv1.stride, m.conv2.stride = m.conv2.stride, (1, 1)
            if isinstance(m, nn.Conv2d):
                nn.init.kaiming_normal_(m.weight, mode='fan_out', nonlinearity='relu')

    def maps(self, x):
        """Return the outputs of layer1..4 of normalised images (b, 3, h, w)."""
        maps = []
        for i, layer in enumerate(self):
            x = layer(x)
            if i >= 4:
                maps.append(x)
        return maps


# --------------------------------------------------------------------------- the EM attention unit


class EMAU(nn.Module):
    """EM attention (paper, section 3.2): (b, c, h, w) -> the same shape, and bases mu (b, c, k).

    With n = h w pixels x_n (after the 1x1 convolution conv1) and k bases mu_k, `stage_num` times:
        E: z_nk = softmax_k(x_n . mu_k)                  (equation 5)
        M: mu_k = sum_n z_nk x_n / sum_n z_nk, then `norm` over channels (equation 6)
    and the pixels are rebuilt from the bases: x~ = z mu (equation 7), ReLU, conv2, plus the input.

    momentum    weight of the old bases in update_bases
    update      'moving_avg': the initial bases follow the batches (update_bases); 'none': they stay
                as drawn; 'learnt': they are a parameter, with gradient through all iterations
    norm        'l2', 'layer' (zero mean, unit variance over channels) or 'none'
    grad        False: the official form, no gradient on the attention path except through conv2;
                conv1 is frozen, so that it costs nothing and DDP does not wait for it.
                True: gradient through the last z, as in the detectron2 version
    norm_layer  of conv2

    Both 1x1 convolutions start normal with std sqrt(2 / c), as in the authors' code. In the
    official form conv1 keeps that start, so its scale is the temperature of the E step: with
    torch's default, 2.45 times less at c = 512, z is uniform and all bases become one.

    conv1 is linear and only the iterations use it, so it is moved from the n pixels to the k bases:
    (W x + b) . mu = x . (W^T mu) + b . mu, and a sum over W x + b is W times a sum over x, plus b.

    In training the buffer `statistics` (k + 2,) holds, of the last batch, the mean of z, the mean
    entropy of z and the mean cosine of the bases: see heads/curves.py.
    """

    curves = staticmethod(curves)

    def __init__(
        self,
        c,
        k,
        stage_num=3,
        *,
        momentum=0.9,
        update='moving_avg',
        norm='l2',
        grad=False,
        norm_layer=BatchNorm2d,
    ):
        super().__init__()
        self.stage_num = stage_num
        self.momentum = momentum
        self.update = update
        self.norm = norm
        self.grad = grad
        self.conv1 = nn.Conv2d(c, c, 1)
        self.conv2 = nn.Sequential(nn.Conv2d(c, c, 1, bias=False), norm_layer(c))
        for conv in (self.conv1, self.conv2[0]):
            nn.init.normal_(conv.weight, std=math.sqrt(2 / c))
        if grad:
            nn.init.zeros_(self.conv1.bias)  # as in the detectron2 version
        mu = self.normalise(torch.randn(1, c, k) * math.sqrt(2 / k))
        if update == 'learnt':
            self.mu = nn.Parameter(mu)
        else:
            self.register_buffer('mu', mu)
        if update != 'learnt' and not grad:
            self.conv1.requires_grad_(False)
        self.register_buffer('statistics', torch.zeros(k + 2), persistent=False)

    def normalise(self, mu):
        """Return bases (b, c, k), each of them normalised over its channels."""
        if self.norm == 'l2':
            return mu / (1e-6 + mu.norm(dim=1, keepdim=True))
        if self.norm == 'layer':
            return F.layer_norm(mu.transpose(1, 2), mu.shape[1:2]).transpose(1, 2)
        return mu

    def attend(self, x):
        """Return rebuilt x~ (b, c, h, w), mu (b, c, k) and z (b, n, k) of x (b, c, h, w).

        With x in bfloat16 the products over pixels are in bfloat16; softmax, normalisations and
        bases are in float32 at least.
        """
        size = x.shape[2:]
        x = x.flatten(2).transpose(1, 2)  # b n c
        weight, bias = self.conv1.weight.flatten(1), self.conv1.bias  # c c, c
        mu = self.mu.expand(len(x), -1, -1)  # b c k
        with_gradient = torch.is_grad_enabled()
        for stage in range(self.stage_num):
            last = stage == self.stage_num - 1
            learn_mu = with_gradient and self.update == 'learnt'
            learn_z = learn_mu or (with_gradient and self.grad and last)

            # E step
            with torch.set_grad_enabled(learn_z):
                projected = weight.t() @ mu  # b c k
                offset = (bias @ mu).unsqueeze(1)  # b 1 k
                scores = torch.baddbmm(offset.to(x.dtype), x, projected.to(x.dtype))
                z = scores.to(mu.dtype).softmax(2)  # b n k

            # M step
            with torch.set_grad_enabled(learn_mu):
                mass = z.sum(1, keepdim=True)  # b 1 k
                sums = z.to(x.dtype).transpose(1, 2) @ x  # b k c
                sums = sums.to(z.dtype).transpose(1, 2)  # b c k
                mu = weight @ sums + bias[:, None] * mass
                mu = self.normalise(mu / (1e-6 + mass))

        x = z.to(x.dtype) @ mu.to(x.dtype).transpose(1, 2)  # b n c
        return x.transpose(1, 2).unflatten(2, size), mu, z

    def forward(self, x, maps=False):
        """Return y (b, c, h, w), mu (b, c, k), and with `maps` the last z as maps (b, k, h, w)."""
        with full_precision(x):
            # sums over pixels exceed the range of float16
            y, mu, z = self.attend(x.float() if x.dtype == torch.float16 else x)
            if self.training:
                self.statistics.copy_(statistics(z.detach(), mu.detach()))
        y = self.conv2(y.relu_()).add_(x).relu_()
        if maps:
            return y, mu, z.transpose(1, 2).unflatten(2, x.shape[2:])
        return y, mu

    @torch.no_grad()
    def update_bases(self, mu):
        """Move the initial bases towards `mu` (c, k), the batch's mean; called once per step."""
        if self.update == 'moving_avg':
            self.mu.mul_(self.momentum).add_(mu, alpha=1 - self.momentum)


# -------------------------------------------------------------------------------------- the network


class EMANet(SegNet):
    """The paper's network (figure 2), with the official state-dict keys.

    unit     EMAU; None: the paper's
    width    of the 3x3 convolution after the unit; 0: none (the head of the paper's Table 1)
    dropout  probability of dropping a channel before the classifier
    norm     number of channels -> batch norm, for the convolutions outside trunk and unit
    mmseg    mmsegmentation's: a further 3x3 reads the trunk's map too, mean bases are normalised
    frame    further arguments of SegNet
    """

    def __init__(
        self,
        trunk,
        n_classes,
        unit=None,
        width=256,
        dropout=0.1,
        norm=BatchNorm2d,
        mmseg=False,
        **frame,
    ):
        super().__init__(trunk, None, **frame)
        unit = unit or EMAU(512, 64, norm_layer=norm)
        c = unit.conv1.in_channels
        self.fc0 = ConvBNReLU(trunk.widths[3], c, 3, norm)
        self.emau = unit
        self.mmseg = mmseg
        convs = [ConvBNReLU(c, width, 3, norm)] if width else []
        self.fc1 = nn.Sequential(*convs, nn.Dropout2d(dropout))
        if mmseg:
            self.fc1 = Joined(trunk.widths[3], c, width or c, norm, dropout)
        self.fc2 = nn.Conv2d(width or c, n_classes, 1)

    def decode(self, maps, image=None):
        x, mu = self.emau(self.fc0(maps[3]))
        x = self.fc1(x, maps[3]) if self.mmseg else self.fc1(x)
        return {'out': self.fc2(x), 'mu': mu}

    def update_bases(self, mu):
        if self.mmseg:
            mu = self.emau.normalise(mu[None])[0]
        self.emau.update_bases(mu)

    def statistics(self):
        return self.emau.statistics

    def attention(self, image):
        """Return the share z (b, k, h', w') of each basis in each pixel of the unit's map."""
        _, _, z = self.emau(self.fc0(self.maps(image)[3]), maps=True)
        return self.uncovered(z, image.shape[2:])


# ------------------------------------------------------------------------ what settings describe


def make_trunk(settings, norm):
    """Return the trunk that settings describe; `norm` is number of channels -> batch norm."""
    if settings.TRUNK != 'resnet':
        import trunks

        return trunks.make_trunk(settings, norm)
    s = settings
    return ResNet(s.N_LAYERS, s.STEM, s.STRIDE, s.MULTI_GRID, s.FIRST_BLOCK, norm)


def make_unit(settings, norm):
    """Return the EM unit that settings describe."""
    s = settings
    options = {'momentum': s.EM_MOM, 'update': s.EM_UPDATE, 'norm': s.EM_NORM, 'grad': s.EM_GRAD}
    return EMAU(s.EM_CHANNELS, s.EM_BASES, s.STAGE_NUM, **options, norm_layer=norm)


def build(n_classes, settings, criterion=None, bn_momentum=0.1):
    """Return the network that settings describe, on the CPU, with random weights.

    settings   object with their names as attributes; SettingsError if they do not go together
    criterion  the loss, see SegNet; None: the network can only predict
    """
    batch_norm = functools.partial(BatchNorm2d, momentum=bn_momentum)
    norm = batch_norm if settings.NORM == 'batch' else group_norm
    trunk = make_trunk(settings, norm)
    head = unit = aux = None
    if settings.HEAD == 'ema':
        check_arguments('ema', settings.HEAD_ARGS, {'mmseg': bool})
        unit = make_unit(settings, norm)
    else:
        head = make_head(settings, trunk.widths, n_classes, norm, trunk.strides, trunk.allowed)
    if settings.AUX_WEIGHT:
        c = trunk.widths[2]
        aux = settings.AUX_WEIGHT, FCNHead(c, n_classes, min(c, 256), settings.DROPOUT, norm)
    frame = {'criterion': criterion, 'aux': aux, 'mean': settings.MEAN, 'std': settings.STD}
    frame |= {'channels': settings.CHANNELS, 'upsample': settings.UPSAMPLE}
    if head is not None:
        return SegNet(trunk, head, **frame)
    width = settings.HEAD_CHANNELS if settings.SECOND_CONV else 0
    frame |= settings.HEAD_ARGS
    return EMANet(trunk, n_classes, unit, width, settings.DROPOUT, norm, **frame)
