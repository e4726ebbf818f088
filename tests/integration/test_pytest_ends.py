"""Whatever ends pytest, nothing of its launches outlives it."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

pytestmark = pytest.mark.own_server

SPAWN = 'start_method="spawn"'
LAUNCH = """
import os, pathlib, signal, threading, time
import pytest

def block(directory, deaf):
    if deaf:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    rank = os.environ["RANK"]
    import subprocess
    child = subprocess.Popen(["sleep", "1000"])
    (pathlib.Path(directory) / rank).write_text(f"{{os.getpid()}} {{child.pid}}")
    threading.Event().wait()

def quick():
    return 1

def test_before(elastic_launch):
    assert elastic_launch(quick, nproc=1) == {{0: 1}}

def test_blocks(elastic_launch, etcd_server):
    pathlib.Path({directory!r}, "etcd").write_text(str(etcd_server.pid))
    elastic_launch({entry}, nproc=2, timeout=100, {keywords})

def test_after():
    pathlib.Path({directory!r}, "after").touch()
"""
ENTRIES = {
    "function": ("block, {directory!r}, False", ""),
    "deaf": ("block, {directory!r}, True", ""),
    "spawned": ("block, {directory!r}, False", SPAWN),
    "inline": ("block, {directory!r}, False", 'agent="inline"'),
    "script": ("{directory!r} + '/script.py'", ""),
}
SCRIPT = """
import os, pathlib, subprocess, threading
child = subprocess.Popen(["sleep", "1000"])
(pathlib.Path(__file__).parent / os.environ["RANK"]).write_text(f"{os.getpid()} {child.pid}")
threading.Event().wait()
"""


def wait_until(reached: Callable[[], bool], timeout: float) -> bool:
    deadline = time.monotonic() + timeout
    while not reached():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.005)
    return True


def take_sigint() -> None:
    """A background job of a shell, as continuous integration may be, begins with SIGINT ignored."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


class Session:
    """A real pytest process that is in the middle of a launch."""

    def __init__(self, directory: Path, entry: str) -> None:
        self.directory = directory
        call, keywords = ENTRIES[entry]
        (directory / "script.py").write_text(SCRIPT)
        test = directory / "test_it.py"
        test.write_text(
            LAUNCH.format(directory=str(directory), entry=call.format(directory=str(directory)), keywords=keywords)
        )
        self.temporary = directory / "t"
        self.temporary.mkdir()
        ours = ("PYTEST_CURRENT_TEST", "PYTEST_XDIST", "PYTEST_VERSION", "PYTEST_ELASTIC")
        environ = {key: value for key, value in os.environ.items() if not key.startswith(ours)}
        environ["TMPDIR"] = str(self.temporary)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", str(test)],
            cwd=directory,
            env=environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            preexec_fn=take_sigint,
        )
        files = [directory / "0", directory / "1", directory / "etcd"]
        assert wait_until(lambda: all(f.exists() and f.read_text() for f in files), 60), self.process.communicate()
        self.named = [int(word) for file in files for word in file.read_text().split()]
        family = psutil.Process(self.process.pid).children(recursive=True)
        self.everybody = {*self.named, *(process.pid for process in family)}

    def alive(self) -> list[str]:
        return list(self.alive_ids().values())

    def alive_ids(self) -> dict[int, str]:
        found = {}
        for pid in self.everybody:
            try:
                process = psutil.Process(pid)
                if process.status() != psutil.STATUS_ZOMBIE:
                    found[pid] = f"{pid}: {' '.join(process.cmdline())}"
            except psutil.NoSuchProcess:
                continue
        return found

    def end(self) -> None:
        """End what a failed test leaves: only what this session started."""
        for pid in self.alive_ids():
            with contextlib.suppress(psutil.NoSuchProcess):
                psutil.Process(pid).kill()
        self.process.kill()
        self.process.communicate()

    def assert_nothing_is_left(self) -> None:
        # The bound is a promise to users: 2 s. Everything is gone after some 20 ms where the kernel helps.
        assert wait_until(lambda: not self.alive(), 2.0), self.alive()
        wait_until(lambda: not self.leftover_files(), 2.0)
        assert not self.leftover_files()

    def leftover_files(self) -> list[str]:
        names = [path.name for path in self.temporary.iterdir()]
        return [name for name in names if not name.startswith(("pytest-of-", "pytest-elastic-ports-"))]


