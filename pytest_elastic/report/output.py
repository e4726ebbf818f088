"""What ranks wrote, as sections of a pytest report."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import pytest

from pytest_elastic.report.hosts import on
from pytest_elastic.report.judgement import PHASES, When, load, phase, phase_reached
from pytest_elastic.report.records import LaunchRecord, RankRecord
from pytest_elastic.report.stacks import fold, shown
from pytest_elastic.result import LaunchResult

_SHOWN_OUTPUT = 40_000


def put_sections(report: pytest.TestReport, record: LaunchRecord, when: When, shown: Sequence[int]) -> None:
    """Add what ranks wrote up to the end of a phase, in sections that name phase and rank.

    Args:
        report: The controller's report; changed in place.
        record: The launch.
        when: The phase of the report.
        shown: The ranks whose output is wanted.
    """
    for rank in record.last_world():
        if rank.id.rank in shown and not _is_silent(rank):
            for each in PHASES[: PHASES.index(when) + 1]:
                report.sections += _output_of(rank, each)


def launch_sections(result: LaunchResult, ranks: Iterable[int], when: str) -> list[tuple[str, str]]:
    """Return what ranks of an ``elastic_launch`` wrote, as sections that name phase and rank."""
    sections = []
    for rank in ranks:
        for stream, output in (("stdout", result.stdout), ("stderr", result.stderr)):
            text = _read(output.file(rank), 0, None) if rank in output else ""
            if text.strip():
                sections.append((f"Captured {stream} {when} (rank {rank})", text))
    return sections


def stack_sections(result: LaunchResult) -> list[tuple[str, str]]:
    """Return where ranks of an ``elastic_launch`` were when they were ended, those at one place together."""
    places: dict[str, list[int]] = {}
    for failure in result.failures:
        if failure.stack:
            places.setdefault(shown(failure.stack), []).append(failure.rank)
    return [(f"Stacks of {fold(ranks)}", stack) for stack, ranks in places.items()]


def _is_silent(rank: RankRecord) -> bool:
    """Tell, without a look at its files, that a rank which has run its test has written and logged nothing."""
    if rank.finished is None or not rank.reports or any(report.sections for report in rank.reports):
        return False
    return rank.reports[-1].written == rank.begun


def _output_of(rank: RankRecord, when: When) -> list[tuple[str, str]]:
    """Return what a rank wrote in one phase; a rank that was ended in it has no report of the phase."""
    reports = [each for each in rank.reports if each.when == when and not each.subtest]
    before = [each for each in rank.reports if PHASES.index(phase(each.when)) < PHASES.index(when)]
    if not reports and phase_reached(rank) != when:
        return []
    begin = before[-1].written if before else rank.begun
    end = reports[-1].written if reports else (None, None)
    sections = []
    for number, stream in enumerate(("stdout", "stderr")):
        text = _read(rank.directory / f"{stream}.log", begin[number], end[number])
        if text.strip():
            sections.append((f"Captured {stream} {when} (rank {rank.id.rank}{on(rank.host)})", text))
    seen: set[str] = set()
    for name, text in load(reports[-1]).sections if reports and reports[-1].sections else ():
        # The log's sections of earlier phases are in later reports too.
        if name.endswith(when) and name not in seen:
            seen.add(name)
            sections.append((f"{name} (rank {rank.id.rank}{on(rank.host)})", text))
    return sections


def _read(file: Path, begin: int, end: int | None) -> str:
    return read_part(file, begin, end, _SHOWN_OUTPUT)


def read_part(file: Path, begin: int, end: int | None, most: int) -> str:
    """Read a part of a log; of much output the beginning and the end.

    Args:
        file: The log.
        begin: Where the part begins.
        end: Where it ends; ``None`` for the end of the file.
        most: Bytes that are shown whole.
    """
    if end is not None and end <= begin:
        return ""
    try:
        with file.open("rb") as stream:
            size = (file.stat().st_size if end is None else end) - begin
            stream.seek(begin)
            if size <= most:
                return stream.read(max(0, size)).decode(errors="replace")
            head = stream.read(most // 4)
            stream.seek(begin + size - most // 2)
            tail = stream.read(most // 2)
    except OSError:
        return ""
    left_out = size - len(head) - len(tail)
    return f"{head.decode(errors='replace')}\n... ({left_out} bytes left out) ...\n{tail.decode(errors='replace')}"
