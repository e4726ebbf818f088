"""The rank that failed first is named, whatever the others run into."""

from __future__ import annotations

import ctypes
import os
import random
import signal
import sys

import pytest
import torch
import torch.distributed as dist

from pytest_elastic import WorkerFailedError
from pytest_elastic.controller.launcher import ElasticLaunch

LAUNCHES = 200
WAYS = ("raise", "sys.exit", "os._exit(0)", "os._exit(9)", "SIGKILL", "SIGSEGV", "SIGABRT")


def fail_in_the_middle(rank: int, how: str) -> None:
    dist.init_process_group("gloo")
    dist.barrier()
    if dist.get_rank() == rank:
        if how == "raise":
            raise ValueError("on purpose")
        if how == "sys.exit":
            sys.exit(3)
        if how == "os._exit(0)":
            os._exit(0)
        if how == "os._exit(9)":
            os._exit(9)
        if how == "SIGKILL":
            os.kill(os.getpid(), signal.SIGKILL)
        if how == "SIGABRT":
            os.abort()
        ctypes.string_at(0)
    while True:
        dist.all_reduce(torch.ones(1000))


def test_the_culprit_is_right_in_200_of_200(elastic_launch: ElasticLaunch) -> None:
    seed = int(os.environ.get("SOAK_SEED", "0"))
    choose = random.Random(seed)
    wrong = []
    for number in range(LAUNCHES):
        rank, how = choose.randrange(4), choose.choice(WAYS)
        with pytest.raises(WorkerFailedError) as error:
            elastic_launch(fail_in_the_middle, rank, how, nproc=4, timeout=60)
        if error.value.first.rank != rank:
            wrong.append(f"{number}: rank {rank} by {how}: {error.value}")
    print(f"culprit right in {LAUNCHES - len(wrong)} of {LAUNCHES} launches (seed {seed})")
    assert not wrong, "\n".join(wrong)
