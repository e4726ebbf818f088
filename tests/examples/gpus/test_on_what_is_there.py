import copy

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel


@pytest.mark.elastic(nproc=2, device="auto", backend="auto", isolation="module")
def test_gradients(device, rank):
    model = nn.Linear(4, 1).to(device)
    inputs = torch.randn(8, 4, device=device)
    alone = copy.deepcopy(model)
    alone(inputs).mean().backward()

    together = DistributedDataParallel(model, device_ids=None if device.type == "cpu" else [device])
    together(inputs[rank::2]).mean().backward()

    torch.testing.assert_close(model.weight.grad, alone.weight.grad)


@pytest.mark.elastic(nproc=2, device="auto", backend="auto", isolation="module")
def test_each_rank_has_its_device(device, rank, elastic_gather):
    devices = elastic_gather(str(device))
    if device.type == "cpu":
        assert devices == ["cpu", "cpu"]
    else:
        assert devices == [f"{device.type}:0", f"{device.type}:1"]


@pytest.mark.elastic(nproc=2, device="cuda", backend="nccl")
def test_nccl(device, rank):
    assert dist.get_backend() == "nccl"
    assert torch.cuda.current_device() == device.index == rank
    total = torch.tensor(rank, device=device)
    dist.all_reduce(total)
    assert total.item() == 1


@pytest.mark.elastic(nproc="gpu", device="cuda", backend="nccl")
def test_on_all_of_them(device, world_size):
    ones = torch.ones(1, device=device)
    dist.all_reduce(ones)
    assert ones.item() == world_size == torch.cuda.device_count()
