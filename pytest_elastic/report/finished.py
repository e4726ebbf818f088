"""The result of a launch whose ranks ran a test: what pytest's reports say of a rank becomes its failure."""

from __future__ import annotations

from dataclasses import replace

from pytest_elastic.messages import RankFailed
from pytest_elastic.report.judgement import crash_message, load
from pytest_elastic.report.records import LaunchRecord, RankRecord
from pytest_elastic.report.verdict import judge
from pytest_elastic.result import LaunchResult


def result_of_test(record: LaunchRecord) -> LaunchResult:
    """Return the result of a launch that ran a test."""
    return judge(replace(record, ranks=tuple(map(_with_failure, record.ranks)))).result


def _with_failure(rank: RankRecord) -> RankRecord:
    report = next((report for report in rank.reports if report.outcome == "failed" and not report.stopped), None)
    said = report or rank.caught  # the report of what it caught was still to come
    if rank.failed is not None or said is None:
        return rank
    failed = RankFailed(
        id=rank.id,
        time_ns=said.time_ns,
        how="raised",
        type=said.type,
        message=rank.caught.message if rank.caught is not None else crash_message(report) if report else "",
        traceback=load(report).longreprtext if report is not None else rank.caught.traceback if rank.caught else "",
        exception=report.exception if report is not None else None,
    )
    return replace(rank, failed=failed, finished=None)
