"""Compare what a session recorded of a row with what the table says of it."""

from __future__ import annotations

import re
from collections.abc import Iterable

import pytest

from .sessions import SessionRecord, Told
from .table import Row


def matches(pattern: str, text: str) -> bool:
    """Tell whether a text is as a pattern says, in which ``*`` stands for anything."""
    return re.fullmatch(".*".join(map(re.escape, pattern.split("*"))), text, re.DOTALL) is not None


def assert_has(lines: Iterable[str], *patterns: str) -> None:
    """Assert that there are lines that match, in this order."""
    kept = list(lines)
    rest = iter(kept)
    for pattern in patterns:
        assert any(matches(pattern, line) for line in rest), "\n".join([f"no line {pattern!r} in this order in", *kept])


def word_of(report: Told) -> str:
    """Return pytest's word for the outcome of a report."""
    return "xfailed" if report["expected"] is not None and report["outcome"] == "skipped" else str(report["outcome"])


def summary_line(row: Row, nodeid: str, message: str) -> str:
    """Return the line of pytest's short summary."""
    if row.outcome == "skipped":
        return f"SKIPPED [1] {row.file}.py:*: {message}"
    word = "XFAIL" if row.outcome == "xfailed" else "FAILED" if row.when == "call" else "ERROR"
    return f"{word} {nodeid} - {message}"


def assert_row(row: Row, session: SessionRecord, timeout: float, *, forked: bool) -> float | None:
    """Assert that a row came out as the table says.

    Args:
        row: The row.
        session: What its session told.
        timeout: Deadline of rows that hang, in seconds.
        forked: Ranks were forked from the server.

    Returns:
        Seconds from the failure, or the deadline, to the verdict; ``None`` where nothing fails.
    """

    def filled(texts: Iterable[str]) -> list[str]:
        return [text.replace("{timeout}", f"{timeout:g}") for text in texts]

    if row.outcome == "collect":
        (report,) = session.of(row.file, "", "collect")
        assert_has(report["text"].splitlines(), *row.words)
        assert_has(session.lines, f"ERROR {row.file}.py*")
        return None
    reports = session.of(row.file, row.test)
    told = [(report["when"], word_of(report)) for report in reports if report["outcome"] != "passed"]
    expected = [] if row.outcome in ("passed", "none") else [(row.when, row.outcome)]
    assert told == expected, "\n".join(f"{r['when']}: {word_of(r)} {r['message']}\n{r['text']}" for r in reports)
    warned = [warning["text"] for warning in session.of(row.file, row.test, "warning")]
    expected_warnings = (*row.warnings, *row.warnings_if_forked) if forked else row.warnings
    assert len(warned) == len(expected_warnings), warned
    assert_has(sorted(warned), *sorted(expected_warnings))
    if row.outcome == "none":
        return None
    assert [report["when"] for report in reports][-1] == "teardown"
    report = next(report for report in reports if report["when"] == row.when)
    assert [(name, value) for name, value in reports[-1]["properties"]] == list(row.properties)
    assert_has(report["text"].splitlines(), *filled(row.words))
    assert not [text for text in row.unsaid if text in report["text"]]
    for title, text in row.sections:
        # What was written in the teardown is in the teardown's report.
        found = [content for each in reports for name, content in each["sections"] if name == title]
        assert any(matches(text, content) for content in found), (title, found)
    # pytest 8 shows nothing in its summary of a report that is a text alone.
    if row.message is not None and (report["message"] is not None or pytest.version_tuple >= (9,)):
        assert_has(session.lines, summary_line(row, report["nodeid"], *filled([row.message])))
    if row.within is None:
        return None
    (start,) = session.of(row.file, row.test, "start")
    since = session.failing[row.file] if row.since == "failure" else start["time"] + timeout
    return float(report["time"] - since)


def assert_session(row: Row, session: SessionRecord) -> None:
    """Assert what a row that is alone says of its session."""
    assert session.exitcode == row.exitcode, "\n".join(session.lines)
    assert_has(session.lines, *row.prints)
    for test, outcome in row.plain:
        (*_, last) = session.of(row.file, test) or [{"outcome": "not run"}]
        assert last["outcome"] == outcome
