"""Time the EM unit against its textbook form and against dense position attention (HEAD=danet).

    python -m benchmarks.unit [recipe.py] [KEY=value ...] [--rounds N]

At the size it has in the network that settings describe, with batch 1, forward and with backward.
"""

import torch

import dataset
import network
import settings
from benchmarks import measure, reference
from heads.danet import PAM
from utils import config, script


def main(flags):
    world = measure.start()
    h, w = [(n - 1) // settings.STRIDE + 1 for n in config.sides(settings.CROP_SIZE)]
    c = settings.EM_CHANNELS
    config.put({'HEAD': 'ema', 'HEAD_ARGS': {}, 'N_LAYERS': 18})
    unit = network.build(dataset.n_classes(), settings).emau
    unit.to(world.device, memory_format=torch.channels_last)
    position = PAM(c).to(world.device)
    x = torch.randn(1, c, h, w, device=world.device, dtype=world.half_type())
    forms = {
        'unit': (lambda x: unit(x)[0], x.to(memory_format=torch.channels_last)),
        'textbook': (lambda x: reference.textbook(unit, x)[0], x.clone()),
        'dense': (position, x.clone()),
    }
    work = []
    for name, (form, x) in forms.items():
        work.append(f'{name} {measure.macs(form, x.float()):.2f}')
    print(
        f'EM unit: {c} channels, {settings.EM_BASES} bases, {settings.STAGE_NUM} iterations, '
        f'{h}x{w} map, batch 1; GMACs of forward: {", ".join(work)}'
    )
    for what in ('forward', 'forward+backward'):
        unit.train(what != 'forward')
        steps = {name: step(world, form, x, unit.training) for name, (form, x) in forms.items()}
        measure.compare_forms(world, what, steps, flags.rounds, 5)


def step(world, form, x, backward):
    """Return a function that runs a form forward, and backward if asked."""

    def run():
        with torch.set_grad_enabled(backward), world.autocast():
            y = form(x.requires_grad_(backward))
        if backward:
            y.backward(torch.ones_like(y))

    return run


if __name__ == '__main__':
    script.run(main, measure.parser(__doc__))
