"""One elastic test in the controller: pytest's protocol runs it, and each of its phases waits for the ranks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

import pytest

from pytest_elastic.controller.devices import TooFewDevicesError, resolve_nproc
from pytest_elastic.controller.holding import run_of
from pytest_elastic.controller.item_fixtures import ControllerFixtures
from pytest_elastic.controller.launch import Launch
from pytest_elastic.controller.plan import LaunchPlan
from pytest_elastic.controller.planning import Request
from pytest_elastic.controller.server import remove_run_directory
from pytest_elastic.errors import ElasticError
from pytest_elastic.messages import ItemOrder, RankReport
from pytest_elastic.report import merge
from pytest_elastic.report.culprit import ended_by_us, has_failed
from pytest_elastic.report.merge import PHASES, Culprit, When
from pytest_elastic.report.records import LaunchRecord, RankRecord
from pytest_elastic.report.verdict import judge, load_exception, not_preloaded
from pytest_elastic.spec import ArgumentError, LaunchSpec, make_spec
from pytest_elastic.warning import ElasticWarning

if TYPE_CHECKING:
    from pytest_elastic.controller.peers import RankState


class RankFailedError(ElasticError):
    """Stands for the failure of a rank whose own exception cannot be raised here."""


class ElasticItem:
    """The launch behind one run of one test.

    Args:
        item: The test.
        arguments: Merged arguments of its marks.
    """

    def __init__(self, item: pytest.Item, arguments: dict[str, Any]) -> None:
        self._item = item
        self._arguments = arguments
        self._run = run_of(item.config)
        self._fixtures = ControllerFixtures(item)
        self._spec: LaunchSpec | None = None
        self._plan: LaunchPlan | None = None
        self._launch: Launch | None = None
        self._record: LaunchRecord | None = None
        self._culprit: Culprit | None = None
        self._raised: dict[str, str] = {}
        self._blamed: dict[str, Culprit] = {}

    # --- what pytest calls ---

    def setup(self) -> None:
        """Start the launch, and wait until every rank is set up."""
        self._attempt(self._read_marker)
        self._fixtures.set_up()
        self._attempt(self._start)
        self._reach("setup")

    def _attempt(self, step: Callable[[], None]) -> None:
        refused, skip = "", False
        try:
            step()
        except ElasticError as error:
            refused = str(error)
            skip = isinstance(error, TooFewDevicesError) and not self._run.setting("strict")
        # Outside of the block, or pytest would show the error behind the failure too.
        if skip:
            raise pytest.skip.Exception(refused, _use_item_location=True)
        if refused:
            pytest.fail(refused, pytrace=False)

    def runtest(self) -> None:
        """Wait until every rank has run the test."""
        self._reach("call")

    def teardown(self) -> None:
        """Wait until every rank has torn down and ended."""
        if self._launch is not None:
            self._reach("teardown")

    def close(self) -> None:
        """End what is left of the launch, and remove its files."""
        if self._launch is not None:
            self._launch.close()
        if self._plan is not None:
            remove_run_directory(self._plan.scratch)

    # --- the launch ---

    def _read_marker(self) -> None:
        arguments = dict(self._arguments)
        positional = arguments.pop("*", ())
        if positional:
            raise ArgumentError(f"marker elastic takes keywords only, got {', '.join(map(repr, positional))}")
        self._spec = make_spec("marker elastic", arguments, self._run.given)
        resolve_nproc(self._spec.nproc)  # where there are too few, no fixture is set up for it

    def _start(self) -> None:
        item, spec = self._item, self._spec
        assert spec is not None
        same = [other for other in item.session.items if other.nodeid == item.nodeid]
        order = ItemOrder(
            nodeid=item.nodeid,
            occurrence=next((i for i, other in enumerate(same) if other is item), 0),
            path=str(item.path),
            basetemp=str(self._run.make_temporary_directory()),
            session=self._run.session_order((str(item.path),)),
        )
        request = Request(
            name=item.name,
            item=order,
            rdzv_configs={},
            rdzv_endpoint=self._fixtures.endpoint(spec.rdzv_backend),
            modules=self._run.modules,
        )
        self._plan = self._run.plan(spec, request, nodeid=item.nodeid)
        self._launch = self._run.launch(self._plan, self._fixtures)
        self._fixtures.outlast(self._launch)

    def _reach(self, when: When) -> None:
        """Wait for the end of a phase on all ranks, and raise what is to be raised in it."""
        assert self._launch is not None
        launch, plan = self._launch, self._plan
        assert plan is not None
        # With restarts only the last attempt counts, and nobody knows which it is before the end.
        smooth = (
            when != "teardown"
            and not plan.config["max_restarts"]
            and launch.wait_until(
                lambda: _all_done(launch.roster.last_world(), when) or _trouble(launch.roster.last_world())
            )
            and not _trouble(launch.roster.last_world())
        )
        if smooth and self._record is None:
            skipped = [state for state in launch.roster.last_world() if _outcome(state.reports, when) == "skipped"]
            if not skipped:
                return
        if self._record is None:
            self._finish()
        self._raise_for(when)

    def _finish(self) -> None:
        assert self._launch is not None
        record = self._record = self._launch.wait()
        if self._launch.broken is None:
            self._culprit = merge.find_culprit(record.last_world())
        for what in record.leftovers:
            self._item.warn(ElasticWarning(f"{what}; it was ended"))
        for rank in record.last_world():
            for what in sorted({what for report in rank.reports for what in report.dropped}):
                self._item.warn(ElasticWarning(f"{what} of rank {rank.id.rank} cannot be sent and was dropped"))

    def _raise_for(self, when: When) -> None:
        assert self._record is not None
        assert self._launch is not None
        if self._launch.broken is not None:
            if when == "setup":
                self._fail(when, not_preloaded(self._launch.broken))
            return
        culprit = self._culprit
        own = culprit is not None and not ended_by_us(culprit.rank)
        if culprit is not None and self._record.server_lost is not None and not culprit.rank.reports:
            own = False  # it died with the server
        if own:
            assert culprit is not None
            # The phase may be over already in which a rank turned out to have failed; it is told in the last one.
            if self._phase_of(culprit) == when or (when == "teardown" and culprit not in self._blamed.values()):
                self._raise_culprit(culprit, when)
            if when == "teardown":
                self._raise_other_teardown(culprit)
            return
        verdict = judge(self._record)
        if verdict.error is not None:
            if when == self._phase_of_end():
                self._raised[when] = str(verdict.error)
                raise verdict.error
            return
        self._raise_skip(when)

    def _phase_of(self, culprit: Culprit) -> When:
        """Return the phase in which a culprit is told: its own, but the call if its teardown ended others in theirs."""
        assert self._record is not None
        if culprit.when == "teardown":
            for rank in self._record.last_world():
                if rank.finished is None and ended_by_us(rank) and merge.phase_reached(rank) != "teardown":
                    return "call"
        return culprit.when

    def _phase_of_end(self) -> When:
        """Return the phase that was under way when the launch was ended from outside."""
        assert self._record is not None
        ranks = self._record.last_world()
        if not ranks or any(not rank.reports for rank in ranks):
            return "setup"
        return min((merge.phase_reached(rank) for rank in ranks), key=PHASES.index)

    def _raise_culprit(self, culprit: Culprit, when: When) -> NoReturn:
        self._blamed[when] = culprit
        failed = culprit.rank.failed
        data = culprit.report.exception if culprit.report is not None else failed.exception if failed else None
        cause = f"[rank {culprit.rank.id.rank}] {merge.cause_of(culprit)}"
        error = load_exception(data, "", cause) if data is not None else None
        if isinstance(error, pytest.exit.Exception) or (isinstance(error, Exception) and not _changes_outcome(error)):
            raise error
        raise RankFailedError(cause)

    def _raise_other_teardown(self, culprit: Culprit) -> None:
        """Raise the first failure of a teardown, where the test had failed before: a plain test has two reports too."""
        assert self._record is not None
        if culprit.when == "teardown":
            return
        for rank in self._record.last_world():
            for report in rank.reports:
                if report.when == "teardown" and report.outcome == "failed":
                    other = Culprit(rank=rank, when="teardown", report=report, time_ns=report.time_ns)
                    self._raise_culprit(other, "teardown")

    def _raise_skip(self, when: When) -> None:
        """Skip if all ranks skipped alike; fail if they disagree."""
        assert self._record is not None
        ranks = self._record.last_world()
        skips = {rank.id.rank: report for rank in ranks if (report := _skip_report(rank)) is not None}
        if not skips or when != next(iter(skips.values())).when:
            return
        reasons = {number: _reason(report) for number, report in skips.items()}
        if len(skips) == len(ranks) and len(set(reasons.values())) == 1:
            first = merge.load(skips[min(skips)])
            if hasattr(first, "wasxfail"):
                pytest.xfail(first.wasxfail.removeprefix("reason: "))
            raise pytest.skip.Exception(reasons[min(skips)], _use_item_location=True)
        lines = [f"rank {number} skipped: {reasons[number]}" for number in sorted(skips)]
        lines += [f"rank {rank.id.rank} passed" for rank in ranks if rank.id.rank not in skips]
        self._fail(when, "the ranks disagree: " + "; ".join(lines))

    def _fail(self, when: When, message: str) -> NoReturn:
        self._raised[when] = message
        pytest.fail(message, pytrace=False)

    # --- the report ---

    def complete(self, report: pytest.TestReport) -> None:
        """Put what the ranks reported into the controller's report of a phase."""
        record = self._record
        if record is None or report.when not in PHASES:
            return
        when: When = report.when
        culprit = self._blamed.get(when)
        expected = hasattr(report, "wasxfail")
        if report.failed or expected:
            file, line, _ = self._item.reportinfo()
            location = (str(file), (line or 0) + 1)
            if when in self._raised:
                message = self._raised[when]
                report.longrepr = merge.plain_repr(message, message.partition("\n")[0], location)
            elif culprit is not None:
                outcome = report.outcome
                merge.put_failure(report, record, culprit, location=location)
                report.outcome = outcome
        if not report.passed or when == "teardown":
            merge.put_sections(report, record, when, self._shown(record, report))

    def _shown(self, record: LaunchRecord, report: pytest.TestReport) -> Sequence[int]:
        ranks = record.last_world()
        show = self._run.setting("show_output")
        if show == "none":
            return []
        if show == "all" or self._culprit is None or report.passed:
            return [rank.id.rank for rank in ranks]
        return [
            rank.id.rank
            for rank in ranks
            if rank is self._culprit.rank or (has_failed(rank, command=False) and not ended_by_us(rank))
        ]


