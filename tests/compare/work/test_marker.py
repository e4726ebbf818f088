"""This plugin: the marker."""

import os

import doing
import pytest
import torch
import torch.distributed as dist

doing.when_imported(in_rank="PYTEST_ELASTIC_RUN" in os.environ)


@pytest.mark.elastic(nproc=2, backend="gloo", timeout=doing.OWN_LIMIT)
def test_it(rank):
    doing.act(rank, dist.barrier, lambda: dist.all_reduce(torch.ones(1)), pytest.skip)
