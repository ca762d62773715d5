"""Size and speed of the network that settings describe. What is compared is measured in the same run, in turn.

    python bench.py [recipe] [KEY=value ...]      parameters, MACs, time and memory of a training step and of inference
    python bench.py recipes/camvid.py --plain     the same beside the plain network: float32, NCHW, eager, not folded, float images,
                                                  full-size logits of the whole batch
    python bench.py N_LAYERS=50 --all --markdown  a row per head, as a table for a document; --size: parameters and MACs alone
    python bench.py DATASET=voc --loader          training samples per second of one loader process, beside a plain float pipeline
    python bench.py --loader --synthetic 500x375  the same on drawn pictures of that width and height (2048x1024.png: PNG, else JPEG), laid
                                                  out as CamVid, and from the cache of decoded pixels
    python bench.py --unit                        the EM unit beside its textbook form and dense position attention
    python bench.py --metric                      the confusion matrix beside the usual masked one
    python bench.py --views                       several scales and mirror images beside windows summed in numpy one after the other
    ... --rounds 9                                times each is measured (default 5), after a warm-up that is thrown away
One device, random weights and pixels. Figures are median (min - max), of ratios too: each round has its own.
"""

import contextlib
import itertools
import os
import re
import subprocess
import sys
import tempfile
from statistics import median

import cv2
import torch
import torch.nn.functional as F

import dataset
import inference
import launch
import metric
import network
import plain
import settings
import train
from baselines.danet import PAM
from measure import compare, in_turn, macs, spread, timed, watch_memory


def pixels(batch):
    """A batch as the loader gives it: image (b, 3, h, w) whose memory is (b, h, w, 3), label (b, h, w), both uint8."""
    size = settings.sides(settings.CROP_SIZE)
    return torch.randint(256, (batch, *size, 3)).byte().permute(0, 3, 1, 2), torch.randint(
        dataset.n_classes(), (batch, *size)
    ).byte()


def child(kind, variant):
    """One variant in this process: for every line it reads it does a step; answers seconds and peak memory."""
    answers = os.fdopen(os.dup(1), 'w')
    os.dup2(2, 1)  # what libraries print is no answer
    if kind == 'loader':
        place = launch.Place([torch.device('cpu')])
        step = loader_step(variant)
    else:
        place = start()
        step = network_step(place, kind == 'training', variant)
    seconds, peak = timed(place, step), watch_memory(place)
    with (
        torch.set_grad_enabled(kind == 'training'),
        place.autocast() if kind == 'inference' else contextlib.nullcontext(),
    ):
        for _ in sys.stdin:
            print(seconds(), peak(), file=answers, flush=True)


@contextlib.contextmanager
def children(kind, variants, memory, *more):
    """{variant: a function that has a process of its own do a step and returns its seconds}; puts the peak of it into `memory`."""
    command, pipe = [sys.executable, __file__, *sys.argv[1:], *more, '--child'], subprocess.PIPE
    found = {
        v: subprocess.Popen([*command, f'{kind} {v}'], stdin=pipe, stdout=pipe, text=True)
        for v in variants
    }

    def asked(process, variant):
        def step():
            with contextlib.suppress(BrokenPipeError):
                print('step', file=process.stdin, flush=True)
            line = process.stdout.readline()
            if not line and process.wait() < 0:
                raise settings.UserError(
                    f'the {variant} variant was killed by signal {-process.wait()}; if memory ran out, lower BATCH_SIZE or CROP_SIZE'
                )
            seconds, memory[variant] = map(
                float, line.split() or sys.exit(process.wait() or 1)
            )  # it has said why
            return seconds

        return step

    yield {v: asked(p, v) for v, p in found.items()}
    for process in found.values():
        process.communicate()  # closes its input, at which it ends


