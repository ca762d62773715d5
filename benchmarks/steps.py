"""Steps of training and inference that benchmarks time, made as train.py and eval.py make them."""

import contextlib
import itertools
from types import SimpleNamespace

import torch

import dataset
import loss
import network
import settings
import train
from eval import predict, protocol
from utils import config, distributed
from utils.optim import make_optimizer


def pixels(batch):
    """Return a uint8 batch as loaded: image (b, n, h, w), channels last, and label (b, h, w)."""
    size = config.sides(settings.CROP_SIZE)
    image = torch.randint(256, (batch, *size, len(settings.MEAN))).byte().permute(0, 3, 1, 2)
    return image, torch.randint(dataset.n_classes(), (batch, *size)).byte()


def build():
    """Return the network that settings describe, as train.py builds it."""
    n = dataset.n_classes()
    momentum = config.bn_momentum(config.current())
    return network.build(n, settings, loss.criterion(n), momentum)


def prepare(world, batch, variant, change=None, training=False):
    """Return network, images and labels of a variant: 'plain', or alike 'tuned' and 'trunk'.

    change  is called with the network first
    """
    image, label = pixels(batch)
    net = build()
    if change:
        change(net)
    if variant == 'plain':
        net.to(world.device)
        net.loss = net.full_size_loss  # of the whole batch at once
        image = net.normalise(image.to(world.device)).contiguous()
        return net, image, label.to(world.device).long()
    if world.cuda:
        image, label = image.pin_memory(), label.pin_memory()
    return distributed.place(net, world, training), image, label


def load_libraries(world, net, side=None):
    """Run a network once: what libraries load is not counted as memory of a step.

    side  of the image, in pixels; None: a small one
    """
    side = side or 2 * settings.STRIDE + 1
    with torch.no_grad(), world.autocast():
        net(torch.zeros(2, len(settings.MEAN), side, side, device=world.device))


@contextlib.contextmanager
def around(world, task):
    """Be the context of all steps of a task: of 'inference' one autocast, as eval.py has it."""
    if task != 'inference':
        yield
        return
    with torch.no_grad(), world.autocast():
        yield


def training_step(world, variant, change=None):
    """Return a function that makes a step as train.py does, on one part of a batch."""
    config.put({'BATCH_SIZE': settings.BATCH_SIZE // settings.ACCUMULATE, 'ACCUMULATE': 1})
    net, image, label = prepare(world, settings.BATCH_SIZE, variant, change, training=True)
    load_libraries(world, net)
    optimizer = make_optimizer(net, fused=variant != 'plain')
    scaler = torch.amp.GradScaler(world.device.type, enabled=settings.AMP == 'fp16')
    run = train.Run(world, None, None, net, optimizer, scaler, distributed.wrap(net, world))
    stream = itertools.repeat((image, label))
    never = SimpleNamespace(number=None)  # for StopSignals
    return lambda: train.train_step(run, stream, never)


def inference_step(world, variant, change=None):
    """Return a function that predicts a batch as eval.py does; 'trunk': only computes the maps."""
    net, image, _ = prepare(world, settings.TEST_BATCH, variant, change)
    net = net.eval() if variant == 'plain' else network.fold(net)
    load_libraries(world, net)
    model, views = distributed.wrap(net, world), protocol()

    def step():
        x = image.to(world.device, non_blocking=True)
        if variant == 'trunk':
            return net.maps(x)
        return predict(model, x, views)

    return step
