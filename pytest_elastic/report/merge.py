"""From the reports of all ranks to one pytest report.

Only pytest's own classes are used, so that the result survives pytest-xdist, junitxml and every ``--tb``.
"""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest

from pytest_elastic.compat import ExceptionChainRepr, ReprEntryNative, ReprFileLocation, ReprTraceback
from pytest_elastic.messages import RankReport
from pytest_elastic.report.culprit import died_late, ended_by_us, is_peer_loss
from pytest_elastic.report.describe import one_line, what_happened
from pytest_elastic.report.records import LaunchRecord, RankRecord
from pytest_elastic.report.stacks import fold, read_stacks, shown, where

When = Literal["setup", "call", "teardown"]
_SHOWN_OUTPUT = 40_000
PHASES: tuple[When, ...] = ("setup", "call", "teardown")


@dataclass(frozen=True, kw_only=True, slots=True)
class Culprit:
    """The rank that failed first, and in which phase of the test.

    Attributes:
        rank: All that is known of it.
        when: The phase.
        report: pytest's report of the failure, if the rank made one.
        time_ns: ``time.monotonic_ns()`` of the failure.
    """

    rank: RankRecord
    when: When
    report: RankReport | None
    time_ns: int


def failed_report(rank: RankRecord) -> RankReport | None:
    """Return a rank's first failed report."""
    return next((report for report in rank.reports if report.outcome == "failed"), None)


def phase_reached(rank: RankRecord) -> When:
    """Return the phase that a rank was in when it was last heard."""
    done = [report.when for report in rank.reports if not report.subtest]
    if "setup" not in done:
        return "setup"
    return "teardown" if "call" in done or done[-1:] == ["teardown"] else "call"


def find_culprit(ranks: Sequence[RankRecord]) -> Culprit | None:
    """Find the rank that failed first, by the rule of :mod:`pytest_elastic.report.culprit`; ``None`` if none failed."""
    found: list[tuple[tuple[int, int, int], Culprit]] = []
    for rank in ranks:
        report = failed_report(rank)
        if report is not None:
            message = _crash_message(report)
            order = 3 if is_peer_loss(report.type, message) else 2
            culprit = Culprit(rank=rank, when=_phase(report.when), report=report, time_ns=report.time_ns)
        elif rank.caught is not None:
            order = 3 if is_peer_loss(rank.caught.type, rank.caught.message) else 2
            culprit = Culprit(rank=rank, when=_phase(rank.caught.when), report=None, time_ns=rank.caught.time_ns)
        elif rank.failed is not None:
            order = 2
            culprit = Culprit(rank=rank, when=phase_reached(rank), report=None, time_ns=rank.failed.time_ns)
        elif rank.finished is not None and not died_late(rank):
            continue
        else:
            time_ns = rank.exited.time_ns if rank.exited is not None else 0
            order = 5 if ended_by_us(rank) else 4 if rank.exited and rank.exited.exitcode == -6 else 1
            culprit = Culprit(rank=rank, when=phase_reached(rank), report=None, time_ns=time_ns)
        # Of failures of the ranks' own the phase counts before the time: a rank that passed early may fail in its
        # teardown while another is still in the test, and the test is what failed.
        phase = PHASES.index(culprit.when) if order == 2 else 0
        found.append(((order, phase, culprit.time_ns), culprit))
    return min(found, key=lambda pair: pair[0])[1] if found else None


def _phase(when: str) -> When:
    return "setup" if when == "setup" else "teardown" if when == "teardown" else "call"


def _crash_message(report: RankReport) -> str:
    longrepr = load(report).longrepr
    crash = getattr(longrepr, "reprcrash", None)
    return str(crash.message if crash is not None else longrepr)


def load(report: RankReport) -> pytest.TestReport:
    """Return a rank's report as an object."""
    data = dict(pickle.loads(report.report))
    return pytest.TestReport._from_json(data)


def cause_of(culprit: Culprit) -> str:
    """Say in one line how the culprit failed, without naming it."""
    caught = culprit.rank.caught
    if culprit.report is None and caught is not None:
        return one_line(caught.type, caught.message)
    if culprit.report is None:
        return what_happened(culprit.rank, work="test")
    if culprit.report.type == "SystemExit":
        code = (_crash_message(culprit.report).partition(": ")[2] or "0").splitlines()[0]
        return f"exited with code {code} before the test ended"
    return _crash_message(culprit.report).strip().partition("\n")[0] or culprit.report.type


def others_of(ranks: Sequence[RankRecord], culprit: Culprit) -> list[tuple[list[int], str, str]]:
    """Group the other ranks by how they ended: ranks, what became of them, their stacks."""
    groups: dict[tuple[str, str], list[int]] = {}
    for rank in ranks:
        if rank is not culprit.rank:
            groups.setdefault(_ending(rank), []).append(rank.id.rank)
    return [(numbers, what, stack) for (what, stack), numbers in groups.items()]


