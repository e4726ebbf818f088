import pytest
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor

import pytest_elastic

WEIGHT = torch.arange(12).reshape(6, 2)


def sharded(tensor):
    return distribute_tensor(tensor, init_device_mesh("cpu", (dist.get_world_size(),)), [Shard(0)])


def save(directory):
    dist.init_process_group("gloo")
    dcp.save({"weight": sharded(WEIGHT)}, checkpoint_id=directory)


@pytest_elastic.controller_fixture
def checkpoint(elastic_launch, tmp_path):
    elastic_launch(save, tmp_path, nproc=3)
    return tmp_path


@pytest.mark.elastic(nproc=[1, 2], backend="gloo")
def test_load(checkpoint, rank, world_size):
    state = {"weight": sharded(torch.zeros_like(WEIGHT))}
    dcp.load(state, checkpoint_id=checkpoint)
    assert state["weight"].to_local().tolist() == WEIGHT.chunk(world_size)[rank].tolist()
