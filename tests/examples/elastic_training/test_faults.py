import itertools
import os
import signal
import threading
import time

import pytest
import torch
import torch.distributed as dist

from pytest_elastic import KillRank, SignalRank


@pytest.mark.elastic(nproc=2, backend="gloo", max_restarts=1, faults=[KillRank(1, when_output="step 3")])
def test_resumes(rank):
    first_time = os.environ["TORCHELASTIC_RESTART_COUNT"] == "0"
    for step in range(10):
        dist.barrier()
        print("step", step, flush=True)
        if first_time and step == 3:
            threading.Event().wait()  # for the end: one rank is killed, and torch ends the other


def train_until_told_to_stop():
    told = []
    signal.signal(signal.SIGUSR1, lambda *_: told.append(True))
    dist.init_process_group("gloo")
    for step in itertools.count():
        print("step", step, flush=True)
        stop = torch.tensor(len(told))
        dist.all_reduce(stop, dist.ReduceOp.MAX)
        if stop:
            return step
        time.sleep(0.01)


def test_preemption(elastic_launch):
    notice = SignalRank(1, signal.SIGUSR1, when_output="step 3")
    result = elastic_launch(train_until_told_to_stop, nproc=2, faults=[notice])
    assert result[0] == result[1] >= 3
