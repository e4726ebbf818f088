"""Debuggers in ranks, through a real terminal."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import termios
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pexpect
import psutil
import pytest

PROMPT: Final = r"\(Pdb\) "
PATIENCE: Final = 40
"""Seconds for which output is waited for: the first prompt comes after torch has been imported."""


class Terminal:
    """A pytest session in front of a terminal of its own.

    Args:
        directory: Where it runs.
        arguments: Command line.
    """

    def __init__(self, directory: Path, *arguments: str) -> None:
        self.environ = environment(directory)
        self.child = pexpect.spawn(
            sys.executable,
            ["-m", "pytest", "-p", "no:cacheprovider", "--color=no", *arguments],
            cwd=str(directory),
            env=self.environ,
            encoding="utf-8",
            timeout=PATIENCE,
            dimensions=(40, 100),
            # A background job of a shell begins with SIGINT ignored, and so would this.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        self.child.delaybeforesend = None
        self.settings = termios.tcgetattr(self.child.child_fd)

    def expect(self, *patterns: str) -> str:
        """Wait for each of some patterns in turn; return what came before the last one."""
        for pattern in patterns:
            self.child.expect(pattern)
        return str(self.child.before)

    def tell(self, command: str) -> str:
        """Give the debugger a command, and return what comes before its next prompt."""
        self.child.sendline(command)
        return self.expect(PROMPT)

    def interrupt(self) -> None:
        """Press Ctrl-C, again if need be: Python misses it in the moment between its prompt and its reading."""
        for _ in range(PATIENCE // 5):
            self.child.sendintr()
            if self.child.expect(["KeyboardInterrupt", pexpect.TIMEOUT], timeout=5) == 0:
                return
        pytest.fail("Ctrl-C has no effect")

    def settings_are_back(self) -> bool:
        return termios.tcgetattr(self.child.child_fd) == self.settings

    def end(self) -> tuple[str, int | None]:
        """Wait for the end of the session; return the rest of its output and its exit code."""
        rest = self.expect(pexpect.EOF)
        assert self.settings_are_back()
        self.child.close()
        assert left_behind(self.environ) == []
        return rest, self.child.exitstatus

    def close(self) -> None:
        self.child.close(force=True)


def environment(directory: Path) -> dict[str, str]:
    ours = ("PYTEST_CURRENT_TEST", "PYTEST_XDIST", "PYTEST_VERSION", "PYTEST_ELASTIC")
    temporary = directory / "temporary"
    temporary.mkdir()
    kept = {key: value for key, value in os.environ.items() if not key.startswith(ours)}
    return kept | {"TMPDIR": str(temporary), "TERM": "xterm"}


def left_behind(environ: dict[str, str]) -> list[str]:
    """Return what a session has left: processes that know its temporary directory, and what is in that."""
    left = [name for name in os.listdir(environ["TMPDIR"]) if not name.startswith("pytest-of-")]
    for process in psutil.process_iter():
        try:
            if process.environ().get("TMPDIR") == environ["TMPDIR"] and process.status() != psutil.STATUS_ZOMBIE:
                left.append(str(process))
        except psutil.Error:
            continue
    return left


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Any]:
    """Open a session: ``terminal(source, *arguments)``."""
    opened = []

    def start(source: str, *arguments: str) -> Terminal:
        (tmp_path / "test_it.py").write_text(source)
        opened.append(Terminal(tmp_path, *arguments))
        return opened[-1]

    yield start
    for each in opened:
        each.close()


BREAKPOINTS = """
import os, pdb, threading, time
import hypothesis, pytest, pytest_elastic
import torch, torch.distributed as dist
from pdb import set_trace
def spin():
    end = time.monotonic() + 60
    while time.monotonic() < end:
        pass

@pytest.mark.elastic(nproc=2, backend="gloo", timeout=4)
def test_stops(rank, capfd):
    mine = rank + 40
    print("before")
    breakpoint()
    total = torch.tensor(rank)
    dist.all_reduce(total)
    print("between")
    if rank == 1:
        pdb.set_trace()
    assert capfd.readouterr().out == "before\\nbetween\\n"

