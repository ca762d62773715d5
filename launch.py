"""How every script starts (settings, devices, processes) and how it ends when something is wrong: one sentence, status 1 or 2."""

import ctypes
import os
import platform
import signal
import sys
from typing import NamedTuple

import torch
import torch.distributed as dist
from tqdm import tqdm

import settings
from settings import UsageError, UserError


class Place(NamedTuple):
    """Where this process computes: `devices` are the GPUs of this process (more than one: nn.DataParallel), or the CPU."""

    devices: list
    rank: int = 0
    world: int = 1

    @property
    def device(self):
        return self.devices[0]

    @property
    def engine(self):
        return (
            'DistributedDataParallel'
            if self.world > 1
            else 'DataParallel'
            if len(self.devices) > 1
            else 'one device'
        )

    @property
    def cuda(self):
        return self.device.type == 'cuda'

    def say(self, *words):
        """Prints, once for all processes and without tearing a progress bar."""
        if self.rank == 0:
            tqdm.write(' '.join(map(str, words)))
            sys.stdout.flush()

    def bar(self, **facts):
        """A progress bar; a line now and then where output is not a terminal."""
        return tqdm(
            disable=self.rank > 0,
            mininterval=0.5 if sys.stderr.isatty() else 30,
            dynamic_ncols=True,
            **facts,
        )

    def sum(self, tensor):
        """Sum over the processes, in place."""
        if self.world > 1:
            dist.all_reduce(tensor)
        return tensor

    def gather(self, mine):
        """What every process has: a list, in the order of the processes."""
        found = [mine] * self.world
        if self.world > 1:
            dist.all_gather_object(found, mine)
        return found

    def amp(self):
        """The half type of mixed precision, or None: AMP, where 'auto' is bf16 if the device computes in it."""
        if settings.AMP == 'auto':
            if self.cuda:
                able = torch.cuda.get_device_capability(self.device) >= (8, 0)
            else:
                able = getattr(torch.cpu, 'get_capabilities', dict)().get('avx512_bf16', False)
            return torch.bfloat16 if able else None
        return {'bf16': torch.bfloat16, 'fp16': torch.float16, 'off': None}[settings.AMP]

    def autocast(self):
        half = self.amp()
        return torch.autocast(
            self.device.type, dtype=half or torch.bfloat16, enabled=half is not None
        )

    def facts(self):
        """What a run computes on, for its log."""
        name = (
            torch.cuda.get_device_name(self.device)
            if self.cuda
            else platform.processor() or platform.machine()
        )
        if not self.cuda and os.path.isfile('/proc/cpuinfo'):
            with open('/proc/cpuinfo') as f:
                name = next(
                    (line.split(':')[1].strip() for line in f if line.startswith('model name')),
                    name,
                )
        return dict(
            device=name,
            devices=self.world * len(self.devices),
            processes=self.world,
            torch=str(torch.__version__),
            precision=str(self.amp() or torch.float32).removeprefix('torch.'),
        )

    def memory(self):
        """Peak memory of this process's device in GB; None on CPU."""
        return (
            max(torch.cuda.max_memory_allocated(d) for d in self.devices) / 1e9
            if self.cuda
            else None
        )


def start():
    """The Place that DEVICES and torchrun's environment describe, with processes joined, threads and allocator set, and torch seeded."""
    world, rank, local = (
        int(os.environ.get(k, d)) for k, d in (('WORLD_SIZE', 1), ('RANK', 0), ('LOCAL_RANK', 0))
    )
    there = torch.cuda.device_count()
    if settings.DEVICES == 'cpu' or settings.DEVICES == 'auto' and not there:
        devices = [torch.device('cpu')]
        keep_heap()
    else:
        numbers = range(there) if settings.DEVICES == 'auto' else settings.DEVICES
        if any(type(n) is not int or n >= there for n in numbers):
            raise UsageError(
                f'DEVICES = {settings.DEVICES!r}: this machine has {there} GPUs, numbered from 0'
            )
        if world > 1 and local >= len(numbers):
            raise UsageError(
                f'{local + 1} processes or more on this machine, but DEVICES has {len(numbers)} GPUs; lower --nproc_per_node'
            )
        devices = [torch.device('cuda', n) for n in numbers]
        if world > 1:
            devices = [devices[local]]
        torch.cuda.set_device(devices[0])
        torch.backends.cudnn.benchmark = True
    if world > 1:
        dist.init_process_group('nccl' if devices[0].type == 'cuda' else 'gloo')
    torch.manual_seed(settings.SEED)
    return Place(devices, rank, world)


