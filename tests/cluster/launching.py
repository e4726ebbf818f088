"""Sessions whose pytest processes are on the hosts of these tests, and what came of them."""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeAlias

from .holder import processes_in
from .hosts import Host

HERE: Final = Path(__file__).parent
ROOT: Final = HERE.parents[1]
KEY: Final = "one key for all hosts of these tests"
DEADLINE: Final = 300.0
"""Seconds that a session gets, on a machine that is busy."""
GONE_WITHIN: Final = 5.0
"""Seconds after its end within which nothing is left of it."""
_FOREIGN: Final = ("PYTEST", "COV_", "SUITE_", "TORCHELASTIC_")
PYTEST: Final = (
    *(sys.executable, "-m", "pytest", "-p", "elastic", "-p", "no:cacheprovider"),
    *("--color=no", "-p", "no:xdist"),
)
"""The command, with the plugin loaded by its name: as where plugins are not loaded by themselves."""

Told = dict[str, Any]
Place: TypeAlias = Host | None
"""Where to start something: on a host, or on this machine as it is."""
Command: TypeAlias = tuple[Place, Sequence[str | Path]]
"""What to start, and where."""


@dataclass(kw_only=True, slots=True)
class Session:
    """What came of a session.

    Attributes:
        codes: The exit code of each process that was started, in their order.
        outputs: What each printed.
        seconds: From the start of the first to the end of each.
        reports: What the first controller's pytest reported.
    """

    codes: list[int]
    outputs: list[str]
    seconds: list[float]
    reports: list[Told]

    @property
    def output(self) -> str:
        """What the first one printed."""
        return self.outputs[0]

    def of(self, test: str) -> list[Told]:
        """Return the reports of one test."""
        return [told for told in self.reports if told["nodeid"].partition("::")[2] == test]

    def failure(self, test: str) -> str:
        """Return the text of the one report of a test that has failed."""
        (failed,) = (told for told in self.of(test) if told["outcome"] == "failed")
        return str(failed["text"])

    def took(self, nodeid: str) -> float:
        """Return the seconds of all phases of a test."""
        return float(sum(told["duration"] for told in self.reports if told["nodeid"] == nodeid))

    @classmethod
    def read(cls, running: Running) -> Session:
        """Return what is known of a session that runs."""
        return cls(codes=[], outputs=running.said(), seconds=[], reports=read_reports(running.folder))

    def outcomes(self) -> dict[str, list[tuple[str, str, str | None]]]:
        """Return the outcomes of each test, phase by phase, without those of phases that have passed beside others."""
        found: dict[str, list[tuple[str, str, str | None]]] = {}
        for told in self.reports:
            entry = (told["when"], told["outcome"], told["expected"])
            if told["when"] == "call" or told["outcome"] != "passed":
                found.setdefault(told["nodeid"], []).append(entry)
        return found

    def messages(self, hosts: Sequence[Host]) -> dict[str, list[str | None]]:
        """Return what is told of each test that has not passed, in the summary's words, without names of hosts."""
        found: dict[str, list[str | None]] = {}
        for told in self.reports:
            if told["outcome"] != "passed" or told["expected"]:
                first = told["message"] or (told["text"].splitlines() or [""])[0]
                found.setdefault(told["nodeid"], []).append(without_hosts(first, hosts))
        return found


def without_hosts(text: str, hosts: Sequence[Host]) -> str:
    """Return a text as it would be on one machine, and with no seconds."""
    for name in (*(host.name for host in hosts), socket.gethostname()):
        text = text.replace(f" ({name})", "").replace(f" on {name}", "")
    return re.sub(r"\b\d+\.\d+ s\b", "* s", text)


def environment(folder: Path, **variables: str) -> dict[str, str]:
    """Return the environment of a pytest of these sessions."""
    own = {name: value for name, value in os.environ.items() if not name.startswith(_FOREIGN)}
    return {
        **own,
        "PYTHONPATH": str(ROOT),
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTEST_ADDOPTS": os.environ.get("PYTEST_ADDOPTS", ""),
        "PYTEST_ELASTIC_KEY": KEY,
        "COLUMNS": "200",
        "SUITE_RECORD": str(folder / "reports.jsonl"),
        **variables,
    }


