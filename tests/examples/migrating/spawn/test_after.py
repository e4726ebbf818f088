"""Averaging over ranks, tested with ``elastic_launch``; the helper is gone."""

import pytest
import torch
import torch.distributed as dist

from pytest_elastic import WorkerFailedError


def average_of_rank(size):
    dist.init_process_group("gloo")
    tensor = torch.full((size,), float(dist.get_rank()))
    dist.all_reduce(tensor)
    return tensor[0].item() / dist.get_world_size()


@pytest.mark.parametrize("size", [1, 1000])
def test_average(elastic_launch, size):
    assert elastic_launch(average_of_rank, size, nproc=2) == {0: 0.5, 1: 0.5}


def refuse_on_rank_1():
    dist.init_process_group("gloo")
    if dist.get_rank() == 1:
        raise ValueError("rank 1 has no data")
    dist.barrier()


def test_a_rank_without_data(elastic_launch):
    with pytest.raises(WorkerFailedError, match="rank 1 has no data") as failed:
        elastic_launch(refuse_on_rank_1, nproc=2)
    assert failed.value.first.rank == 1
