"""Sessions of pytest that run random tests, what came of them, and what they left behind."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import psutil

from tests.conformance.sessions import begin

from .cases import HEADER, Case

GONE_WITHIN: Final = 2.0
"""Seconds after the end of pytest within which everything must be gone. A promise to users."""
_DEADLINE: Final = 900.0
_MARK: Final = "SOAK_SESSION"
_OPTIONS: Final = ("-p", "elastic", "-p", "xdist", "-p", "no:cacheprovider", "--color=no", "-q")
_STAY: Final = ("pytest-elastic-ports-",)
"""What is meant to stay in the temporary directory: the locks of ports that runs share."""
_CONFTEST: Final = """
import atexit, json, os, threading
from pathlib import Path
import psutil

RECORD = Path(os.environ["SOAK_SESSION"])
SERVER = "PYTEST_ELASTIC_PRELOAD" in os.environ or "PYTEST_ELASTIC_RUN" in os.environ

def held():
    me = psutil.Process()
    children = [child for child in me.children(recursive=True)]
    return {
        "descriptors": me.num_fds(), "threads": threading.active_count(), "processes": len(children),
        "sockets": len(me.net_connections(kind="all")),
    }

def write(**facts):
    with open(RECORD / "told.jsonl", "a") as file:
        file.write(json.dumps(facts) + "\\n")

if not SERVER:
    # The first of what is registered is the last of what runs.
    PID, BEFORE = os.getpid(), held()
    @atexit.register
    def compare():
        if os.getpid() == PID:
            write(kind="held", before=BEFORE, after=held())

def pytest_runtest_logstart(nodeid):
    if not SERVER:
        write(kind="start", nodeid=nodeid)

def pytest_runtest_logreport(report):
    # Those of a worker of pytest-xdist are told by the worker.
    if not SERVER and not hasattr(report, "node"):
        crash = getattr(report.longrepr, "reprcrash", None)
        message = crash.message if crash is not None else str(report.longrepr or "")
        write(kind="report", nodeid=report.nodeid, when=report.when, outcome=report.outcome, message=message)
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Ended:
    """What is known of a session that has ended.

    Attributes:
        exitcode: pytest's exit code.
        output: What it printed.
        told: What its conftest wrote.
        gone_after: Seconds from its end until nothing of it was alive any more.
        left: What it left behind, a line each.
    """

    exitcode: int
    output: str
    told: list[dict[str, Any]]
    gone_after: float
    left: list[str]


@dataclass(kw_only=True, slots=True)
class Session:
    """A session that runs.

    Attributes:
        process: Its pytest.
        directory: Where its files are; it is in the environment of each of its processes.
        shared_memory: What was in /dev/shm before.
    """

    process: subprocess.Popen[bytes]
    directory: Path
    shared_memory: frozenset[str]

    def told(self) -> list[dict[str, Any]]:
        """Return what its conftest has written by now."""
        file = self.directory / "told.jsonl"
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

    def alive(self) -> dict[int, str]:
        """Return its processes."""
        found = {}
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.environ().get(_MARK) == str(self.directory) and process.status() != psutil.STATUS_ZOMBIE:
                    found[process.pid] = " ".join(process.cmdline())
        return found

    def wait_for_start(self, number: int, timeout: float) -> bool:
        """Wait until so many tests have started; return whether they have."""
        deadline = time.monotonic() + timeout
        while len([told for told in self.told() if told["kind"] == "start"]) < number:
            if self.process.poll() is not None or time.monotonic() > deadline:
                return False
            time.sleep(0.01)
        return True

    def finish(self) -> Ended:
        """Wait for its end and look for what it has left."""
        exitcode = self.process.wait(_DEADLINE)
        ended = time.monotonic()
        while (processes := self.alive()) and time.monotonic() < ended + 30:
            time.sleep(0.01)
        gone_after = time.monotonic() - ended
        temporary = self.directory / "temporary"
        left = [f"process {pid}: {line}" for pid, line in processes.items()]
        left += [f"file {path.name}" for path in temporary.iterdir() if not path.name.startswith(_STAY)]
        runs = _runs()
        new = _shared_memory() - self.shared_memory
        left += [f"shared memory {name}" for name in new if not any(run in name for run in runs)]
        output = (self.directory / "output").read_text(errors="replace")
        return Ended(exitcode=exitcode, output=output, told=self.told(), gone_after=gone_after, left=left)

    def end(self) -> None:
        """End what is left of it."""
        for pid in self.alive():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()


def _shared_memory() -> frozenset[str]:
    """Return what runs and torch have in /dev/shm; other programs may be at work as well."""
    folder = Path("/dev/shm")
    names = (path.name for path in folder.iterdir()) if folder.is_dir() else ()
    return frozenset(name for name in names if name.startswith(("sem.elastic-", "torch_")))


def _runs() -> set[str]:
    """Return the runs of the machine that are alive: what they use is not left."""
    found = set()
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            found.add(process.environ().get("PYTEST_ELASTIC_RUN", ""))
    return found - {""}


@contextlib.contextmanager
def start_session(directory: Path, cases: Sequence[Case], *options: str) -> Iterator[Session]:
    """Start pytest with some cases.

    Args:
        directory: An empty directory.
        cases: The tests of its one module.
        options: Options of pytest.
    """
    (directory / "temporary").mkdir(exist_ok=True)
    (directory / "conftest.py").write_text(_CONFTEST)
    (directory / "pytest.ini").write_text("[pytest]\n")
    (directory / "test_soak.py").write_text("\n\n".join([HEADER, *(case.source for case in cases)]))
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_XDIST", "COV_"))}
    environ |= {
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        _MARK: str(directory),
        "TMPDIR": str(directory / "temporary"),
        "COLUMNS": "200",
    }
    with (directory / "output").open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "pytest", *_OPTIONS, f"--basetemp={directory / 'base'}", *options],
            cwd=directory,
            env=environ,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            preexec_fn=begin,
        )
    session = Session(process=process, directory=directory, shared_memory=_shared_memory())
    try:
        yield session
    finally:
        session.end()
