"""Has a module that starts a thread when it is imported."""

import threading

import pytest
import torch.distributed as dist

threading.Thread(target=threading.Event().wait, daemon=True).start()


@pytest.mark.elastic(nproc=2, backend="gloo", timeout=60)
def test_it(rank):
    dist.barrier()
