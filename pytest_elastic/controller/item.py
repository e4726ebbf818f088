"""One elastic test in the controller: pytest's protocol runs it, and each of its phases waits for the ranks."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import pytest

from pytest_elastic import compat
from pytest_elastic.controller.configuring import tell_finished
from pytest_elastic.controller.devices import TooFewDevicesError
from pytest_elastic.controller.examples import new_seed, save_examples
from pytest_elastic.controller.holding import run_of
from pytest_elastic.controller.item_fixtures import ControllerFixtures
from pytest_elastic.controller.kept import Sharing, is_followed, kept_after, sharing_of
from pytest_elastic.controller.launch import Launch, anybody_skipped, in_trouble
from pytest_elastic.controller.plan import TestPlan
from pytest_elastic.controller.planning import Request
from pytest_elastic.controller.properties import put_properties
from pytest_elastic.controller.rank_warnings import warn_for_ranks
from pytest_elastic.controller.site import NoFreeNodesError, TooFewNodesError
from pytest_elastic.controller.snapshots import take_snapshots
from pytest_elastic.controller.time_limit import LIMIT
from pytest_elastic.detection import arguments_of
from pytest_elastic.errors import ElasticError, FaultsLeftError
from pytest_elastic.faults import check_faults
from pytest_elastic.given_tests import SHOWN_BY_HYPOTHESIS, is_given
from pytest_elastic.messages import ItemOrder
from pytest_elastic.parametrizing import SOURCE, spec_of
from pytest_elastic.report import merge
from pytest_elastic.report.culprit import Blame
from pytest_elastic.report.finished import result_of_test
from pytest_elastic.report.judgement import (
    PHASES,
    Culprit,
    Judgement,
    When,
    cause_of,
    describe_others,
    find_failures,
    judge_test,
    load,
    seconds_of,
    skip_of,
)
from pytest_elastic.report.output import put_sections
from pytest_elastic.report.properties import merge_properties
from pytest_elastic.report.rank_map import RANK_MAP, rank_map, state_of
from pytest_elastic.report.records import LaunchRecord, RankRecord
from pytest_elastic.report.stacks import fold
from pytest_elastic.report.verdict import load_exception
from pytest_elastic.scarcity import Scarcity
from pytest_elastic.spec import LaunchSpec, takes_late_nodes
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
        nextitem: The test that pytest runs after it.

    Attributes:
        in_controller: Fixtures of the controller are being set up: what goes wrong is nothing of the ranks'.
    """

    def __init__(self, item: pytest.Item, arguments: dict[str, Any], nextitem: pytest.Item | None) -> None:
        self._item = item
        self._arguments = arguments
        self._run = run_of(item.config)
        self._fixtures = ControllerFixtures(item)
        self._spec: LaunchSpec | None = None
        self._sharing: Sharing | None = None
        self._nextitem = nextitem
        self._launch: Launch | None = None
        self._temporary = Path()
        self._record: LaunchRecord | None = None
        self._judgements: tuple[Judgement, ...] = ()
        self._warning: ElasticWarning | None = None
        self._differing = ""
        self._interrupted = False
        self._ahead = False
        self.in_controller = False
        self._told: list[Judgement] = []
        self._telling: dict[When, Judgement] = {}

    # --- what pytest calls ---

    def setup(self) -> None:
        """Start the launch, and wait until every rank is set up."""
        __tracebackhide__ = True
        if self._launch is None:
            self._attempt(self._read_marker)
            self.in_controller = True
            self._fixtures.set_up()
            self.in_controller = False
            self._attempt(self._start)
        else:  # it was started ahead of its turn
            self._item.stash[LIMIT].begun(self._launch)
        if self._run.packing is not None:
            self._run.packing.look_ahead(self._item)
        self._reach("setup")

    def start_ahead(self) -> bool:
        """Start the launch before it is the test's turn; return whether there were nodes for it.

        Raises:
            ElasticError: It cannot be started.
        """
        self._read_marker()
        try:
            self._start(ahead=True)
        except NoFreeNodesError:
            with contextlib.suppress(OSError):
                self._temporary.rmdir()
            return False
        return True

    def _attempt(self, step: Callable[[], None]) -> None:
        __tracebackhide__ = True
        refused, skip = "", False
        try:
            with Scarcity("the launch could not start"):
                step()
        except ElasticError as error:
            refused = str(error)
            skip = isinstance(error, (TooFewDevicesError, TooFewNodesError)) and not self._run.setting("strict")
        # Outside of the block, or pytest would show the error behind the failure too.
        if skip:
            raise pytest.skip.Exception(refused, _use_item_location=True)
        if refused:
            _refuse(refused)

    def runtest(self) -> None:
        """Wait until every rank has run the test."""
        __tracebackhide__ = True
        self._reach("call")

    def teardown(self) -> None:
        """Wait until every rank has torn down and ended."""
        __tracebackhide__ = True
        if self._launch is not None and not self._interrupted:
            self._reach("teardown")

    def close(self) -> None:
        """End what is left of the launch, and remove its files."""
        if self._launch is not None:
            beside = self._nextitem is not None and arguments_of(self._nextitem) is not None
            self._run.end_test(self._launch, self._temporary, beside=beside)

    @property
    def quits(self) -> bool:
        """The person has left the debugger of a rank by ``quit``."""
        return self._launch is not None and self._launch.quits

    @property
    def debugged_failure(self) -> bool:
        """A rank that had failed was debugged."""
        return self._launch is not None and self._launch.debugged_failure

    # --- the launch ---

    def _read_marker(self) -> None:
        self._spec = spec_of(self._item, self._arguments, self._run.given)
        self._sharing = sharing_of(self._item, self._spec, self._arguments.get("rdzv_configs", {}))

    def _start(self, *, ahead: bool = False) -> None:
        item, spec = self._item, self._spec
        assert spec is not None
        self._temporary = self._run.make_temporary_directory()
        order = ItemOrder(
            nodeid=item.nodeid,
            occurrence=self._run.occurrence_of(item),
            path=str(item.path),
            basetemp=str(self._temporary),
            seed=spec.seed,
            live_log=compat.has_live_log(item.config),
            kept=self._kept_after(spec),
            examples_seed=new_seed(),
        )
        request = Request(
            source=SOURCE,
            name=item.name,
            session=self._run.rank_session(item, everything=spec.isolation == "session"),
            rdzv_configs=self._arguments.get("rdzv_configs", {}),
            faults=check_faults(
                SOURCE,
                self._arguments.get("faults", ()),
                may_add=takes_late_nodes(spec.rdzv_backend),
                agents_are_processes=True,
            ),
            rdzv_endpoint=self._fixtures.endpoint(spec.rdzv_backend),
            modules=self._run.modules,
            temporary=self._temporary,
        )
        timeout, by = (spec.timeout, "") if ahead else item.stash[LIMIT].smaller(spec.timeout)
        test = TestPlan(
            order=order,
            fixtures=self._fixtures,
            timeout=timeout,
            timeout_by=by,
            name=item.name,
            nodeid=item.nodeid,
        )
        self._launch = self._run.begin_test(item, spec, request, test, self._sharing, ahead=ahead)
        self._ahead = ahead
        if not ahead:
            item.stash[LIMIT].begun(self._launch)
        self._fixtures.outlast(self._launch)

    def _kept_after(self, spec: LaunchSpec) -> int:
        if self._sharing is None:
            return 0
        followed = is_followed(self._item, self._sharing, self._run.given)
        return kept_after(self._item, self._nextitem, spec.isolation, followed=followed)

    def _reach(self, when: When) -> None:
        """Wait for the end of a phase on all ranks, and raise what is to be raised in it."""
        __tracebackhide__ = True
        assert self._launch is not None
        refused = ""
        try:
            if not self._judgements and not self._goes_on(self._launch, when):
                self._judge(self._launch)
        except ElasticError as error:
            self._interrupted, refused = True, str(error)
        except BaseException:
            # Another plugin's time-out, say: the launch has been ended, and tells where its ranks were.
            self._interrupted = True
            self._record = self._launch.record
            raise
        if refused:
            _refuse(refused)
        for judgement in self._judgements:
            self._raise_for(judgement, when)
        if self._differing and when == "teardown":
            _refuse(self._differing)
        if self._warning is not None and when == "teardown":
            raise self._warning

    def _goes_on(self, launch: Launch, when: When) -> bool:
        """Wait for the end of a phase on all ranks; return whether all of them go on to the next."""
        __tracebackhide__ = True

        def world() -> list[RankState]:
            return launch.roster.last_world()

        # With restarts only the last attempt counts, and nobody knows which it is before the end.
        if when == "teardown" or launch.plan.may_form_again:
            if when == "setup" and self._item.stash[LIMIT].is_of_call():
                launch.wait_until(lambda: _all_done(world(), "setup"))
                self._item.stash[LIMIT].call_begins()
            return False

        launch.wait_until(lambda: _all_done(world(), when) or in_trouble(world()))
        if when == "call":
            self._item.stash[LIMIT].call_ended()
        return not in_trouble(world()) and _all_done(world(), when) and not anybody_skipped(world())

    def _judge(self, launch: Launch) -> None:
        __tracebackhide__ = True
        record = self._record = launch.wait_for_test()
        self._judgements = judge_test(record, broken=launch.broken)
        self._item.user_properties += merge_properties(record.last_world())
        put_properties(self._item, record, self._culprit_rank())
        warn_for_ranks(self._item, record.warnings)
        self._differing = take_snapshots(self._item, record.last_world())
        try:
            self._warn(record)
        except ElasticWarning as error:
            self._warning = error  # warnings are errors here: told when there is nothing else to tell

    def _warn(self, record: LaunchRecord) -> None:
        ranks = record.last_world()
        dropped: dict[str, set[int]] = {}
        session = self._item.session
        for report in (report for rank in ranks for report in rank.reports):
            for what in report.dropped:
                dropped.setdefault(what, set()).add(report.id.rank)
            session.shouldstop = session.shouldstop or report.should_stop
            session.shouldfail = session.shouldfail or report.should_fail
        unsafe = self._run.unsafe_once()
        messages = [unsafe] if unsafe is not None else []
        if self._item.ihook.pytest_elastic_launch_finished.get_hookimpls():
            messages += tell_finished(result_of_test(record), self._item)
        unsaved = save_examples(self._item, ranks)
        messages += [unsaved] if unsaved else []
        messages += [f"{what}; it was ended" for what in record.leftovers]
        messages += record.notes
        messages += _leaks_of(ranks)
        if self._measures_nothing():
            messages.append(
                "pytest-benchmark measures nothing on ranks, which wait for each other: the function ran once on each "
                "(measure it by elastic_launch in a test without the marker, or pass --benchmark-disable)"
            )
        messages += [f"{what} of {fold(who)} cannot be sent and was dropped" for what, who in dropped.items()]
        for message in messages:
            self._item.warn(ElasticWarning(message))

    def _measures_nothing(self) -> bool:
        session = getattr(self._item.config, "_benchmarksession", None)
        if session is None or session.disabled or session.skip:
            return False
        return "benchmark" in getattr(self._item, "fixturenames", ())

    # --- what is raised in the controller ---

    def _raise_for(self, judgement: Judgement, when: When) -> None:
        __tracebackhide__ = True
        if judgement.kind == "passed":
            return  # and if something of the controller's own goes wrong in the phase, that is what is told
        # The phase may be over already in which a failure turned out to be; it is told in the last one.
        late = when == "teardown" and judgement.kind in ("failed", "disagreed", "ended") and judgement not in self._told
        if (judgement.when != when and not late) or judgement in self._told:
            return
        self._told.append(judgement)
        self._telling[when] = judgement
        if judgement.culprit is not None:
            self._raise_culprit(judgement.culprit)
        if judgement.error is not None:
            raise judgement.error
        if judgement.kind == "skipped":
            raise pytest.skip.Exception(judgement.message, _use_item_location=True)
        if judgement.kind == "xfailed":
            pytest.xfail(judgement.message)
        pytest.fail(judgement.message, pytrace=False)

    def _raise_culprit(self, culprit: Culprit) -> NoReturn:
        __tracebackhide__ = True
        failed = culprit.rank.failed
        data = culprit.report.exception if culprit.report is not None else failed.exception if failed else None
        cause = f"[rank {culprit.rank.id.rank}] {cause_of(culprit)}"
        error = load_exception(data, "", cause) if data is not None else None
        if error is not None and not _changes_outcome(error):
            raise error
        raise RankFailedError(cause)

    # --- the report ---

    def complete(self, report: pytest.TestReport) -> None:
        """Put what the ranks reported into the controller's report of a phase."""
        if self._launch is None or report.when not in PHASES:
            return
        vars(report)["elastic_ranks"] = self._launch.world_size  # goes with the report, through xdist too
        if self._ahead:  # pytest has only seen how long it had to wait for the rest
            ranks = self._record.last_world() if self._record is not None else self._launch.roster.last_world()
            report.duration = max(report.duration, seconds_of(ranks, report.when, self._launch.started_ns))
        self._put_what_others_show(report, report.when)
        record, when = self._record, report.when
        if record is None:
            if when == "call":
                self._put_output(report)
            return
        report.user_properties = list(self._item.user_properties)
        if report.failed or hasattr(report, "wasxfail"):
            self._tell(report, record, self._telling.get(when))
        elif report.skipped:
            self._place_skip(report, record)
        first = when == "call" or not report.passed
        if first and len(record.worlds) > 1:
            merge.put_attempts(report, record)
        if report.failed:
            culprit = self._culprit_rank()
            vars(report)[RANK_MAP] = rank_map([state_of(rank, culprit) for rank in record.last_world()])
        # Imported only where somebody wants to see it.
        if when == "teardown" and "pytest_elastic.controller.showing" in sys.modules:
            from pytest_elastic.controller.showing import keep_test

            keep_test(self._item, record, self._judgements)
        if (not report.passed or when == "teardown") and not self._run.streams:
            put_sections(report, record, when, self._shown(record, report))

    def _culprit_rank(self) -> int | None:
        return next((each.culprit.rank.id.rank for each in self._judgements if each.culprit is not None), None)

    def _put_what_others_show(self, report: pytest.TestReport, when: When) -> None:
        """Put on a report what other plugins have hung on those of the ranks, and show at the end of the session."""
        assert self._launch is not None
        ranks = self._record.last_world() if self._record is not None else self._launch.roster.last_world()
        merge.put_extras(report, ranks, when)
        if is_given(self._item):
            merge.copy_attributes(report, ranks, when, SHOWN_BY_HYPOTHESIS)

    def _put_output(self, report: pytest.TestReport) -> None:
        """Show what ranks have written where the call has passed; they go on."""
        assert self._launch is not None
        ranks = self._launch.roster.last_world()
        if not self._run.streams and any(rank.has_written() for rank in ranks):
            self._launch.sync()
            record = self._launch.snapshot()
            put_sections(report, record, "call", self._shown(record, report))

    def _tell(self, report: pytest.TestReport, record: LaunchRecord, told: Judgement | None) -> None:
        file, line, _ = self._item.reportinfo()
        location = (str(file), (line or 0) + 1)
        if told is not None and told.culprit is not None:
            outcome, again = report.outcome, told is not self._told[0] and self._told[0].kind == "failed"
            merge.put_failure(report, record, told.culprit, location=location, again=again)
            report.outcome = outcome
        elif told is not None:
            if isinstance(told.error, FaultsLeftError) and hasattr(report, "wasxfail"):
                # Not the known bug: the test did not test what it says.
                report.outcome = "failed"
                del report.wasxfail
            report.longrepr = merge.plain_repr(merge.text_of(told, record), told.message.partition("\n")[0], location)
        if hasattr(report.longrepr, "addsection") and (
            self._interrupted or (told is not None and told.kind == "disagreed")
        ):
            ranks = record.last_world()
            merge.put_others(report.longrepr, describe_others(ranks, None), ranks)
            merge.put_collectives(report.longrepr, ranks)

    def _place_skip(self, report: pytest.TestReport, record: LaunchRecord) -> None:
        """Say where the ranks skipped, as pytest says it of a plain test."""
        skips = [skip for rank in record.last_world() if (skip := skip_of(rank)) is not None]
        longrepr = load(skips[0]).longrepr if skips else None
        if isinstance(longrepr, tuple):
            report.longrepr = longrepr

    def _shown(self, record: LaunchRecord, report: pytest.TestReport) -> Sequence[int]:
        ranks = record.last_world()
        show = self._run.setting("show_output")
        culprit = next((each.culprit for each in self._judgements if each.culprit is not None), None)
        if show == "none":
            return []
        if show == "all" or culprit is None or report.passed:
            return [rank.id.rank for rank in ranks]
        # Those that only lost a peer, or were ended, have nothing to say of the cause.
        least = max(culprit.blame, Blame.OWN)
        return [failure.rank.id.rank for failure in find_failures(ranks) if failure.blame <= least]


def _refuse(message: str) -> NoReturn:
    # The one frame that is not hidden: pytest adds a line to a failure that has none.
    pytest.fail(message, pytrace=False)


def _all_done(ranks: Sequence[RankState], when: When) -> bool:
    """Tell whether every rank of the world has ended a phase."""
    if not ranks or len(ranks) < ranks[0].id.world_size:
        return False
    after = PHASES[PHASES.index(when) :]
    # A rank whose set-up skipped has no call.
    return all(any(report.when in after and not report.subtest for report in rank.reports) for rank in ranks)


def _leaks_of(ranks: Sequence[RankRecord]) -> list[str]:
    """Say what ranks that are kept found changed when the test was over; those that found the same, together."""
    who: dict[str, list[int]] = {}
    for rank in ranks:
        for leak in rank.leaks:
            who.setdefault(leak, []).append(rank.id.rank)
    return [f"{fold(numbers)} {leak}" for leak, numbers in who.items()]


def _changes_outcome(error: BaseException) -> bool:
    """Tell whether raising an exception in the controller would mean something else than a failure."""
    return isinstance(error, (pytest.skip.Exception, pytest.xfail.Exception, KeyboardInterrupt, GeneratorExit))
