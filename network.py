"""EMANet: Expectation-Maximization Attention Networks for Semantic Segmentation (Li et al., ICCV 2019), and the frame of its rivals.

From the bottom up: the EM attention unit `EMAU` (paper, section 3; it can be lifted out of here), the networks, the table of heads.
    net = build()              what settings describe, on the CPU, random weights
    net(image)                 logits (b, n, h, w) at the size of the image; with coarse=True (b, n, h', w'), as the head makes them
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
from baselines.a2net import A2Net
from baselines.acfnet import ACFNet
from baselines.att2scale import AttentionToScale
from baselines.bisenet import BiSeNet
from baselines.blocks import ConvBNReLU
from baselines.danet import DANet
from baselines.deeplabv3 import DeepLabV3
from baselines.deeplabv3plus import DeepLabV3Plus
from baselines.denseaspp import DenseASPP
from baselines.fcn import FCN, FCNHead
from baselines.non_local import NonLocal
from baselines.psa import PSA, mask_side
from baselines.psp import PSP
from baselines.semanticfpn import SemanticFPN
from sync_bn import BatchNorm2d
from trunk import RESNETS, dilations, resnet  # noqa: F401 (others take them from here)

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

    Both 1x1 convolutions start normal with std sqrt(2 / c), as the authors' code has it. In the official form conv1 keeps that start for ever, so its
    scale is the temperature of the E step: with torch's default, 2.45 times less at c = 512, z is uniform and all bases become one.
    In training the buffer `statistics` (k + 2,) holds, for the last batch (its last part on the first device), the mean of z, its mean entropy and the
    mean cosine of the bases: see curves().

    conv1 is linear and serves the iterations alone, so it is moved from the n pixels to the k bases:
    (W x + b) . mu = x . (W^T mu) + b . mu, and a sum over W x + b is W times a sum over x, plus b. Same numbers, fewer products.
    Of half precision only the products over bfloat16 pixels are left inside.
    """

    def __init__(
        self,
        c,
        k,
        stage_num=3,
        *,
        test_stage_num=None,
        momentum=0.9,
        update='moving_avg',
        norm='l2',
        grad=False,
        norm_layer=nn.BatchNorm2d,
    ):
        super().__init__()
        self.stage_num, self.test_stage_num = stage_num, test_stage_num or stage_num
        self.momentum, self.update, self.norm, self.grad = momentum, update, norm, grad
        self.conv1 = nn.Conv2d(c, c, 1)
        self.conv2 = nn.Sequential(nn.Conv2d(c, c, 1, bias=False), norm_layer(c))
        for conv in (self.conv1, self.conv2[0]):
            nn.init.normal_(conv.weight, std=math.sqrt(2 / c))
        if grad:
            nn.init.zeros_(self.conv1.bias)  # the detectron2 version's start
        self.register_buffer('statistics', torch.zeros(k + 2), persistent=False)
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
        """x (b, c, h, w) -> rebuilt x~ (b, c, h, w), mu (b, c, k), z (b, n, k).

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
            with torch.set_grad_enabled(
                enabled and (self.update == 'learnt' or self.grad and last)
            ):
                on_bases = (bias @ mu).unsqueeze(1)  # b 1 k
                z = (
                    torch.baddbmm(on_bases.to(half), x, (weight.t() @ mu).to(half))
                    .to(mu.dtype)
                    .softmax(2)
                )  # b n k
            with torch.set_grad_enabled(enabled and self.update == 'learnt'):
                mass = z.sum(1, keepdim=True)  # b 1 k
                mu = (
                    weight @ (x.transpose(1, 2) @ z.to(half)).to(mu.dtype) + bias[:, None] * mass
                )  # b c k
                mu = self.normalise(mu / (1e-6 + mass))
        x = z.to(half) @ mu.to(half).transpose(1, 2)  # b n c
        return x.transpose(1, 2).unflatten(2, size), mu, z

    def forward(self, x, maps=False):
        """With `maps` there is a third output: the last responsibilities z as maps (b, k, h, w)."""
        with torch.autocast(x.device.type, enabled=False):
            y, mu, z = self.attend(
                x.float() if x.dtype == torch.float16 else x
            )  # sums over pixels leave the range of float16
            if self.training:
                self.watch(z.detach(), mu.detach())
        y = self.conv2(y.relu_()).add_(x).relu_()
        return (y, mu, z.transpose(1, 2).unflatten(2, x.shape[2:])) if maps else (y, mu)

    def watch(self, z, mu):
        """Puts into `statistics` how responsibilities z (b, n, k) and bases mu (b, c, k) of a batch cluster; stays on the device."""
        k = z.shape[2]
        entropy = torch.special.entr(z).sum(2).mean() / math.log(
            max(k, 2)
        )  # 1: every pixel belongs to all bases alike
        unit = F.normalize(mu, dim=1)
        pairs = unit.sum(2).square().sum(1) - unit.square().sum(
            (1, 2)
        )  # b, sum of the cosines of all ordered pairs of bases
        cosine = pairs.mean() / max(k * (k - 1), 1)
        self.statistics.copy_(torch.cat([z.mean((0, 1)), entropy[None], cosine[None]]))

    @staticmethod
    def curves(statistics):
        """What a run logs of `statistics`, a list of k + 2 numbers.

        em/entropy       mean entropy of z over log k: 0 = each pixel belongs to one basis, 1 = z is uniform
        em/bases_in_use  exp of the entropy of the mean of z: 1 to k
        em/cosine        mean cosine between two bases: 1 = all bases are equal
        """
        *shares, entropy, cosine = statistics
        in_use = math.exp(-sum(p * math.log(p) for p in shares if p > 0))
        return {'em/entropy': entropy, 'em/bases_in_use': in_use, 'em/cosine': cosine}

    @torch.no_grad()
    def update_bases(self, mu):
        """The initial bases follow `mu` (c, k), the mean of the batch's bases: once a step, in training."""
        if self.update == 'moving_avg':
            self.mu.mul_(self.momentum).add_(mu, alpha=1 - self.momentum)


