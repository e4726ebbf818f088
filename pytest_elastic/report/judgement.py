"""From what the ranks of a test reported to one judgement: what came of it, in which phase, by whose doing."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import pytest

from pytest_elastic.messages import RankReport
from pytest_elastic.report.culprit import Blame, blame_for, blame_of, died_late, ended_by_us
from pytest_elastic.report.describe import one_line, shortened, what_happened
from pytest_elastic.report.endings import ending
from pytest_elastic.report.hosts import named
from pytest_elastic.report.lost import agent_at_fault
from pytest_elastic.report.records import LaunchRecord, RankRecord
from pytest_elastic.report.text import taken_along
from pytest_elastic.report.verdict import agent_error, judge, load_exception, not_preloaded

if TYPE_CHECKING:
    from pytest_elastic.controller.peers import RankState

When = Literal["setup", "call", "teardown"]
PHASES: tuple[When, ...] = ("setup", "call", "teardown")
Kind = Literal["passed", "skipped", "xfailed", "failed", "disagreed", "ended"]


_SHOWN = 1_000
_ODD_FIRST = {"skipped": 0, "xfailed": 0, "passed": 2}


@dataclass(frozen=True, kw_only=True, slots=True)
class Culprit:
    """The rank that failed first, and in which phase of the test.

    Attributes:
        rank: All that is known of it.
        when: The phase.
        report: pytest's report of the failure, if the rank made one.
        time_ns: ``time.monotonic_ns()`` of the failure.
        blame: Place in the order of blame.
    """

    rank: RankRecord
    when: When
    report: RankReport | None
    time_ns: int
    blame: Blame


@dataclass(frozen=True, kw_only=True, slots=True)
class Judgement:
    """What came of a test on its ranks.

    Attributes:
        kind: ``"passed"``, ``"skipped"``, ``"xfailed"`` (by ``pytest.xfail()``), ``"failed"`` by the culprit,
            ``"disagreed"`` (no rank failed by itself, but not all ended alike), or ``"ended"`` from outside: by the
            deadline, with an agent, with the server.
        when: The phase that it is told in.
        culprit: The rank that failed first, where one did.
        message: Why; an empty text for a culprit, which speaks for itself.
        error: The error of the launch, where it was ended from outside.
    """

    kind: Kind
    when: When
    culprit: Culprit | None = None
    message: str = ""
    error: Exception | None = None


def judge_test(record: LaunchRecord, *, broken: str | None = None) -> tuple[Judgement, ...]:
    """Judge a test whose launch is over.

    Args:
        record: The launch.
        broken: Why the server could not start any rank, or ``None``.

    Returns:
        What is to be told: of each phase at most one thing, in order. A teardown that failed takes nothing away from
        what the test itself came to, as in a plain test.
    """
    if broken is not None:
        return (Judgement(kind="ended", when="setup", message=not_preloaded(broken)),)
    ranks = record.last_world()
    main = _judge(record, ranks)
    if main.kind == "failed" and main.when == "teardown":
        before = _judge_ends(ranks)
        return (main,) if before is None or before.when == "teardown" else (before, main)
    told = main.culprit is not None and main.culprit.when == "teardown"  # told in the call that it ended for others
    if main.when != "teardown" and main.kind != "ended" and not told:
        later = [failure for rank in ranks if (failure := _teardown_failure_of(rank)) is not None]
        if later:
            first = min(later, key=lambda failure: failure.time_ns)
            return main, Judgement(kind="failed", when="teardown", culprit=first)
    return (main,)


def _judge(record: LaunchRecord, ranks: Sequence[RankRecord]) -> Judgement:
    failed = find_failures(ranks)
    culprit = failed[0] if failed else None
    if (outside := _ended_by_nodes(record, culprit)) is not None:
        return Judgement(kind="ended", when=_phase_under_way(ranks), message=str(outside), error=outside)
    if culprit is not None and culprit.blame <= Blame.OWN and not _died_with_server(culprit, record):
        return Judgement(kind="failed", when=_told_in(culprit, ranks), culprit=culprit)
    ends = _judge_ends(ranks)
    if ends is not None and ends.kind == "xfailed":
        return ends
    if record.goes_on:  # no agent has ended, and no rank: what the ranks said is all
        return ends or Judgement(kind="passed", when="teardown")
    told = any(failure.blame < Blame.ENDED for failure in failed) or (ends is not None and not record.timed_out)
    error = judge(record).error if record.server_lost is not None or not told else None
    if error is not None:
        when: When = "call" if record.faults_left and not record.timed_out else _phase_under_way(ranks)
        return Judgement(kind="ended", when=when, message=str(error), error=error)
    if ends is not None:
        return ends
    if culprit is None:
        return Judgement(kind="passed", when="teardown")
    # Ranks that called each other by the plugin's own means know who did not come: each says so itself.
    stranded = culprit.blame >= Blame.LOST_PEER and not _knows_who_left(culprit)
    if stranded and any(rank.finished is not None for rank in ranks):
        message = f"the ranks disagree: {_rank_by_rank(ranks)}"
        return Judgement(kind="disagreed", when=culprit.when, message=message)
    return Judgement(kind="failed", when=_told_in(culprit, ranks), culprit=culprit)


def _ended_by_nodes(record: LaunchRecord, culprit: Culprit | None) -> Exception | None:
    """Return the error of a launch whose nodes came apart, or one of which was lost before a rank failed."""
    if record.split:
        return judge(record).error
    if culprit is None or (record.timed_out and culprit.blame is Blame.ENDED):
        return None
    lost = agent_at_fault(record, culprit.blame, culprit.time_ns or record.ended_ns)
    if lost is None:
        return None
    ranks = record.last_world()
    others = describe_others([rank for rank in ranks if rank.id.node != lost.node], None)
    told = taken_along(lost, record) + "".join(f"; {named(numbers, ranks)} {what}" for numbers, what, _ in others)
    return agent_error(lost, record, judge(record).result, told.replace(" (collateral)", ""))


def _judge_ends(ranks: Sequence[RankRecord]) -> Judgement | None:
    """Judge a test that ranks ended by a skip or ``pytest.xfail()``; ``None`` if none did."""
    if (expected := _first_expected(ranks)) is not None:
        reason = (expected.expected or "").removeprefix("reason: ")
        return Judgement(kind="xfailed", when=phase(expected.when), message=reason)
    skips = [skip for rank in ranks if (skip := skip_of(rank)) is not None]
    if not skips:
        return None
    if len(skips) == len(ranks) and len({skip_reason(skip) for skip in skips}) == 1:
        return Judgement(kind="skipped", when=phase(skips[0].when), message=skip_reason(skips[0]))
    when: When = "teardown" if all(skip.when == "teardown" for skip in skips) else "call"
    return Judgement(kind="disagreed", when=when, message=f"the ranks disagree: {_rank_by_rank(ranks)}")


def _knows_who_left(culprit: Culprit) -> bool:
    return culprit.report is not None and culprit.report.type.endswith("RanksDivergedError")


def _teardown_failure_of(rank: RankRecord) -> Culprit | None:
    """Return the failure of a rank's teardown that is its own; not of one that lost a peer or was told to end."""
    for report in rank.reports:
        if report.when == "teardown" and report.outcome == "failed" and not report.stopped:
            blame = blame_for(report.type, crash_message(report))
            if blame is Blame.OWN:
                return Culprit(rank=rank, when="teardown", report=report, time_ns=report.time_ns, blame=blame)
    return None


