"""Batch norm over replicas; against the reference it is tested in test_golden.py."""

import copy
import io

import pytest
import torch
from helpers import assert_close, in_threads, replicate
from torch import nn

import sync_bn
from sync_bn import BatchNorm2d


def make(c=4, momentum=0.1, seed=0):
    torch.manual_seed(seed)
    bn = BatchNorm2d(c, momentum=momentum)
    nn.init.uniform_(bn.weight, 0.5, 1.5)
    nn.init.uniform_(bn.bias, -1, 1)
    return bn


def plain(bn, dtype=torch.float32):
    twin = nn.BatchNorm2d(bn.num_features, momentum=bn.momentum)
    twin.load_state_dict(bn.state_dict())
    return twin.train(bn.training).to(dtype)


@pytest.mark.parametrize('training', [True, False])
def test_alone_it_is_torchs(training):
    bn = make().train(training)
    twin, x = plain(bn), torch.randn(3, 4, 5, 6)
    assert (bn(x) == twin(x)).all()
    assert all((v == twin.state_dict()[k]).all() for k, v in bn.state_dict().items())


def test_one_replica_is_torchs():
    bn = make()
    twin, x = plain(bn), torch.randn(3, 4, 5, 6)
    assert (in_threads(replicate(bn, 1), [x])[0] == twin(x)).all()


@pytest.mark.parametrize('sizes', [(2, 2), (1, 3), (1, 1, 1, 5)])
def test_members_are_one_batch(sizes):
    bn, x = make(), torch.randn(sum(sizes), 4, 5, 6)
    twin = plain(bn, torch.float64)
    assert_close(
        torch.cat(in_threads(replicate(bn, len(sizes)), x.split(sizes))), twin(x.double()), 1e-6
    )
    for key in ('running_mean', 'running_var', 'num_batches_tracked'):
        assert_close(bn.state_dict()[key], twin.state_dict()[key], 1e-6, key)


def test_evaluation_uses_the_running_statistics():
    bn = make().eval()
    twin, x = plain(bn), torch.randn(4, 4, 5, 6) * 3 + 1
    before = copy.deepcopy(bn.state_dict())
    assert_close(torch.cat(in_threads(replicate(bn, 2), x.split(2))), twin(x), 1e-6)
    assert all((v == before[k]).all() for k, v in bn.state_dict().items())


def test_large_mean_small_variance():
    bn = make()
    twin = plain(bn, torch.float64)
    x = 1e4 + 0.1 * torch.randn(8, 4, 16, 16)
    assert_close(
        torch.cat(in_threads(replicate(bn, 4), x.split(2))), twin(x.double()), 5e-3, 'output'
    )
    assert_close(bn.running_mean, twin.running_mean, 1e-6, 'running mean')
    assert_close(bn.running_var, twin.running_var, 1e-3, 'running variance')


def test_number_of_batches_is_counted_once_a_step():
    bn = make()
    for step in (1, 2, 3):
        in_threads(replicate(bn, 2), torch.randn(4, 4, 5, 6).split(2))
        assert bn.num_batches_tracked.item() == step


@pytest.mark.parametrize('members', [2, 3, 2])
def test_other_numbers_of_replicas_may_follow(members):
    bn = make()
    for n in (4, members):
        x = torch.randn(n, 4, 5, 6)
        assert_close(torch.cat(in_threads(replicate(bn, n), x.split(1))), plain(bn)(x), 1e-5)


def test_training_after_evaluation(monkeypatch):
    """Replicas that never met (evaluation) must not be waited for by the next ones."""
    monkeypatch.setattr(sync_bn, 'TIMEOUT', 2)
    bn, x = make().eval(), torch.randn(4, 4, 5, 6)
    in_threads(replicate(bn, 2), x.split(2))
    bn.train()
    twin = plain(bn)
    assert_close(torch.cat(in_threads(replicate(bn, 2), x.split(2))), twin(x), 1e-5)


def test_a_lost_member_is_an_error(monkeypatch):
    """A replica that fails does not leave the others waiting for ever."""
    monkeypatch.setattr(sync_bn, 'TIMEOUT', 0.2)
    bn = make()
    with pytest.raises(Exception):
        in_threads(replicate(bn, 2), [torch.randn(2, 4, 5, 6), torch.randn(2, 9, 5, 6)[0]])


@pytest.mark.parametrize('kind', [torch.bfloat16, torch.float16])
def test_half_in_half_out(kind):
    bn, x = make(), torch.randn(4, 4, 5, 6).to(kind)
    twin = plain(bn)
    out = in_threads(replicate(bn, 2), x.split(2))
    assert {o.dtype for o in out} == {kind}
    assert_close(torch.cat(out).float(), twin(x.float()), 1e-2)
    assert bn.running_mean.dtype == torch.float32
    assert_close(bn.running_var, twin.running_var, 1e-5)


def test_copies_stand_alone():
    bn = make()
    replica = replicate(bn, 2)[0]
    for module in (bn, replica):
        module = nn.Sequential(module)
        if module[0] is bn:
            again = copy.deepcopy(module)[0]
            file = io.BytesIO()
            torch.save(module, file)
            file.seek(0)
            assert torch.load(file, weights_only=False)[0].joining is None
        else:
            again = copy.copy(module[0])
        x = torch.randn(2, 4, 5, 6)
        assert again.replicas is None and again.joining is None
        assert_close(again(x), plain(bn)(x), 1e-5)


def test_state_dict_is_torchs():
    assert list(make().state_dict()) == list(nn.BatchNorm2d(4).state_dict())
