"""Real pytest sessions in hard surroundings, and what came of them."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final

import psutil
import pytest

from pytest_elastic import kernel

MARK: Final = "ROBUSTNESS_SESSION"
_FOREIGN: Final = ("PYTEST", "COV_", "ROBUSTNESS_", "TORCHELASTIC_")
_KEPT: Final = ("pytest-of-", "pytest-elastic-ports-", "pytest-elastic-devices-")
"""Temporary directories that are meant to stay: pytest's own, and the locks that runs share."""
_DEADLINE: Final = 300.0
_GONE_WITHIN: Final = 30.0
"""A machine may be busy; how long it took is printed."""

CONFTEST: Final = """
import json, os, pathlib
def pytest_runtest_logreport(report):
    if "PYTEST_ELASTIC_RUN" not in os.environ and (report.when == "call" or report.outcome != "passed"):
        told = {"test": report.nodeid.rpartition("::")[2], "when": report.when, "outcome": report.outcome}
        told["text"] = report.longreprtext
        with open(os.environ["ROBUSTNESS_SESSION"] + "/told.jsonl", "a") as file:
            file.write(json.dumps(told) + "\\n")
"""
TESTS: Final = """
import pytest
def one(): return 1
@pytest.mark.elastic(nproc=2, timeout=60)
def test_marked(rank): pass
@pytest.mark.elastic(nproc=2, timeout=60)
def test_fails(rank): assert rank == 0
def test_launch(elastic_launch): assert elastic_launch(one, nproc=2, timeout=60) == {0: 1, 1: 1}
def test_plain(): pass
"""
AS_EVER: Final = {
    "test_marked": "passed",
    "test_fails": "failed",
    "test_launch": "passed",
    "test_plain": "passed",
}
"""What becomes of the tests above where nothing is in their way."""


@dataclass(kw_only=True, slots=True)
class Outcome:
    """What came of one session.

    Attributes:
        exitcode: pytest's exit code.
        output: What it printed.
        verdicts: Test to its outcome: ``"failed"``, or ``"failed at setup"`` where it was not the call.
        texts: Test to what was told of its failure.
        processes: Command lines of the processes that outlived it.
        files: Temporary files that it left.
        seconds: How long it ran.
    """

    exitcode: int
    output: str
    verdicts: dict[str, str]
    texts: dict[str, str]
    processes: list[str]
    files: list[str]
    seconds: float

    def assert_nothing_is_left(self) -> None:
        assert (self.processes, self.files) == ([], []), self.output


@dataclass(kw_only=True, slots=True)
class Session:
    """A pytest process in surroundings of its own.

    Attributes:
        process: The process that was started: pytest, or what runs it.
        record: Directory of the record; part of the environment of each process of the session.
        output: File with what pytest prints.
        began: When it was started.
    """

    process: subprocess.Popen[bytes]
    record: Path
    temporary: Path
    output: Path
    began: float = field(default_factory=time.monotonic)

    def alive(self) -> dict[int, str]:
        """Return the processes of the session by process id."""
        found = {}
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.environ().get(MARK) == str(self.record) and process.status() != psutil.STATUS_ZOMBIE:
                    found[process.pid] = " ".join(process.cmdline())
        return found

    def wait_until_gone(self) -> float:
        """Wait until no process is left, and return how many seconds that took."""
        begin = time.monotonic()
        while self.alive() and time.monotonic() - begin < _GONE_WITHIN:
            time.sleep(0.01)
        return time.monotonic() - begin

    def files(self) -> list[str]:
        """Return the temporary files that are there and not meant to stay."""
        return [path.name for path in self.temporary.iterdir() if not path.name.startswith(_KEPT)]

    def finish(self) -> Outcome:
        """Wait for the end, and see what is left."""
        exitcode = self.process.wait(_DEADLINE)
        seconds = time.monotonic() - self.began
        self.wait_until_gone()
        told = self.record / "told.jsonl"
        verdicts: dict[str, str] = {}
        texts: dict[str, str] = {}
        for line in told.read_text().splitlines() if told.exists() else []:
            report: dict[str, Any] = json.loads(line)
            where = "" if report["when"] == "call" else f" at {report['when']}"
            if verdicts.get(report["test"], "passed") == "passed":
                verdicts[report["test"]] = report["outcome"] + where
                texts[report["test"]] = report["text"]
        return Outcome(
            exitcode=exitcode,
            output=self.output.read_text(errors="replace"),
            verdicts=verdicts,
            texts=texts,
            processes=list(self.alive().values()),
            files=self.files(),
            seconds=seconds,
        )

    def end(self) -> None:
        """End whatever is left: only what this session started."""
        for pid in self.alive():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()


