"""Several real pytest processes of one session, on this machine."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

DEADLINE = 150.0
"""Seconds within which a session has ended, on a machine that is busy."""
GONE_WITHIN = 2.0
"""Seconds after the end of a session within which all that it started is gone. A promise to users."""
_KEPT = ("pytest-of-", "pytest-elastic-ports-", "pytest-elastic-meetings-", "torchelastic_")
"""Temporary directories that are meant to stay: pytest's own, those that runs share, and torchrun's logs."""
MARK = "CLUSTER_TEST_MARK"
QUIET = ("-p", "no:cacheprovider", "-p", "no:randomly", "-p", "no:xdist", "--color=no", "-rA")


@contextmanager
def free_port() -> Iterator[int]:
    """Hold a port at which nobody listens, and that nobody else is given."""
    with socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.bind(("127.0.0.1", 0))
        yield holder.getsockname()[1]


@dataclass(kw_only=True, slots=True)
class Controller:
    """One of the processes.

    Attributes:
        process: The process.
        directory: Where its files are.
        number: Which one it is.
        mark: What its environment says, and that of all that come from it.
    """

    process: subprocess.Popen[bytes]
    directory: Path
    number: int
    mark: str

    @property
    def out(self) -> str:
        """What it has printed so far."""
        return (self.directory / f"out-{self.number}").read_text(errors="replace")

    @property
    def err(self) -> str:
        """What it has printed to standard error so far."""
        return (self.directory / f"err-{self.number}").read_text(errors="replace")

    @property
    def tmp(self) -> Path:
        """Its directory for temporary files."""
        return self.directory / f"tmp-{self.number}"

    def family(self) -> list[psutil.Process]:
        """Return the process and all that come from it, as long as it runs."""
        process = psutil.Process(self.process.pid)
        return [process, *process.children(recursive=True)]

    def signal(self, signum: int) -> None:
        """Send a signal to the process."""
        self.process.send_signal(signum)

    def wait(self, seconds: float = DEADLINE) -> int:
        """Wait for its end; return its exit code."""
        return self.process.wait(seconds)


@dataclass(kw_only=True, slots=True)
class Session:
    """All processes of a session.

    Attributes:
        controllers: The processes, the first one first.
        ended: When the first one had ended, by ``time.monotonic()``.
    """

    controllers: list[Controller]
    ended: float = field(default=0.0)

    @property
    def first(self) -> Controller:
        """The first one."""
        return self.controllers[0]

    @property
    def out(self) -> str:
        """What the first one has printed."""
        return self.first.out

    def wait(self, seconds: float = DEADLINE) -> list[int]:
        """Wait for the end of all; return the exit codes."""
        until = time.monotonic() + seconds
        codes = [self.first.wait(seconds)]
        self.ended = time.monotonic()
        return codes + [each.wait(max(1.0, until - time.monotonic())) for each in self.controllers[1:]]

    def processes(self) -> list[psutil.Process]:
        """Return all processes of the session that are there: those that a server forked know no mark."""
        marks = {each.mark for each in self.controllers}
        directory = str(self.first.directory)
        found = []
        for process in psutil.process_iter():
            try:
                if process.status() != psutil.STATUS_ZOMBIE and (
                    process.environ().get(MARK) in marks or process.cwd() == directory
                ):
                    found.append(process)
            except psutil.Error:
                continue
        return found

    def left(self) -> list[str]:
        """Return the processes and temporary files that are left a moment after the end."""
        until = time.monotonic() + GONE_WITHIN

        def there() -> list[str]:
            processes = [f"{p.pid} {_words(p)}" for p in self.processes()]
            names = [str(p) for each in self.controllers for p in each.tmp.iterdir()]
            return processes + [name for name in names if not any(kept in name for kept in _KEPT)]

        while (found := there()) and time.monotonic() < until:
            time.sleep(0.05)
        return found

    def kill(self) -> None:
        """End whatever is left."""
        for process in self.processes() if self.controllers else ():
            with suppress(psutil.Error):
                process.kill()
        for each in self.controllers:
            each.process.wait(30)


def ended(processes: Sequence[psutil.Process], seconds: float = GONE_WITHIN) -> bool:
    """Tell whether processes end within some seconds."""

    def runs(process: psutil.Process) -> bool:
        try:
            return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False

    until = time.monotonic() + seconds
    while any(map(runs, processes)):
        if time.monotonic() > until:
            return False
        time.sleep(0.02)
    return True


def _words(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def environment(directory: Path, number: int, more: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the environment of a controller."""
    tmp = directory / f"tmp-{number}"
    tmp.mkdir(exist_ok=True)
    return {
        **os.environ,
        "TMPDIR": str(tmp),
        "PYTEST_ELASTIC_KEY": f"key of {directory}",
        MARK: f"{directory}-{number}",
        **(more or {}),
    }


