"""From what the ranks of a test reported to one pytest report.

Only pytest's own classes are used, so that the result survives pytest-xdist, junitxml and every ``--tb``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pytest

from pytest_elastic.compat import ExceptionChainRepr, ReprEntryNative, ReprFileLocation, ReprTraceback
from pytest_elastic.report.collectives import COLLECTIVES, came_apart_text, collectives_text
from pytest_elastic.report.endings import ending
from pytest_elastic.report.hosts import named, on
from pytest_elastic.report.judgement import Culprit, Judgement, cause_of, describe_others, find_failures, load
from pytest_elastic.report.records import LaunchRecord, RankRecord
from pytest_elastic.report.stacks import read_stacks, shown

if TYPE_CHECKING:
    from pytest_elastic.controller.peers import RankState


def put_failure(
    report: pytest.TestReport, record: LaunchRecord, culprit: Culprit, *, location: tuple[str, int], again: bool
) -> None:
    """Make a report tell of the culprit: a verdict, its own traceback, then the other ranks.

    Args:
        report: The controller's report; changed in place.
        record: The launch.
        culprit: The rank that failed first.
        location: File and line of the test, for ranks that left no traceback.
        again: Another failure of the test has been told: this is one of a teardown after it.
    """
    ranks = record.last_world()
    verdict = verdict_of(culprit, ranks, record, again=again)
    if apart := came_apart_text(ranks):
        verdict += f"\n{apart}"
    longrepr = _longrepr_of(culprit, verdict, location)
    if not again:
        put_others(longrepr, describe_others(ranks, culprit), ranks)
    put_collectives(longrepr, ranks)
    if culprit.rank.killed and all(each.when != "teardown" for each in culprit.rank.reports):
        what, stack = ending(culprit.rank)
        longrepr.addsection(f"rank {culprit.rank.id.rank} was not done with its teardown: {what}", stack)
    report.longrepr = longrepr
    report.outcome = "failed"


def verdict_of(culprit: Culprit, ranks: Sequence[RankRecord], record: LaunchRecord, *, again: bool) -> str:
    """Say in one line which rank failed first, how, after how long, and what the others were doing.

    Args:
        culprit: That rank.
        ranks: All ranks of its world.
        record: The launch.
        again: Another failure of the test has been told: this is one of a teardown after it.
    """
    # Since its world came to life: the first launch of a session waits for the server, which says nothing of the test.
    born_ns = min((rank.hello_ns for rank in ranks if rank.hello_ns is not None), default=record.started_ns)
    seconds = max(0.0, (culprit.time_ns - born_ns) / 1e9)
    who = f"rank {culprit.rank.id.rank} of {len(ranks)}{on(culprit.rank.host)}"
    if again:
        return f"{who} failed in its teardown too, after {seconds:.2f} s: {cause_of(culprit)}"
    said = "; ".join(f"{named(numbers, ranks)} {what}" for numbers, what, _ in describe_others(ranks, culprit))
    verdict = f"{who} failed first, after {seconds:.2f} s: {cause_of(culprit)}"
    return f"{verdict} ({said})" if said else verdict


def _longrepr_of(culprit: Culprit, verdict: str, location: tuple[str, int]) -> Any:
    """Return the culprit's own representation of its failure, under a verdict."""
    cause = cause_of(culprit)
    longrepr: Any = load(culprit.report).longrepr if culprit.report is not None else None
    if isinstance(longrepr, ExceptionChainRepr):
        first = longrepr.chain[0][0]
        head = ReprEntryNative([verdict + "\n"])
        # Terminal plugins take the place of a failure from its first entry.
        vars(head)["reprfileloc"] = getattr(first.reprentries[0], "reprfileloc", None) if first.reprentries else None
        first.reprentries = [head, *first.reprentries]
    else:
        text = longrepr if isinstance(longrepr, str) else _own_account(culprit)
        longrepr = plain_repr(f"{verdict}\n\n{text}" if text else verdict, cause, location)
    crash = longrepr.reprcrash
    if crash is not None:
        message = cause if culprit.report is None or culprit.report.type == "SystemExit" else crash.message
        crash.message = f"[rank {culprit.rank.id.rank}] {message}"
    return longrepr


