"""Fixtures of a rank that need torch: its node, its device, its process group."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pytest_elastic.fixtures import _this_rank
from pytest_elastic.roles import GROUP

if TYPE_CHECKING:
    import torch
    import torch.distributed as dist


@pytest.fixture(scope="session")
def node_rank(request: pytest.FixtureRequest) -> int:
    """The rank of this process's node, as the rendezvous gave it; in tests with the marker ``elastic`` only."""
    return _this_rank(request).group_rank


@pytest.fixture(scope="session")
def device(request: pytest.FixtureRequest) -> torch.device:
    """The device of this rank: the CPU, or the accelerator whose index is ``local_rank``, which is the current one.

    In tests with the marker ``elastic`` only.
    """
    _this_rank(request)
    return request.config.stash[GROUP].device


@pytest.fixture(scope="session")
def process_group(request: pytest.FixtureRequest) -> dist.ProcessGroup:
    """The default process group; in tests with the marker ``elastic`` only.

    Without ``backend=`` it is initialised here, with the default backend of the device, and destroyed after the
    fixtures of the test as that of ``backend=`` is. One that the test itself has initialised is returned as it is.
    """
    _this_rank(request)
    group: dist.ProcessGroup = request.config.stash[GROUP].need()
    return group
