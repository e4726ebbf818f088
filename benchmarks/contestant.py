"""What takes part in a comparison: processes that wait, and run the next turn when they are told to."""

from __future__ import annotations

import os
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Protocol

HERE = Path(__file__).parent
DEADLINE = 180.0
"""Seconds that a turn may take before its contestant is taken for hung. No result is compared with it."""


class ContestantError(Exception):
    """A contestant that cannot be measured; the text says why."""


class Contestant(Protocol):
    """Something that can be timed."""

    name: str

    def turn(self, count: int) -> float:
        """Do the work ``count`` times and return the seconds of all of it."""

    def close(self) -> None:
        """End what was started."""


def clean_environment(extra: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of whatever is measured: Python may write its caches, and threads are not multiplied."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return kept | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"} | dict(extra)


class Gated:
    """A process behind a gate (see gate.py): a pytest session, or the floor.

    Attributes:
        name: What it is called in tables.
        process: The process.
    """

    def __init__(self, name: str, command: Sequence[str], *, env: Mapping[str, str], cwd: Path = HERE) -> None:
        self.name = name
        self._log: IO[bytes] = tempfile.TemporaryFile()
        commands_r, commands_w = os.pipe()
        answers_r, answers_w = os.pipe()
        self.process = subprocess.Popen(
            command,
            cwd=cwd,
            env=clean_environment(env) | {"BENCH_GATE": f"{commands_r},{answers_w}"},
            pass_fds=[commands_r, answers_w],
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
        )
        os.close(commands_r)
        os.close(answers_w)
        self._commands = os.fdopen(commands_w, "w", buffering=1)
        self._answers = answers_r
        self._unread = b""
        try:
            if (answer := self._answer()) != "ready":
                raise ContestantError(f"{name}: {answer}")
        except BaseException:
            self.close()
            raise

    def turn(self, count: int) -> float:
        """Let ``count`` pieces of work through the gate and return the seconds that they took together."""
        self._commands.write(f"{count}\n")
        answer = self._answer()
        if answer.startswith("failed"):
            raise ContestantError(f"{self.name}: {answer}")
        return float(answer)

    def close(self) -> None:
        """End the process: its gate opens once more and it sees that nobody is there."""
        self._commands.close()
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        os.close(self._answers)
        self._log.close()

    def _answer(self) -> str:
        end = time.monotonic() + DEADLINE
        while b"\n" not in self._unread:
            if not select.select([self._answers], [], [], max(0.0, end - time.monotonic()))[0]:
                raise ContestantError(f"{self.name}: no answer after {DEADLINE:g} s{self._said()}")
            data = os.read(self._answers, 65536)
            if not data:
                raise ContestantError(f"{self.name}: ended early{self._said()}")
            self._unread += data
        line, self._unread = self._unread.split(b"\n", 1)
        return line.decode()

    def _said(self) -> str:
        self._log.seek(0)
        return ", having said: " + " ".join(self._log.read().decode(errors="replace").split())[-1500:]


def floor(ranks: int, *, destroy: bool = False) -> Gated:
    """Return the floor at a size; ``destroy`` has its ranks destroy their group as well."""
    command = [sys.executable, str(HERE / "floor.py"), str(ranks), *(["--destroy"] if destroy else [])]
    return Gated("the floor, and the group destroyed" if destroy else "the floor", command, env={})


def plugin(ranks: int, *, tests: int, isolation: str = "function") -> Gated:
    """Return a session of this plugin with so many tests at a size."""
    return Gated(
        f"this plugin, isolation={isolation}",
        [sys.executable, "-m", "pytest", "-q", "-p", "gate", "-p", "no:cacheprovider", "work/elastic_sum.py"],
        env={
            "PYTHONPATH": os.pathsep.join(filter(None, [str(HERE), os.environ.get("PYTHONPATH")])),
            "BENCH_RANKS": str(ranks),
            "BENCH_TESTS": str(tests),
            "BENCH_ISOLATION": isolation,
        },
    )
