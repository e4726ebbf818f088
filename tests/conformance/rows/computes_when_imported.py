"""Has a module that computes with tensors when it is imported."""

import pytest
import torch
import torch.distributed as dist

WEIGHTS = torch.ones(300, 300) @ torch.ones(300, 300)


@pytest.mark.elastic(nproc=2, backend="gloo", timeout=60)
def test_it(rank):
    product = WEIGHTS @ WEIGHTS
    dist.all_reduce(product)
    assert product[0, 0] == 2 * 300**3
