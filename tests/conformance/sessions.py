"""Real pytest sessions that run rows, and what they recorded."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import psutil

from pytest_elastic import kernel

ROWS: Final = Path(__file__).parent / "rows"
GONE_WITHIN: Final = 2.0
"""Seconds after the end of pytest within which all that it started must be gone. A promise to users."""
_MARK: Final = "CONFORMANCE_RECORD"
_DEADLINE: Final = 900.0
_FOREIGN: Final = ("PYTEST", "COV_", "CONFORMANCE_", "TORCHELASTIC_")
_OPTIONS: Final = (
    *("-p", "no:cacheprovider", "-p", "no:xdist", "-p", "no:randomly"),
    *("--continue-on-collection-errors", "--color=no"),
)
_KEPT: Final = ("pytest-of-", "pytest-elastic-ports-")
"""Temporary directories that are meant to stay: pytest's own, and the locks that runs share."""

Told = dict[str, Any]


def path_of(name: str) -> Path:
    """Return the file of a row, which is in a directory of its own if it has a conftest."""
    return ROWS / name / "row.py" if (ROWS / name).is_dir() else ROWS / f"{name}.py"


@dataclass(kw_only=True, slots=True)
class SessionRecord:
    """What came of one session.

    Attributes:
        exitcode: pytest's exit code.
        lines: What it printed.
        told: What its pytest told, in order.
        failing: Row to the moment at which its culprit was about to fail.
        processes: Command lines of the processes that outlived it by more than :data:`GONE_WITHIN`.
        files: Temporary files that it left.
    """

    exitcode: int
    lines: list[str]
    told: list[Told]
    failing: dict[str, float]
    processes: list[str]
    files: list[str]

    def of(self, row: str, test: str, kind: str = "report") -> list[Told]:
        """Return what was told of one test of a row."""
        return [t for t in self.told if t["row"] == row and t["kind"] == kind and t["nodeid"].endswith(test)]


@dataclass(kw_only=True, slots=True)
class RunningSession:
    """A pytest process that runs rows.

    Attributes:
        process: The process.
        record: Directory of the record; part of the environment of each process that the session starts.
        output: File with what pytest prints.
    """

    process: subprocess.Popen[bytes]
    record: Path
    output: Path
    temporary: Path = field(init=False)

    def __post_init__(self) -> None:
        self.temporary = self.record / "temporary"

    def alive(self) -> dict[int, str]:
        """Return the processes of the session by process id."""
        found = {}
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.environ().get(_MARK) == str(self.record) and process.status() != psutil.STATUS_ZOMBIE:
                    found[process.pid] = " ".join(process.cmdline())
        return found

    def finish(self) -> SessionRecord:
        """Wait for the end, and see what is left."""
        exitcode = self.process.wait(_DEADLINE)
        deadline = time.monotonic() + GONE_WITHIN
        while (processes := self.alive()) and time.monotonic() < deadline:
            time.sleep(0.01)
        files = [path.name for path in self.temporary.iterdir() if not path.name.startswith(_KEPT)]
        reports = self.record / "reports.jsonl"
        told = [json.loads(line) for line in reports.read_text().splitlines()] if reports.exists() else []
        return SessionRecord(
            exitcode=exitcode,
            lines=self.output.read_text(errors="replace").splitlines(),
            told=told,
            failing={file.stem: float(file.read_text()) for file in self.record.glob("*.failing")},
            processes=list(processes.values()),
            files=files,
        )

    def end(self) -> None:
        """End whatever is left: only what this session started."""
        for pid in self.alive():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()


@contextlib.contextmanager
def start_session(
    files: Sequence[str], *options: str, variables: Mapping[str, str] | None = None
) -> Iterator[RunningSession]:
    """Start pytest in the directory of the rows.

    Args:
        files: Row files, without ``.py``.
        options: Options of pytest.
        variables: What its environment has besides.
    """
    with tempfile.TemporaryDirectory(prefix="conformance-") as directory:
        record = Path(directory)
        (record / "temporary").mkdir()
        environ = {key: value for key, value in os.environ.items() if not key.startswith(_FOREIGN)}
        environ |= {_MARK: str(record), "TMPDIR": str(record / "temporary"), "COLUMNS": "300"}
        environ |= {"PYTHONDONTWRITEBYTECODE": "1", "PYTEST_ADDOPTS": os.environ.get("PYTEST_ADDOPTS", "")}
        environ |= variables or {}
        paths = [path_of(name).relative_to(ROWS) for name in files]
        with (record / "output").open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "pytest", *_OPTIONS, *options, *paths],
                cwd=ROWS,
                env=environ,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                preexec_fn=begin,
            )
        session = RunningSession(process=process, record=record, output=record / "output")
        try:
            yield session
        finally:
            session.end()


def begin() -> None:
    """Begin a session's process, before pytest is executed."""
    kernel.die_with_parent(os.getppid())
    # A background job of a shell begins with SIGINT ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)


def run_session(files: Sequence[str], *options: str, variables: Mapping[str, str] | None = None) -> SessionRecord:
    """Run pytest on some rows."""
    with start_session(files, *options, variables=variables) as session:
        return session.finish()


def measure_pace() -> float:
    """Return how many seconds importing torch takes now: how fast this machine is, and how busy."""
    begin = time.monotonic()
    subprocess.run([sys.executable, "-c", "import torch"], check=True, timeout=_DEADLINE)
    return time.monotonic() - begin
