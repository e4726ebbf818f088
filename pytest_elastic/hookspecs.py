"""Hooks that conftests and other plugins may implement. PYTEST_DONT_REWRITE."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    import torch

    from pytest_elastic.accelerators import Survey
    from pytest_elastic.result import LaunchResult
    from pytest_elastic.spec import LaunchSpec


@dataclass(frozen=True, kw_only=True, slots=True)
class RankContext:
    """The rank for which :func:`pytest_elastic_rank_started` is called.

    Attributes:
        config: pytest's configuration in this rank.
        item: The test that the rank runs first.
        rank: Global rank.
        local_rank: Rank on its node.
        node_rank: Rank of its node, as the rendezvous gave it.
        world_size: Number of ranks.
        restart: How often torch restarted the workers before this round.
        device: Its device; an accelerator is the current one already.
    """

    config: pytest.Config
    item: pytest.Item
    rank: int
    local_rank: int
    node_rank: int
    world_size: int
    restart: int
    device: torch.device


@pytest.hookspec
def pytest_elastic_configure_launch(spec: LaunchSpec, item: pytest.Item) -> Mapping[str, Any] | None:
    """Change a launch before it starts; called in the controller, for marked tests and for ``elastic_launch``.

    May be called more than once for a launch: it should depend on nothing but its arguments.

    Args:
        spec: What marker or call, options and ini keys make of the launch.
        item: The test.

    Returns:
        Settings that are to have other values, such as ``{"timeout": 60}``, or ``None``. They are checked as arguments
        of the marker are. ``env`` is added to what is there. Of a launch that has a ``LaunchConfig`` only ``timeout``
        and ``env`` can be changed. Where several plugins give a setting, the one that pytest calls first (``tryfirst``)
        wins.
    """


@pytest.hookspec
def pytest_elastic_launch_finished(result: LaunchResult, item: pytest.Item) -> None:
    """See what came of a launch; called in the controller when a marked test or a launch of a test is over.

    What it raises becomes a warning of the test.

    Args:
        result: The values (``None`` for tests), output, failures, restarts, events, ... of the ranks.
        item: The test.
    """


@pytest.hookspec
def pytest_elastic_rank_started(context: RankContext) -> None:
    """Prepare a rank that runs tests; called in it before its process group and its first fixture are made.

    What it raises fails the set-up of the test. Ranks that are kept for other tests are prepared once.

    Args:
        context: Which rank it is.
    """


@pytest.hookspec(firstresult=True)
def pytest_elastic_map_devices(
    item: pytest.Item, kind: str, devices: tuple[str, ...], world_size: int
) -> Sequence[str] | None:
    """Choose the device of each rank; called in the controller for launches on accelerators.

    Without it each rank has a device of its own, any that no other launch on this machine has.

    Args:
        item: The test.
        kind: Type of device: ``"cuda"``, ...
        devices: The devices of this machine, as ``CUDA_VISIBLE_DEVICES`` and its like name them.
        world_size: Number of ranks.

    Returns:
        The device of each rank, in order of rank, or ``None`` to leave it to others. A device may come twice: then
        its ranks share it, each sees its own device only, and that one has index 0.
    """


@pytest.hookspec(firstresult=True)
def pytest_elastic_find_devices(config: pytest.Config, environ: Mapping[str, str]) -> Survey | None:
    """Tell which accelerators this machine has, where torch does not know better; called in the controller.

    It must not initialise them in this process.

    Args:
        config: pytest's configuration.
        environ: Environment of the ranks, which may hide some.

    Returns:
        A :class:`pytest_elastic.accelerators.Survey`, or ``None``: a short process asks torch.
    """