def find_failures(ranks: Sequence[RankRecord]) -> list[Culprit]:
    """Return the failures of all ranks, the culprit's first, by the rule of :mod:`pytest_elastic.report.culprit`."""
    found = [failure for rank in ranks if (failure := _failure_of(rank)) is not None]
    # Of failures of the ranks' own the phase counts before the time: a rank that passed early may fail in its
    # teardown while another is still in the test, and the test is what failed.
    return sorted(found, key=lambda f: (f.blame, PHASES.index(f.when) if f.blame is Blame.OWN else 0, f.time_ns))


def _failure_of(rank: RankRecord) -> Culprit | None:
    report, caught = failed_report(rank), rank.caught
    if report is not None:
        blame = blame_for(report.type, crash_message(report))
        return Culprit(rank=rank, when=phase(report.when), report=report, time_ns=report.time_ns, blame=blame)
    if caught is not None:
        blame = blame_for(caught.type, caught.message)
        return Culprit(rank=rank, when=phase(caught.when), report=None, time_ns=caught.time_ns, blame=blame)
    if rank.failed is None and rank.finished is not None and not died_late(rank):
        return None
    time_ns = rank.failed.time_ns if rank.failed is not None else rank.exited.time_ns if rank.exited is not None else 0
    return Culprit(rank=rank, when=phase_reached(rank), report=None, time_ns=time_ns, blame=blame_of(rank))


