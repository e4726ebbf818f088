"""What a person at a terminal sees while a test takes long, and what is left of it on the screen."""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path

import pexpect
import pyte
import pytest

DEADLINE = 60
SLOW = """
import os, time
import pytest
import pytest_elastic

def wait_for(name):
    deadline = time.monotonic() + 50
    while not os.path.exists(name):
        assert time.monotonic() < deadline
        time.sleep(0.05)

@pytest.mark.elastic(nproc=3, timeout=60)
def test_slow(rank, elastic_barrier):
    open("begun", "w").close()
    if rank == 2: wait_for("enough")
    elastic_barrier()

@pytest_elastic.controller_fixture
def later(): wait_for("begun")

@pytest.mark.elastic(nproc=1, timeout=60)
def test_quick(rank, later): pass
"""
LINE = r"test_slow: rank 2 running, ranks 0-1 waiting; \d+ s of 60 s"


class Session:
    """pytest at a terminal of 160 columns.

    Args:
        arguments: Of pytest.
        environ: Variables beside those that are there.
    """

    def __init__(self, *arguments: str, **environ: str) -> None:
        # Nor does a shell tell how wide its terminal is.
        others = ("CI", "BUILD_NUMBER", "COLUMNS", "LINES")
        variables = {name: value for name, value in os.environ.items() if name not in others}
        variables |= {"TERM": "xterm", **environ}
        command = ["-m", "pytest", "-p", "no:cacheprovider", *arguments]
        self.written = io.StringIO()
        self.child: pexpect.spawn[str] = pexpect.spawn(
            sys.executable, command, env=variables, encoding="utf-8", timeout=DEADLINE, dimensions=(24, 160)
        )
        self.child.logfile_read = self.written

    def end(self) -> str:
        """Wait for the end; return what is left on the screen."""
        self.child.expect(pexpect.EOF)
        self.child.close()
        screen = pyte.Screen(160, 200)
        pyte.Stream(screen).feed(self.written.getvalue())
        return "\n".join(line.rstrip() for line in screen.display).strip()


def test_a_line_is_shown_and_wiped(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(test_it=SLOW)
    session = Session("-p", "no:xdist")
    session.child.expect(LINE)
    Path("enough").touch()
    screen = session.end()
    assert session.child.exitstatus == 0
    assert "running" not in screen
    assert f"test_it.py ..{' ' * 140}[100%]" in screen


@pytest.mark.soak
def test_workers_show_theirs_in_the_main_process(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(test_it=SLOW)
    session = Session("-n2", "-v", "--elastic-cpu-slots=1")
    session.child.expect(LINE)
    session.child.expect(r"test_quick: waits for 1 CPU slot; \d s")
    Path("enough").touch()
    screen = session.end()
    assert session.child.exitstatus == 0
    assert "waiting" not in screen
    assert "waits for" not in screen
    assert "PASSED [3 ranks] test_it.py::test_slow" in screen


@pytest.mark.parametrize("where", ["pipe", pytest.param("CI", marks=pytest.mark.soak)])
def test_nothing_is_shown_where_nobody_looks(pytester: pytest.Pytester, where: str) -> None:
    """A test that times out has run for longer than it takes until something is shown."""
    pytester.makepyfile(test_it=SLOW.replace("timeout=60", "timeout=4.5"))
    arguments = ("-p", "no:xdist", "-p", "no:cacheprovider", "-k", "slow")
    if where == "pipe":
        pytester.run(sys.executable, "-m", "pytest", *arguments)
        written = (pytester.path / "stdout").read_text()
    else:
        session = Session(*arguments, CI="1")
        session.end()
        written = session.written.getvalue()
    assert "timed out after 4.5 s: test_slow" in written
    assert "running" not in written
    assert "\x1b[A" not in written
