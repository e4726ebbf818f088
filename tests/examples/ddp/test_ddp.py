import copy

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.functional import mse_loss
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DistributedSampler

pytestmark = pytest.mark.elastic(nproc=2, backend="gloo", isolation="module")


@pytest.fixture
def model():
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))


@pytest.fixture
def batch():
    # Every rank draws the same numbers: the plugin seeds them alike.
    return torch.randn(8, 4), torch.randn(8, 1)


def assert_same_gradients(actual, expected):
    for (name, parameter), (_, other) in zip(actual.named_parameters(), expected.named_parameters(), strict=True):
        torch.testing.assert_close(parameter.grad, other.grad, msg=lambda text, name=name: f"{name}: {text}")


def test_gradients_are_those_of_the_whole_batch(model, batch, rank, world_size):
    inputs, targets = batch
    alone = copy.deepcopy(model)
    mse_loss(alone(inputs), targets).backward()

    together = DistributedDataParallel(model)
    mine = slice(rank, None, world_size)
    mse_loss(together(inputs[mine]), targets[mine]).backward()

    assert_same_gradients(model, alone)


def test_accumulated_gradients(model, batch, rank, world_size):
    inputs, targets = batch
    alone = copy.deepcopy(model)
    mse_loss(alone(inputs), targets).backward()

    together = DistributedDataParallel(model)
    mine = range(rank, len(inputs), world_size)
    first, second = list(mine[:2]), list(mine[2:])
    with together.no_sync():
        (mse_loss(together(inputs[first]), targets[first]) / 2).backward()
    (mse_loss(together(inputs[second]), targets[second]) / 2).backward()

    assert_same_gradients(model, alone)


def test_weights_stay_equal(model, batch, rank, world_size, elastic_gather):
    with torch.no_grad():
        model[0].weight.add_(rank)  # DDP has to make them equal first
    together = DistributedDataParallel(model)
    optimizer = torch.optim.AdamW(together.parameters())
    inputs, targets = (part[rank::world_size] for part in batch)
    for _ in range(3):
        optimizer.zero_grad()
        mse_loss(together(inputs), targets).backward()
        optimizer.step()
    weights = [tensor.tolist() for tensor in model.state_dict().values()]
    assert elastic_gather(weights) == [weights] * world_size


def test_every_sample_is_seen_once(world_size, elastic_gather):
    sampler = DistributedSampler(range(10), seed=7)
    sampler.set_epoch(3)
    seen = [index for part in elastic_gather(list(sampler)) for index in part]
    assert sorted(seen) == list(range(10))


def test_ranks_with_fewer_batches(model, rank):
    together = DistributedDataParallel(model)
    with together.join():
        for _ in range(1 + rank):
            together(torch.ones(2, 4)).sum().backward()
    assert dist.get_world_size() == 2
