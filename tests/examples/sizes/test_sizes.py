import pytest
import torch.distributed as dist


@pytest.mark.elastic(nproc=[1, 2, 4], backend="gloo")
def test_every_size(world_size):
    assert dist.get_world_size() == world_size


@pytest.mark.elastic(backend="gloo")
@pytest.mark.parametrize("world_size", [2, 4])
def test_the_same_by_a_parameter(world_size):
    assert dist.get_world_size() == world_size
