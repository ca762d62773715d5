"""How much memory a computation would need, and how much of it is free."""

import contextlib
import weakref

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

SLACK = 1.3  # of what is allocated: scratch memory of libraries, gaps
CGROUP = '/sys/fs/cgroup/memory'
CGROUPS = (  # of a container, versions 2 and 1: limit and use in bytes, and where cached files are
    (CGROUP + '.max', CGROUP + '.current', CGROUP + '.stat', 'inactive_file'),
    (
        CGROUP + '/memory.limit_in_bytes',
        CGROUP + '/memory.usage_in_bytes',
        CGROUP + '/memory.stat',
        'total_inactive_file',
    ),
)


class Peak(TorchDispatchMode):
    """Counts the bytes of the tensors that are made while it is entered; `most` at a time."""

    def __init__(self):
        super().__init__()
        self.now = self.most = 0
        self.tensors = {}  # of each storage, how many are alive

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for x in tree_leaves(result):
            if torch.is_tensor(x):
                self.count(x)
        return result

    def count(self, x):
        storage = x.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key not in self.tensors:
            self.tensors[key] = 0
            self.now += size
            self.most = max(self.most, self.now)
        self.tensors[key] += 1
        weakref.finalize(x, self.drop, key, size)

    def drop(self, key, size):
        self.tensors[key] -= 1
        if not self.tensors[key]:
            del self.tensors[key]
            self.now -= size


def needed(function, shape, device):
    """Return about how many bytes function(images) takes for images of a shape, uint8.

    Nothing is computed: tensors have sizes and no numbers.
    """
    with no_autocast_cache(), FakeTensorMode(allow_non_fake_inputs=True), Peak() as peak:
        function(torch.empty(shape, dtype=torch.uint8, device=device))
    return int(SLACK * peak.most)


@contextlib.contextmanager
def no_autocast_cache():
    """Keep autocast from remembering weights without numbers as those in the half type."""
    before = torch.is_autocast_cache_enabled()
    torch.set_autocast_cache_enabled(False)
    try:
        yield
    finally:
        torch.set_autocast_cache_enabled(before)


def free(device):
    """Return how many bytes can be allocated on a device, or None where that is not known."""
    if device.type == 'cuda':
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + kept
    amounts = []
    with contextlib.suppress(OSError), open('/proc/meminfo') as f:
        for line in f:
            if line.startswith('MemAvailable:'):
                amounts.append(1024 * int(line.split()[1]))
    for limit, used, statistics, name in CGROUPS:
        with contextlib.suppress(OSError, ValueError):  # no such file; no limit: 'max'
            cached = read_entry(statistics, name)  # files, which make room when it is needed
            amounts.append(read_number(limit) - read_number(used) + cached)
    return min(amounts, default=None)


def read_number(path):
    with open(path) as f:
        return int(f.read())


def read_entry(path, name):
    """Return the number that a file of lines `name number` gives for a name; 0 if it is not there.

    So it is where the file cannot be read.
    """
    with contextlib.suppress(OSError), open(path) as f:
        for line in f:
            if line.split()[:1] == [name]:
                return int(line.split()[1])
    return 0