def own_environment(record: Path, temporary: Path, environ: Mapping[str, str | None]) -> dict[str, str]:
    """Return the environment of an inner session: a value of ``None`` takes a variable away."""
    own = {key: value for key, value in os.environ.items() if not key.startswith(_FOREIGN)}
    own |= {MARK: str(record), "TMPDIR": str(temporary), "COLUMNS": "300"}
    own["PYTEST_ADDOPTS"] = os.environ.get("PYTEST_ADDOPTS", "")
    for name, value in environ.items():
        if value is None:
            own.pop(name, None)
        else:
            own[name] = value
    return own


@contextlib.contextmanager
def start_session(
    directory: Path,
    *options: str,
    tests: str = TESTS,
    conftest: str = "",
    within: Sequence[str] = (),
    environ: Mapping[str, str | None] | None = None,
    file: str = "test_it.py",
    prepare: Callable[[], object] | None = None,
    xdist: bool = False,
) -> Iterator[Session]:
    """Start pytest.

    Args:
        directory: Where the tests are put; it is the working directory.
        options: Options of pytest.
        tests: Text of the test file.
        conftest: What the conftest says besides.
        within: A command that runs the command that is appended to it, in the surroundings that are wanted.
        environ: Environment variables; ``None`` takes one away.
        file: Name of the test file.
        prepare: Called in the new process before it is pytest, instead of giving it a session of its own.
        xdist: Load pytest-xdist.
    """
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "conftest.py").write_text(CONFTEST + conftest)
    (directory / file).write_text(tests, encoding="utf-8")
    with tempfile.TemporaryDirectory(prefix="robustness-", ignore_cleanup_errors=True) as name:
        record = Path(name)
        record.chmod(0o777)
        (temporary := record / "temporary").mkdir(mode=0o777)
        temporary.chmod(0o777)
        without = () if xdist else ("-p", "no:xdist")
        with (record / "output").open("wb") as output:
            process = subprocess.Popen(
                [*within, sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *without, *options],
                cwd=directory,
                env=own_environment(record, temporary, environ or {}),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=prepare is None,
                preexec_fn=partial(_begin, prepare),
            )
        session = Session(process=process, record=record, temporary=temporary, output=record / "output")
        try:
            yield session
        finally:
            session.end()


def _begin(prepare: Callable[[], object] | None) -> None:
    kernel.die_with_parent(os.getppid())
    # A background job of a shell begins with SIGINT ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if prepare is not None:
        prepare()


def run_session(directory: Path, *options: str, **surroundings: Any) -> Outcome:
    """Run pytest to its end; the arguments are those of :func:`start_session`."""
    with start_session(directory, *options, **surroundings) as session:
        return session.finish()


def need(*command: str, why: str) -> None:
    """Skip the test where a command that gives it its surroundings does not work.

    Args:
        command: The command, in a form that does nothing.
        why: What it is needed for.
    """
    if shutil.which(command[0]) is None:
        pytest.skip(f"{why}: there is no {command[0]} here")
    done = subprocess.run([*command], capture_output=True, text=True, timeout=60)
    if done.returncode != 0:
        pytest.skip(f"{why}: {' '.join(command)} says {done.stderr.strip()}")
