"""A trained network from Python: network.load, net.predict and network.export.

Settings are put back as they were, and nothing is printed.
"""

import importlib
import math
import os

import numpy as np
import torch
from PIL import Image, ImageOps

from utils import config
from utils.config import UserError
from utils.distributed import World
from utils.files import atomic_path

MODES = ('1', 'L', 'LA', 'P', 'PA', 'RGB', 'RGBA', 'CMYK', 'YCbCr')  # Pillow's, of 8 bits
SIZE = 257, 321  # pixels, of the image that an export is made with
OTHER = 200, 333  # and of another one that it is tried on


def load(path, device=None):
    """Return the network of a checkpoint file, folded and in evaluation mode, on a device.

    path    a file of any code base that docs/checkpoints.md lists; it brings its settings
    device  as torch names it; None = the first GPU, or the CPU
    TEST_SCALES and the other settings of evaluation that are in force now count in net.predict.
    UserError says what is wrong with a file, or with the device.
    """
    import checkpoint
    import eval
    import network

    if device is None:
        device = 'cuda' if torch.cuda.is_available() else 'cpu'
    check_device(device)
    before = config.current()
    try:
        net, _ = checkpoint.load_network(os.path.expanduser(os.fspath(path)))
        net = network.fold(net).requires_grad_(False)
        net.protocol = eval.protocol()
    finally:
        config.put(before)
    return net.to(torch.device(device), memory_format=torch.channels_last)


def check_device(device):
    """Raise UserError unless tensors can be on a device."""
    try:
        torch.zeros(1, device=device)
    except Exception as e:  # torch raises many kinds
        reason = (str(e) or type(e).__name__).splitlines()[0].partition('. ')[0]
        raise UserError(
            f'device={device!r} cannot be used ({reason}); leave it out for the first GPU, or the '
            'CPU if there is none'
        ) from None


@torch.no_grad()
def predict(net, image):
    """Return labels (h, w) uint8 and probabilities (n, h, w) float32 of a picture, as arrays.

    net    of load(), or in evaluation mode
    image  a path, a Pillow picture, or an array (h, w, 3) RGB, or of n channels (h, w, n), which
           for one channel may be (h, w); uint8, or uint16, whose upper 8 bits count as in files
    """
    import eval

    if net.training:
        raise UserError('this network is in training mode; call net.eval() before net.predict')
    device = net.mean.device
    pixels = torch.from_numpy(as_array(image, len(net.mean))).permute(2, 0, 1)[None].to(device)
    protocol = getattr(net, 'protocol', None) or eval.protocol()
    with World([device]).autocast():
        scores = eval.scores(net, pixels, protocol)[0]
    labels = scores.max(0)[1].byte()
    return labels.cpu().numpy(), scores.float().softmax(0).cpu().numpy()


def as_array(image, n):
    """Return a picture, see predict(), as an array (h, w, n) uint8, upright."""
    from datasets import pictures
    from datasets.channels import CHANNELS
    from datasets.files import read_image

    if isinstance(image, (str, os.PathLike)):
        return read_image(os.path.expanduser(os.fspath(image)), upright=True, channels=n)
    if isinstance(image, Image.Image) and n != 3:
        if CHANNELS.get(image.mode) != n and not (n == 1 and image.mode.startswith('I;16')):
            raise UserError(f'this picture has {image.mode} pixels, the network reads {n} channels')
        image = ImageOps.exif_transpose(image)
        if image.mode.startswith('I;16'):
            image = np.array(image).astype(np.uint16)  # whatever the order of its bytes
    elif isinstance(image, Image.Image):
        if image.mode not in MODES:
            raise UserError(
                f'this picture has {image.mode} values, not 8 bits a channel; give its path, or '
                'an array (h, w, 3) uint8 RGB'
            )
        return np.array(ImageOps.exif_transpose(image).convert('RGB'))
    array = np.ascontiguousarray(image)
    if array.ndim == 2 and n == 1:
        array = array[..., None]
    kinds = np.uint8, np.uint16
    if array.dtype not in kinds or array.ndim != 3 or array.shape[2] != n or not array.size:
        raise UserError(
            f'this image is {array.dtype} of shape {array.shape}; expected a path, a Pillow '
            f'picture or an array (h, w, {n}){" RGB" if n == 3 else ""} of uint8 or uint16'
        )
    array = pictures.with_8_bits('this array', array)
    return array if array.flags.writeable else array.copy()


# --------------------------------------------------------------------------------------- export


def export(net, path, size=None):
    """Write a network as .onnx or .pt2; return how far it is from torch, of logits, at most.

    The exported network has an input `image` (1, 3, h, w) uint8 RGB, 0 to 255, or of other
    channels, which it normalises itself, and an output `logits` (1, n, h, w) float32.
    size  None: any height and width; (h, w): that size alone, for networks of which others fail
    """
    path = os.path.expanduser(os.fspath(path))
    ending = os.path.splitext(path)[1].lower()
    if ending not in ('.onnx', '.pt2'):
        raise UserError(f'{path}: expected a path that ends in .onnx or .pt2')
    packages = ('onnxscript', 'onnxruntime') if ending == '.onnx' else ()
    for package in packages:
        if importlib.util.find_spec(package) is None:
            raise UserError(f'{path}: ONNX needs another package: pip install {package}')
    if net.training:
        raise UserError('this network is in training mode; call net.eval() before it is exported')
    program = trace(net, size)
    sizes = [size] if size else [SIZE, OTHER]
    with atomic_path(path, '.part' + ending) as part:
        if ending == '.pt2':
            torch.export.save(program, part)
        else:
            names = {'input_names': ['image'], 'output_names': ['logits']}
            torch.onnx.export(
                program, (), part, dynamo=True, external_data=False, verbose=False, **names
            )
        return max(difference(net, part, n) for n in sizes)


@torch.no_grad()
def trace(net, size):
    """Return a network as a torch.export.ExportedProgram, see export()."""
    smallest = 4 * net.extractor.stride
    shapes = None
    if size is None:
        height = torch.export.Dim('height', min=smallest, max=2**14)
        width = torch.export.Dim('width', min=smallest, max=2**14)
        shapes = {'image': {2: height, 3: width}}
    try:
        return torch.export.export(net, (blank(net, size or SIZE),), dynamic_shapes=shapes)
    except Exception as e:  # torch.export raises many kinds
        reason = (str(e) or type(e).__name__).splitlines()[0]
        way_out = '' if size else '; try one fixed size: size=(h, w)'
        raise UserError(f'this network cannot be exported ({reason}){way_out}') from e


def blank(net, size):
    """Return an image (1, n, h, w) uint8 with something in it."""
    pixels = torch.arange(len(net.mean) * math.prod(size), device=net.mean.device)
    return (pixels * 7919 % 251).byte().view(1, -1, *size)


@torch.no_grad()
def difference(net, path, size):
    """Return the largest difference of logits between a network and an exported file."""
    image = blank(net, size)
    if path.endswith('.pt2'):
        logits = torch.export.load(path).module()(image).cpu()
    else:
        import onnxruntime

        session = onnxruntime.InferenceSession(path, providers=['CPUExecutionProvider'])
        logits = torch.from_numpy(session.run(['logits'], {'image': image.cpu().numpy()})[0])
    return float((net(image).cpu() - logits).abs().max())