def failed_report(rank: RankRecord) -> RankReport | None:
    """Return the first report of a failure that is the rank's own: not of its being stopped."""
    return next((report for report in rank.reports if report.outcome == "failed" and not report.stopped), None)


def skip_of(rank: RankRecord) -> RankReport | None:
    """Return the report by which a rank skipped the test, or ``None``."""
    return next((report for report in rank.reports if report.outcome == "skipped" and not report.subtest), None)


def skip_reason(report: RankReport) -> str:
    """Return the reason of a skip."""
    longrepr = load(report).longrepr
    reason = longrepr[2] if isinstance(longrepr, tuple) else str(longrepr)
    return reason.removeprefix("Skipped: ")


def phase(when: str) -> When:
    """Return a phase by its name."""
    return "setup" if when == "setup" else "teardown" if when == "teardown" else "call"


def phase_reached(rank: RankRecord) -> When:
    """Return the phase that a rank was in when it was last heard, or was told to end."""
    done = [report.when for report in rank.reports if not report.subtest and not report.stopped]
    if "setup" not in done:
        return "setup"
    return "teardown" if "call" in done or done[-1:] == ["teardown"] else "call"


def seconds_of(ranks: Sequence[RankRecord | RankState], when: When, started_ns: int) -> float:
    """Return how long a phase took on the ranks, from the end of the one before on all of them to its own.

    Args:
        ranks: The ranks.
        when: The phase.
        started_ns: When the launch began.
    """
    ends = [started_ns]
    for each in PHASES[: PHASES.index(when) + 1]:
        times = [r.time_ns for rank in ranks for r in rank.reports if r.when == each and not r.subtest]
        ends.append(max([*times, ends[-1]]))
    return (ends[-1] - ends[-2]) / 1e9


def load(report: RankReport) -> pytest.TestReport:
    """Return a rank's report as an object."""
    try:
        return pytest.TestReport._from_json(dict(pickle.loads(report.report)))
    except Exception as error:  # noqa: BLE001 (whatever a foreign class does when it is made again)
        what = f"the report of rank {report.id.rank} cannot be read here: {type(error).__name__}: {error}"
        return pytest.TestReport("", ("", None, ""), {}, report.outcome, what, phase(report.when))


def sent_along(rank: RankRecord, attribute: str) -> Any:
    """Return what a rank has hung on its report of the call; ``None`` if nothing, or it never got there."""
    calls = (report for report in rank.reports if report.when == "call" and not report.subtest)
    call = next(calls, None)
    return None if call is None else getattr(load(call), attribute, None)


def crash_message(report: RankReport) -> str:
    """Return the message of the exception behind a report, as pytest's short summary shows it."""
    longrepr = load(report).longrepr
    crash = getattr(longrepr, "reprcrash", None)
    return str(crash.message if crash is not None else longrepr)


def cause_of(culprit: Culprit) -> str:
    """Say in one line how the culprit failed, without naming it."""
    caught = culprit.rank.caught
    if culprit.report is None and caught is not None:
        return one_line(caught.type, caught.message)
    if culprit.report is None:
        return what_happened(culprit.rank, work="test")
    message = crash_message(culprit.report)
    if culprit.report.type == "SystemExit":
        return _how_exited(culprit.report, message)
    return shortened(message.strip().partition("\n")[0], _SHOWN) or culprit.report.type


def _how_exited(report: RankReport, message: str) -> str:
    # Not by the message: notes may follow in it, such as hypothesis's.
    error = load_exception(report.exception, report.type, "")
    if isinstance(error, SystemExit) and (error.code is None or isinstance(error.code, int)):
        return f"exited with code {int(error.code or 0) & 0xFF} before the test ended"
    # What is no number is written to standard error, and the code is 1.
    said = message.partition(": ")[2].strip().partition("\n")[0]
    return "exited with code 1 before the test ended" + (f": {shortened(said, _SHOWN)}" if said else "")