@dataclass(kw_only=True, slots=True)
class Running:
    """A session that runs.

    Attributes:
        processes: What was started, in order.
        folder: Where its files are.
    """

    processes: list[subprocess.Popen[str]]
    folder: Path
    began: float = field(default_factory=time.monotonic)

    def finish(self) -> Session:
        """Wait for the end of all."""
        deadline = time.monotonic() + DEADLINE
        ended: dict[int, float] = {}
        while len(ended) < len(self.processes):
            for number, process in enumerate(self.processes):
                if number not in ended and process.poll() is not None:
                    ended[number] = time.monotonic() - self.began
            assert time.monotonic() < deadline, self.said()
            time.sleep(0.01)
        return Session(
            codes=[process.returncode for process in self.processes],
            outputs=self.said(),
            seconds=[ended[number] for number in range(len(self.processes))],
            reports=read_reports(self.folder),
        )

    def said(self) -> list[str]:
        """Return what each has printed so far."""
        return [(self.folder / f"out-{number}").read_text(errors="replace") for number in range(len(self.processes))]

    def wait_for_file(self, path: Path) -> None:
        """Wait until a test has made a file."""
        self.wait_until(path.exists)

    def wait_until(self, reached: Callable[[], bool]) -> None:
        """Wait until something is so."""
        deadline = time.monotonic() + DEADLINE
        while not reached():
            assert time.monotonic() < deadline, self.said()
            assert any(process.poll() is None for process in self.processes), self.said()
            time.sleep(0.01)

    def end(self) -> None:
        """End what was started, if it is still there."""
        for process in self.processes:
            process.kill()
            process.wait()


def read_reports(folder: Path) -> list[Told]:
    """Return what the first controller has reported."""
    file = folder / "reports.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


@contextlib.contextmanager
def started(
    commands: Sequence[Command],
    folder: Path,
    *,
    cwd: Path,
    variables: Mapping[str, str] | None = None,
) -> Iterator[Running]:
    """Start commands, each on its host.

    Args:
        commands: Where, and what.
        folder: A new folder for what they print.
        cwd: Their working directory.
        variables: What is in their environment besides.
    """
    folder.mkdir(parents=True)
    running = Running(processes=[], folder=folder)
    try:
        for number, (host, argv) in enumerate(commands):
            running.processes.append(start_one(host, argv, folder / f"out-{number}", cwd, folder, variables))
        yield running
    finally:
        running.end()


def start_one(
    host: Place,
    argv: Sequence[str | Path],
    output: Path,
    cwd: Path,
    folder: Path,
    variables: Mapping[str, str] | None = None,
) -> subprocess.Popen[str]:
    """Start one command, with its output in a file."""
    environ = environment(folder, **(variables or {}))
    with output.open("a") as stream:
        if host is not None:
            return host.popen(
                argv, env=environ, cwd=cwd, stdin=subprocess.DEVNULL, stdout=stream, stderr=subprocess.STDOUT
            )
        return subprocess.Popen(
            [str(part) for part in argv],
            env=environ,
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            text=True,
        )


def by_options(hosts: Sequence[Host], *args: str | Path, endpoint: str = "host0:29400") -> list[Command]:
    """Return the commands of a session that is started by options, a pytest on each host."""
    given = (f"--elastic-nodes={len(hosts)}", f"--elastic-rdzv-endpoint={endpoint}")
    return [(host, [*PYTEST, *given, f"--elastic-node-rank={host.number}", *args]) for host in hosts]


def by_torchrun(
    hosts: Sequence[Host], *args: str | Path, own_address: bool = True, options: Sequence[str] = ()
) -> list[Command]:
    """Return the commands of a session that is started by torchrun, one torchrun on each host."""
    given = (
        *(f"--nnodes={len(hosts)}", "--nproc-per-node=1", "--rdzv-backend=c10d"),
        *(f"--rdzv-endpoint={hosts[0].name}:29400", "--rdzv-id=tests"),
    )
    return [
        (
            host,
            [
                *(sys.executable, "-m", "torch.distributed.run", *given),
                *([f"--local-addr={host.address}"] if own_address else []),
                *options,
                *PYTEST[1:],
                *args,
            ],
        )
        for host in hosts
    ]


def again_when_killed(argv: Sequence[str | Path]) -> list[str | Path]:
    """Return a command that starts another one until it ends by itself."""
    return ["sh", "-c", 'while "$@"; code=$?; [ $code = 137 ]; do :; done; exit $code', "sh", *argv]


def processes_on(host: Host) -> list[str]:
    """Return the processes on a host as ps shows them."""
    holder = host.namespaces.holder.pid
    found = processes_in(os.readlink(f"/proc/{holder}/ns/net"))
    return [arguments_of(pid) for pid in found if pid != holder]


def left_on(host: Host) -> list[str]:
    """Return the processes that are left on a host some seconds after a session."""
    deadline = time.monotonic() + GONE_WITHIN
    while (found := processes_on(host)) and time.monotonic() < deadline:
        time.sleep(0.02)
    return found


def arguments_of(pid: int) -> str:
    """Return a process as ps shows it."""
    try:
        return f"{pid} " + Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
    except OSError:
        return f"{pid}"