@pytest.mark.parametrize("number", [5, 6])
@pytest.mark.elastic(nproc=2, isolation="module")
def test_is_kept(number):
    breakpoint()
    assert number

def double(x):
    y = 2 * x
    set_trace()
    return y

def test_launches(elastic_launch, tmp_path):
    assert elastic_launch(double, 4, nproc=2) == {0: 8, 1: 8}
    (tmp_path / "script.py").write_text(
        "try:\\n    1 / 0\\nexcept ArithmeticError:\\n    import pdb; pdb.post_mortem()\\n"
        "z = 3\\nbreakpoint()\\nprint('z', z)\\n"
    )
    assert elastic_launch(tmp_path / "script.py", nproc=1).stdout[0] == "z 3\\n"

@pytest_elastic.controller_fixture
def slow():
    breakpoint()
    return 9

@pytest.mark.elastic(nproc=2, timeout=3)
def test_asks(request):
    assert request.getfixturevalue("slow") == 9

def say():
    print("here", flush=True)
    threading.Event().wait()

def test_goes_on_beside(elastic_launch):
    with elastic_launch.start(say, nproc=1, timeout=3) as run:
        run.wait_for_output("here")
        breakpoint()
        assert run.ranks[0].state == "RUNNING"
        with pytest.raises(pytest_elastic.ElasticTimeoutError):
            run.wait()

visits = []

@pytest.mark.elastic(nproc=2)
@hypothesis.settings(database=None)
@hypothesis.given(hypothesis.strategies.just(1))
def test_example(rank, x):
    visits.append(x)
    if rank == 1 and len(visits) == 1:
        breakpoint()
    assert rank == 1

def test_plain():
    print("captured as ever")
    assert 0

breakpoint()
"""


def test_breakpoints(terminal: Any, tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text("import pdb\n\ndef pytest_collection_modifyitems():\n    pdb.set_trace()\n")
    session = terminal(BREAKPOINTS, "--elastic-pdb-rank=1", "--tb=short")
    # Once in this process, and never again where the test file is collected for ranks.
    for _ in range(2):
        session.expect(r">>>> PDB set_trace \(IO-capturing turned off\) >>>>", PROMPT)
        session.child.sendline("c")
    session.expect(r">>>> PDB set_trace \[rank 1\] >>>>", "-> total = ", PROMPT)
    assert "41" in session.tell("p mine")
    session.interrupt()
    session.expect(PROMPT)
    # Longer than the deadline of the test, and than the grace time.
    assert "slept" in session.tell("time.sleep(5); print('slept')")
    # A step takes as long as the person lets it; the others have to take part in this one.
    assert "all_reduce" in session.tell("n")
    assert "between" in session.tell("n")
    session.child.sendline("spin()")
    session.expect("spin")
    session.interrupt()
    session.expect(PROMPT)
    assert "1\r\n" in session.tell("p total.item()")
    # One that is set in the debugger comes after it has given the terminal back.
    assert "Breakpoint 1" in session.tell("b 19")
    session.child.sendline("c")
    session.expect(">>>> PDB continue")
    session.expect("rank 0 reached the breakpoint at test_it.py:15 too; --elastic-pdb-rank=0 debugs rank 0")
    session.expect(r">>>> PDB \[rank 1\] >>>>", "-> if rank == 1", PROMPT)
    assert session.settings_are_back() is False  # readline has it
    session.child.sendline("clear 1")
    session.expect("Deleted breakpoint", PROMPT)
    session.child.sendline("c")
    session.expect(">>>> PDB continue", r">>>> PDB set_trace \[rank 1\] >>>>", PROMPT)
    session.child.sendline("c")
    session.expect(">>>> PDB continue", r">>>> PDB set_trace \[rank 1\] >>>>", PROMPT)
    assert "5\r\n" in session.tell("p number")
    session.child.sendline("c")
    session.expect(r">>>> PDB set_trace \[rank 1\] >>>>", PROMPT)
    assert "6\r\n" in session.tell("p number")
    session.child.sendline("c")
    session.expect(r"too; --elastic-pdb-rank=0 debugs rank 0", r">>>> PDB set_trace \[rank 1\] >>>>", PROMPT)
    assert "8\r\n" in session.tell("p y")
    session.child.sendline("c")
    session.expect(r"this launch has rank 0 only; the first to ask is debugged")
    session.expect(r">>>> PDB post_mortem \[rank 0\] >>>>", "-> 1 / 0", PROMPT)
    session.child.sendline("q")
    session.expect(r">>>> PDB set_trace \[rank 0\] >>>>", PROMPT)
    assert "3\r\n" in session.tell("p z")
    session.child.sendline("c")
    # In the pytest process, and longer than the deadline of the ranks that wait for it, or run beside it.
    for _ in range(2):
        session.expect(r">>>> PDB set_trace \(IO-capturing turned off\) >>>>", PROMPT)
        assert "slept" in session.tell("time.sleep(4); print('slept')")
        session.child.sendline("c")
    # Rank 0 has failed the example, and waits for longer than its patience.
    session.expect(r">>>> PDB set_trace \[rank 1\] >>>>", PROMPT)
    assert "slept" in session.tell("time.sleep(3); print('slept')")
    session.child.sendline("c")
    rest, exitcode = session.end()
    assert "not shrunk" not in rest
    assert "Captured stdout call" in rest
    assert "captured as ever" in rest
    assert "2 failed, 6 passed" in rest
    assert exitcode == 1


FAILURES = """
import os, signal, threading
import pytest
import torch.distributed as dist

