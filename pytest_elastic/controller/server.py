"""The preloaded server of one pytest session, as the pytest process sees it."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from select import PIPE_BUF
from typing import Final

from pytest_elastic import kernel
from pytest_elastic.controller.measuring import without_coverage
from pytest_elastic.forking import ServerAddress, Task, pack
from pytest_elastic.messages import AgentHello, Preloaded, PreloadOrder
from pytest_elastic.report.describe import signal_name
from pytest_elastic.report.stacks import without_our_frames
from pytest_elastic.worker.stacks import STACK_SIGNAL

# Unix socket paths end at 107 bytes; what is put into the run's directory needs up to 40 of them.
_LONGEST_DIRECTORY: Final = 64
_DYING: Final = 2.0
"""Seconds that a server gets whose descriptors are closed already."""
SINGLE_THREADED: Final = {
    # A math library that has started its threads cannot be forked, and reads these when it is loaded.
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    # torch.cuda.is_available() asks NVML and so leaves the device alone.
    "PYTORCH_NVML_BASED_CUDA_CHECK": "1",
}
RUN_MARK: Final = "PYTEST_ELASTIC_RUN"
"""Environment variable that every process of a run carries; its value is the run's name."""


def make_run_directory() -> Path:
    """Make a directory for sockets and scratch files, private to the user, with a name nobody can foresee."""
    directory = Path(tempfile.mkdtemp(prefix="elastic-"))
    if len(os.fsencode(directory)) > _LONGEST_DIRECTORY:
        directory.rmdir()
        directory = Path(tempfile.mkdtemp(prefix="elastic-", dir="/tmp"))
    return directory


