"""Batch normalisation over the whole batch, across nn.DataParallel replicas or processes.

On one device and in evaluation BatchNorm2d is torch's own. In training over several members it
computes the mean and then the mean squared deviation from it: two small sums over the members, no
difference of large squares. So outputs, gradients and running statistics are those of plain batch
norm on the concatenated batch, with shards of any sizes.

On CUDA under DistributedDataParallel torch's nn.SyncBatchNorm is the faster choice
(nn.SyncBatchNorm.convert_sync_batchnorm(net)); it does not run on CPU, this does.
"""

import threading

import torch
import torch.distributed as dist
from torch import nn

TIMEOUT = 300  # seconds that a replica waits for the others; one that is later has failed


class AllReduce(torch.autograd.Function):
    """Sum over the processes; the gradient of each is the sum of the gradients of all."""

    @staticmethod
    def forward(ctx, tensor):
        total = tensor.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx, gradient):
        return AllReduce.forward(ctx, gradient)


class Replicas:
    """The replicas of one module in one forward of nn.DataParallel, each in its own thread."""

    def __init__(self):
        self.slots = []
        self.used = False

    def join(self):
        """Return the number of a new replica; called before the threads start."""
        self.slots.append(None)
        self.barrier = threading.Barrier(len(self.slots), timeout=TIMEOUT)
        return len(self.slots) - 1

    def sum(self, number, tensor):
        """Return the sum of the replicas' tensors on this one's device, with gradient."""
        self.slots[number] = tensor
        self.barrier.wait()
        total = sum(t.to(tensor.device) for t in self.slots)
        self.barrier.wait()  # nobody overwrites a slot before all have read it
        return total


class BatchNorm2d(nn.BatchNorm2d):
    """nn.BatchNorm2d with the statistics of all replicas or processes; the same state dict.

    Affine, with running statistics. The attributes below serve nn.DataParallel.
    """

    replicas = None  # of a replica: the Replicas that it belongs to
    number = 0  # of a replica: its place among them
    joining = None  # of the module itself: the Replicas that its next replica joins

    def _replicate_for_data_parallel(self):
        """Make a replica; nn.DataParallel makes one after the other, then runs them."""
        if self.joining is None or self.joining.used:
            self.joining = Replicas()
        replica = super()._replicate_for_data_parallel()
        replica.replicas = self.joining
        replica.number = self.joining.join()
        return replica

    def __getstate__(self):
        """Leave the replicas out of copies and pickles: a barrier cannot travel."""
        state = dict(super().__getstate__())
        for name in ('replicas', 'number', 'joining'):
            state.pop(name, None)
        return state

    def members(self):
        """Return the number of replicas or processes that share the batch."""
        if self.replicas:
            return len(self.replicas.slots)
        if dist.is_initialized():
            return dist.get_world_size()
        return 1

    def sum(self, tensor):
        """Return the sum of the members' tensors, with gradient."""
        if self.replicas:
            return self.replicas.sum(self.number, tensor)
        return AllReduce.apply(tensor)

    def forward(self, x):
        """Return x (b, c, h, w) normalised, in its own type."""
        if self.replicas:
            self.replicas.used = True  # replicas made from now on are of another forward
        if not self.training or self.members() == 1:
            return super().forward(x)
        dtype = x.dtype
        if dtype in (torch.float16, torch.bfloat16):
            x = x.float()
        ones = x.new_full((1,), x.numel() / x.shape[1])
        total = self.sum(torch.cat([x.sum((0, 2, 3)), ones]))  # c + 1
        mean, count = total[:-1] / total[-1], total[-1].detach()
        x = x - mean[:, None, None]
        var = self.sum(x.square().sum((0, 2, 3))) / count  # c
        with torch.no_grad():
            unbiased = var * count / (count - 1)
            self.num_batches_tracked.add_(1)
            self.running_mean.lerp_(mean.to(self.running_mean.dtype), self.momentum)
            self.running_var.lerp_(unbiased.to(self.running_var.dtype), self.momentum)
        scale = self.weight * torch.rsqrt(var + self.eps)
        return torch.addcmul(self.bias[:, None, None], x, scale[:, None, None]).to(dtype)
