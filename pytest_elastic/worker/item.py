"""Run tests in a rank, by pytest's own protocol: one, or as many as the controller says."""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pytest_elastic import clock, compat, kernel
from pytest_elastic.accelerators import TorchAccelerators
from pytest_elastic.channel import Outbox
from pytest_elastic.hookspecs import RankContext
from pytest_elastic.messages import HOLD, ItemOrder, NoMoreTests, RankFinished, RankOrder, SessionOrder, TearDown
from pytest_elastic.roles import GROUP, RANK, ROLE
from pytest_elastic.worker import server_state
from pytest_elastic.worker.debugger import stop_tracing
from pytest_elastic.worker.examples import seed_examples
from pytest_elastic.worker.exchange import EXCHANGE
from pytest_elastic.worker.failure import describe, frames_above_the_work
from pytest_elastic.worker.group import DefaultGroup
from pytest_elastic.worker.identity import Identity
from pytest_elastic.worker.interaction import EXPECTED
from pytest_elastic.worker.leaks import Leaks, LeakWatch
from pytest_elastic.worker.measuring import Measurement
from pytest_elastic.worker.rendezvous import forget_stores
from pytest_elastic.worker.services import begin_test
from pytest_elastic.worker.session import RankSession, find_item
from pytest_elastic.worker.stopping import RankStopped, Stop
from pytest_elastic.worker.surroundings import apply_seed
from pytest_elastic.worker.terminal import RankTerminal


def run_tests(
    order: RankOrder, session: SessionOrder, me: Identity, outbox: Outbox, stacks: int, measurement: Measurement
) -> int:
    """Run the test that the controller names, and further ones as long as it names any; return the exit code."""
    tests = RankTests(order, session, me, outbox, stacks, measurement)
    pid = kernel.own_pid()
    wanted: ItemOrder | TearDown | NoMoreTests = outbox.receive()
    while not isinstance(wanted, NoMoreTests):
        started_ns = clock.monotonic_ns()
        leaks = Leaks(told=(), spoilt=False)
        if isinstance(wanted, TearDown):
            if tests.tear_down_to(wanted.kept) != 0:
                return 1
        else:
            code = tests.run(wanted)
            if kernel.own_pid() != pid:
                os._exit(0)  # A child that the test forked and that came back here: only its parent is the rank.
            if code != 0:
                return 1
            if wanted.kept == 0:
                return 0
            leaks = tests.leaks()
        measurement.save()
        outbox.send(
            RankFinished(
                id=me.id,
                time_ns=clock.monotonic_ns(),
                started_ns=started_ns,
                value=None,
                leftovers=(),
                leaks=leaks.told,
                spoilt=leaks.spoilt,
            )
        )
        wanted = tests.wait_for_next()
    return tests.end()