class PreloadedServer:
    """A process that has imported torch and collected the elastic tests, and forks agents and ranks.

    It must be started from a thread that lives as long as it does: the kernel ends it with the thread that started it.
    It begins to import torch at once, and waits for :meth:`preload` before it collects.

    Attributes:
        run: Name of the run, carried by each of its processes.
        directory: Private directory of the run.
        log: What the server and the agents wrote.
        known: Process ids of the server's children that somebody looks after.
        word: What an agent was last told of the server's fitness, or ``None``.
        torch_only: It collects nothing.

    Args:
        invocation_dir: Directory in which it starts.
        directory: Private directory of the run.
        torch_only: It collects nothing.
        early: Modules of torch that it imports before it waits for its order; what cannot be imported is left out.
    """

    def __init__(
        self, *, invocation_dir: Path, directory: Path, torch_only: bool = False, early: tuple[str, ...] = ()
    ) -> None:
        self.directory: Final = directory
        self.run: Final = directory.name
        self._invocation_dir = invocation_dir
        self._early = early
        self._number = len(list(directory.glob("server-*.log")))
        self.log: Final = directory / f"server-{self._number}.log"
        self._lock = threading.Lock()
        self._told = False
        self._lost = False
        self.known: set[int] = set()
        self.word: AgentHello | None = None
        self.torch_only: Final = torch_only
        self._launches = 0
        self._retired = False
        self._stopped = False
        self._tracker_file = directory / f"server-{self._number}.tracker"
        self._process = self._start()
        if torch_only:
            self.preload(PreloadOrder(session=None))

    @property
    def pid(self) -> int:
        """Process id of the server."""
        return self._process.pid

    def _start(self) -> subprocess.Popen[bytes]:
        address = str(self.directory / f"server-{self._number}.sock")
        alive_r, alive_w = os.pipe()
        order_r, self._order_w = os.pipe()
        self._answer_r, answer_w = os.pipe()
        self.address: ServerAddress = ServerAddress(address, alive_w)
        with socket.socket(socket.AF_UNIX) as listener, self.log.open("wb") as log:
            listener.bind(address)
            os.chmod(address, 0o600)
            listener.listen(4096)
            main = (
                "from multiprocessing.forkserver import main; "
                f"main({listener.fileno()}, {alive_r}, ['pytest_elastic.worker.preload'])"
            )
            environ = (
                without_coverage(os.environ)
                | SINGLE_THREADED
                | {
                    RUN_MARK: self.run,
                    "PYTEST_ELASTIC_PRELOAD": json.dumps(
                        [kernel.own_pid(), order_r, answer_w, str(self._tracker_file), self._early]
                    ),
                }
            )
            # A preload is imported from the default path only (and ours may not be installed, but on a path).
            package_root = str(Path(__file__).parents[2])
            if package_root not in (environ.get("PYTHONPATH") or "").split(os.pathsep):
                environ["PYTHONPATH"] = os.pathsep.join(filter(None, [environ.get("PYTHONPATH"), package_root]))
            flags = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]
            try:
                return subprocess.Popen(
                    [sys.executable, *flags, "-c", main],
                    pass_fds=[listener.fileno(), alive_r, order_r, answer_w],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    cwd=self._invocation_dir,
                    env=environ,
                    start_new_session=True,
                )
            finally:
                os.close(alive_r)
                os.close(order_r)
                os.close(answer_w)

    def preload(self, order: PreloadOrder) -> None:
        """Tell the server what to collect; only the first call counts."""
        with self._lock:
            if self._told:
                return
            self._told = True
            data = pickle.dumps(order)
        # The server may still be importing torch and a pipe holds 64 KiB: a thread waits for it.
        try:
            threading.Thread(target=self._write_order, args=(data,), name="elastic-preload", daemon=True).start()
        except BaseException:
            self._told = False
            raise

    def _write_order(self, data: bytes) -> None:
        try:
            with open(self._order_w, "wb") as stream:
                stream.write(data)
        except BrokenPipeError:
            pass  # The server died; whoever asks it to fork says so.

    def preloaded(self, timeout: float) -> Preloaded | None:
        """Wait until the server is about to take requests, and return what it says then; to be asked once.

        Returns:
            ``None`` if it has said nothing when ``timeout`` seconds are over, or has ended.
        """
        if not kernel.readable(self._answer_r, timeout):
            return None
        # Written in one go, and shorter than what a pipe takes at once.
        data = os.read(self._answer_r, PIPE_BUF)
        return pickle.loads(data) if data else None

    def alive(self) -> bool:
        """Tell whether the server still takes requests."""
        return not self._lost and self._process.poll() is None

    def enter(self) -> None:
        """Take note of a launch that uses this server."""
        with self._lock:
            self._launches += 1

    def leave(self) -> None:
        """Take note that a launch no longer does; stop a server that has been replaced if it was the last one."""
        with self._lock:
            self._launches -= 1
            last = self._retired and self._launches == 0
        if last:
            self.stop()

    def retire(self) -> None:
        """Stop this server, which is lost, once no launch is in the middle of finding that out."""
        with self._lock:
            self._retired = True
            last = self._launches == 0
        if last:
            self.stop()

    @property
    def serves_one(self) -> bool:
        """Tell whether a single launch uses the server now."""
        return self._launches == 1

    def lose(self) -> None:
        """Give the server up: it no longer does what it is asked to. Another takes its place at the next launch."""
        self._lost = True
        self._process.kill()

    def fork(self, task: Task, *, cwd: str, sys_path: list[str], fds: list[int]) -> int:
        """Run a task in a process forked from the server; return its status descriptor.

        Raises:
            OSError: The server is gone.
        """
        try:
            return self._request(task, cwd=cwd, sys_path=sys_path, fds=fds)
        except OSError:
            self._lost = True  # also if the process is still in the middle of its end
            raise

    def _request(self, task: Task, *, cwd: str, sys_path: list[str], fds: list[int]) -> int:
        return self.address.request(pack(task, cwd=cwd, sys_path=sys_path), fds)

    def ask_for_stacks(self) -> None:
        """Have the server write its own Python stacks to its log: it has not done what it was asked to."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, STACK_SIGNAL)

    def strays(self) -> set[int]:
        """Return the children of the server that nobody looks after: processes that lost their own parent."""
        try:
            tracker = {int(self._tracker_file.read_text())}
        except (OSError, ValueError):
            return set()  # The server is still at its beginning and has forked nothing.
        return kernel.children(self.pid) - self.known - tracker

    def kill(self) -> None:
        """Begin to end the server, and everything that descends from it; :meth:`stop` waits for it."""
        with self._lock:
            if self._stopped:
                return
            self._stopped = True
            if not self._told:
                self._told = True
                os.close(self._order_w)
        os.close(self.address.alive_fd)
        os.close(self._answer_r)
        for pid in kernel.descendants(self.pid):
            handle = kernel.ProcessHandle(pid)
            handle.send(9)
            handle.close()
        self._process.kill()

    def stop(self) -> None:
        """End the server and everything that descends from it."""
        self.kill()
        self._process.wait()

    def last_words(self) -> str:
        """Return the end of what the server wrote, of stacks the frames down to the user's."""
        return "\n".join(without_our_frames(self.log.read_text(errors="replace"))[-40:])

    def how_it_died(self) -> str:
        """Say what ended a server that is gone, or about to be."""
        try:
            code = self._process.wait(_DYING)
        except subprocess.TimeoutExpired:
            return "it takes no requests any more"
        name = signal_name(code)
        return f"exited with code {code}" if name is None else f"killed by {name}"


def remove_run_directory(directory: Path) -> None:
    """Remove the run's directory with everything in it."""
    shutil.rmtree(directory, ignore_errors=True)
