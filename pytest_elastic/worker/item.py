"""Run one test in a rank, by pytest's own protocol."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pytest_elastic import clock, compat
from pytest_elastic.accelerators import TorchAccelerators
from pytest_elastic.channel import Outbox
from pytest_elastic.messages import ItemOrder, RankOrder
from pytest_elastic.roles import GROUP, RANK, ROLE
from pytest_elastic.worker import server_state
from pytest_elastic.worker.failure import describe, frames_above_the_work
from pytest_elastic.worker.group import DefaultGroup
from pytest_elastic.worker.identity import Identity
from pytest_elastic.worker.runner import GroupBeforeFixtures, ItemRunner
from pytest_elastic.worker.services import attach
from pytest_elastic.worker.session import find_item
from pytest_elastic.worker.stopping import Stop


def run_item(order: RankOrder, wanted: ItemOrder, me: Identity, outbox: Outbox, stacks: int) -> int:
    """Run the test; return the exit code of the rank."""
    stop = Stop()
    group = DefaultGroup(order, TorchAccelerators())
    runner = ItemRunner(me, outbox, group, stop)
    try:
        config, item = _find(wanted)
        config.stash[ROLE] = "rank"
        config.stash[RANK] = me.id
        config.stash[GROUP] = group
        basetemp = Path(wanted.basetemp)
        basetemp.mkdir(mode=0o700, parents=True, exist_ok=True)
        compat.set_basetemp(config, basetemp / str(me.id.rank))
        compat.capture_nothing(config)
        _leave_xfail_to_controller(item)
        attach(config, me.id, outbox, basetemp)
        config.pluginmanager.register(runner, "elastic-runner")
        config.pluginmanager.register(GroupBeforeFixtures(group), "elastic-group")
        if wanted.live_log:
            compat.show_live_log_by(config, runner.show_live_log)
        stop.listen(stacks)
        config.hook.pytest_runtest_protocol(item=item, nextitem=None)
        compat.stop_capture(config)
    except BaseException as error:  # noqa: BLE001 (pytest.exit, KeyboardInterrupt, an error of a plugin)
        skip = frames_above_the_work(error)
        outbox.send(describe(me.id, error, time_ns=clock.monotonic_ns(), how="raised", skip=skip))
        if runner.session is not None:
            with contextlib.suppress(Exception):  # what went wrong first is told
                compat.tear_down_everything(runner.session)
        return 1
    stop.obey()
    return 1 if runner.failed else 0


def _find(wanted: ItemOrder) -> tuple[pytest.Config, pytest.Item]:
    state = server_state.state
    usable = state is not None and state.session is not None and state.session.unsafe is None
    session, item = find_item(wanted, state.session if state is not None and usable else None)
    return session.config, item


def _leave_xfail_to_controller(item: pytest.Item) -> None:
    """Hide the xfail marks that the controller knows: they are judged once, on what all ranks did.

    One that the test applies to itself while it runs (``request.applymarker``) is its rank's own.
    """
    everything = item.iter_markers_with_node
    known = list(item.iter_markers("xfail"))

    def without_xfail(name: str | None = None) -> Iterator[Any]:
        return (pair for pair in everything(name) if not any(pair[1] is mark for mark in known))

    item.iter_markers_with_node = without_xfail  # type: ignore[method-assign]
