"""Whatever ends pytest itself in the middle of a marked test, nothing outlives it."""

from __future__ import annotations

import os
import signal
import time

import pytest

from .judging import assert_has
from .sessions import GONE_WITHIN, RunningSession, SessionRecord, start_session
from .table import StartMethod

_STARTED_WITHIN = 120.0
_SLACK = float(os.environ.get("CONFORMANCE_SLACK", "5"))


def end(row: str, method: StartMethod, ranks: int, sig: signal.Signals) -> SessionRecord:
    """Run a row that blocks, and signal pytest (Ctrl-C: its whole foreground group) once all of its ranks do."""
    with start_session([row], f"--elastic-start-method={method}") as session:
        wait_for(session, ranks)
        (os.killpg if sig is signal.SIGINT else os.kill)(session.process.pid, sig)
        told = time.monotonic()
        record = session.finish()
        # An interpreter with torch in it takes its time to leave, after all that it started has gone.
        print(f"all gone {time.monotonic() - told:.2f} s after the signal")
        assert time.monotonic() - told < GONE_WITHIN + _SLACK
        assert (record.processes, record.files) == ([], [])
    return record


def wait_for(session: RunningSession, ranks: int) -> None:
    deadline = time.monotonic() + _STARTED_WITHIN
    while len([file for file in session.record.glob("*.pids") if file.read_text()]) < ranks:
        assert session.process.poll() is None, session.output.read_text()
        assert time.monotonic() < deadline, session.output.read_text()
        time.sleep(0.01)


EVERY_DAY = ["forkserver", pytest.param("spawn", marks=pytest.mark.soak)]


@pytest.mark.parametrize("method", EVERY_DAY)
def test_pytest_is_killed(method: StartMethod) -> None:
    assert end("blocks", method, 2, signal.SIGKILL).exitcode == -signal.SIGKILL


@pytest.mark.parametrize("method", EVERY_DAY)
def test_ctrl_c(method: StartMethod) -> None:
    record = end("blocks", method, 2, signal.SIGINT)
    assert record.exitcode == pytest.ExitCode.INTERRUPTED, record.lines
    assert_has(record.lines, "*KeyboardInterrupt*", "*1 passed*")
    assert not record.of("blocks", "test_after")


def test_ctrl_c_in_a_plain_test_after_a_launch() -> None:
    record = end("blocks_after_a_launch", "forkserver", 1, signal.SIGINT)
    assert record.exitcode == pytest.ExitCode.INTERRUPTED, record.lines
    assert_has(record.lines, "*KeyboardInterrupt*", "*1 passed*")
    assert not record.of("blocks_after_a_launch", "test_after")
