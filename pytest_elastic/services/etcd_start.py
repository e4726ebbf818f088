"""Start and stop the processes of one etcd: its command, its keeper, and the wait until it answers."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections import deque
from pathlib import Path
from typing import Final

from pytest_elastic.errors import EtcdServerError
from pytest_elastic.one_line import one_line
from pytest_elastic.options import is_seconds
from pytest_elastic.services import keeper
from pytest_elastic.services.etcd_binary import WITH_NO_FSYNC, EtcdBinary, etcd_environ
from pytest_elastic.services.process import POLL, KeeperState, ProcessId, wait_until

HOST: Final = "127.0.0.1"

# Seconds in which a killed process must be gone.
STOP_TIMEOUT: Final = 5.0

OUTPUT_LINES: Final = 40


def etcd_command(binary: EtcdBinary, home: Path, client_port: int, peer_port: int, host: str) -> list[str]:
    """Build the command of a one-node cluster, on loopback and at an address by which other machines reach it."""
    here, peer = f"http://{HOST}:{client_port}", f"http://{HOST}:{peer_port}"
    client = f"http://{in_url(host)}:{client_port}"
    clients = ",".join(dict.fromkeys((here, client)))
    command = [
        str(binary.path),
        "--name=pytest-elastic",
        f"--data-dir={home / 'data'}",
        f"--listen-client-urls={clients}",
        f"--advertise-client-urls={client}",
        f"--listen-peer-urls={peer}",
        f"--initial-advertise-peer-urls={peer}",
        f"--initial-cluster=pytest-elastic={peer}",
        f"--initial-cluster-token={home.name}",
        "--enable-v2=true",
        # Pages of the web that a browser of this machine shows have names of their own, and are not to read it.
        f"--host-whitelist={','.join(dict.fromkeys((HOST, 'localhost', host)))}",
        f"--cors={here}",
        # With etcd's own 1000 ms a new server waits up to that long before it makes itself the leader.
        "--heartbeat-interval=10",
        "--election-timeout=100",
    ]
    if binary.release >= WITH_NO_FSYNC:
        command.append("--unsafe-no-fsync")  # what it could lose at a power failure is removed at the end anyway
    return command


def in_url(host: str) -> str:
    """Return an address as it stands before a port."""
    return f"[{host}]" if ":" in host else host


def launch(home: Path, owner: ProcessId, command: list[str]) -> None:
    """Start a keeper; it detaches itself, and we wait for that."""
    arguments = [str(home), str(owner.pid), str(owner.started), *command]
    with (home / keeper.LOG).open("ab") as log:
        done = subprocess.run(
            [sys.executable, "-I", "-S", "-E", keeper.__file__, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=log,
            env=etcd_environ(os.environ),
            check=False,
        )
    if done.returncode:
        output = tail(home / keeper.LOG, OUTPUT_LINES) or ""
        raise EtcdServerError(f"the keeper of etcd ended with {done.returncode}:\n{output}", output=output)


def wait_ready(home: Path, port: int, *, run: int, timeout: float) -> KeeperState:
    """Wait until etcd answers and serves keys.

    Raises:
        EtcdServerError: It ended, or did not answer in time.
    """
    deadline = time.monotonic() + timeout
    paths = ["/version", "/v2/keys"]
    while True:
        state = KeeperState.read(home)
        if state and state.run == run:
            while paths and answers(port, paths[0]):
                del paths[0]
            if not paths:
                return state
            if state.exitcode is not None:
                raise not_ready(home, f"ended with exit code {state.exitcode} before it was ready")
        if time.monotonic() > deadline:
            raise not_ready(home, f"did not answer {paths[0]} on {HOST}:{port} within {timeout:g} s")
        time.sleep(POLL)


def check_timeout(who: str, timeout: float) -> None:
    """Refuse a time that is none."""
    if not is_seconds(timeout):
        raise EtcdServerError(f"{who}: got timeout={one_line(timeout)}; it is the seconds to wait, a number above 0")


def not_ready(home: Path, what: str) -> EtcdServerError:
    """Make the error of an etcd that did not start."""
    output = tail(home / keeper.LOG, OUTPUT_LINES) or ""
    return EtcdServerError(f"etcd {what}; its last lines:\n{output}", output=output)


def answers(port: int, path: str) -> bool:
    """Tell whether a GET has the answer 200; by hand: no proxy of the environment, no slow import."""
    try:
        with socket.create_connection((HOST, port), timeout=1) as sock:
            sock.sendall(f"GET {path} HTTP/1.0\r\nHost: {HOST}\r\n\r\n".encode())
            return sock.recv(64).split(b" ", 2)[1:2] == [b"200"]
    except OSError:
        return False


def stop_home(home: Path) -> None:
    """End the keeper of a home with its etcd, and see to it that the home is gone."""
    if state := KeeperState.read(home):
        state.keeper.signal(signal.SIGTERM)
        if not wait_until(lambda: not state.keeper.alive, timeout=STOP_TIMEOUT):
            state.keeper.signal(signal.SIGKILL)
        state.etcd.signal(signal.SIGKILL, group=True)  # for a keeper that was killed, where the kernel does not
    # A keeper that has written no state yet finds its home gone, and ends for that.
    shutil.rmtree(home, ignore_errors=True)


def tail(path: Path, lines: int) -> str | None:
    """Return the last lines of a file; None if there is none."""
    try:
        with path.open(errors="replace") as file:
            return "".join(deque(file, maxlen=lines)).rstrip("\n")
    except OSError:
        return None
