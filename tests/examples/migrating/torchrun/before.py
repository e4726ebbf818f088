"""Run by ``torchrun --nproc-per-node=2 -m pytest before.py``: every rank is a pytest of its own."""

import pytest
import torch
import torch.distributed as dist


@pytest.fixture(scope="session", autouse=True)
def group():
    dist.init_process_group("gloo")
    yield
    dist.destroy_process_group()


@pytest.fixture
def rank():
    return dist.get_rank()


@pytest.fixture
def shared_directory(tmp_path_factory, rank):
    names = [str(tmp_path_factory.mktemp("shared"))]
    dist.broadcast_object_list(names, src=0)
    return names[0]


@pytest.mark.parametrize("size", [1, 1000])
def test_average(rank, size):
    tensor = torch.full((size,), float(rank))
    dist.all_reduce(tensor)
    assert tensor[0].item() == 1


def test_save(rank, shared_directory):
    if rank == 0:
        torch.save(torch.arange(3), f"{shared_directory}/counts.pt")
    dist.barrier()
    assert torch.load(f"{shared_directory}/counts.pt").tolist() == [0, 1, 2]


@pytest.mark.skipif("dist.get_rank() != 0")
def test_of_one_process():
    assert torch.arange(3).sum() == 3