def keep_heap():
    """On Linux, freed memory stays with the process: fresh pages cost a CPU training step up to half its time."""
    try:
        mallopt = ctypes.CDLL('libc.so.6').mallopt
        mallopt(-4, 0)  # M_MMAP_MAX: no block is mapped apart
        mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD: the top of the heap is not given back
    except (OSError, AttributeError):
        pass


def sentence(error):
    """What to tell the user about an exception; None if it is no mistake of theirs."""
    text = str(error)
    if isinstance(error, UserError):
        return text.rsplit('UserError: ', 1)[
            -1
        ].strip()  # loader processes send theirs inside a traceback
    memory = (
        "can't allocate memory",
        'Insufficient memory',
        'Unable to allocate',
        'MemoryError',
    )  # torch, OpenCV, numpy, a loader process
    if (
        type(error).__name__ == 'OutOfMemoryError'
        or isinstance(error, MemoryError)
        or any(words in text for words in memory)
    ):
        return (
            'out of memory; lower BATCH_SIZE (or raise ACCUMULATE, which keeps the batch), CROP_SIZE or TEST_BATCH, test in windows (TEST_CROP), or use AMP=bf16. '
            'Checkpoints written so far are whole'
        )
    if isinstance(error, (FileExistsError, NotADirectoryError)):
        return f'{error.filename}: a file stands where a folder is due; move it away, or choose another folder'
    if isinstance(error, OSError):
        where = (
            error.filename
            or f'a file in LOG_DIR = {settings.LOG_DIR!r} or SAVE_DIR = {settings.SAVE_DIR!r}'
        )
        return f'{where}: {error.strerror or text.strip().splitlines()[-1]}'
    if type(error).__name__ == 'BrokenBarrierError':
        return 'a replica of nn.DataParallel failed while the others waited for it, most likely out of memory; lower BATCH_SIZE, or start with torchrun'
    if 'Expected more than 1 value per channel' in text:
        return (
            f'batch norm has a single value per channel to train on: a map of 1x1, as HEAD={settings.HEAD} may pool, of one image per device; '
            'raise BATCH_SIZE or CROP_SIZE, or lower ACCUMULATE'
        )
    if (
        'Connection closed by peer' in text
        or 'Connection reset by peer' in text
        or 'remote process' in text
    ):
        return 'another process failed; its own message says why'
    if 'DataLoader worker' in text and ('killed' in text or 'exited unexpectedly' in text):
        return f'a loader process died ({text.splitlines()[0]}); lower NUM_WORKERS, or give /dev/shm more room'


def run(main, flags=None, words=False):
    """Puts the command line in force, runs main() and ends the process; the status is 0, or 1 with a sentence, or 2 for wrong usage.

    flags  what settings.take_flags() knows: main gets what it found; with `words`, before it the words that are no settings
    """
    if {'-h', '--help'} & set(sys.argv):
        print(sys.modules['__main__'].__doc__ + '\nsettings.py lists the settings.')
        sys.exit(0)
    try:
        found, rest = (
            ({}, sys.argv[1:]) if flags is None else settings.take_flags(sys.argv[1:], flags)
        )
        others = [a for a in rest if words and not settings.is_setting(a)]
        sys.argv[1:] = [a for a in rest if a not in others]
        settings.override(sys.argv[1:])
        status = main(*[others] * words, *[found] * (flags is not None)) or 0
    except KeyboardInterrupt:
        print('stopped', file=sys.stderr)
        status = 128 + signal.SIGINT
    except Exception as error:
        words = sentence(error)
        if words is None:
            raise
        print(f'{os.path.basename(sys.argv[0])}: {words}', file=sys.stderr)
        status = (
            error.code if isinstance(error, UserError) else 1
        )  # OpenCV's errors have a `code` too
    if dist.is_initialized() and status == 0:
        dist.destroy_process_group()
    sys.exit(status)
