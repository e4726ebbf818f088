"""A sharded save, tested with the decorator and the launch settings of torchsnapshot.test_utils."""

import unittest

import pytest
import torch
import torch.distributed as dist
import torch.distributed.launcher as pet
from torchsnapshot.test_utils import get_pet_launch_config, run_with_pet


def save_shard(tensor, directory):
    torch.save(tensor.chunk(dist.get_world_size())[dist.get_rank()], directory / f"{dist.get_rank()}.pt")
    dist.barrier()


@pytest.mark.parametrize("size", [4, 6])
@run_with_pet(nproc=2)
def test_shards(tmp_path, size):
    dist.init_process_group("gloo")
    save_shard(torch.arange(size), tmp_path)
    shards = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    assert torch.cat(shards).tolist() == list(range(size))


def save(directory):
    dist.init_process_group("gloo")
    save_shard(torch.arange(4), directory)
    return dist.get_rank()


@pytest.mark.usefixtures("directory")
class TestSave(unittest.TestCase):
    @pytest.fixture
    def directory(self, tmp_path):
        self.path = tmp_path

    def test_load_in_one_process(self):
        returned = pet.elastic_launch(get_pet_launch_config(2), entrypoint=save)(self.path)
        self.assertEqual(returned, {0: 0, 1: 1})
        shards = [torch.load(self.path / f"{rank}.pt") for rank in range(2)]
        self.assertEqual(torch.cat(shards).tolist(), [0, 1, 2, 3])