@pytest.fixture
def start_session(tmp_path: Path) -> Iterator[Callable[[str], Session]]:
    sessions: list[Session] = []

    def start(entry: str) -> Session:
        sessions.append(Session(tmp_path, entry))
        return sessions[-1]

    yield start
    for session in sessions:
        session.end()


@pytest.mark.parametrize("entry", ENTRIES)
def test_sigkill_of_pytest_ends_everything(start_session: Callable[[str], Session], entry: str) -> None:
    session = start_session(entry)
    session.process.kill()
    session.process.communicate(timeout=10)
    session.assert_nothing_is_left()


@pytest.mark.parametrize("entry", ["function", "deaf", "inline", "script"])
def test_ctrl_c_ends_pytest_with_exit_code_2_and_leaves_nothing(
    tmp_path: Path, start_session: Callable[[str], Session], entry: str
) -> None:
    session = start_session(entry)
    os.killpg(session.process.pid, signal.SIGINT)  # as a terminal does: to the whole foreground group
    # What must be quick is the end of the ranks; an interpreter with torch in it takes its time to leave.
    assert wait_until(lambda: not set(session.named[:4]) & set(session.alive_ids()), 2.0), session.alive()
    output, _ = session.process.communicate(timeout=30)
    assert session.process.returncode == 2, output
    assert "KeyboardInterrupt" in output
    assert "1 passed" in output
    assert not (tmp_path / "after").exists()
    session.assert_nothing_is_left()


def test_ctrl_c_in_a_plain_test_after_a_launch_ends_pytest(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(
        "import pathlib, threading\n"
        "def quick(): return 1\n"
        "def test_launch(elastic_launch): assert elastic_launch(quick, nproc=2) == {0: 1, 1: 1}\n"
        "def test_plain():\n"
        f"    pathlib.Path({str(tmp_path)!r}, 'here').touch()\n"
        "    threading.Event().wait()\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "test_it.py"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=take_sigint,
    )
    assert wait_until((tmp_path / "here").exists, 60)
    os.killpg(process.pid, signal.SIGINT)
    output, _ = process.communicate(timeout=30)
    assert process.returncode == 2, output
    assert "KeyboardInterrupt" in output


def test_ctrl_c_ends_pytest_while_an_inline_agent_is_stuck(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(
        "import os, pathlib, threading\n"
        "from torch.distributed.elastic.agent.server.local_elastic_agent import LocalElasticAgent\n"
        "def stuck(self, role):\n"
        f"    pathlib.Path({str(tmp_path)!r}, 'here').touch()\n"
        "    threading.Event().wait()\n"
        "def test_launch(elastic_launch, monkeypatch):\n"
        "    monkeypatch.setattr(LocalElasticAgent, '_invoke_run', stuck)\n"
        "    try:\n"
        "        elastic_launch(os.getpid, nproc=2, agent='inline', timeout=None)\n"
        "    finally:\n"
        f"        pathlib.Path({str(tmp_path)!r}, 'over').touch()\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "test_it.py"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=take_sigint,
    )
    try:
        assert wait_until((tmp_path / "here").exists, 60)
        os.killpg(process.pid, signal.SIGINT)
        # What must be quick is the end of the launch; an interpreter with torch in it takes its time to leave.
        assert wait_until((tmp_path / "over").exists, 2.0)
        output, _ = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == 2, output
    assert "KeyboardInterrupt" in output
