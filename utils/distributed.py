"""Devices and processes: one device, nn.DataParallel, or one process per device (torchrun)."""

import contextlib
import ctypes
import inspect
import multiprocessing
import os
import platform
import signal
import sys
import threading
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import nn
from tqdm import tqdm

import settings
from utils import quiet
from utils.config import UsageError
from utils.printable import printable


class World(NamedTuple):
    """What this process computes on, and its place among the others.

    devices  the GPUs of this process (several: nn.DataParallel), or the CPU
    rank     number of this process; `size`: how many there are
    """

    devices: list
    rank: int = 0
    size: int = 1

    @property
    def device(self):
        return self.devices[0]

    @property
    def cuda(self):
        return self.device.type == 'cuda'

    @property
    def engine(self):
        if self.size > 1:
            return 'DistributedDataParallel'
        if len(self.devices) > 1:
            return 'DataParallel'
        return 'one device'

    def print(self, *words):
        """Print once for all processes, without tearing a progress bar."""
        if self.rank == 0:
            tqdm.write(printable(' '.join(map(str, words)), keep='\n'))
            sys.stdout.flush()

    def bar(self, **options):
        """Return a progress bar; where output is no terminal, it prints a line now and then."""
        file, interval = sys.stderr, 0.5
        if not file.isatty():
            file, interval = quiet.Lines(file), 30
        return tqdm(
            disable=self.rank > 0, file=file, mininterval=interval, dynamic_ncols=True, **options
        )

    def share(self, count):
        """Return the numbers below `count` that are this process's to work on."""
        return range(self.rank, count, self.size)

    def all_reduce(self, tensor):
        """Sum a tensor over the processes, in place, and return it."""
        if self.size > 1:
            dist.all_reduce(tensor)
        return tensor

    def sum_together(self, tensors):
        """Sum several tensors of one floating-point type over the processes, in one message.

        They are changed in place.
        """
        if self.size > 1:
            sizes = [tensor.numel() for tensor in tensors]
            message = self.all_reduce(torch.cat([tensor.flatten() for tensor in tensors]))
            for tensor, total in zip(tensors, message.split(sizes), strict=True):
                tensor.copy_(total.view_as(tensor))

    def gather(self, value):
        """Return the values of all processes, in their order."""
        values = [value] * self.size
        if self.size > 1:
            dist.all_gather_object(values, value)
        return values

    def half_type(self):
        """Return the half type of AMP, or None; 'auto' is bf16 where the device computes in it."""
        if settings.AMP != 'auto':
            return {'bf16': torch.bfloat16, 'fp16': torch.float16, 'off': None}[settings.AMP]
        if self.cuda:
            able = torch.cuda.get_device_capability(self.device) >= (8, 0)
        else:
            able = getattr(torch.cpu, 'get_capabilities', dict)().get('avx512_bf16', False)
        return torch.bfloat16 if able else None

    def autocast(self):
        half = self.half_type()
        return torch.autocast(
            self.device.type, dtype=half or torch.bfloat16, enabled=half is not None
        )

    def facts(self):
        """Return what a run computes on, for its log."""
        return {
            'device': self.device_name(),
            'devices': self.size * len(self.devices),
            'processes': self.size,
            'torch': str(torch.__version__),
            'precision': str(self.half_type() or torch.float32).removeprefix('torch.'),
        }

    def device_name(self):
        if self.cuda:
            return torch.cuda.get_device_name(self.device)
        if os.path.isfile('/proc/cpuinfo'):
            with open('/proc/cpuinfo') as f:
                for line in f:
                    if line.startswith('model name'):
                        return line.split(':')[1].strip()
        return platform.processor() or platform.machine()

    def rng_state(self):
        """Return the state of torch's generators, of every process, as plain tensors."""
        cuda = [torch.cuda.get_rng_state(d) for d in self.devices] if self.cuda else []
        return self.gather({'cpu': torch.get_rng_state(), 'cuda': cuda})

    def set_rng_state(self, states):
        """Restore rng_state(), unless it is of another number of processes or devices."""
        gpus_here = self.devices if self.cuda else []
        if len(states) != self.size or len(states[self.rank]['cuda']) != len(gpus_here):
            return
        torch.set_rng_state(states[self.rank]['cpu'])
        for device, state in zip(gpus_here, states[self.rank]['cuda'], strict=True):
            torch.cuda.set_rng_state(state, device)

    def memory(self):
        """Return {'memory_GB': peak of this process's devices}; {} on the CPU."""
        if not self.cuda:
            return {}
        peak = max(torch.cuda.max_memory_allocated(d) for d in self.devices)
        return {'memory_GB': peak / 1e9}


