from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pytest_elastic import clock
from pytest_elastic.controller.plan import LaunchPlan


def plan(*, timeout: float | None = 60.0, **config: Any) -> LaunchPlan:
    return LaunchPlan(
        directory=Path("logs"),
        scratch=Path("scratch"),
        key=b"key",
        name="train",
        config={"rdzv_backend": "local", "start_method": "spawn"} | config,
        agents=1,
        timeout=timeout,
        grace=2.0,
        environ={},
        cwd="/",
        sys_path=[],
    )


@pytest.mark.parametrize(
    ("fields", "grace"), [({}, 2.0), ({"shutdown_timeout": 0}, 0), ({"shutdown_timeout": 30}, 2.0)]
)
def test_workers_get_no_longer_than_config_and_grace_time_allow(fields: dict[str, Any], grace: float) -> None:
    assert plan(**fields).agent_order(0, "address", store_port=None, store_fd=None).grace == grace


@pytest.mark.parametrize(("timeout", "barrier"), [(60.0, 60.0), (None, clock.LONG), (1e300, clock.LONG)])
def test_agents_wait_for_each_other_no_longer_than_torch_can_count(timeout: float | None, barrier: float) -> None:
    assert plan(timeout=timeout).agent_order(0, "address", store_port=None, store_fd=None).exit_barrier == barrier