def network_step(place, fit, variant):
    """A step as train.py or eval.py does it; variant 'trunk': the trunk's maps alone."""
    s, plain = settings, variant == 'plain'
    image, label = pixels(s.BATCH_SIZE // s.ACCUMULATE if fit else s.TEST_BATCH)
    net = network.build().to(
        place.device, memory_format=torch.contiguous_format if plain else torch.channels_last
    )
    if plain:
        net.loss = lambda logits, y: net.criterion(
            network.upsample(logits, y.shape[1:]), y
        )  # full-size logits of the whole batch
        image, label = (
            net.normalise(image.to(place.device)).contiguous(),
            label.to(place.device).long(),
        )
    elif place.cuda:
        image, label = image.pin_memory(), label.pin_memory()
    if not fit:
        net = net.eval() if plain else network.fold(net)
    with (
        torch.no_grad(),
        place.autocast(),
    ):  # libraries load what they need, so that the step's memory is its own
        net(torch.zeros(2, 3, 2 * s.STRIDE + 1, 2 * s.STRIDE + 1, device=place.device))
    optimizer = torch.optim.SGD(
        train.param_groups(net), lr=s.LR, momentum=s.LR_MOM, fused=not plain
    )
    scaler = torch.amp.GradScaler(place.device.type, enabled=s.AMP == 'fp16')
    model, how = train.wrap(net, place), inference.protocol()

    def step():
        x, y = image.to(place.device, non_blocking=True), label.to(place.device, non_blocking=True)
        if variant == 'trunk':
            return net.maps(x)
        if not fit:
            return inference.predict(model, x, how)
        with place.autocast():
            loss_sum, count, mu = model(x, y)
        scaler.scale(loss_sum.sum() / count.sum().clamp(min=1)).backward()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad(set_to_none=True)
        if mu is not None:
            net.update_bases(mu.detach().mean(0))

    return step


def convolution(place, half):
    """The stand-in for the device's peak, 3x3, 512 -> 512, on 65x65 maps: GMACs, and a function that returns the least seconds of four."""
    batch, number = (16, 10) if place.cuda else (1, 1)
    x, weight = (
        torch.randn(n, 512, k, k, device=place.device, dtype=half).to(
            memory_format=torch.channels_last
        )
        for n, k in ((batch, 65), (512, 3))
    )
    step = timed(place, torch.no_grad()(lambda: F.conv2d(x, weight, padding=1)), number)
    return batch * 65**2 * 9 * 512**2 / 1e9, lambda: min(step() for _ in range(4))


def bench_network(place, rounds, flags):
    """Size, then training and inference, every variant in a process of its own, for memory is a process's; one computes at a time."""
    s, net, image = settings, network.build().eval(), pixels(1)[0]
    halves = {'tuned': place.amp(), 'plain': None} if '--plain' in flags else {'tuned': place.amp()}
    convs = {half: convolution(place, half) for half in halves.values()}
    work = macs(net, image)
    print(
        f'{s.HEAD} on ResNet-{s.N_LAYERS} at stride {s.STRIDE}, {image.shape[2]}x{image.shape[3]} pixels, {net.n_classes} classes{", compiled" * s.COMPILE}\n'
        f'parameters {sum(p.numel() for p in net.parameters()) / 1e6:.2f} M; MACs {work:.2f} G per image, 2 FLOP each; training is taken for 3 forwards\n'
        f'memory: {"peak of all tensors" if place.cuda else "peak resident memory above that before the first step, so without the weights"}'
    )

    for kind, batch, passes in (
        ('training', s.BATCH_SIZE // s.ACCUMULATE, 3),
        ('inference', s.TEST_BATCH, 1),
    ):
        memory = {}
        with children(kind, halves, memory) as steps:
            found = in_turn(steps | {half: step for half, (_, step) in convs.items()}, rounds, 2)
        for v, half in halves.items():
            at, peak = median(found[v]), convs[half][0] / min(found[half])
            print(
                f'{kind:9}  {v} batch {batch}: {spread(found[v])} s, {batch / at:.2f} images/s, {memory[v]:.0f} MiB, '
                f'{100 * passes * work * batch / at / peak:.0f} % of the {2 * peak:.0f} GFLOP/s of a convolution in {half or torch.float32}'
            )
        if '--plain' in flags:
            print(
                f'{kind:9}  tuned / plain: time {spread(found["tuned"], found["plain"])}, memory {memory["tuned"] / memory["plain"]:.3f}'
            )


def bench_all(place, rounds, flags):
    """A row per head, and in the forms of the EMANet paper's Table 1 and of their own papers: size, in all and over the bare trunk; seconds and peak MiB of a training step
    and of inference, unless --size says that sizes will do."""
    kept = settings.in_force()
    rows = [
        ['HEAD', 'M parameters', 'over trunk', 'GMACs', 'over trunk']
        + ['training s', 'MiB', 'inference s', 'MiB'] * ('--size' not in flags)
    ]
    paper = {
        words: ['HEAD=' + words.split()[0], *words.split()[1:]]
        for words in (
            'ema SECOND_CONV=False EM_CHANNELS=512',
            'ema SECOND_CONV=False EM_CHANNELS=256',
            'deeplabv3 DEEPLABV3_PAPER=True',
            'psp HEAD_CHANNELS=512',
            'psa HEAD_CHANNELS=512',
            'danet HEAD_CHANNELS=512',
        )
    }
    for name, own in ({head: [f'HEAD={head}'] for head in network.HEADS} | paper).items():
        for key, what in (('STRIDE', 'strides'), ('N_LAYERS', 'layers')):
            fitting = network.trait(network.HEADS[own[0][5:]], what)
            own += [f'{key}={fitting[0]}'] * (kept[key] not in fitting)
        vars(settings).update(kept)
        settings.override(own)
        net = network.build().eval()
        image = net.normalise(pixels(1)[0])
        sizes = sum(p.numel() for p in net.parameters()) / 1e6, macs(net, image)
        trunk = sum(p.numel() for p in net.extractor.parameters()) / 1e6, macs(net.maps, image)
        row = [' '.join([name, *own[1:]] if name in network.HEADS else [name])]
        row += [f'{v:.2f}' for all_of, bare in zip(sizes, trunk) for v in (all_of, all_of - bare)]
        for kind in ('training', 'inference') * ('--size' not in flags):
            memory = {}
            with children(kind, ['tuned'], memory, *own) as steps:
                found = in_turn(steps, rounds, 2)
            row += [f'{median(found["tuned"]):.3f}', f'{memory["tuned"]:.0f}']
        print(row[0], flush=True)
        rows.append(row)
    vars(settings).update(kept)
    if (
        '--size' not in flags
    ):  # what is over it, of the heads that have this trunk, is the paper's memory
        memory = {}
        with children('inference', ['trunk'], memory) as steps:
            found = in_turn(steps, rounds, 2)
        rows.append(
            ['the trunk alone']
            + ['-'] * 6
            + [f'{median(found["trunk"]):.3f}', f'{memory["trunk"]:.0f}']
        )
    print(
        f'ResNet-{settings.N_LAYERS} at stride {settings.STRIDE}, {image.shape[3]}x{image.shape[2]} pixels, {net.n_classes} classes; '
        f'training batch {settings.BATCH_SIZE // settings.ACCUMULATE}, inference batch {settings.TEST_BATCH}'
    )
    widths = [max(map(len, column)) for column in zip(*rows)]
    for i, row in enumerate(rows):
        cells = [
            cell.ljust(w) if not j else cell.rjust(w)
            for j, (cell, w) in enumerate(zip(row, widths))
        ]
        print('| ' + ' | '.join(cells) + ' |' if '--markdown' in flags else '  '.join(cells))
        if not i and '--markdown' in flags:
            print('| --- ' * len(row) + '|')


def bench_loader(place, rounds, flags):
    """Training samples of one loader process with one thread, from the files and, where that is kept, from the cache of decoded pixels."""
    with tempfile.TemporaryDirectory() as folder:
        more = []
        if '--synthetic' in flags:
            size, _, ending = flags['--synthetic'].partition('.')
            plain.draw(folder, *map(int, size.split('x')), ending or 'jpg')
            more = ['DATASET=camvid', f'DATA_ROOT={folder}', 'TRAIN_SPLIT=train', 'N_CLASSES=None']
            settings.override([*sys.argv[1:], *more])
            for _ in dataset.cache(dataset.Dataset('train', train=False)):
                pass
        data = dataset.Dataset(settings.TRAIN_SPLIT, train=True)
        variants = ['tuned', 'plain'] + ['cached'] * data.cached
        what = (
            f'whole images, short side {settings.SHORT_SIDE}'
            if settings.SHORT_SIDE
            else f'crop {settings.CROP_SIZE}'
        )
        print(
            f'{settings.DATASET} {data.split}, {len(data)} images, {what}, one process, one thread; MB per sample: '
            f'tuned {sum(t.nbytes for t in data[0, 0]) / 1e6:.2f}, plain {sum(t.nbytes for t in plain.sample(data, 0, 0)) / 1e6:.2f}'
        )
        with children('loader', variants, {}, *more) as steps:
            found = in_turn(steps, rounds)
        for v in variants:
            print(
                f'loader  {v:6}  {spread([1e3 * t for t in found[v]])} ms, {spread([1 / t for t in found[v]])} per second'
            )
        for v in set(variants) - {'plain'}:
            print(f'loader  plain / {v}: time {spread(found["plain"], found[v])}')


def loader_step(variant):
    """40 samples, or as many as there are images; returns how many. The same samples for all variants."""
    torch.set_num_threads(1)
    if variant == 'plain':
        cv2.setNumThreads(0)
    else:
        dataset.start_worker(0)
    data = dataset.Dataset(settings.TRAIN_SPLIT, train=True)
    data.cached = variant == 'cached'
    count = min(len(data), 40)
    positions = itertools.count()

    def step():
        for p in itertools.islice(positions, count):
            plain.sample(data, p, p % len(data)) if variant == 'plain' else data[p, p % len(data)]
        return count

    return step


def bench_unit(place, rounds, flags):
    """The EM unit at the size it has in the network, with batch 1, forward and forward with backward."""
    c, (h, w) = (
        settings.EM_CHANNELS,
        ((n - 1) // settings.STRIDE + 1 for n in pixels(1)[1].shape[1:]),
    )
    unit = network.build('ema', 18).emau.to(place.device, memory_format=torch.channels_last)
    position = PAM(c).to(place.device)
    x = torch.randn(1, c, h, w, device=place.device, dtype=place.amp())
    forms = {
        'unit': (lambda x: unit(x)[0], x.to(memory_format=torch.channels_last)),
        'textbook': (lambda x: plain.textbook(unit, x), x.clone()),
        'dense': (position, x.clone()),
    }
    print(
        f'EM unit: {c} channels, {settings.EM_BASES} bases, {settings.STAGE_NUM} iterations, {h}x{w} map, batch 1; GMACs of forward:',
        ', '.join(f'{name} {macs(form, x.float()):.2f}' for name, (form, x) in forms.items()),
    )

    def run(form, x):
        with torch.set_grad_enabled(unit.training), place.autocast():
            y = form(x.requires_grad_(unit.training))
        if unit.training:
            y.backward(torch.ones_like(y))

    for what in ('forward', 'forward+backward'):
        unit.train(what != 'forward')
        compare(
            place,
            what,
            {name: lambda form=form: run(*form) for name, form in forms.items()},
            rounds,
            5,
        )


def bench_metric(place, rounds, flags):
    """The confusion matrix of a 513x513 map, beside the usual way: int64, void masked out."""
    pred, label = (torch.randint(21, (513, 513), device=place.device).byte() for _ in range(2))
    label[:50] = 255
    wide_pred, wide_label = pred.long(), label.long()

    forms = {
        'tuned': lambda: metric.confusion(pred, label, 21),
        'masked': lambda: plain.confusion(wide_pred, wide_label, 21),
    }
    assert forms['tuned']().equal(forms['masked']()), 'the counts differ'
    compare(place, 'confusion', forms, rounds, 20)


class Ready(torch.nn.Module):
    """A network that costs nothing: it has made its logits before."""

    def __init__(self, n_classes, stride):
        super().__init__()
        self.n_classes, self.stride, self.made, self.p = (
            n_classes,
            stride,
            {},
            torch.nn.Parameter(torch.zeros(1)),
        )

    def normalise(self, image):
        return image.float()

    def forward(self, image, coarse):
        size = (len(image), self.n_classes, *((n - 1) // self.stride + 1 for n in image.shape[2:]))
        if size not in self.made:
            self.made[size] = 3 * torch.randn(size, device=image.device)
        return self.made[size] if coarse else network.upsample(self.made[size], image.shape[2:])


@torch.no_grad()
def bench_views(place, rounds, flags):
    """Six scales with mirror images of a 500x375 picture, whole and in windows of CROP_SIZE, beside such windows one after the other summed in numpy:
    outside the network, and in all. TEST_GRID counts."""
    how = inference.protocol()._replace(
        scales=(0.5, 0.75, 1.0, 1.25, 1.5, 1.75), flip=True, crop=None
    )
    cut = how._replace(crop=settings.sides(settings.CROP_SIZE))
    picture = torch.randint(256, (375, 500, 3)).byte()
    image = picture.permute(2, 0, 1)[None].to(place.device)
    net = network.fold(network.build()).to(place.device, memory_format=torch.channels_last)
    for what, n in (
        ('views, outside the network', Ready(net.n_classes, settings.STRIDE).to(place.device)),
        ('views, in all', net),
    ):
        forms = {
            'whole': lambda n=n: inference.predict(n, image, how),
            'windows': lambda n=n: inference.predict(n, image, cut),
            'plain': lambda n=n: plain.views(n, picture.numpy(), cut).argmax(2),
        }
        with place.autocast():
            compare(place, what, forms, rounds, 1)


def start():
    place = launch.start()
    return place._replace(devices=place.devices[:1])


MODES = {
    '--all': bench_all,
    '--loader': bench_loader,
    '--unit': bench_unit,
    '--metric': bench_metric,
    '--views': bench_views,
}
FLAGS = dict.fromkeys(('--plain', '--markdown', '--size', *MODES), '') | {
    '--rounds': 'N',
    '--synthetic': 'WxH',
    '--child': 'VARIANT',
}


def main(flags):
    rounds, (kind, variant) = flags.get('--rounds', '5'), flags.get('--child', ' ').split(' ')
    if (
        not rounds.isdecimal()
        or rounds == '0'
        or not re.fullmatch(r'\d+x\d+(\.jpg|\.png)?', flags.get('--synthetic', '9x9'))
    ):
        raise settings.UsageError(
            '--rounds takes a number from 1, --synthetic WIDTHxHEIGHT, such as 500x375 or 2048x1024.png'
        )
    if variant == 'plain':
        settings.AMP, settings.COMPILE = 'off', False
    if kind:
        return child(kind, variant)
    place = start()
    print(
        f'{place.facts()["device"]}; {torch.get_num_threads()} threads; torch {torch.__version__}; {place.amp() or torch.float32}',
        flush=True,
    )
    for mode in [mode for flag, mode in MODES.items() if flag in flags] or [bench_network]:
        mode(place, int(rounds), flags)


if __name__ == '__main__':
    launch.run(main, FLAGS)
