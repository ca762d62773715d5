"""The frame of every network: what lies around trunk and head; how logits are enlarged; folding."""

import copy

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torch.utils.checkpoint import checkpoint

from heads.blocks import SettingsError, take_channels


class SegNet(nn.Module):
    """A trunk and a head, with normalisation of images, auxiliary outputs and the loss inside.

    So nn.DataParallel moves bytes, and its devices share the work of the loss.

    trunk      a network.ResNet, or one of trunks/
    head       a heads.blocks.Head; None where a subclass decodes by itself
    criterion  (logits (b, n, h, w), label (b, h, w)) -> sum (b,), count (b,); with an attribute
               `whole_batch` that is True it gets the whole batch at once, else image by image.
               None: the network can only predict
    aux        (weight of its loss, module on layer3's map -> logits), or None
    mean, std  of the RGB channels in 0..1; of n others: trunk and head take images of n channels
    channels   'bgr': uint8 images, which are RGB, go to the trunk as BGR
    upsample   form in which logits are enlarged, see upsample()
    """

    channels_last = True  # memory format of weights, and of images that are normalised
    amp = None  # half type for nn.DataParallel, whose threads do not know the autocast outside

    def __init__(
        self,
        trunk,
        head,
        criterion=None,
        *,
        aux=None,
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
        channels='rgb',
        upsample='corners',
    ):
        super().__init__()
        self.extractor = take_channels(trunk, len(mean))
        self.main_weight = 1.0
        self.aux_weights = ()
        if head is not None:
            self.head = head
            if head.image_path:
                take_channels(getattr(head, head.image_path), len(mean))
            if head.sees_image and hasattr(trunk, 'pad_factor'):
                trunk.pad_factor = 2  # it looks at half the image, too
            self.main_weight = head.main_weight
            self.aux_weights = head.aux_weights
        self.layer3_weight = 0.0
        if aux:
            self.layer3_weight, self.aux = aux
        self.criterion = criterion
        self.channels = channels
        self.upsample = upsample
        self.register_buffer('mean', torch.tensor(mean).view(-1, 1, 1), persistent=False)
        self.register_buffer('std', torch.tensor(std).view(-1, 1, 1), persistent=False)

    def normalise(self, image):
        """Return uint8 RGB (b, 3, h, w) as (image / 255 - mean) / std, in the trunk's order.

        An image of another type is returned as it is.
        """
        if image.dtype != torch.uint8:
            return image
        image = (image.to(self.mean.dtype) / 255 - self.mean) / self.std
        if not self.channels_last:
            image = image.contiguous()
        if self.channels == 'bgr':
            return image.flip(1)
        return image

    def maps(self, image):
        """Return the outputs of layer1..4 of images (b, 3, h, w)."""
        return self.extractor.maps(self.normalise(image))

    def decode(self, maps, image=None):
        """Return the head's outputs, a dict, for the trunk's maps.

        Only heads with `sees_image` need the image.
        """
        if self.head.sees_image:
            return self.head(*maps, image=self.normalise(image), trunk=self.maps)
        return self.head(*maps)

    def enlarge(self, logits, size):
        """Return logits (b, n, h', w') at size (h, w), without what the trunk pads images with."""
        padded = getattr(self.extractor, 'padded', tuple)(size)
        logits = upsample(logits, padded, self.upsample, self.extractor.stride)
        return logits[..., : size[0], : size[1]]

    def uncovered(self, maps, size):
        """Return maps (b, k, h', w') of images (h, w) without what the trunk pads images with."""
        padded = getattr(self.extractor, 'padded', tuple)(size)
        if padded == tuple(size):
            return maps
        shares = [n / m for n, m in zip(size, padded, strict=True)]  # of the image in each side
        sides = [max(round(n * share), 1) for n, share in zip(maps.shape[2:], shares, strict=True)]
        y, x = shares
        corner = torch.tensor([[[x, 0, x - 1], [0, y, y - 1]]], dtype=maps.dtype)
        places = corner.to(maps.device).expand(len(maps), -1, -1)
        grid = F.affine_grid(places, [*maps.shape[:2], *sides], align_corners=False)
        return F.grid_sample(maps, grid, padding_mode='border', align_corners=False)

    def forward(self, image, label=None):
        """Return logits (b, n, h, w) of images (b, 3, h, w), or with labels (b, h, w) the loss.

        The loss is sum (b,) and count (b,), to be divided over the global batch, and the bases mu
        (b, c, k) of an EM unit, or None.
        """
        if self.amp is None:
            return self.compute(image, label)
        with torch.autocast(image.device.type, self.amp):
            return self.compute(image, label)

    def compute(self, image, label):
        """Return what forward returns, in the precision in force."""
        image = self.normalise(image)
        size = image.shape[2:]
        if hasattr(self.extractor, 'pad'):
            image = self.extractor.pad(image)
        maps = self.maps(image)
        outputs = self.decode(maps, image)
        if label is None:
            return self.enlarge(outputs['out'], size)
        main_sum, count = self.loss(outputs['out'], label)
        loss_sum = self.main_weight * main_sum
        further = []
        if 'aux' in outputs:
            further.extend(zip(self.aux_weights, outputs['aux'], strict=True))
        if self.layer3_weight:
            further.append((self.layer3_weight, self.aux(maps[2])))
        for weight, logits in further:
            aux_sum, aux_count = self.loss(logits, label)
            # 1, but for OHEM divided by its hard pixels, of which each output has its own
            ratio = count.sum() / aux_count.sum().clamp(min=1e-6)
            loss_sum = loss_sum + weight * ratio * aux_sum
        return loss_sum, count, outputs.get('mu')

    def loss(self, logits, label):
        """Return sum (b,), count (b,) of the criterion for logits (b, n, h', w') at label size.

        Images go one after the other, and again in backward, so that full-size logits are never
        held for more than one, unless the criterion needs the whole batch.
        """
        size = 1
        if getattr(self.criterion, 'whole_batch', False):
            size = len(label)
        sums, counts = [], []
        for x, y in zip(logits.contiguous().split(size), label.split(size), strict=True):
            part_sum, part_count = checkpoint(
                self.full_size_loss, x, y, use_reentrant=False, preserve_rng_state=False
            )
            sums.append(part_sum)
            counts.append(part_count)
        return torch.cat(sums), torch.cat(counts)

    def full_size_loss(self, logits, label):
        """Return the criterion of logits (b, n, h', w') enlarged to the label (b, h, w)."""
        return self.criterion(self.enlarge(logits, label.shape[1:]), label)

    def predict(self, image):
        """Return labels (h, w) and probabilities (n, h, w) of a picture: see utils/notebook.py."""
        from utils import notebook

        return notebook.predict(self, image)

    def update_bases(self, mu):
        """Move the bases of the EM unit towards `mu` (c, k); without a unit do nothing."""

    def statistics(self):
        """Return the `statistics` of the EM unit, or None without one."""

    def attention(self, image):
        """Return the share z (b, k, h', w') of each basis in each pixel; None without a unit."""