# --------------------------------------------------------------------------------------------------------------- networks


class SegNet(nn.Module):
    """A trunk and a head: normalisation of uint8 images, auxiliary outputs and loss inside, so that DataParallel moves bytes and is balanced.

    trunk          (extractor, widths) of resnet()
    head           module: maps c1..c4 -> {'out': logits (b, n, h', w'), 'aux': more of them that are supervised too, in training}.
                   What it may say of itself, as class attributes, is in TRAITS.
    criterion      (logits (b, n, h, w), label (b, h, w), weight (n,) or None) -> sum (b,), count (b,)
    whole          the criterion compares the images of the batch: it gets them all at once
    class_weights  n numbers for the criterion, or None
    aux_weight     of the loss of an FCN head on layer3; 0: there is none
    extra_weights  of the losses of 'aux', in order; main_weight that of 'out'
    bgr            uint8 images, which are RGB, go to the trunk as BGR
    enlarge        (logits, size) -> logits (b, n, *size), float32 at least
    """

    amp = None  # type of mixed precision; for nn.DataParallel, whose threads do not know the one in force outside

    def __init__(
        self,
        trunk,
        head,
        n_classes,
        *,
        criterion,
        whole,
        class_weights,
        aux_weight,
        extra_weights,
        main_weight,
        dropout,
        norm,
        mean,
        std,
        bgr,
        enlarge,
    ):
        super().__init__()
        self.extractor, widths = trunk
        self.n_classes, self.criterion, self.whole, self.bgr, self.enlarge = (
            n_classes,
            criterion,
            whole,
            bgr,
            enlarge,
        )
        self.aux_weight, self.extra_weights, self.main_weight = (
            aux_weight,
            extra_weights,
            main_weight,
        )
        if head:
            self.head = head
        if aux_weight:
            self.aux = FCNHead(widths[2], n_classes, 256, dropout, norm)
        self.register_buffer('mean', torch.tensor(mean).view(3, 1, 1), persistent=False)
        self.register_buffer('std', torch.tensor(std).view(3, 1, 1), persistent=False)
        self.register_buffer(
            'class_weights',
            None if class_weights is None else torch.tensor(class_weights, dtype=self.mean.dtype),
            persistent=False,
        )

    def normalise(self, image):
        """uint8 RGB (b, 3, h, w) -> (image / 255 - MEAN) / STD, its channels in the trunk's order; another type as it is."""
        if image.dtype != torch.uint8:
            return image
        image = (image.to(self.mean.dtype) / 255 - self.mean) / self.std
        return image.flip(1) if self.bgr else image

    def maps(self, image):
        """The outputs of layer1..4."""
        x, maps = self.extractor[:4](self.normalise(image)), []
        for layer in self.extractor[4:]:
            x = layer(x)
            maps.append(x)
        return maps

    def decode(self, maps, image=None):
        """What the head makes of the trunk's maps; only heads that say `sees_image` need the image."""
        return self.head(
            *maps,
            **dict(image=self.normalise(image), trunk=self.maps)
            if trait(self.head, 'sees_image')
            else {},
        )

    def forward(self, image, label=None, coarse=False):
        if self.amp is None:
            return self.compute(image, label, coarse)
        with torch.autocast(image.device.type, self.amp):
            return self.compute(image, label, coarse)

    def compute(self, image, label, coarse):
        image = self.normalise(image)
        maps = self.maps(image)
        found = self.decode(maps, image)
        if label is None:
            return found['out'] if coarse else self.enlarge(found['out'], image.shape[2:])
        loss_sum, count = self.loss(found['out'], label)
        loss_sum = self.main_weight * loss_sum
        outputs = list(zip(self.extra_weights, found.get('aux', [])))
        if self.aux_weight:
            outputs.append((self.aux_weight, self.aux(maps[2])))
        for weight, logits in outputs:
            aux_sum, aux_count = self.loss(logits, label)
            ratio = count.sum() / aux_count.sum().clamp(
                min=1e-6
            )  # 1, but for OHEM over its hard pixels: each head has its own
            loss_sum = loss_sum + weight * ratio * aux_sum
        return loss_sum, count, found.get('mu')

    def loss(self, logits, label):
        """The criterion of (b, n, h', w') logits at the size of the label: one image after the other, and again in backward, so that
        full-size logits are never held for more than one image (unless it needs the `whole` batch)."""
        one = lambda x, y: self.criterion(
            self.enlarge(x, y.shape[1:]), y, weight=self.class_weights
        )
        parts = (t.split(len(label) if self.whole else 1) for t in (logits.contiguous(), label))
        found = [
            checkpoint(one, x, y, use_reentrant=False, preserve_rng_state=False)
            for x, y in zip(*parts, strict=True)
        ]
        return tuple(map(torch.cat, zip(*found)))

    def update_bases(self, mu):
        """What the network keeps from a training step: nothing."""

    def statistics(self):
        """The `statistics` of its EM unit, or None without one."""