def start(
    directory: Path,
    number: int,
    command: Sequence[str],
    more: Mapping[str, str] | None = None,
    popen: Callable[..., Any] | None = None,
) -> Controller:
    """Start one process of a session."""
    environ = environment(directory, number, more)
    with open(directory / f"out-{number}", "wb") as out, open(directory / f"err-{number}", "wb") as err:
        process = (popen or subprocess.Popen)(
            list(command), stdin=subprocess.DEVNULL, stdout=out, stderr=err, env=environ, cwd=directory
        )
    return Controller(process=process, directory=directory, number=number, mark=environ[MARK])


@contextmanager
def nodes(
    directory: Path,
    *options: str,
    count: int = 2,
    each: Callable[[int], Mapping[str, str]] = lambda _: {},
    extra: Callable[[int], Sequence[str]] = lambda _: (),
    only: Sequence[int] | None = None,
) -> Iterator[Session]:
    """Run a session on nodes that are told by options where they are.

    Args:
        directory: Where its tests are.
        options: Of all of them.
        count: How many nodes there are.
        each: More of the environment of each.
        extra: More options of each.
        only: Which are started; without it all.
    """
    with free_port() as port:
        common = [sys.executable, "-m", "pytest", "-p", "elastic", *QUIET, *options]
        session = Session(controllers=[])
        try:
            for number in range(count) if only is None else only:
                own = [
                    *(f"--elastic-nodes={count}", f"--elastic-node-rank={number}"),
                    *(f"--elastic-rdzv-endpoint=127.0.0.1:{port}", *extra(number)),
                ]
                session.controllers.append(start(directory, number, [*common, *own], each(number)))
            yield session
        finally:
            session.kill()


@contextmanager
def torchruns(
    directory: Path,
    *options: str,
    count: int = 1,
    nproc: int = 1,
    torchrun: Sequence[str] = (),
    each: Callable[[int], Mapping[str, str]] = lambda _: {},
) -> Iterator[Session]:
    """Run a session under torchrun, once for each node; the processes are those of torchrun.

    Args:
        directory: Where its tests are.
        options: Of pytest.
        count: How many nodes there are.
        nproc: How many pytest processes each has.
        torchrun: Options of torchrun.
        each: More of the environment of each.
    """
    with free_port() as port:
        where = [f"--nnodes={count}", "--rdzv-backend=c10d", f"--rdzv-endpoint=127.0.0.1:{port}", f"--rdzv-id=r{port}"]
        command = [
            *(sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={nproc}"),
            *(where if count > 1 else ["--standalone"]),
            *(*torchrun, "-m", "pytest", "-p", "elastic", *QUIET, *options),
        ]
        session = Session(controllers=[])
        try:
            for number in range(count):
                session.controllers.append(start(directory, number, command, each(number)))
            yield session
        finally:
            session.kill()


def wait_until(reached: Callable[[], Any], seconds: float = DEADLINE) -> None:
    """Wait until something is so."""
    until = time.monotonic() + seconds
    while not reached():
        assert time.monotonic() < until, "it has not happened"
        time.sleep(0.02)


STOP, CONTINUE, KILL = signal.SIGSTOP, signal.SIGCONT, signal.SIGKILL