@pytest.mark.elastic(nproc=3, backend="gloo", timeout=8)
def test_one_fails(rank):
    culprit = rank + 40
    print("said by", rank)
    assert rank != 1
    dist.barrier()

@pytest.mark.elastic(nproc=2)
@pytest.mark.xfail(raises=AssertionError)
def test_is_expected():
    assert 0

@pytest.fixture
def broken(rank):
    mine = rank + 50
    raise ValueError("broken")

@pytest.mark.elastic(nproc=2)
def test_set_up(broken):
    pass

@pytest.mark.elastic(nproc=2)
def test_dies(rank):
    if rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    threading.Event().wait()

@pytest.mark.elastic(nproc=2, timeout=1)
def test_hangs():
    threading.Event().wait()

def test_plain():
    plain = 60
    assert plain == 0

@pytest.mark.elastic(nproc=1)
def test_is_left():
    assert 0

@pytest.mark.elastic(nproc=1)
def test_never():
    pass
"""


def test_post_mortem(terminal: Any) -> None:
    session = terminal(FAILURES, "--pdb", "--tb=line")
    session.expect(
        ">>>> captured stdout",
        "said by 1",
        "assert 1 != 1",
        r">>>> PDB post_mortem \[rank 1\] >>>>",
        "-> assert rank != 1",
        PROMPT,
    )
    assert "41" in session.tell("p culprit")
    # As long as the person likes: the others wait in a barrier, and longer than their grace time.
    assert "slept" in session.tell("import time; time.sleep(4); print('slept')")
    session.child.sendline("c")
    session.expect(r">>>> PDB post_mortem \[rank [01]\] >>>>", "-> raise ValueError", PROMPT)
    assert "5" in session.tell("p mine")
    session.child.sendline("c")
    session.expect(r"--pdb: there is no rank to look into: \[rank 1\] killed by SIGKILL")
    session.expect("--pdb: there is no rank to look into: timed out after 1 s: test_hangs")
    session.expect(r">>>> PDB post_mortem \(IO-capturing turned off\) >>>>", "-> assert plain", PROMPT)
    assert "60" in session.tell("p plain")
    session.child.sendline("c")
    session.expect(r">>>> PDB post_mortem \[rank 0\] >>>>", PROMPT)
    session.child.sendline("q")
    rest, exitcode = session.end()
    assert "Exit: Quitting debugger" in rest
    assert "5 failed, 1 xfailed, 1 error" in rest
    assert exitcode == 2


TRACED = """
import os, signal
import pytest