class EMANet(SegNet):
    """The paper's network (figure 2), with the official state-dict keys."""

    def __init__(self, trunk, n_classes, *, unit, width, dropout, norm, **frame):
        super().__init__(trunk, None, n_classes, dropout=dropout, norm=norm, **frame)
        c = unit.conv1.in_channels
        self.fc0 = ConvBNReLU(trunk[1][-1], c, 3, norm)
        self.emau = unit
        self.fc1 = nn.Sequential(
            *[ConvBNReLU(c, width, 3, norm)] if width else [], nn.Dropout2d(dropout)
        )
        self.fc2 = nn.Conv2d(width or c, n_classes, 1)

    def decode(self, maps, image=None):
        x, mu = self.emau(self.fc0(maps[3]))
        return {'out': self.fc2(self.fc1(x)), 'mu': mu}

    def update_bases(self, mu):
        self.emau.update_bases(mu)

    def statistics(self):
        return self.emau.statistics

    def attention(self, image):
        """The share z (b, k, h', w') that each basis has in the pixels of the unit's map, of images (b, 3, h, w); it sums to one over k."""
        return self.emau(self.fc0(self.maps(image)[3]), maps=True)[2]


def upsample(logits, size, form='corners', stride=None):
    """Bilinear, in float32 at least (interpolated bf16 would change labels), in a `form` of UPSAMPLE; `stride` of the logits is for 'crop'."""
    if logits.dtype in (torch.float16, torch.bfloat16):
        logits = logits.float()
    if form == 'crop':
        if any(not 0 <= n * stride - m < stride for n, m in zip(logits.shape[2:], size)):
            raise settings.UsageError(
                f'UPSAMPLE=crop enlarges logits by STRIDE, and these, {logits.shape[2]}x{logits.shape[3]} '
                f'for {size[0]}x{size[1]} pixels, do not have that stride; take UPSAMPLE=corners'
            )
        return F.interpolate(logits, scale_factor=stride, mode='bilinear', align_corners=False)[
            ..., : size[0], : size[1]
        ]
    return F.interpolate(logits, size, mode='bilinear', align_corners=form == 'corners')