def start():
    """Return the World that DEVICES and torchrun's environment describe.

    Processes are joined, the allocator is set and torch is seeded.
    """
    rank, size, local = rank_and_size()
    count = torch.cuda.device_count()
    if settings.DEVICES == 'cpu' or (settings.DEVICES == 'auto' and not count):
        devices = [torch.device('cpu')]
        keep_heap()
    else:
        devices = gpus(count, size, local)
        torch.cuda.set_device(devices[0])
    if size > 1:
        dist.init_process_group('nccl' if devices[0].type == 'cuda' else 'gloo')
    torch.manual_seed(settings.SEED)
    return World(devices, rank, size)


def rank_and_size():
    """Return rank, number of processes and rank on this machine, as torchrun's variables say.

    UsageError if only some of the variables are set, or they make no sense.
    """
    names = ['RANK', 'WORLD_SIZE', 'LOCAL_RANK', 'MASTER_ADDR', 'MASTER_PORT']
    given = {name: os.environ[name] for name in names if name in os.environ}
    text = ' '.join(f'{name}={value}' for name, value in given.items())
    way_out = 'start with torchrun, which sets them all, or unset them for a single process'
    ranks = []
    for name, default in (('RANK', '0'), ('WORLD_SIZE', '1'), ('LOCAL_RANK', '0')):
        value = given.get(name, default)
        if not value.isdecimal():
            raise UsageError(f'{text}: {name} is not a number; {way_out}')
        ranks.append(int(value))
    rank, size, local = ranks
    if rank >= size or local >= size:
        raise UsageError(f'{text}: RANK and LOCAL_RANK must be less than WORLD_SIZE; {way_out}')
    missing = [name for name in names if name not in given]
    if torch.cuda.device_count() < 2 and 'LOCAL_RANK' in missing:
        missing.remove('LOCAL_RANK')  # some clusters have a process per machine, and leave it out
    if size > 1 and missing:
        raise UsageError(f'{text}: {", ".join(missing)} not set; {way_out}')
    return rank, size, local


def gpus(count, size, local):
    """Return the GPUs of this process, one of `size`, on a machine that has `count`.

    local  its number among the processes of this machine
    """
    numbers = range(count) if settings.DEVICES == 'auto' else settings.DEVICES
    if any(n >= count for n in numbers):
        raise UsageError(
            f'DEVICES = {settings.DEVICES!r}: this machine has {count} GPUs, numbered from 0'
        )
    if size == 1:
        return [torch.device('cuda', n) for n in numbers]
    if local >= len(numbers):
        raise UsageError(
            f'{local + 1} processes or more on this machine, but DEVICES has {len(numbers)} GPUs; '
            'lower --nproc_per_node'
        )
    return [torch.device('cuda', numbers[local])]


def keep_heap():
    """Keep freed memory, on Linux: fresh pages cost a CPU training step up to half its time."""
    try:
        mallopt = ctypes.CDLL('libc.so.6').mallopt
        mallopt(-4, 0)  # M_MMAP_MAX: no block is mapped apart
        mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD: the top of the heap is not given back
    except (OSError, AttributeError):
        pass


@contextlib.contextmanager
def signals_held():
    """Hold stop signals back in this process, and in those that it starts meanwhile."""
    numbers = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
    held = signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, held)


def obey_parent(parent):
    """End this process when SIGTERM comes from its parent."""
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    os._exit(0)


