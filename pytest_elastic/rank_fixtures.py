"""Fixtures of a rank: its node, device and group, and what the ranks of one test do together. PYTEST_DONT_REWRITE."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_elastic.fixtures import this_rank
from pytest_elastic.roles import GROUP

if TYPE_CHECKING:
    import torch
    import torch.distributed as dist

    from pytest_elastic.worker.exchange import Exchange


@pytest.fixture(scope="session")
def node_rank(request: pytest.FixtureRequest) -> int:
    """The rank of this process's node, as the rendezvous gave it; in tests with the marker ``elastic`` only."""
    return this_rank(request).group_rank


@pytest.fixture(scope="session")
def device(request: pytest.FixtureRequest) -> torch.device:
    """The device of this rank: the CPU, or the accelerator whose index is ``local_rank``, which is the current one.

    In tests with the marker ``elastic`` only.
    """
    this_rank(request)
    return request.config.stash[GROUP].device


@pytest.fixture(scope="session")
def process_group(request: pytest.FixtureRequest) -> dist.ProcessGroup:
    """The default process group; in tests with the marker ``elastic`` only.

    Without ``backend=`` it is initialised here, with the default backend of the device, and destroyed after the
    fixtures of the test as that of ``backend=`` is. One that the test itself has initialised is returned as it is.
    """
    this_rank(request)
    group: dist.ProcessGroup = request.config.stash[GROUP].need()
    return group


@pytest.fixture
def elastic_gather(request: pytest.FixtureRequest) -> Callable[[Any], list[Any]]:
    """Collect a value of every rank: ``elastic_gather(value)`` returns all of them, in order of rank, on every rank.

    Values are pickled; no process group is needed. Every rank of the test must make the call.

    Raises:
        RanksDivergedError: A rank ended, or called ``elastic_barrier``, where others wait for this call.
    """
    exchange = _exchange(request)

    def elastic_gather(value: Any) -> list[Any]:
        __tracebackhide__ = True
        return exchange.meet("elastic_gather", value)

    return elastic_gather


@pytest.fixture
def elastic_barrier(request: pytest.FixtureRequest) -> Callable[[], None]:
    """Wait for every rank: ``elastic_barrier()`` returns when all ranks of the test have called it.

    No process group is needed.

    Raises:
        RanksDivergedError: A rank ended, or called ``elastic_gather``, where others wait for this call.
    """
    exchange = _exchange(request)

    def elastic_barrier() -> None:
        __tracebackhide__ = True
        exchange.meet("elastic_barrier", None)

    return elastic_barrier


@pytest.fixture
def elastic_tmp_path(request: pytest.FixtureRequest) -> Path:
    """One temporary directory for all ranks of the test; ``tmp_path`` is each rank's own.

    It stays when workers are restarted (``max_restarts``).
    """
    directory = _exchange(request).shared
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    return directory


def _exchange(request: pytest.FixtureRequest) -> Exchange:
    this_rank(request)
    from pytest_elastic.worker.exchange import EXCHANGE

    return request.config.stash[EXCHANGE]
