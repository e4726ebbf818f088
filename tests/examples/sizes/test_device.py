import pytest
import torch
import torch.distributed as dist


@pytest.fixture(scope="session")
def tensor_on_device(device, rank):
    return torch.full((2,), rank, device=device)


@pytest.mark.elastic(nproc=2, device="auto")
def test_on_whatever_is_there(process_group, tensor_on_device):
    dist.all_reduce(tensor_on_device, group=process_group)
    assert tensor_on_device.tolist() == [1, 1]
