"""Test that code fails as it should: which rank failed first, of what, and what became of the others."""

import os
import signal

import pytest
import torch.distributed as dist

from pytest_elastic import ElasticTimeoutError, WorkerFailedError


def load_shards():
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    if rank == 2:
        raise FileNotFoundError(f"shard-{rank}.bin")
    dist.barrier()


def test_the_rank_that_failed_first_is_named(elastic_launch):
    with pytest.raises(WorkerFailedError, match=r"\[rank 2\] FileNotFoundError: shard-2\.bin") as failed:
        elastic_launch(load_shards, nproc=4)

    first, *others = failed.value.result.failures
    assert first.rank == 2
    assert isinstance(first.exception, FileNotFoundError)
    assert all(other.collateral for other in others)


def run_out_of_memory():
    if os.environ["RANK"] == "1":
        os.kill(os.getpid(), signal.SIGKILL)
    return "survived"


def test_a_killed_rank_is_noticed(elastic_launch):
    result = elastic_launch(run_out_of_memory, nproc=2, check=False)

    assert result.first.rank == 1
    assert result.first.signal == "SIGKILL"


def wait_for_ever():
    signal.pause()


def test_a_hang_ends_at_the_deadline(elastic_launch):
    with pytest.raises(ElasticTimeoutError) as hung:
        elastic_launch(wait_for_ever, nproc=2, timeout=1)

    assert "in wait_for_ever" in hung.value.stacks[1]
