"""A sharded save, tested with the marker, and with ``elastic_launch`` where the test itself stays in one process."""

import pytest
import torch
import torch.distributed as dist


def save_shard(tensor, directory):
    torch.save(tensor.chunk(dist.get_world_size())[dist.get_rank()], directory / f"{dist.get_rank()}.pt")
    dist.barrier()


@pytest.mark.parametrize("size", [4, 6])
@pytest.mark.elastic(nproc=2, backend="gloo", isolation="module")
def test_shards(elastic_tmp_path, size):
    save_shard(torch.arange(size), elastic_tmp_path)
    shards = [torch.load(elastic_tmp_path / f"{rank}.pt") for rank in range(2)]
    assert torch.cat(shards).tolist() == list(range(size))


def save(directory):
    dist.init_process_group("gloo")
    save_shard(torch.arange(4), directory)
    return dist.get_rank()


def test_load_in_one_process(elastic_launch, tmp_path):
    returned = elastic_launch(save, tmp_path, nproc=2)
    assert returned == {0: 0, 1: 1}
    shards = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    assert torch.cat(shards).tolist() == [0, 1, 2, 3]