def upsample(logits, size, form='corners', stride=None):
    """Enlarge logits to `size`, bilinear, in float32 at least: bf16 would change labels.

    form    'corners': align_corners; 'centres': half-pixel centres; 'crop': half-pixel centres by
            the factor `stride`, then cut to size (detectron2 DANet)
    stride  input pixels per pixel of the logits, for 'crop'
    """
    if logits.dtype in (torch.float16, torch.bfloat16):
        logits = logits.float()
    if form != 'crop':
        return F.interpolate(logits, size, mode='bilinear', align_corners=form == 'corners')
    for n, m in zip(logits.shape[2:], size, strict=True):
        if not 0 <= n * stride - m < stride:
            raise SettingsError(
                f'UPSAMPLE=crop enlarges logits by STRIDE = {stride}, which does not bring '
                f'{logits.shape[2]}x{logits.shape[3]} to {size[0]}x{size[1]}; use UPSAMPLE=corners'
            )
    logits = F.interpolate(logits, scale_factor=stride, mode='bilinear', align_corners=False)
    return logits[..., : size[0], : size[1]]


def fold(net):
    """Return a copy for inference, each batch norm multiplied into the convolution before it."""
    net = copy.deepcopy(net).eval()
    for parent in list(net.modules()):
        before = None  # (module, attribute, child): what the next child follows
        for name, child in list(parent.named_children()):
            is_norm = isinstance(child, (nn.BatchNorm2d, nn.SyncBatchNorm))
            if is_norm and before and isinstance(before[2], nn.Conv2d):
                owner, attribute, conv = before
                setattr(owner, attribute, fuse_conv_bn_eval(conv, child))
                setattr(parent, name, nn.Identity())
            before = parent, name, child
            if isinstance(child, nn.Sequential) and len(child):
                before = child, str(len(child) - 1), child[-1]
    return net


def load(path, device=None):
    """Return the network of a checkpoint file, to predict with: see utils/notebook.py."""
    from utils import notebook

    return notebook.load(path, device)


def export(net, path, size=None):
    """Write a network as .onnx or .pt2: see utils/notebook.py."""
    from utils import notebook

    return notebook.export(net, path, size)
