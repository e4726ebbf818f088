import os
import signal
import time

import pytest
import torch.distributed as dist

from pytest_elastic import ElasticTimeoutError, WorkerFailedError


def one_rank_fails():
    dist.init_process_group("gloo")
    if dist.get_rank() == 1:
        raise ValueError("learning rate is nan")
    dist.barrier()


def test_failure(elastic_launch):
    with pytest.raises(WorkerFailedError, match="learning rate is nan") as failed:
        elastic_launch(one_rank_fails, nproc=2)
    first = failed.value.first
    assert first.rank == 1
    assert isinstance(first.exception, ValueError)


def killed():
    if os.environ["RANK"] == "0":
        os.kill(os.getpid(), signal.SIGKILL)
    return "fine"


def test_result_of_a_failure(elastic_launch):
    result = elastic_launch(killed, nproc=2, check=False)
    assert result.first.rank == 0
    assert result.first.signal == "SIGKILL"
    assert result.exitcodes[0] == -signal.SIGKILL


def sleep_on_rank_1():
    if os.environ["RANK"] == "1":
        time.sleep(60)


def test_hang(elastic_launch):
    with pytest.raises(ElasticTimeoutError) as hung:
        elastic_launch(sleep_on_rank_1, nproc=2, timeout=5)
    assert "in sleep_on_rank_1" in hung.value.stacks[1]


@pytest.mark.xfail(raises=ZeroDivisionError, strict=True)
@pytest.mark.elastic(nproc=2)
def test_known_bug(rank):
    1 / rank