def _ending(rank: RankRecord) -> tuple[str, str]:
    report = failed_report(rank)
    if report is not None:
        message = _crash_message(report).strip().partition("\n")[0]
        if is_peer_loss(report.type, message):
            return f"lost a peer in {report.when} (collateral)", ""
        return f"failed too in {report.when}: {message}", load(report).longreprtext
    if rank.caught is not None:
        if is_peer_loss(rank.caught.type, rank.caught.message):
            return f"lost a peer in {rank.caught.when} (collateral)", ""
        return f"failed too in {rank.caught.when}: {one_line(rank.caught.type, rank.caught.message)}", ""
    if rank.failed is not None:
        return f"failed too: {what_happened(rank, work='test')}", rank.failed.traceback
    skipped = next((report for report in rank.reports if report.outcome == "skipped"), None)
    if skipped is not None:
        return f"skipped in {skipped.when}", ""
    if rank.finished is not None and not died_late(rank):
        return "passed", ""
    if ended_by_us(rank):
        stack = read_stacks(rank.directory)
        place = where(stack)
        return (f"blocked in {place}, killed" if place else "killed"), shown(stack)
    return what_happened(rank, work="test"), shown(read_stacks(rank.directory))


def put_failure(
    report: pytest.TestReport, record: LaunchRecord, culprit: Culprit, *, location: tuple[str, int]
) -> None:
    """Make a report tell of the culprit: a verdict, its own traceback, then the other ranks.

    Args:
        report: The controller's report; changed in place.
        record: The launch.
        culprit: The rank that failed first.
        location: File and line of the test, for ranks that left no traceback.
    """
    ranks = record.last_world()
    number = culprit.rank.id.rank
    cause = cause_of(culprit)
    others = others_of(ranks, culprit)
    seconds = max(0.0, (culprit.time_ns - record.started_ns) / 1e9)
    said = "; ".join(f"{fold(numbers)} {what}" for numbers, what, _ in others)
    verdict = f"rank {number} of {len(ranks)} failed first, after {seconds:.2f} s: {cause}"
    verdict += f" ({said})" if said else ""
    longrepr: Any = load(culprit.report).longrepr if culprit.report is not None else None
    if isinstance(longrepr, ExceptionChainRepr):
        first = longrepr.chain[0][0]
        first.reprentries = [ReprEntryNative([verdict + "\n"]), *first.reprentries]
    else:
        text = longrepr if isinstance(longrepr, str) else _own_account(culprit)
        longrepr = plain_repr(f"{verdict}\n\n{text}" if text else verdict, cause, location)
    crash = longrepr.reprcrash
    if crash is not None:
        message = cause if culprit.report is None or culprit.report.type == "SystemExit" else crash.message
        crash.message = f"[rank {number}] {message}"
    for numbers, what, stack in others:
        longrepr.addsection(f"{fold(numbers)}: {what}", stack) if stack else None
    report.longrepr = longrepr
    report.outcome = "failed"


def _own_account(culprit: Culprit) -> str:
    if culprit.rank.failed is not None:
        return culprit.rank.failed.traceback
    return shown(read_stacks(culprit.rank.directory))


def plain_repr(text: str, message: str, location: tuple[str, int]) -> ExceptionChainRepr:
    """Make pytest's representation of a failure that has no traceback of its own."""
    traceback = ReprTraceback([ReprEntryNative([text + "\n"])], None, style="native")
    crash = ReprFileLocation(location[0], location[1], message)
    return ExceptionChainRepr([(traceback, crash, None)])


def put_sections(report: pytest.TestReport, record: LaunchRecord, when: When, shown: Sequence[int]) -> None:
    """Add what ranks wrote up to the end of a phase, in sections that name phase and rank.

    Args:
        report: The controller's report; changed in place.
        record: The launch.
        when: The phase of the report.
        shown: The ranks whose output is wanted.
    """
    for rank in record.last_world():
        if rank.id.rank in shown:
            for phase in PHASES[: PHASES.index(when) + 1]:
                report.sections += _output_of(rank, phase)


def _output_of(rank: RankRecord, phase: When) -> list[tuple[str, str]]:
    """Return what a rank wrote in one phase; a rank that was ended in it has no report of the phase."""
    reports = [each for each in rank.reports if each.when == phase]
    before = [each for each in rank.reports if PHASES.index(_phase(each.when)) < PHASES.index(phase)]
    if not reports and phase_reached(rank) != phase:
        return []
    begin = before[-1].written if before else (0, 0)
    end = reports[-1].written if reports else (None, None)
    sections = []
    for number, stream in enumerate(("stdout", "stderr")):
        text = _read(rank.directory / f"{stream}.log", begin[number], end[number])
        if text.strip():
            sections.append((f"Captured {stream} {phase} (rank {rank.id.rank})", text))
    seen: set[str] = set()
    for name, text in load(reports[-1]).sections if reports else ():
        # The log's sections of earlier phases are in later reports too.
        if name.endswith(phase) and name not in seen:
            seen.add(name)
            sections.append((f"{name} (rank {rank.id.rank})", text))
    return sections


def _read(file: Path, begin: int, end: int | None) -> str:
    """Read a part of a log; of much output the beginning and the end."""
    try:
        with file.open("rb") as stream:
            size = (file.stat().st_size if end is None else end) - begin
            stream.seek(begin)
            if size <= _SHOWN_OUTPUT:
                return stream.read(max(0, size)).decode(errors="replace")
            head = stream.read(_SHOWN_OUTPUT // 4)
            stream.seek(begin + size - _SHOWN_OUTPUT // 2)
            tail = stream.read(_SHOWN_OUTPUT // 2)
    except OSError:
        return ""
    left_out = size - len(head) - len(tail)
    return f"{head.decode(errors='replace')}\n... ({left_out} bytes left out) ...\n{tail.decode(errors='replace')}"
