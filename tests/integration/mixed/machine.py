"""A machine with 4 accelerators that are not there, and a log of what each test had for itself."""

import json
import os
import time
from contextlib import contextmanager

import pytest

import pytest_elastic
from pytest_elastic.accelerators import Survey


def pytest_configure(config):
    if pytest_elastic.role(config) != "controller":
        import torch

        torch.cuda.set_device = lambda index: None


def pytest_elastic_find_devices(environ):
    names = (environ.get("CUDA_VISIBLE_DEVICES") or "0,1,2,3").split(",")
    return Survey(kind="cuda", private="npu", counts={"cuda": len(names)}, ids={"cuda": [f"GPU-{n}" for n in names]})


@pytest.fixture
def own(request):
    """Note that something is this test's own for as long as it runs."""

    @contextmanager
    def own(rank, **what):
        begin = time.monotonic()
        yield
        if rank == 0:
            entry = {"test": request.node.nodeid, "begin": begin, "end": time.monotonic(), **what}
            with open(os.environ["MIXED_LOG"], "a") as log:
                log.write(json.dumps(entry) + "\n")

    return own
