"""A launched function fails while others block in a collective."""

import torch
import torch.distributed as dist


def train(failing_now):
    dist.init_process_group("gloo")
    if dist.get_rank() == 1:
        failing_now()
        raise ValueError("wrong shape")
    dist.all_reduce(torch.ones(1))


def test_it(elastic_launch, failing_now):
    elastic_launch(train, failing_now, nproc=2, timeout=60)
