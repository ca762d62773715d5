"""Seconds, multiply-accumulates and memory, as bench.py measures them."""

import contextlib
import ctypes
import time
from statistics import median

import torch
from torch.utils.flop_counter import FlopCounterMode


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
        print(
            f'{what}  {name:8}  {spread([1e3 * t for t in times])} ms, {spread([1 / t for t in times])} per second'
        )
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
        return lambda: torch.cuda.max_memory_allocated() / 2**20
    with contextlib.suppress(OSError, AttributeError), open('/proc/self/clear_refs', 'w') as f:
        ctypes.CDLL('libc.so.6').malloc_trim(
            0
        )  # else steps would reuse, unseen, what building the network has left behind
        f.write('5')  # the peak, VmHWM, starts afresh
    before = float(proc('self/status', 'VmRSS').split()[0])
    return lambda: (float(proc('self/status', 'VmHWM').split()[0]) - before) / 1024
