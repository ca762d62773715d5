"""Time several views, which eval.py averages on the device, against windows summed in numpy.

    python -m benchmarks.views [recipe.py] [KEY=value ...] [--rounds N]

Six scales with mirror images of a 500x375 picture, whole and in windows of CROP_SIZE, against such
windows one after the other: outside the network, and in all. There the windows are taken in
float32, too, by a network as its users have it: unfolded, with contiguous tensors.
"""

import functools

import torch

import dataset
import network
import settings
from benchmarks import measure, reference
from eval import predict, protocol
from heads.blocks import full_precision
from heads.frame import SegNet
from utils import config, distributed, script

SCALES = 0.5, 0.75, 1.0, 1.25, 1.5, 1.75
SIZE = 375, 500  # height and width of the picture: VOC's


class Free(SegNet):
    """A network that costs nothing: of each size it has made its logits before."""

    def __init__(self, n_classes, net):
        super().__init__(net.extractor, None, upsample=net.upsample)
        self.n_classes = n_classes
        self.made = {}

    def normalise(self, image):
        return image.float()

    def maps(self, image):
        return [image]

    def decode(self, maps, image=None):
        b, _, h, w = maps[0].shape
        stride = self.extractor.stride
        size = b, self.n_classes, (h - 1) // stride + 1, (w - 1) // stride + 1
        if size not in self.made:
            self.made[size] = 3 * torch.randn(size, device=maps[0].device)
        return {'out': self.made[size]}


@torch.no_grad()
def main(flags):
    world = measure.start()
    whole = protocol()._replace(scales=SCALES, flip=True, crop=None)
    windows = whole._replace(crop=config.sides(settings.CROP_SIZE))
    picture = torch.randint(256, (*SIZE, 3)).byte()
    image = picture.permute(2, 0, 1)[None].to(world.device)
    as_it_comes = network.build(dataset.n_classes(), settings).eval().to(world.device)
    net = network.fold(as_it_comes)
    distributed.place(net, world)
    free = Free(dataset.n_classes(), net).to(world.device)
    for what, model in (('views, outside the network', free), ('views, in all', net)):
        forms = {
            'whole': lambda model=model: predict(model, image, whole),
            'windows': lambda model=model: predict(model, image, windows),
            'plain': lambda model=model: plain(model, picture.numpy(), windows.crop),
        }
        if model is net:
            forms['float32'] = functools.partial(
                plain_float32, as_it_comes, picture.numpy(), windows.crop
            )
        with world.autocast():
            measure.compare_forms(world, what, forms, flags.rounds, 1)


def plain(net, picture, crop):
    """Return train ids (h, w) of a picture (h, w, 3) by the reference."""
    return reference.views(net, picture, SCALES, crop).argmax(2)


def plain_float32(net, picture, crop):
    """Return the same without autocast."""
    with full_precision(next(net.parameters())):
        return plain(net, picture, crop)


if __name__ == '__main__':
    script.run(main, measure.parser(__doc__))
