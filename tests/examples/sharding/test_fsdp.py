import copy

import pytest
import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.functional import mse_loss

pytestmark = pytest.mark.elastic(nproc=2, backend="gloo", isolation="module")


@pytest.fixture
def model():
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 4))


def shard(model, world_size):
    mesh = init_device_mesh("cpu", (world_size,))
    for layer in model:
        if isinstance(layer, nn.Linear):
            fully_shard(layer, mesh=mesh)
    return fully_shard(model, mesh=mesh)


def train(model, inputs, targets):
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        mse_loss(model(inputs), targets).backward()
        optimizer.step()


def test_training_is_that_of_one_process(model, rank, world_size):
    inputs, targets = torch.randn(8, 4), torch.randn(8, 4)
    alone = copy.deepcopy(model)
    train(alone, inputs, targets)

    train(shard(model, world_size), inputs[rank::world_size], targets[rank::world_size])

    for (name, parameter), expected in zip(model.named_parameters(), alone.parameters(), strict=True):
        # full_tensor() is a collective: all ranks come here, or none.
        torch.testing.assert_close(
            parameter.full_tensor(), expected.detach(), msg=lambda text, name=name: f"{name}: {text}"
        )


def test_each_rank_has_its_share(model, world_size, elastic_gather):
    whole = sum(parameter.numel() for parameter in model.parameters())
    shard(model, world_size)
    mine = sum(parameter.to_local().numel() for parameter in model.parameters())
    shares = elastic_gather(mine)
    assert sum(shares) == whole
    assert max(shares) < whole