HEADS = {
    'ema': EMANet,
    'fcn': FCN,
    'psp': PSP,
    'psa': PSA,
    'danet': DANet,
    'deeplabv3': DeepLabV3,
    'deeplabv3plus': DeepLabV3Plus,
    'denseaspp': DenseASPP,
    'acfnet': ACFNet,
    'nonlocal': NonLocal,
    'a2net': A2Net,
    'semanticfpn': SemanticFPN,
    'att2scale': AttentionToScale,
    'bisenet': BiSeNet,
}
TRAITS = dict(
    extra_weights=(),  # usual weights of the losses of its 'aux' outputs, in order
    main_weight=1.0,  # of the loss of 'out'
    strides=(8, 16, 32),  # of the trunk that it goes with
    layers=tuple(RESNETS),
    sees_image=False,
)  # its forward takes image=(b, 3, h, w), normalised, and trunk=function image -> [c1, c2, c3, c4]


def trait(head, name):
    """What a head, or its class, says of itself."""
    return getattr(head, name, TRAITS[name])


def make_head(name, widths, n_classes, norm=nn.BatchNorm2d):
    """A head as settings describe it; those named after it are keyword arguments of its own: PSP_BINS is bins of HEAD=psp."""
    found = {
        key[len(name) + 1 :].lower(): value
        for key, value in settings.in_force().items()
        if key.startswith(name.upper() + '_')
    }
    if name == 'psa' and found['mask'] is None:
        found['mask'] = mask_side(
            settings.CROP_SIZE, settings.STRIDE, found['shrink'], found['compact']
        )
    return HEADS[name](
        widths,
        n_classes,
        channels=settings.HEAD_CHANNELS,
        dropout=settings.DROPOUT,
        norm=norm,
        **found,
    )


def criterion():
    """The loss that settings name, as SegNet takes it."""
    s = settings
    if s.LABEL_SMOOTHING and s.LOSS not in ('ce', 'ohem'):
        raise settings.UsageError(
            f'LABEL_SMOOTHING goes with LOSS=ce and LOSS=ohem, not with {s.LOSS}; set it to 0'
        )
    named = {
        'ce': functools.partial(
            loss.cross_entropy, average=s.LOSS_AVG, smoothing=s.LABEL_SMOOTHING
        ),
        'ohem': functools.partial(
            loss.ohem,
            average=s.LOSS_AVG,
            threshold=s.OHEM_THRESHOLD,
            keep=s.OHEM_KEEP,
            smoothing=s.LABEL_SMOOTHING,
        ),
        'focal': functools.partial(loss.focal, average=s.LOSS_AVG, gamma=s.FOCAL_GAMMA),
        'dice': loss.dice,
    }
    return functools.partial(named[s.LOSS], ignore=s.IGNORE_LABEL)


