"""How benchmarks measure seconds, multiply-accumulates and memory."""

import argparse
import contextlib
import ctypes
import math
import os
import subprocess
import sys
import time
from statistics import median

import torch
import torch.nn.functional as F
import torchvision.ops  # noqa: F401 (torch.ops.torchvision)
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import settings
from heads import HEADS
from heads.blocks import Head
from utils import config, distributed, script

# ------------------------------------------------------------------------------------------ scripts


def parser(description):
    """Return the parser of a benchmark, which has --rounds."""
    parser = script.Parser(description)
    text = 'times each is measured, after a warm-up that is not counted; default 5'
    parser.add_argument('--rounds', type=at_least_one, default=5, metavar='N', help=text)
    return parser


def at_least_one(text):
    """Return the number that a flag gives."""
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f'{text!r} is not a whole number from 1')
    return int(text)


def some_of(names):
    """Return a function that takes names, separated by commas, from a flag."""

    def take(text):
        for word in text.split(','):
            if word not in names:
                raise argparse.ArgumentTypeError(f'{word!r}: there are {", ".join(names)}')
        return text.split(',')

    return take


def trunk_words(head):
    """Return the settings that a head needs of a ResNet that is not one it works with, or []."""
    words, kind = [], HEADS.get(head, Head)
    if settings.STRIDE not in kind.strides:
        words.append(f'STRIDE={kind.strides[0]}')
    if settings.TRUNK == 'resnet' and settings.N_LAYERS not in kind.layers:
        words.append(f'N_LAYERS={kind.layers[0]}')
    return words


def one_device():
    """Return the World of the first device."""
    world = distributed.start()
    return world._replace(devices=world.devices[:1])


def start():
    """Return the World of the first device; print what it is."""
    world = one_device()
    threads, half = torch.get_num_threads(), world.half_type() or torch.float32
    facts = f'{world.facts()["device"]}; {threads} threads; torch {torch.__version__}; {half}'
    if world.cuda:
        facts += f'; cuDNN {torch.backends.cudnn.version()}'
        if torch.backends.cudnn.allow_tf32:
            facts += ', whose float32 convolutions are in TF32'
    print(facts, flush=True)
    return world


# --------------------------------------------------------------------------------------------- time


def timed(world, function, number=1):
    """Return a function that calls `function` `number` times and returns the seconds of one call.

    If `function` returns an int, that many samples were made, and the seconds are those of one.
    """

    def wait():
        if world.cuda:
            torch.cuda.synchronize()

    def step():
        wait()
        begin, done = time.perf_counter(), 0
        for _ in range(number):
            result = function()
            done += result if type(result) is int else 1
        wait()
        return (time.perf_counter() - begin) / done

    return step


def in_turn(steps, rounds, warm=1):
    """Call functions that return seconds in turn, A B A B ...

    {name: function} -> {name: seconds of each round}, without the first `warm` rounds.
    """
    seconds = {name: [] for name in steps}
    for _ in range(warm + rounds):
        for name, step in steps.items():
            seconds[name].append(step())
    return {name: times[warm:] for name, times in seconds.items()}


def summary(values):
    """Return median (min - max)."""
    return f'{median(values):.3f} ({min(values):.3f} - {max(values):.3f})'


def ratio(values, others):
    """Return median (min - max) of the ratios of values to others, round by round."""
    return summary([a / b for a, b in zip(values, others, strict=True)])


def rates(seconds):
    """Return seconds in words: milliseconds, and how many a second."""
    milliseconds = summary([1e3 * t for t in seconds])
    return f'{milliseconds} ms, {summary([1 / t for t in seconds])} per second'


def compare_forms(world, what, forms, rounds, number):
    """Time {name: function} in turn; print the times, and their ratios to that of the first."""
    steps = {name: timed(world, form, number) for name, form in forms.items()}
    seconds = in_turn(steps, rounds)
    for name, times in seconds.items():
        print(f'{what}  {name:8}  {rates(times)}')
    first, *others = seconds
    for name in others:
        print(f'{what}  {name} / {first}: time {ratio(seconds[name], seconds[first])}')


