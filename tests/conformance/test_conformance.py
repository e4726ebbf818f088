"""Each row of the table with forked ranks, and some (with ``CONFORMANCE_SPAWN=all`` each) with spawned ones.

Rows run in as few pytest sessions as possible, before the first of them is judged. How long each verdict took is
printed; ``-rP`` shows it. Under load it takes longer: what is asserted is the bound of the row and :data:`SLACK`
seconds, which is still below every time-out of torch's. On an idle machine ``CONFORMANCE_SLACK=0`` asserts the bounds
as promised.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from .judging import assert_row, assert_session
from .page import render, says
from .sessions import ROWS as DIRECTORY
from .sessions import SessionRecord, measure_pace, run_session
from .table import ROWS, SPAWNED, START_METHODS, Row, StartMethod, deadline_for

SLACK = float(os.environ.get("CONFORMANCE_SLACK", "5"))
EACH_SPAWNED = os.environ.get("CONFORMANCE_SPAWN") == "all"
AT_A_TIME = 3
"""Sessions that run side by side: some of them only wait."""
NOT_IN_TABLE = {"conftest", "blocks", "blocks_after_a_launch"}

Key = tuple[str, StartMethod]


class Sessions:
    """The sessions that rows need, each with all of its rows."""

    def __init__(self, wanted: list[tuple[Row, StartMethod]]) -> None:
        rows: dict[Key, list[str]] = {}
        for row, method in wanted:
            # A deadline that began while the server still imports torch would not be that of ranks.
            first = ["passes"] if row.session == "hangs" else []
            names = rows.setdefault(self._key(row, method), first)
            if row.file not in names:
                names.append(row.file)
        pace = measure_pace()
        self.timeouts: dict[StartMethod, float] = {method: deadline_for(method, pace) for method in START_METHODS}
        self._pool = ThreadPoolExecutor(AT_A_TIME)
        self._records: dict[Key, Future[SessionRecord]] = {
            (name, method): self._pool.submit(
                run_session,
                rows[name, method],
                f"--elastic-start-method={method}",
                f"--elastic-timeout={self.timeouts[method]}",
            )
            for name, method in rows
        }

    @staticmethod
    def _key(row: Row, method: StartMethod) -> Key:
        return row.file if row.session == "alone" else row.session, method

    def of(self, row: Row, method: StartMethod) -> SessionRecord:
        """Return the session of a row, when it is over."""
        return self._records[self._key(row, method)].result()

    def all(self) -> dict[Key, SessionRecord]:
        """Return every session, when all are over."""
        return {key: future.result() for key, future in self._records.items()}

    def close(self) -> None:
        """Wait for the sessions, which have deadlines of their own."""
        self._pool.shutdown(cancel_futures=True)


@pytest.fixture(scope="session")
def sessions(request: pytest.FixtureRequest) -> Iterator[Sessions]:
    """Run the rows that this run of pytest is going to judge."""
    items = [item for item in request.session.items if isinstance(item, pytest.Function)]
    wanted: list[dict[str, Any]] = [item.callspec.params for item in items if item.originalname == "test_row"]
    running = Sessions([(params["row"], params["method"]) for params in wanted])
    yield running
    running.close()


def parameters() -> Iterator[Any]:
    for row in (row for row in ROWS if row.needs is None or hasattr(pytest, row.needs)):
        for method in START_METHODS:
            if method == "spawn" and not (EACH_SPAWNED or row.file in SPAWNED):
                continue
            marks = [pytest.mark.xfail(strict=True, reason=row.deviates)] if row.deviates is not None else []
            yield pytest.param(row, method, id=f"{row.file}-{method}", marks=marks)


@pytest.mark.parametrize(("row", "method"), list(parameters()))
def test_row(row: Row, method: StartMethod, sessions: Sessions) -> None:
    session = sessions.of(row, method)
    if row.session == "alone":
        assert_session(row, session)
    seconds = assert_row(row, session, sessions.timeouts[method], forked=method == "forkserver")
    if row.within is not None:
        assert seconds is not None
        print(f"verdict after {seconds:.2f} s, promised within {row.within:g} s of the {row.since}")
        assert seconds <= row.within + SLACK


def test_sessions_leave_nothing(sessions: Sessions) -> None:
    for key, session in sessions.all().items():
        assert (session.processes, session.files) == ([], []), key


def test_each_row_has_a_file_that_says_what_it_is_and_each_file_a_row() -> None:
    names = {path.stem for path in DIRECTORY.glob("*.py")} | {path.parent.name for path in DIRECTORY.glob("*/row.py")}
    assert sorted(row.file for row in ROWS) == sorted(names - NOT_IN_TABLE)
    assert [row.file for row in ROWS if not says(row).endswith(".")] == []
    assert {row.file for row in ROWS} >= SPAWNED


def test_the_page_tells_the_table() -> None:
    page = Path(__file__).parents[2] / "docs" / "conformance.md"
    assert page.read_text() == render(), "make it again: python -m tests.conformance.page > docs/conformance.md"