@pytest.fixture
def noted(rank):
    yield
    open(f"torn-down-{rank}", "w").close()

@pytest.mark.elastic(nproc=2)
def test_first(rank):
    first = rank
    second = rank

@pytest.mark.elastic(nproc=2)
def test_dies(rank):
    os.kill(os.getpid(), signal.SIGKILL if rank == 0 else signal.SIGCONT)

@pytest.mark.elastic(nproc=2)
def test_is_left(noted):
    left = 1
    left = 2

def test_never():
    pass
"""


def test_trace_and_death_and_the_shell(terminal: Any, tmp_path: Path) -> None:
    session = terminal(TRACED, "--trace", "--elastic-pdb-rank=0", "--tb=line")
    session.expect(r">>>> PDB runcall \[rank 0\] >>>>", "-> first = rank", PROMPT)
    # The person goes back to the shell, and finds the terminal as it was.
    process = psutil.Process(session.child.pid)
    session.child.sendcontrol("z")
    assert wait_for(process, psutil.STATUS_STOPPED)
    assert session.settings_are_back()
    process.send_signal(signal.SIGCONT)
    assert "-> second = rank" in session.tell("n")
    assert "0\r\n" in session.tell("p first")
    # The test ends while the debugger still steps.
    session.child.sendline("n")
    session.expect("--Return--", PROMPT)
    for _ in range(3):
        session.child.sendline("r")
        if session.child.expect([PROMPT, r">>>> PDB runcall \[rank 0\] >>>>"]) == 1:
            break
    session.expect("-> os.kill", PROMPT)
    session.child.sendline("n")
    session.expect(r">>>> PDB runcall \[rank 0\] >>>>", "-> left = 1", PROMPT)
    session.child.sendline("q")
    rest, exitcode = session.end()
    assert "[rank 0] killed by SIGKILL" in rest
    assert "Exit: Quitting debugger" in rest
    assert "1 failed, 1 passed" in rest
    assert exitcode == 2
    assert (tmp_path / "torn-down-0").exists()


def wait_for(process: psutil.Process, status: str) -> bool:
    """Wait until a process has a status; the system tells nobody but its parent."""
    pid, code = os.waitpid(process.pid, os.WUNTRACED)
    return bool(pid == process.pid and os.WIFSTOPPED(code) and process.status() == status)


PIPED = """
import pdb, pytest

@pytest.mark.elastic(nproc=2, timeout=20)
def test_reads():
    a = 1
    breakpoint()
    breakpoint()
    try:
        a = 1 / 0
    except ZeroDivisionError:
        pdb.post_mortem()

def stop():
    breakpoint()
    return 3

def test_input_has_ended(elastic_launch):
    assert elastic_launch(stop, nproc=1) == {0: 3}

def test_goes_on():
    pass
"""


def run(directory: Path, source: str, *arguments: str, **keywords: Any) -> str:
    (directory / "test_it.py").write_text(source)
    environ = environment(directory)
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *arguments]
    done = subprocess.run(
        command, cwd=directory, env=environ, capture_output=True, text=True, timeout=PATIENCE, check=False, **keywords
    )
    assert left_behind(environ) == []
    return str(done.stdout)


def test_commands_come_from_a_pipe_until_it_ends(tmp_path: Path) -> None:
    text = run(tmp_path, PIPED, "--tb=line", input="p a + 10\nc\np a + 20\nc\np a + 30\nc\n")
    assert "(Pdb) 11\n" in text
    assert "(Pdb) 21\n" in text
    assert "(Pdb) 31\n" in text
    assert "[rank 0] BdbQuit" in text
    assert "1 failed, 2 passed" in text


def test_a_worker_of_xdist_has_no_terminal(tmp_path: Path) -> None:
    text = run(tmp_path, PIPED, "-n1", "--tb=line", stdin=subprocess.DEVNULL)
    assert "breakpoint at test_it.py:7 on rank" in text
    assert "a worker of pytest-xdist has no terminal; run this test without -n" in text
    assert "2 failed, 1 passed" in text
