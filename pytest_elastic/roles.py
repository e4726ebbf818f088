"""Which of the three roles a pytest configuration plays."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import pytest

if TYPE_CHECKING:
    from pytest_elastic.messages import RankId
    from pytest_elastic.options import Given
    from pytest_elastic.worker.group import DefaultGroup

Role = Literal["controller", "server", "rank"]

ROLE: pytest.StashKey[Role] = pytest.StashKey()
GIVEN: pytest.StashKey[dict[str, Given]] = pytest.StashKey()
RANK: pytest.StashKey[RankId] = pytest.StashKey()
GROUP: pytest.StashKey[DefaultGroup] = pytest.StashKey()
OVER: pytest.StashKey[bool] = pytest.StashKey()
"""In the stash of a test that is not run, since the record of the session has what became of it."""


def role(config: pytest.Config) -> Role:
    """Tell where a conftest or plugin runs.

    Args:
        config: pytest's configuration.

    Returns:
        ``"controller"`` in the pytest process that was started (or a worker of pytest-xdist), ``"server"`` in the
        process that has collected the tests for the ranks, ``"rank"`` in a rank.
    """
    return config.stash.get(ROLE, "controller")
