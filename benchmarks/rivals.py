"""What people would take instead, as its own users run it: networks, and the loops around them."""

import functools
import importlib.util
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch.utils.data import DataLoader
from torchvision.models import segmentation
from torchvision.transforms.functional import normalize, to_tensor

import settings
from benchmarks import reference, steps
from datasets.files import read_indices
from utils import config
from utils.config import UsageError

N_CLASSES = 11  # those of the drawn pictures
SHARED = (
    'DATASET=camvid',
    f'N_CLASSES={N_CLASSES}',
    'HEAD_ARGS={}',
    'TEST_SCALES=(1.0,)',
    'TEST_FLIP=False',
    'TEST_CROP=None',
    'ACCUMULATE=1',
    'PRETRAINED=',
    'INIT=',
    'COMPILE=False',
)


class Rival(NamedTuple):
    """A network of another project, and the settings that ours resembles it with."""

    project: str
    words: tuple
    make: object  # number of classes -> module; None: it is ours, in its plain form
    same: bool  # its weights fit our network, and logits are equal
    multiple: int = 1  # what the sides of its images must be divisible by


TORCHVISION = 'N_LAYERS=50', 'STEM=plain', 'MULTI_GRID=(1,1,1)', 'UPSAMPLE=centres', 'STRIDE=8'


def torchvision_net(name, n_classes):
    """Return torchvision's network, which has an auxiliary output in training."""
    build = getattr(segmentation, name)
    return build(weights=None, weights_backbone=None, num_classes=n_classes, aux_loss=True)


def smp_net(name, n_classes):
    """Return a network of segmentation_models.pytorch; UsageError if it is not installed."""
    try:
        import segmentation_models_pytorch as smp
    except ImportError:
        raise UsageError(
            'segmentation_models.pytorch is not installed: pip install '
            'segmentation-models-pytorch, or leave its networks out with --rivals'
        ) from None
    return getattr(smp, name)('resnet50', encoder_weights=None, classes=n_classes)


RIVALS = {
    'fcn': Rival(
        'torchvision',
        ('HEAD=fcn', 'HEAD_CHANNELS=512', 'AUX_WEIGHT=0.5', *TORCHVISION),
        functools.partial(torchvision_net, 'fcn_resnet50'),
        same=True,
    ),
    'deeplabv3': Rival(
        'torchvision',
        (
            'HEAD=deeplabv3',
            'HEAD_CHANNELS=256',
            'AUX_WEIGHT=0.5',
            "HEAD_ARGS={'rates': (12, 24, 36)}",
            *TORCHVISION,
        ),
        functools.partial(torchvision_net, 'deeplabv3_resnet50'),
        same=True,
    ),
    'smp-psp': Rival(
        'smp',
        ('HEAD=psp', 'N_LAYERS=50', 'STEM=plain', 'STRIDE=8', 'HEAD_CHANNELS=512'),
        functools.partial(smp_net, 'PSPNet'),
        same=False,
        multiple=8,
    ),
    'smp-deeplabv3plus': Rival(
        'smp',
        ('HEAD=deeplabv3plus', 'N_LAYERS=50', 'STEM=plain', 'STRIDE=16'),
        functools.partial(smp_net, 'DeepLabV3Plus'),
        same=False,
        multiple=16,
    ),
    'emanet': Rival(
        'plain form of the official', ('HEAD=ema', 'N_LAYERS=50', 'STRIDE=8'), None, same=True
    ),
}


def installed():
    """Return the names of the rivals that can be run here."""
    has_smp = importlib.util.find_spec('segmentation_models_pytorch') is not None
    return [name for name, rival in RIVALS.items() if has_smp or rival.project != 'smp']


def fit(size, name):
    """Return a size (height, width) made as much smaller as a rival needs."""
    multiple = RIVALS[name].multiple
    return tuple(max(side - side % multiple, multiple) for side in size)


def plain_unit(net):
    """Let the EM unit of our network compute as the official code does."""
    if hasattr(net, 'emau'):
        net.emau.forward = functools.partial(reference.textbook, net.emau)


def output(net, image):
    """Return the logits (b, n, h, w) of a rival, and those of its auxiliary output or None."""
    out = net(image)
    if isinstance(out, dict):
        return out['out'], out.get('aux')
    return out, None


# -------------------------------------------------------------------------------------------- steps


def batch(world, size):
    """Return normalised float images (b, 3, h, w) and labels (b, h, w) int64, as loaders give."""
    h, w = config.sides(settings.CROP_SIZE)
    label = torch.randint(settings.N_CLASSES, (size, h, w))
    image = torch.randn(size, 3, h, w)
    return (image.pin_memory(), label.pin_memory()) if world.cuda else (image, label)


def training_step(world, net):
    """Return a function that makes a step of training as torchvision's references do."""
    image, label = batch(world, settings.BATCH_SIZE)
    net.train()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.001, momentum=0.9, weight_decay=1e-4)

    def step():
        x = image.to(world.device)
        y = label.to(world.device)
        with world.autocast():
            out, aux = output(net, x)
            loss = F.cross_entropy(out, y, ignore_index=255)
            if aux is not None:
                loss = loss + 0.5 * F.cross_entropy(aux, y, ignore_index=255)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def inference_step(world, net):
    """Return a function that predicts a batch."""
    image, _ = batch(world, settings.TEST_BATCH)
    net.eval()

    @torch.inference_mode()
    def step():
        with world.autocast():
            return output(net, image.to(world.device))[0].argmax(1)

    return step


class Pictures(torch.utils.data.Dataset):
    """Normalised images (3, h, w) and labels (h, w) int64 of pairs of files."""

    def __init__(self, pairs):
        self.pairs = pairs

    def __len__(self):
        return len(self.pairs)

    def __getitem__(self, index):
        image, label = self.pairs[index]
        with Image.open(image) as picture:
            pixels = to_tensor(picture.convert('RGB'))
        pixels = normalize(pixels, settings.MEAN, settings.STD)
        return pixels, torch.from_numpy(read_indices(label).astype(np.int64))


def evaluation_step(world, net, pairs):
    """Return a function that scores a folder as torchvision's references do: one image at a time.

    It returns the number of images. Its attribute `score` is the mIoU.
    """
    loader = DataLoader(
        Pictures(pairs), batch_size=1, num_workers=settings.NUM_WORKERS, pin_memory=world.cuda
    )
    net.eval()
    n = settings.N_CLASSES

    @torch.inference_mode()
    def step():
        matrix = torch.zeros(n, n, dtype=torch.int64, device=world.device)
        for image, label in loader:
            with world.autocast():
                out, _ = output(net, image.to(world.device))
            true = label.to(world.device).flatten()
            matrix += reference.confusion(out.argmax(1).flatten(), true, n)
        right = matrix.diag()
        step.score = (right / (matrix.sum(0) + matrix.sum(1) - right)).nanmean().item()
        return len(pairs)

    return step


def plain_step(world, task):
    """Return a function that makes a step of our network in the official code's form."""
    make = steps.training_step if task == 'training' else steps.inference_step
    step = make(world, 'plain', plain_unit)

    def run():
        with torch.set_grad_enabled(task == 'training'):
            return step()

    return run