def end_with_parent():
    """Let this loader process end with its parent, or at its word.

    Ctrl-C, and SIGTERM to the process group, are for the parent to answer.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    if hasattr(signal, 'sigwaitinfo'):  # not on macOS
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        parent = multiprocessing.parent_process()
        number = parent.pid if parent else os.getppid()  # a benchmark's is no such process
        threading.Thread(target=obey_parent, args=[number], daemon=True).start()
    else:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    try:
        prctl = ctypes.CDLL('libc.so.6').prctl
        prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    except (OSError, AttributeError):  # not Linux: torch looks for the parent now and then
        pass


@contextlib.contextmanager
def ending(results):
    """Give a loader's iterator; in the end, end its processes, which finish their item first.

    After an error they would go on: its traceback holds the iterator.
    """
    try:
        yield results
    finally:
        if hasattr(results, '_shutdown_workers'):  # no public way; none if NUM_WORKERS is 0
            with signals_held():
                results._shutdown_workers()


def place(net, world, training=False):
    """Move a network to the device of a World, in the memory format that is faster there.

    That is channels_last, but for training a ResNet of bottlenecks in float32 on a CPU with AVX2
    alone, which takes 0.81 to 0.94 of the time with contiguous tensors. For training, whose crops
    have one size, cuDNN tries its algorithms out.
    """
    if training:
        torch.backends.cudnn.benchmark = True
    is_float = not world.cuda and world.half_type() is None
    has_bottlenecks = settings.TRUNK == 'resnet' and settings.N_LAYERS >= 50
    is_old = torch.backends.cpu.get_cpu_capability() == 'AVX2'
    net.channels_last = not (training and is_float and has_bottlenecks and is_old)
    memory_format = torch.channels_last if net.channels_last else torch.contiguous_format
    return net.to(world.device, memory_format=memory_format)


@contextlib.contextmanager
def searching(on):
    """Let cuDNN try algorithms out, or not: it does so anew for each size of images."""
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = on
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before


def wrap(net, world):
    """Return the network for training: compiled, and in the engine of its devices."""
    if settings.COMPILE:
        net.compile()
    if world.size > 1:
        ddp = nn.parallel.DistributedDataParallel
        options = {'gradient_as_bucket_view': True}
        for name in ('forward_sync_buffers', 'broadcast_buffers'):  # newer and older torch
            if name in inspect.signature(ddp).parameters:
                options[name] = False  # buffers agree already
                break
        return ddp(net, [world.device] if world.cuda else None, **options)
    if len(world.devices) > 1:
        net.amp = world.half_type()
        return nn.DataParallel(net, world.devices)
    return net


class StopSignals:
    """Ctrl-C, SIGTERM, a lost terminal ask to stop after the step; a second Ctrl-C stops at once.

    SIGTERM may come twice: from a scheduler to the whole group, and again from torchrun.
    """

    def __init__(self, world):
        self.number = None
        self.speaks = world.rank == 0
        self.when = 'after this step, without its validation'
        if world.size > 1:  # when all know of it: see seen()
            self.when = f'within {settings.ITER_LOG} steps, or after a validation under way'
        signal.signal(signal.SIGINT, self.ask)
        signal.signal(signal.SIGTERM, self.ask)
        if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # as nohup has it
            signal.signal(signal.SIGHUP, self.ask)

    def ask(self, number, frame):
        is_first = self.number is None
        self.number = number
        words = f'stopping {self.when}, saving'
        if number == signal.SIGINT:
            signal.signal(number, signal.default_int_handler)
            words += '; once more: stop now'
        if self.speaks and (is_first or number == signal.SIGINT):
            quiet.tell(words)

    def seen(self, world, requests):
        """Tell whether a stop is known to all processes without waiting for a device.

        requests  how many have asked, a tensor after its reduction
        """
        if world.size == 1:
            return self.number is not None
        return not world.cuda and requests > 0

    def status(self):
        """Return the exit status; another process may have got the signal."""
        return 128 + (self.number or signal.SIGTERM)