def _outcome(reports: Sequence[RankReport], when: str) -> str | None:
    return next((report.outcome for report in reports if report.when == when), None)


def _all_done(ranks: Sequence[RankState], when: When) -> bool:
    """Tell whether every rank of the world has ended a phase."""
    if not ranks or len(ranks) < ranks[0].id.world_size:
        return False
    return all(_done(rank.reports, when) for rank in ranks)


def _done(reports: Sequence[RankReport], when: When) -> bool:
    # pytest ends a phase with exactly one report that is not a subtest's; a rank whose set-up skipped has no call.
    after = PHASES[PHASES.index(when) :]
    return any(report.when in after for report in reports)


def _trouble(ranks: Sequence[RankState]) -> bool:
    return any(rank.bad() or (rank.exited is not None and rank.finished is None) for rank in ranks)


def _skip_report(rank: RankRecord) -> RankReport | None:
    return next((report for report in rank.reports if report.outcome == "skipped"), None)


def _reason(report: RankReport) -> str:
    loaded = merge.load(report)
    if hasattr(loaded, "wasxfail"):
        return str(loaded.wasxfail)
    longrepr = loaded.longrepr
    reason = longrepr[2] if isinstance(longrepr, tuple) else str(longrepr)
    return reason.removeprefix("Skipped: ")


def _changes_outcome(error: Exception) -> bool:
    """Tell whether raising an exception in the controller would mean something else than a failure."""
    return isinstance(error, (pytest.skip.Exception, pytest.xfail.Exception))
