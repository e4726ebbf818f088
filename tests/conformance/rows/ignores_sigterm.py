"""Ignores SIGTERM when another one has failed."""

import signal
import threading

import pytest
import torch.distributed as dist


@pytest.mark.elastic(nproc=2, backend="gloo", timeout=60)
def test_it(rank, failing_now):
    if rank == 1:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    dist.barrier()
    if rank == 0:
        failing_now()
        raise ValueError("on rank 0")
    threading.Event().wait()
