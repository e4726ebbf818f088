"""Save a sharded checkpoint on four ranks and load it on two: a test with two world sizes is two launches."""

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor

WEIGHT = torch.arange(16).reshape(8, 2)


def sharded(tensor):
    dist.init_process_group("gloo")
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    return distribute_tensor(tensor, mesh, [Shard(0)])


def save(directory):
    dcp.save({"weight": sharded(WEIGHT)}, checkpoint_id=directory)


def load(directory):
    state = {"weight": sharded(torch.zeros_like(WEIGHT))}
    dcp.load(state, checkpoint_id=directory)
    return state["weight"].to_local()


def test_four_ranks_save_two_ranks_load(elastic_launch, tmp_path):
    elastic_launch(save, tmp_path, nproc=4)
    shards = elastic_launch(load, tmp_path, nproc=2)

    assert shards[0].tolist() == WEIGHT[:4].tolist()
    assert shards[1].tolist() == WEIGHT[4:].tolist()
