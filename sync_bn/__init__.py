"""Batch normalisation over the whole batch, however it is spread: nn.DataParallel replicas (threads) or processes.

BatchNorm2d is torch's own on one device and in evaluation. In training over several members it computes the mean and then the
mean squared deviation from it (two small sums over the members, no difference of large squares), so that outputs, gradients and running
statistics are those of plain batch norm on the concatenated batch, with shards of any sizes. On CUDA under DistributedDataParallel
torch's nn.SyncBatchNorm is the faster choice (nn.SyncBatchNorm.convert_sync_batchnorm(net)); it does not run on CPU, this does.
"""

import threading

import torch
import torch.distributed as dist
from torch import nn

TIMEOUT = (
    300  # seconds that a replica waits for the others; they are late only if one of them has failed
)


class AllReduce(torch.autograd.Function):
    """Sum over the processes; each one's gradient is the sum of all of theirs."""

    @staticmethod
    def forward(ctx, tensor):
        total = tensor.clone()
        dist.all_reduce(total)
        return total

    backward = staticmethod(lambda ctx, gradient: AllReduce.forward(ctx, gradient))


class Replicas:
    """The replicas of one module in one forward of nn.DataParallel, each in a thread of its own."""

    def __init__(self):
        self.slots, self.used = [], False

    def join(self):
        """Called once per replica, before the threads start: its number."""
        self.slots.append(None)
        self.barrier = threading.Barrier(len(self.slots), timeout=TIMEOUT)
        return len(self.slots) - 1

    def sum(self, number, tensor):
        """Sum of the replicas' tensors, on this replica's device; autograd carries the gradient back to each of them."""
        self.slots[number] = tensor
        self.barrier.wait()
        total = sum(t.to(tensor.device) for t in self.slots)
        self.barrier.wait()  # nobody overwrites a slot before all have read it
        return total


class BatchNorm2d(nn.BatchNorm2d):
    """nn.BatchNorm2d with the statistics of all replicas or processes; same state dict. Affine, with running statistics."""

    replicas, number = (
        None,
        0,
    )  # of a replica; `joining` is what the next replicas of this module join
    joining = None

    def _replicate_for_data_parallel(self):
        """nn.DataParallel calls this for one replica after the other, then runs them."""
        if self.joining is None or self.joining.used:
            self.joining = Replicas()
        replica = super()._replicate_for_data_parallel()
        replica.replicas, replica.number = self.joining, self.joining.join()
        return replica

    def __getstate__(self):  # copies and pickles stand alone: a barrier cannot travel
        return {
            k: v
            for k, v in super().__getstate__().items()
            if k not in ('replicas', 'number', 'joining')
        }

    def sum(self, tensor):
        """Sum of the members' tensors, with gradient."""
        return self.replicas.sum(self.number, tensor) if self.replicas else AllReduce.apply(tensor)

    def forward(self, x):
        """x (b, c, h, w) -> the same shape and type."""
        if self.replicas:
            self.replicas.used = True  # the next replicas are of another forward
        members = (
            len(self.replicas.slots)
            if self.replicas
            else dist.get_world_size()
            if dist.is_initialized()
            else 1
        )
        if not self.training or members == 1:
            return super().forward(x)
        kept = x.dtype
        if kept in (torch.float16, torch.bfloat16):
            x = x.float()
        ones = x.new_full((1,), x.numel() / x.shape[1])
        total = self.sum(torch.cat([x.sum((0, 2, 3)), ones]))  # c + 1
        mean, count = total[:-1] / total[-1], total[-1].detach()
        x = x - mean[:, None, None]
        var = self.sum(x.square().sum((0, 2, 3))) / count  # c
        with torch.no_grad():
            self.num_batches_tracked.add_(1)
            self.running_mean.lerp_(mean.to(self.running_mean.dtype), self.momentum)
            self.running_var.lerp_(
                (var * count / (count - 1)).to(self.running_var.dtype), self.momentum
            )
        scale = self.weight * torch.rsqrt(var + self.eps)
        return torch.addcmul(self.bias[:, None, None], x, scale[:, None, None]).to(kept)
