"""What takes part in a comparison: processes that wait, and do the next piece of work when they are told to."""

from __future__ import annotations

import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

HERE = Path(__file__).parent
WORK = HERE / "work"
DEADLINE = 180.0
"""Seconds after which a turn is taken for hung. No result is compared with it."""
GLOO = {"backend": "gloo", "isolation": "function"}


class ContestantError(Exception):
    """A contestant that cannot be measured; the text says why."""


class Gated:
    """A process behind a gate (gate.py): a pytest session, or the floor.

    Attributes:
        name: What it is called in tables.
        process: The process.
        directory: Its working directory, which is removed at the end.
        temporary: Its directory for temporary files.
    """

    def __init__(
        self, name: str, command: Sequence[str], *, env: Mapping[str, str], copies: Mapping[str, str] | None = None
    ) -> None:
        self.name = name
        self.directory = Path(tempfile.mkdtemp(prefix="bench-", dir="/tmp"))
        self.temporary = self.directory / "tmp"
        self.temporary.mkdir()
        lay_work(self.directory, copies or {})
        self._log: IO[bytes] = (self.directory / "log").open("w+b")
        commands_r, commands_w = os.pipe()
        answers_r, answers_w = os.pipe()
        self._commands = os.fdopen(commands_w, "w", buffering=1)
        self._answers = answers_r
        self._unread = b""
        try:
            self.process = subprocess.Popen(
                command,
                cwd=self.directory,
                env=environment(env) | {"BENCH_GATE": f"{commands_r},{answers_w}", "TMPDIR": str(self.temporary)},
                pass_fds=[commands_r, answers_w],
                stdin=subprocess.DEVNULL,
                stdout=self._log,
                stderr=self._log,
            )
        except OSError as error:
            self._end()
            raise ContestantError(f"it cannot be started: {error}") from None
        finally:
            os.close(commands_r)
            os.close(answers_w)
        try:
            self._expect("ready")
        except BaseException:
            self.close()
            raise

    def begin(self, count: int) -> None:
        """Let ``count`` pieces of work through the gate."""
        try:
            self._commands.write(f"{count}\n")
        except BrokenPipeError:
            raise ContestantError(f"it ended early{self._said()}") from None

    def end(self) -> float:
        """Wait for their end and return the seconds that they took together."""
        return float(self._answer())

    def turn(self, count: int = 1) -> float:
        """Do ``count`` pieces of work and return the seconds that they took together."""
        self.begin(count)
        return self.end()

    def close(self) -> None:
        """End the process: its gate opens once more, and nobody is there."""
        self._commands.close()
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self._end()

    def _end(self) -> None:
        self._commands.close()
        os.close(self._answers)
        self._log.close()
        shutil.rmtree(self.directory, ignore_errors=True)

    def _expect(self, word: str) -> None:
        if (answer := self._answer()) != word:
            raise ContestantError(f"it answered {answer!r} instead of {word!r}")

    def _answer(self) -> str:
        end = time.monotonic() + DEADLINE
        while b"\n" not in self._unread:
            if not select.select([self._answers], [], [], max(0.0, end - time.monotonic()))[0]:
                self.process.kill()
                raise ContestantError(f"no answer after {DEADLINE:g} s{self._said()}")
            data = os.read(self._answers, 65536)
            if not data:
                raise ContestantError(f"it ended early{self._said()}")
            self._unread += data
        line, self._unread = self._unread.split(b"\n", 1)
        if line.startswith(b"failed"):
            raise ContestantError(line.decode())
        return line.decode()

    def _said(self) -> str:
        self._log.seek(0)
        return ", having said: " + " ".join(self._log.read().decode(errors="replace").split())[-800:]


def lay_work(directory: Path, copies: Mapping[str, str]) -> None:
    """Put the measured files into a directory, some of them under another name too."""
    for file in WORK.iterdir():
        if file.is_file():
            shutil.copy(file, directory)
    shutil.copy(HERE / "gate.py", directory)
    for copy, original in copies.items():
        shutil.copy(WORK / original, directory / copy)


def environment(extra: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of all that is measured: Python may write its caches, and threads do not multiply."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return kept | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"} | dict(extra)


FLOOR = "the floor"
FLOOR_DESTROY = "the floor, its group destroyed"
PYTEST = ["-m", "pytest", "-q"]
ELASTIC = [sys.executable, *PYTEST, "-p", "elastic"]
"""A session of this plugin, and with ALONE of no other."""
ALONE = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
_GATED = ["-p", "gate", "-p", "no:cacheprovider"]


def floor(ranks: int, *, destroy: bool = False) -> Gated:
    """Return the floor at a size; ``destroy``: its ranks destroy their group as well."""
    name = FLOOR_DESTROY if destroy else FLOOR
    return Gated(name, [sys.executable, str(HERE / "floor.py"), str(ranks), *["--destroy"] * destroy], env={})


def elastic(
    name: str,
    file: str = "elastic_sum.py",
    *,
    tests: int,
    copies: Sequence[str] = (),
    env: Mapping[str, str] | None = None,
    plugins: Sequence[str] = (),
    **mark: Any,
) -> Gated:
    """Return a session of this plugin.

    Args:
        name: What it is called.
        file: The measured file.
        tests: How many tests a file has.
        copies: Names of copies of the file, which are run instead of it.
        env: Environment variables.
        plugins: Further plugins, of ``work/``.
        mark: Arguments of the mark.
    """
    return Gated(
        name,
        [*ELASTIC, *_GATED, *(f"-p{plugin}" for plugin in plugins), *(copies or [file])],
        env=ALONE | {"BENCH_MARK": json.dumps(GLOO | mark), "BENCH_TESTS": str(tests)} | dict(env or {}),
        copies=dict.fromkeys(copies, file),
    )


def other(
    name: str,
    file: str,
    *,
    tests: int,
    ranks: int = 4,
    copies: Sequence[str] = (),
    python: Path | str = sys.executable,
    env: Mapping[str, str] | None = None,
) -> Gated:
    """Return a session without this plugin."""
    alone = ALONE if python == sys.executable else {}
    return Gated(
        name,
        [str(python), *PYTEST, *_GATED, *(copies or [file])],
        env=alone | {"BENCH_RANKS": str(ranks), "BENCH_TESTS": str(tests)} | dict(env or {}),
        copies=dict.fromkeys(copies, file),
    )


class Warm:
    """A contestant whose ranks stay for all tests of a file: what a file costs, and what each test of it.

    Attributes:
        session: The session, with a file for each turn.
    """

    def __init__(self, session: Gated, *, batch: int) -> None:
        self.session = session
        self._batch = batch

    @staticmethod
    def tests(batch: int) -> int:
        """Return how many tests a file needs: one that starts the ranks, a batch, and one that sees their end."""
        return batch + 2

    def turn(self) -> tuple[float, float]:
        """Return what the ranks of a file cost once, and what each further test does."""
        first, middle, last = (self.session.turn(count) for count in (1, self._batch, 1))
        each = middle / self._batch
        return first + last - 2 * each, each