def describe_others(ranks: Sequence[RankRecord], culprit: Culprit | None) -> list[tuple[list[int], str, str]]:
    """Group the ranks beside the culprit by how they ended: ranks, what became of them, the text of the first."""
    groups: dict[str, tuple[list[int], str]] = {}
    for rank in ranks:
        if culprit is None or rank is not culprit.rank:
            what, text = _ending_of(rank, culprit)
            numbers, _ = groups.setdefault(what, ([], text))
            numbers.append(rank.id.rank)
    return [(numbers, what, text) for what, (numbers, text) in groups.items()]


def _ending_of(rank: RankRecord, culprit: Culprit | None) -> tuple[str, str]:
    failure = _failure_of(rank)
    if failure is not None and culprit is not None and _alike(failure, culprit):
        return "failed alike", ""
    skip = skip_of(rank)
    if failure is None and skip is not None:
        return (f"skipped: {skip_reason(skip)}", "") if skip.expected is None else (f"xfailed: {skip.expected}", "")
    if failure is None:
        return "passed", ""
    raised = failure.report.type if failure.report is not None else rank.caught.type if rank.caught else ""
    if raised.endswith("PeerExampleError"):
        return "did not fail that example by itself (collateral)", ""
    if failure.blame is Blame.LOST_PEER:
        place = failure.report.place if failure.report is not None else rank.caught.place if rank.caught else ""
        # Where somebody failed first its traceback is enough; where nobody did this one is all there is.
        text = load(failure.report).longreprtext if culprit is None and failure.report is not None else ""
        return f"lost a peer in {place or failure.when} (collateral)", text
    if failure.report is not None:
        return f"failed too in {failure.when}: {cause_of(failure)}", load(failure.report).longreprtext
    if rank.caught is not None:
        return f"failed too in {failure.when}: {cause_of(failure)}", rank.caught.traceback.rstrip()
    if rank.failed is not None:
        return f"failed too: {cause_of(failure)}", rank.failed.traceback
    return ending(rank)


def _alike(one: Culprit, other: Culprit) -> bool:
    """Tell whether two ranks raised the same at one place: one traceback is enough for both."""
    if one.report is None or other.report is None:
        words, others = one.rank.failed, other.rank.failed
        return words is not None and others is not None and words.traceback == others.traceback != ""
    return (one.when, one.report.place, cause_of(one)) == (other.when, other.report.place, cause_of(other))


def _rank_by_rank(ranks: Sequence[RankRecord]) -> str:
    groups = sorted(describe_others(ranks, None), key=lambda group: _ODD_FIRST.get(group[1].partition(":")[0], 1))
    return "; ".join(f"{named(numbers, ranks)} {what}" for numbers, what, _ in groups)


def _first_expected(ranks: Sequence[RankRecord]) -> RankReport | None:
    skipped = [report for rank in ranks for report in rank.reports if report.outcome == "skipped"]
    expected = [report for report in skipped if report.expected is not None and not report.subtest]
    return min(expected, key=lambda report: report.time_ns, default=None)


def _died_with_server(culprit: Culprit, record: LaunchRecord) -> bool:
    # multiprocessing reports an exit code of 255 for every child of a server that is gone.
    silent = culprit.report is None and culprit.rank.failed is None and culprit.rank.caught is None
    return record.server_lost is not None and silent


def _told_in(culprit: Culprit, ranks: Sequence[RankRecord]) -> When:
    """Return the phase in which a culprit is told: its own, but the call if its teardown ended others in theirs."""
    if culprit.when == "teardown":
        for rank in ranks:
            if rank.finished is None and ended_by_us(rank) and phase_reached(rank) != "teardown":
                return "call"
    return culprit.when


def _phase_under_way(ranks: Sequence[RankRecord]) -> When:
    """Return the phase that was under way when the launch was ended from outside."""
    if not ranks or any(not rank.reports for rank in ranks):
        return "setup"
    return min((phase_reached(rank) for rank in ranks), key=PHASES.index)
