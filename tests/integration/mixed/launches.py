"""Tests of the same suite that launch."""

import pytest
import torch
import torch.distributed as dist


@pytest.mark.parametrize("nproc", [1, 2, 4])
def test_launches(elastic_launch, nproc):
    assert sum(elastic_launch(_reduce, nproc=nproc, timeout=60).values()) == nproc * nproc


def _reduce():
    dist.init_process_group("gloo")
    total = torch.ones(())
    dist.all_reduce(total)
    dist.destroy_process_group()
    return int(total)