class RankTests:
    """The tests of one rank.

    Args:
        order: What the rank was told.
        session: How to make the pytest session, where the server has none.
        me: Who it is.
        outbox: Its connection.
        stacks: Descriptor to which it writes its stacks.
        measurement: What it executes, if that is measured.
    """

    def __init__(
        self,
        order: RankOrder,
        session: SessionOrder,
        me: Identity,
        outbox: Outbox,
        stacks: int,
        measurement: Measurement,
    ) -> None:
        self._order = session
        self._me = me
        self._outbox = outbox
        self._stacks = stacks
        self._measurement = measurement
        self._stop = Stop(before_end=measurement.save)
        self._accelerators = TorchAccelerators()
        self._group = DefaultGroup(order, self._accelerators)
        self._terminal = RankTerminal(order.channel, order.key, me.id)
        self._grace = order.grace
        self._basetemp = order.basetemp
        self._session: RankSession | None = None
        self._item: pytest.Item | None = None
        self._watch: LeakWatch | None = None
        self._started = False

    def run(self, wanted: ItemOrder) -> int:
        """Run one test; return 0 if it did not fail."""
        try:
            session, item = self._find(wanted)
            self._item = item
            if wanted.master_port:
                self._move_master(session, wanted.master_port)
            apply_seed(wanted.seed)
            seed_examples(wanted.examples_seed)
            basetemp = Path(wanted.basetemp)
            if self._basetemp:
                basetemp = Path(self._basetemp) / basetemp.name
            basetemp.mkdir(mode=0o700, parents=True, exist_ok=True)
            compat.set_basetemp(item.config, basetemp / str(self._me.id.rank))
            compat.capture_nothing(item.config)
            _leave_xfail_to_controller(item)
            begin_test(item.config, basetemp)
            self._measurement.begin_test(wanted.nodeid)
            runner = session.plugins.runner
            runner.kept = wanted.kept
            session.plugins.interaction.begin_test(item.config)
            self._stop.listen(self._stacks)
            try:
                item.config.hook.pytest_runtest_protocol(item=item, nextitem=None)
            finally:
                stop_tracing(self._terminal)
            compat.stop_capture(item.config)
        except BaseException as error:  # noqa: BLE001 (pytest.exit, KeyboardInterrupt, an error of a plugin)
            self._tell(error)
            self._tear_down(_pass_over)  # what went wrong first is told
            return 1
        if runner.failed:
            self._tear_down(_print)
        if runner.failed or wanted.kept == 0:
            self._stop.obey()
        return 1 if runner.failed else 0

    def leaks(self) -> Leaks:
        """Tell what the test has left changed."""
        assert self._session is not None
        leaks = self._session.plugins.watch.look()
        interrupted = self._session.config.stash[EXCHANGE].interrupted
        if not interrupted:
            return leaks
        # Its answer may be on its way, and would be taken for that of the next test's call.
        return Leaks(told=(*leaks.told, f"left a call of {interrupted} that was interrupted"), spoilt=True)

    def wait_for_next(self) -> ItemOrder | TearDown | NoMoreTests:
        """Wait for the next test. A rank that is told to end meanwhile tears down what it has kept, and ends."""
        try:
            with self._stop.possible():
                while True:
                    wanted = self._outbox.receive_any()
                    if isinstance(wanted, (ItemOrder, TearDown, NoMoreTests)):
                        return wanted
        except RankStopped:
            self._tear_down(_print)
            self._stop.obey()
            raise
        except (OSError, EOFError):
            os._exit(1)  # the controller is gone

    def tear_down_to(self, kept: int) -> int:
        """Tear down all but some collectors around the last test; return 0 if that did not fail."""
        assert self._session is not None
        assert self._item is not None
        try:
            self._session.plugins.runner.tear_down_to(self._item, kept)
        except BaseException as error:  # noqa: BLE001 (whatever a fixture raises)
            self._tell(error)
            self._tear_down(_print)
            return 1
        return 0

    def end(self) -> int:
        """Tear down what was kept; return 0 if that did not fail."""
        code = self.tear_down_to(0)
        if code == 0:
            self._group.end()
            self._stop.obey()
        return code

    def _tell(self, error: BaseException) -> None:
        skip = frames_above_the_work(error)
        failed = describe(self._me.id, error, time_ns=clock.monotonic_ns(), how="raised", skip=skip)
        self._outbox.send(failed)

    def _tear_down(self, take: Callable[[], object]) -> None:
        """Tear down whatever is still set up, in a rank that ends."""
        if self._session is not None:
            try:
                compat.tear_down_everything(self._session.session)
            except BaseException:  # noqa: BLE001 (whatever a fixture raises)
                take()

    def _find(self, wanted: ItemOrder) -> tuple[RankSession, pytest.Item]:
        state = server_state.state
        usable = state is not None and state.session is not None and state.session.unsafe is None
        there = self._session or (state.session if state is not None and usable else None)
        session, item = find_item(wanted, self._order, there)
        if session is not self._session:
            if self._session is not None:
                compat.tear_down_everything(self._session.session)
            self._session = session
            self._prepare(session, wanted)
        return session, item

    def _prepare(self, session: RankSession, wanted: ItemOrder) -> None:
        """Make a pytest session this rank's own."""
        config = session.config
        config.stash[ROLE] = "rank"
        config.stash[RANK] = self._me.id
        config.stash[GROUP] = self._group
        plugins = session.plugins
        plugins.progress.bind(config, self._me.id, self._outbox, self._me.order.with_name(HOLD))
        plugins.group.make = self._make_group
        plugins.runner.bind(self._me, self._outbox, self._group, self._stop, self._measurement)
        plugins.interaction.bind(config, self._me.directory, self._terminal, self._stop)
        plugins.examples.patience = self._grace
        if wanted.kept:
            self._watch = plugins.watch
            plugins.watch.begin(self._accelerators.group)
        if wanted.live_log:
            compat.show_live_log_by(config, plugins.runner.show_live_log)

    def _make_group(self) -> None:
        """Have other plugins prepare this rank, once, and make its process group, unless it is there already."""
        __tracebackhide__ = True
        assert self._item is not None
        wanted = not self._started and self._item.ihook.pytest_elastic_rank_started.get_hookimpls()
        self._started = True
        changes = [self._have_prepared] if wanted else []
        if self._watch is None or not self._group.is_there():
            changes.append(self._group.make)
        for change in changes:
            if self._watch is not None:
                self._watch.own(change)
            else:
                change()

    def _have_prepared(self) -> None:
        __tracebackhide__ = True
        item = self._item
        assert item is not None
        me = self._me.id
        context = RankContext(
            config=item.config,
            item=item,
            rank=me.rank,
            local_rank=me.local_rank,
            node_rank=me.group_rank,
            world_size=me.world_size,
            restart=me.restart,
            device=self._group.device,
        )
        item.ihook.pytest_elastic_rank_started(context=context)

    def _move_master(self, session: RankSession, port: int) -> None:
        """Have groups that a test makes find each other anew, whatever those of the last test did."""
        forget_stores()

        def set_port() -> None:
            os.environ["MASTER_PORT"] = str(port)

        session.plugins.watch.own(set_port)


def _print() -> None:
    traceback.print_exc()


def _pass_over() -> None:
    pass


def _leave_xfail_to_controller(item: pytest.Item) -> None:
    """Hide the xfail marks that the controller knows: they are judged once, on what all ranks did.

    One that the test applies to itself while it runs (``request.applymarker``) is its rank's own.
    """
    everything = item.iter_markers_with_node
    known = list(item.iter_markers("xfail"))
    if known and item.config.getoption("usepdb", False) and not item.config.getoption("runxfail", False):
        item.stash[EXPECTED] = compat.evaluate_xfail_marks(item)

    def without_xfail(name: str | None = None) -> Iterator[Any]:
        return (pair for pair in everything(name) if not any(pair[1] is mark for mark in known))

    item.iter_markers_with_node = without_xfail  # type: ignore[method-assign]
