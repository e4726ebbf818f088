"""Fixtures by which the ranks of one test work together. PYTEST_DONT_REWRITE."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_elastic.fixtures import this_rank

if TYPE_CHECKING:
    from pytest_elastic.worker.exchange import Exchange


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