def _own_account(culprit: Culprit) -> str:
    if culprit.rank.failed is not None:
        return culprit.rank.failed.traceback
    if culprit.rank.caught is not None:  # it ended, or was killed, while it made its report
        return culprit.rank.caught.traceback.rstrip()
    return shown(read_stacks(culprit.rank.directory))


def put_others(longrepr: Any, others: Sequence[tuple[list[int], str, str]], ranks: Sequence[RankRecord]) -> None:
    """Add a section for each group of ranks that has more to show than its few words in the verdict."""
    for numbers, what, text in others:
        if text:
            longrepr.addsection(f"{named(numbers, ranks)}: {what}", text)


def text_of(told: Judgement, record: LaunchRecord) -> str:
    """Return what a judgement without a culprit says."""
    apart = came_apart_text(record.last_world()) if told.kind == "disagreed" else ""  # an error has it in its text
    return f"{told.message}\n{apart}" if apart else told.message


def put_collectives(longrepr: Any, ranks: Sequence[RankRecord]) -> None:
    """Add a section for the collectives that ranks began last, if they kept them."""
    if said := collectives_text(ranks):
        longrepr.addsection(COLLECTIVES, said)


def plain_repr(text: str, message: str, location: tuple[str, int]) -> ExceptionChainRepr:
    """Make pytest's representation of a failure that has no traceback of its own."""
    traceback = ReprTraceback([ReprEntryNative([text + "\n"])], None, style="native")
    crash = ReprFileLocation(location[0], location[1], message)
    return ExceptionChainRepr([(traceback, crash, None)])


def put_extras(report: pytest.TestReport, ranks: Sequence[RankRecord | RankState], when: str) -> None:
    """Put the extras that pytest-html shows into a report: those that are the same on all ranks once.

    Args:
        report: The controller's report, which has none of its own if that plugin is not there; changed in place.
        ranks: The ranks.
        when: The phase.
    """
    if not hasattr(report, "extras"):
        return
    extras: list[tuple[int, Any]] = []
    for rank in ranks:
        own = [getattr(load(each), "extras", []) for each in rank.reports if each.when == when and not each.subtest]
        extras += [(rank.id.rank, extra) for several in own for extra in several]
    for number, extra in extras:
        if isinstance(extra, dict) and sum(extra == other for _, other in extras) < len(ranks):
            report.extras.append(extra | {"name": f"{extra.get('name') or 'extra'} [rank {number}]"})
        elif extra not in report.extras:
            report.extras.append(extra)


def copy_attributes(
    report: pytest.TestReport, ranks: Sequence[RankRecord | RankState], when: str, names: Sequence[str]
) -> None:
    """Put attributes of a report of the first rank that has them into the controller's.

    Args:
        report: The controller's report; changed in place.
        ranks: The ranks.
        when: The phase.
        names: The attributes.
    """
    for rank in ranks:
        for each in rank.reports:
            if each.when == when and not each.subtest:
                for name, value in vars(load(each)).items():
                    if name in names:
                        vars(report).setdefault(name, value)


def put_attempts(report: pytest.TestReport, record: LaunchRecord) -> None:
    """Attach what went wrong in each attempt but the last: ``max_restarts`` let torch try again.

    Args:
        report: The controller's report; changed in place.
        record: The launch.
    """
    for number, world in enumerate(record.worlds[:-1], 1):
        failed = find_failures(record.of_world(world))
        if failed:
            name = f"Attempt {number} of {len(record.worlds)} (rank {failed[0].rank.id.rank} failed first)"
            text = load(failed[0].report).longreprtext if failed[0].report is not None else _own_account(failed[0])
            report.sections.append((name, text or cause_of(failed[0])))