def convolution(world, half):
    """Return what stands for the device's peak: GMACs, and a function that returns seconds.

    A 3x3 convolution, 512 -> 512, of 65x65 maps; the least of four.
    """
    batch, number = (16, 10) if world.cuda else (1, 1)
    x = torch.randn(batch, 512, 65, 65, device=world.device, dtype=half)
    weight = torch.randn(512, 512, 3, 3, device=world.device, dtype=half)
    x = x.to(memory_format=torch.channels_last)
    weight = weight.to(memory_format=torch.channels_last)
    run = torch.no_grad()(lambda: F.conv2d(x, weight, padding=1))
    step = timed(world, run, number)
    return batch * 65**2 * 9 * 512**2 / 1e9, lambda: min(step() for _ in range(4))


# --------------------------------------------------------------------------------------------- size


def deformable_flops(x, weight, *args, out_shape, **options):
    """Return the FLOP of torchvision's deformable convolution, from shapes; sampling is not one."""
    return 2 * math.prod(out_shape) * math.prod(weight[1:])


@torch.no_grad()
def macs(function, x):
    """Return the multiply-accumulates of function(x), of convolutions and matrix products, in G."""
    more = {torch.ops.torchvision.deform_conv2d: deformable_flops}
    was_fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # its kernels are not counted
    try:
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False, custom_mapping=more) as c:
            function(x)
    finally:
        torch.backends.mha.set_fastpath_enabled(was_fast)
    return c.get_total_flops() / 2e9


def proc(file, field):
    """Return the value of a line 'field: value' of a file in /proc; 'nan' except on Linux."""
    with contextlib.suppress(OSError), open('/proc/' + file) as f:
        for line in f:
            if line.startswith(field):
                return line.split(':')[1].strip()
    return 'nan'


def watch_memory(world):
    """Return a function that returns the peak in MiB.

    That is of all tensors on CUDA since the last call, because the first steps try algorithms out;
    of the growth of the process from here on, on Linux; elsewhere nan.
    """
    if world.cuda:
        torch.cuda.reset_peak_memory_stats()

        def peak():
            most = torch.cuda.max_memory_allocated() / 2**20
            torch.cuda.reset_peak_memory_stats()
            return most

        return peak
    with contextlib.suppress(OSError, AttributeError), open('/proc/self/clear_refs', 'w') as f:
        # else steps would reuse, unseen, memory that building the network has left behind
        ctypes.CDLL('libc.so.6').malloc_trim(0)
        f.write('5')  # VmHWM, the peak, starts afresh
    before = float(proc('self/status', 'VmRSS').split()[0])
    return lambda: (float(proc('self/status', 'VmHWM').split()[0]) - before) / 1024


# ---------------------------------------------------------------------------------------- processes


class Child:
    """A process that makes steps of one variant, each when asked; `memory` is its peak in MiB."""

    def __init__(self, variant, command):
        pipe = subprocess.PIPE
        self.variant = variant
        self.memory = float('nan')
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True)

    def step(self):
        """Have the process make a step; return its seconds."""
        with contextlib.suppress(BrokenPipeError):
            print('step', file=self.process.stdin, flush=True)
        answer = self.process.stdout.readline().split()
        if not answer:
            self.fail()
        seconds, self.memory = map(float, answer)
        return seconds

    def fail(self):
        """End this process as the child ended, which has said why unless it was killed."""
        status = self.process.wait()
        if status < 0:
            raise config.UserError(
                f'the {self.variant} variant was killed by signal {-status}; '
                'if memory ran out, lower BATCH_SIZE or CROP_SIZE'
            )
        sys.exit(status or 1)


@contextlib.contextmanager
def children(command, variants):
    """Start a process per variant, whose command ends with the variant; yield {variant: Child}.

    Memory is a process's, so each variant has one; in_turn lets one compute at a time.
    """
    processes = {}
    for variant in variants:
        processes[variant] = Child(variant, [sys.executable, *command, variant])
    try:
        yield processes
    finally:
        for child in processes.values():
            child.process.communicate()  # closes its input, at which it ends


def answers():
    """Return the file for a child's answers; all other output goes to stderr from now on."""
    file = os.fdopen(os.dup(1), 'w')
    os.dup2(2, 1)
    return file


def serve(world, step, file):
    """Make a step for each line of the input; answer each with its seconds and the peak in MiB."""
    seconds, peak = timed(world, step), watch_memory(world)
    for _ in sys.stdin:
        print(seconds(), peak(), file=file, flush=True)