def build(head=None, n_layers=None, n_classes=None, weights=None):
    """The network that settings describe (arguments go before settings), on the CPU, with random weights.

    `weights`: n numbers that weigh the classes in the loss; None = equal, whatever settings say.
    """
    s = settings
    head, n_layers, n_classes = (
        head or s.HEAD,
        n_layers or s.N_LAYERS,
        n_classes or dataset.n_classes(),
    )
    if head not in HEADS:
        raise settings.UsageError(
            f'HEAD = {head!r}: there is no such head'
            + (settings.nearest(head, HEADS) or f'; there are {", ".join(HEADS)}')
        )
    for name, value, fitting in (
        ('STRIDE', s.STRIDE, trait(HEADS[head], 'strides')),
        ('N_LAYERS', n_layers, trait(HEADS[head], 'layers')),
    ):
        if value not in fitting:
            raise settings.UsageError(
                f'HEAD={head} does not go with {name} = {value}; it takes {" or ".join(f"{name}={v}" for v in fitting)}'
            )
    norm = functools.partial(BatchNorm2d, momentum=settings.bn_momentum(settings.in_force()))
    trunk = resnet(n_layers, s.STEM, s.STRIDE, s.MULTI_GRID, s.FIRST_BLOCK, s.STRIDE_IN_1X1, norm)
    module = None if head == 'ema' else make_head(head, trunk[1], n_classes, norm)
    extra = trait(module, 'extra_weights')
    if s.EXTRA_WEIGHTS is not None and len(s.EXTRA_WEIGHTS) != len(extra):
        raise settings.UsageError(
            f'EXTRA_WEIGHTS = {s.EXTRA_WEIGHTS} will not do: HEAD={head} has {len(extra)} outputs of its own to weigh; '
            f'EXTRA_WEIGHTS=None takes the usual weights{f", {extra}" * bool(extra)}'
        )
    if weights is not None and (len(weights) != n_classes or not any(weights)):
        raise settings.UsageError(
            f'CLASS_WEIGHTS = {weights} will not do: {s.DATASET} takes {n_classes} numbers, one per class, not all of them 0'
        )
    frame = dict(
        criterion=criterion(),
        whole=s.LOSS == 'ohem',
        class_weights=weights,
        main_weight=trait(module, 'main_weight'),
        aux_weight=s.AUX_WEIGHT,
        extra_weights=extra if s.EXTRA_WEIGHTS is None else s.EXTRA_WEIGHTS,
        dropout=s.DROPOUT,
        norm=norm,
        mean=s.MEAN,
        std=s.STD,
        bgr=s.CHANNELS == 'bgr',
        enlarge=functools.partial(upsample, form=s.UPSAMPLE, stride=s.STRIDE),
    )
    if head == 'ema':
        unit = EMAU(
            s.EM_CHANNELS,
            s.EM_BASES,
            s.STAGE_NUM,
            test_stage_num=s.TEST_STAGE_NUM,
            momentum=s.EM_MOM,
            update=s.EM_UPDATE,
            norm=s.EM_NORM,
            grad=s.EM_GRAD,
            norm_layer=norm,
        )
        return EMANet(
            trunk, n_classes, unit=unit, width=s.HEAD_CHANNELS if s.SECOND_CONV else 0, **frame
        )
    return SegNet(trunk, module, n_classes, **frame)


def fold(net):
    """A copy for inference, in evaluation mode: every batch norm that follows a convolution is multiplied into its weights."""
    net = copy.deepcopy(net).eval()
    for parent in list(net.modules()):
        before = None
        for name, child in list(parent.named_children()):
            if (
                before
                and isinstance(child, (nn.BatchNorm2d, nn.SyncBatchNorm))
                and isinstance(before[2], nn.Conv2d)
            ):
                setattr(*before[:2], fuse_conv_bn_eval(before[2], child))
                setattr(parent, name, nn.Identity())
            last = isinstance(child, nn.Sequential) and len(child) and child[-1]
            before = (child, str(len(child) - 1), last) if last else (parent, name, child)
    return net
