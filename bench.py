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
    ... --rounds 9                                times each is measured (default 5), after a warm-up that is thrown away
One device, random weights and pixels. Figures are median (min - max), of ratios too: each round has its own.
"""
import contextlib
import ctypes
import itertools
import os
import re
import subprocess
import sys
import tempfile
import time
from statistics import median

import cv2
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

import dataset
import eval as evaluation
import launch
import metric
import network
import plain
import settings
import train
from baselines.danet import PAM

VALUED = '--rounds', '--synthetic', '--child'  # flags that take a value; --child is for the processes that bench_network starts


def in_turn(steps, rounds, warm=1):
    """{name: function that returns seconds} -> {name: seconds of each round}: A B A B ..., without the first `warm` rounds."""
    found = [[step() for step in steps.values()] for _ in range(warm + rounds)][warm:]
    return dict(zip(steps, zip(*found)))


def timed(place, function, number=1):
    """A function that calls `function` `number` times and returns the seconds of one, or of one sample if `function` returns how many it did."""
    def step():
        wait()
        begin, done = time.perf_counter(), 0
        for _ in range(number):
            found = function()
            done += found if type(found) is int else 1
        wait()
        return (time.perf_counter() - begin) / done
    wait = torch.cuda.synchronize if place.cuda else lambda: None
    return step


def spread(values, others=None):
    """Median (min - max) of values, or of their ratios to others."""
    found = [a / b for a, b in zip(values, others or [1] * len(values), strict=True)]
    return f'{median(found):.3f} ({min(found):.3f} - {max(found):.3f})'


def compare(place, what, forms, rounds, number):
    """Times {name: function} in turn and prints them, and the times of all but the first over those of the first."""
    found = in_turn({name: timed(place, f, number) for name, f in forms.items()}, rounds)
    first, *others = found
    for name, times in found.items():
        print(f'{what}  {name:8}  {spread([1e3 * t for t in times])} ms, {spread([1 / t for t in times])} per second')
    for name in others:
        print(f'{what}  {name} / {first}: time {spread(found[name], found[first])}')


@torch.no_grad()
def macs(function, x):
    """Multiply-accumulates of a call, of convolutions and matrix products, in G."""
    with FlopCounterMode(display=False) as counter:
        function(x)
    return counter.get_total_flops() / 2e9


def proc(file, field):
    """What stands behind the colon in a line of a file in /proc; 'nan' elsewhere than on Linux."""
    with contextlib.suppress(OSError), open('/proc/' + file) as f:
        return next((line.split(':')[1].strip() for line in f if line.startswith(field)), 'nan')
    return 'nan'


def watch_memory(place):
    """A function that returns the peak in MiB: on CUDA of all tensors, on Linux the growth of the process from here on, elsewhere nan."""
    if place.cuda:
        torch.cuda.reset_peak_memory_stats()
        return lambda: torch.cuda.max_memory_allocated() / 2 ** 20
    with contextlib.suppress(OSError, AttributeError), open('/proc/self/clear_refs', 'w') as f:
        ctypes.CDLL('libc.so.6').malloc_trim(0)  # else steps would reuse, unseen, what building the network has left behind
        f.write('5')  # the peak, VmHWM, starts afresh
    before = float(proc('self/status', 'VmRSS').split()[0])
    return lambda: (float(proc('self/status', 'VmHWM').split()[0]) - before) / 1024


def pixels(batch):
    """A batch as the loader gives it: image (b, 3, h, w) whose memory is (b, h, w, 3), label (b, h, w), both uint8."""
    size = settings.CROP_SIZE if isinstance(settings.CROP_SIZE, tuple) else (settings.CROP_SIZE, settings.CROP_SIZE)
    return torch.randint(256, (batch, *size, 3)).byte().permute(0, 3, 1, 2), torch.randint(dataset.n_classes(), (batch, *size)).byte()


def child(kind, variant):
    """One variant in this process: for every line it reads it does a step; answers seconds and peak memory."""
    answers = os.fdopen(os.dup(1), 'w')
    os.dup2(2, 1)  # what libraries print is no answer
    if kind == 'loader':
        place = launch.Place([torch.device('cpu')])
        step = loader_step(variant)
    else:
        place = start()
        step = network_step(place, kind == 'training', variant == 'plain')
    seconds, peak = timed(place, step), watch_memory(place)
    with torch.set_grad_enabled(kind == 'training'), place.autocast() if kind == 'inference' else contextlib.nullcontext():
        for _ in sys.stdin:
            print(seconds(), peak(), file=answers, flush=True)


@contextlib.contextmanager
def children(kind, variants, memory, *more):
    """{variant: a function that has a process of its own do a step and returns its seconds}; puts the peak of it into `memory`."""
    command, pipe = [sys.executable, __file__, *sys.argv[1:], *more, '--child'], subprocess.PIPE
    found = {v: subprocess.Popen([*command, f'{kind} {v}'], stdin=pipe, stdout=pipe, text=True) for v in variants}

    def asked(process, variant):
        def step():
            with contextlib.suppress(BrokenPipeError):
                print('step', file=process.stdin, flush=True)
            line = process.stdout.readline()
            if not line and process.wait() < 0:
                raise settings.UserError(f'the {variant} variant was killed by signal {-process.wait()}; if memory ran out, lower BATCH_SIZE or CROP_SIZE')
            seconds, memory[variant] = map(float, line.split() or sys.exit(process.wait() or 1))  # it has said why
            return seconds
        return step

    yield {v: asked(p, v) for v, p in found.items()}
    for process in found.values():
        process.communicate()  # closes its input, at which it ends


def network_step(place, fit, plain):
    """A step as train.py or eval.py does it."""
    s = settings
    image, label = pixels(s.BATCH_SIZE // s.ACCUMULATE if fit else s.TEST_BATCH)
    net = network.build().to(place.device, memory_format=torch.contiguous_format if plain else torch.channels_last)
    if plain:
        net.loss = lambda logits, y: net.criterion(network.upsample(logits, y.shape[1:]), y)  # full-size logits of the whole batch
        image, label = net.normalise(image.to(place.device)).contiguous(), label.to(place.device).long()
    elif place.cuda:
        image, label = image.pin_memory(), label.pin_memory()
    if not fit:
        net = net.eval() if plain else network.fold(net)
    with torch.no_grad(), place.autocast():  # libraries load what they need, so that the step's memory is its own
        net(torch.zeros(2, 3, 2 * s.STRIDE + 1, 2 * s.STRIDE + 1, device=place.device))
    optimizer = torch.optim.SGD(train.param_groups(net), lr=s.LR, momentum=s.LR_MOM, fused=not plain)
    scaler = torch.amp.GradScaler(place.device.type, enabled=s.AMP == 'fp16')
    model = train.wrap(net, place)

    def step():
        x, y = image.to(place.device, non_blocking=True), label.to(place.device, non_blocking=True)
        if not fit:
            return evaluation.predict(model, x)
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
    x, weight = (torch.randn(n, 512, k, k, device=place.device, dtype=half).to(memory_format=torch.channels_last) for n, k in ((batch, 65), (512, 3)))
    step = timed(place, torch.no_grad()(lambda: F.conv2d(x, weight, padding=1)), number)
    return batch * 65 ** 2 * 9 * 512 ** 2 / 1e9, lambda: min(step() for _ in range(4))


def bench_network(place, rounds, flags):
    """Size, then training and inference, every variant in a process of its own, for memory is a process's; one computes at a time."""
    s, net, image = settings, network.build().eval(), pixels(1)[0]
    halves = {'tuned': place.amp(), 'plain': None} if '--plain' in flags else {'tuned': place.amp()}
    convs = {half: convolution(place, half) for half in halves.values()}
    work = macs(net, evaluation.pad(net.normalise(image), s.STRIDE))
    print(f'{s.HEAD} on ResNet-{s.N_LAYERS} at stride {s.STRIDE}, {image.shape[2]}x{image.shape[3]} pixels, {net.n_classes} classes{", compiled" * s.COMPILE}\n'
          f'parameters {sum(p.numel() for p in net.parameters()) / 1e6:.2f} M; MACs {work:.2f} G per image, 2 FLOP each; training is taken for 3 forwards\n'
          f'memory: {"peak of all tensors" if place.cuda else "peak resident memory above that before the first step, so without the weights"}')

    for kind, batch, passes in (('training', s.BATCH_SIZE // s.ACCUMULATE, 3), ('inference', s.TEST_BATCH, 1)):
        memory = {}
        with children(kind, halves, memory) as steps:
            found = in_turn(steps | {half: step for half, (_, step) in convs.items()}, rounds, 2)
        for v, half in halves.items():
            at, peak = median(found[v]), convs[half][0] / min(found[half])
            print(f'{kind:9}  {v} batch {batch}: {spread(found[v])} s, {batch / at:.2f} images/s, {memory[v]:.0f} MiB, '
                  f'{100 * passes * work * batch / at / peak:.0f} % of the {2 * peak:.0f} GFLOP/s of a convolution in {half or torch.float32}')
        if '--plain' in flags:
            print(f'{kind:9}  tuned / plain: time {spread(found["tuned"], found["plain"])}, memory {memory["tuned"] / memory["plain"]:.3f}')


def bench_all(place, rounds, flags):
    """A row per head, and for those of the paper's Table 1 in its form: size, in all and over the bare trunk; seconds and peak MiB of a training step
    and of inference, unless --size says that sizes will do."""
    kept = settings.in_force()
    rows = [['HEAD', 'M parameters', 'over trunk', 'GMACs', 'over trunk'] + ['training s', 'MiB', 'inference s', 'MiB'] * ('--size' not in flags)]
    paper = {words: ['HEAD=' + words.split()[0], *words.split()[1:]] for words in (
        'ema SECOND_CONV=False EM_CHANNELS=512', 'ema SECOND_CONV=False EM_CHANNELS=256', 'deeplabv3 DEEPLABV3_PAPER=True')}
    for name, own in ({head: [f'HEAD={head}'] for head in network.HEADS} | paper).items():
        for key, what in (('STRIDE', 'strides'), ('N_LAYERS', 'layers')):
            fitting = network.trait(network.HEADS[own[0][5:]], what)
            own += [f'{key}={fitting[0]}'] * (kept[key] not in fitting)
        vars(settings).update(kept)
        settings.override(own)
        net = network.build().eval()
        image = evaluation.pad(net.normalise(pixels(1)[0]), settings.STRIDE)
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
    print(f'ResNet-{settings.N_LAYERS} at stride {settings.STRIDE}, {image.shape[3]}x{image.shape[2]} pixels, {net.n_classes} classes; '
          f'training batch {settings.BATCH_SIZE // settings.ACCUMULATE}, inference batch {settings.TEST_BATCH}')
    widths = [max(map(len, column)) for column in zip(*rows)]
    for i, row in enumerate(rows):
        cells = [cell.ljust(w) if not j else cell.rjust(w) for j, (cell, w) in enumerate(zip(row, widths))]
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
        what = f'whole images, short side {settings.SHORT_SIDE}' if settings.SHORT_SIDE else f'crop {settings.CROP_SIZE}'
        print(f'{settings.DATASET} {data.split}, {len(data)} images, {what}, one process, one thread; MB per sample: '
              f'tuned {sum(t.nbytes for t in data[0, 0]) / 1e6:.2f}, plain {sum(t.nbytes for t in plain.sample(data, 0, 0)) / 1e6:.2f}')
        with children('loader', variants, {}, *more) as steps:
            found = in_turn(steps, rounds)
        for v in variants:
            print(f'loader  {v:6}  {spread([1e3 * t for t in found[v]])} ms, {spread([1 / t for t in found[v]])} per second')
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
    c, (h, w) = settings.EM_CHANNELS, ((n - 1) // settings.STRIDE + 1 for n in pixels(1)[1].shape[1:])
    unit = network.build('ema', 18).emau.to(place.device, memory_format=torch.channels_last)
    position = PAM(c).to(place.device)
    x = torch.randn(1, c, h, w, device=place.device, dtype=place.amp())
    forms = {'unit': (lambda x: unit(x)[0], x.to(memory_format=torch.channels_last)),
             'textbook': (lambda x: plain.textbook(unit, x), x.clone()), 'dense': (position, x.clone())}
    print(f'EM unit: {c} channels, {settings.EM_BASES} bases, {settings.STAGE_NUM} iterations, {h}x{w} map, batch 1; GMACs of forward:',
          ', '.join(f'{name} {macs(form, x.float()):.2f}' for name, (form, x) in forms.items()))

    def run(form, x):
        with torch.set_grad_enabled(unit.training), place.autocast():
            y = form(x.requires_grad_(unit.training))
        if unit.training:
            y.backward(torch.ones_like(y))

    for what in ('forward', 'forward+backward'):
        unit.train(what != 'forward')
        compare(place, what, {name: lambda form=form: run(*form) for name, form in forms.items()}, rounds, 5)


def bench_metric(place, rounds, flags):
    """The confusion matrix of a 513x513 map, beside the usual way: int64, void masked out."""
    pred, label = (torch.randint(21, (513, 513), device=place.device).byte() for _ in range(2))
    label[:50] = 255
    wide_pred, wide_label = pred.long(), label.long()

    forms = {'tuned': lambda: metric.confusion(pred, label, 21), 'masked': lambda: plain.confusion(wide_pred, wide_label, 21)}
    assert forms['tuned']().equal(forms['masked']()), 'the counts differ'
    compare(place, 'confusion', forms, rounds, 20)


def start():
    place = launch.start()
    return place._replace(devices=place.devices[:1])


def main(flags):
    modes = {'--all': bench_all, '--loader': bench_loader, '--unit': bench_unit, '--metric': bench_metric}
    for flag in flags.keys() - {'--plain', '--markdown', '--size', *modes, *VALUED}:
        raise settings.UsageError(f'{flag}: there is no such flag; there are --plain, --markdown, --size, --rounds N, --synthetic WxH, {", ".join(modes)}')
    rounds, (kind, variant) = flags.get('--rounds', '5'), flags.get('--child', ' ').split(' ')
    if not rounds.isdecimal() or rounds == '0' or not re.fullmatch(r'\d+x\d+(\.jpg|\.png)?', flags.get('--synthetic', '9x9')):
        raise settings.UsageError('--rounds takes a number from 1, --synthetic WIDTHxHEIGHT, such as 500x375 or 2048x1024.png')
    if variant == 'plain':
        settings.AMP, settings.COMPILE = 'off', False
    if kind:
        return child(kind, variant)
    place = start()
    name = torch.cuda.get_device_name(place.device) if place.cuda else proc('cpuinfo', 'model name')
    print(f'{name}; {torch.get_num_threads()} threads; torch {torch.__version__}; {place.amp() or torch.float32}', flush=True)
    for mode in [modes[flag] for flag in flags if flag in modes] or [bench_network]:
        mode(place, int(rounds), flags)


if __name__ == '__main__':
    given = {}
    for word in [a for a in sys.argv[1:] if a.startswith('-')]:
        at = sys.argv.index(word)
        _, *value = [sys.argv.pop(at) for _ in range(1 + (word in VALUED)) if at < len(sys.argv)]
        given[word] = ''.join(value)
    launch.run(lambda: main(given))
