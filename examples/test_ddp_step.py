"""One step of DistributedDataParallel: two ranks, each with half of a batch, get the gradients of the whole batch."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.functional import mse_loss
from torch.nn.parallel import DistributedDataParallel


@pytest.mark.elastic(nproc=2, backend="gloo")
def test_gradients_are_those_of_the_whole_batch(rank, world_size):
    # Every rank draws the same numbers: the plugin seeds them alike.
    inputs, targets = torch.randn(8, 4), torch.randn(8, 1)
    model = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 1))

    alone = copy.deepcopy(model)
    mse_loss(alone(inputs), targets).backward()

    together = DistributedDataParallel(model)
    mine = slice(rank, None, world_size)
    mse_loss(together(inputs[mine]), targets[mine]).backward()

    for parameter, expected in zip(model.parameters(), alone.parameters(), strict=True):
        torch.testing.assert_close(parameter.grad, expected.grad)
