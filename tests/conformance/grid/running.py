"""Run cells of the grid: many in one pytest session, and judge each by what the session told."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

from tests.conformance.judging import matches, word_of
from tests.conformance.sessions import SessionRecord, Told, run_session

from .cells import MODES, Cell
from .verdicts import Verdict, expected

AT_ONCE = 64
"""Cells in one session, at most."""


def in_chunks(cells: Iterable[Cell], size: int = AT_ONCE) -> list[list[Cell]]:
    """Return the cells in the lots that one session runs each; those that share ranks follow each other."""
    ordered = sorted(cells, key=lambda cell: (cell.world_size, cell.nodes, not cell.warm))
    return [ordered[start : start + size] for start in range(0, len(ordered), size)]


def wrong_in(cells: Sequence[Cell], timeout: float) -> list[str]:
    """Run cells in one session, and return a text for each that came out wrong, and for what was left behind.

    Args:
        cells: The cells; one that is alone has a session of its own.
        timeout: Deadline of tests that hang, in seconds.
    """
    if cells[0].alone:
        (cell,) = cells
        return wrong_alone(cell, timeout)
    with tempfile.TemporaryDirectory(prefix="cells-") as directory:
        file = Path(directory, "cells.json")
        told = [
            {
                "id": cell.id,
                "mode": cell.mode,
                "phase": cell.phase,
                "ranks": cell.ranks,
                "nproc": cell.world_size // cell.nodes,
                "nodes": cell.nodes,
                "warm": cell.warm,
                "hangs": MODES[cell.mode].kind == "hangs",
            }
            for cell in cells
        ]
        file.write_text(json.dumps({"cells": told, "timeout": timeout}))
        session = run_session(["grid/cells"], variables={"CONFORMANCE_CELLS": str(file)})
    wrong = left_behind(session)
    for cell in cells:
        if cell.warm:
            wrong += wrong_of(f"before-{cell.id}", Verdict(outcome="passed"), session, timeout)
        wrong += wrong_of(cell.id, expected(cell), session, timeout)
    return wrong


def wrong_alone(cell: Cell, timeout: float) -> list[str]:
    """Run one cell in a session of its own, beside a plain test, and return what is wrong with it."""
    hangs = MODES[cell.mode].kind == "hangs"
    session = run_session(
        ["grid/imports"],
        f"--elastic-timeout={timeout if hangs else 60:g}",
        f"--elastic-start-method={'spawn' if cell.phase == 'import' else 'forkserver'}",
        variables={
            "CONFORMANCE_PHASE": cell.phase,
            "CONFORMANCE_MODE": cell.mode,
            "CONFORMANCE_RANKS": " ".join(map(str, cell.ranks)),
        },
    )
    wrong = [f"{cell.id}: {what}" for what in left_behind(session)]
    wrong += [f"{cell.id}: {what}" for what in differences(expected(cell), session, "::test_it", timeout)]
    wrong += [f"{cell.id}: {what}" for what in differences(Verdict(outcome="passed"), session, "::test_plain", timeout)]
    return wrong


def left_behind(session: SessionRecord) -> list[str]:
    """Return what a session left behind, and how it ended if not by itself."""
    wrong = [f"left process {command}" for command in session.processes]
    wrong += [f"left file {file}" for file in session.files]
    if session.exitcode not in (0, 1):
        wrong.append("\n".join([f"pytest exited with {session.exitcode}", *session.lines[-30:]]))
    return wrong


def wrong_of(name: str, verdict: Verdict, session: SessionRecord, timeout: float) -> list[str]:
    """Return a text if a cell came out wrong."""
    found = differences(verdict, session, f"[{name}]", timeout)
    return [f"{name}: {what}" for what in found]


def differences(verdict: Verdict, session: SessionRecord, test: str, timeout: float) -> list[str]:
    """Compare what a session told of a test with its verdict."""
    reports = session.of("grid", test)
    if not reports:
        return ["was not run"]
    told = [(report["when"], word_of(report)) for report in reports if report["outcome"] != "passed"]
    wanted = [] if verdict.outcome == "passed" else [(verdict.when, verdict.outcome)]
    warned = [str(warning["text"]) for warning in session.of("grid", test, "warning")]
    wrong = [f"warned: {text}" for text in warned]
    if told != wanted:
        return [*wrong, "\n".join([f"expected {wanted or 'passed'}, came out as {told or 'passed'}", *texts(reports)])]
    if not wanted:
        return wrong
    report = next(report for report in reports if report["when"] == verdict.when)
    lines = [*str(report["text"]).splitlines()]
    summary = next((line for line in session.lines if line.startswith(_WORDS) and f"{test} - " in line), "")
    said = summary.partition(f"{test} - ")[2] if verdict.outcome != "skipped" else reason_of(report)

    def filled(text: str) -> str:
        return text.replace("{timeout}", f"{timeout:g}")

    if not matches(filled(verdict.message), said):
        wrong.append(f"the summary says {said!r}, expected {filled(verdict.message)!r}")
    if verdict.headline and not matches(filled(verdict.headline), lines[0] if lines else ""):
        wrong.append(f"the report begins with {lines[:1]}, expected {filled(verdict.headline)!r}")
    if verdict.also and not any(matches(filled(verdict.also), line) for line in lines):
        wrong.append("\n".join([f"no line {filled(verdict.also)!r} in the report", *lines]))
    wrong += [f"the report says {text!r}: {lines[:1]}" for text in verdict.unsaid if text in "\n".join(lines)]
    return wrong


_WORDS = ("FAILED ", "ERROR ", "XFAIL ")


def reason_of(report: Told) -> str:
    """Return the reason of a skip as its report has it: of many that are alike pytest prints one."""
    return str(report["text"]).rpartition("Skipped: ")[2].rstrip("')")


def texts(reports: Iterable[Told]) -> list[str]:
    """Return what reports say, for one who has to find out what went wrong."""
    return [f"{report['when']}: {word_of(report)} {report['message']}\n{report['text']}" for report in reports]
