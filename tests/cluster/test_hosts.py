"""The hosts of these tests are apart as machines are, and nothing is left of them."""

from __future__ import annotations

import errno
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from .hosts import PATIENCE, Host, hosts

WHO = "import os, socket; print(os.getpid(), socket.gethostname(), socket.gethostbyname(socket.gethostname()))"


@contextmanager
def connected(one: Host, other: Host) -> Iterator[tuple[socket.socket, socket.socket]]:
    """Have a connection from one host to the other."""
    with one.network():
        listening = socket.create_server((one.address, 0))
    with listening:
        listening.settimeout(PATIENCE)
        with other.network():
            near = socket.create_connection(listening.getsockname()[:2], PATIENCE)
        far, _ = listening.accept()
    with near, far:
        for end in (near, far):
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            end.settimeout(PATIENCE)
        yield near, far


def round_trip(near: socket.socket, far: socket.socket) -> float:
    began = time.monotonic()
    near.sendall(b"?")
    assert far.recv(1) == b"?"
    far.sendall(b"!")
    assert near.recv(1) == b"!"
    return time.monotonic() - began


def processes_that_mention(word: str) -> list[str]:
    lines = subprocess.run(["ps", "-eo", "pid,args"], capture_output=True, text=True, check=True).stdout.splitlines()
    return [line for line in lines if word in line]


def test_hosts_reach_each_other_and_their_links_are_cut_and_mended_and_slow(two_hosts: list[Host]) -> None:
    one, other = two_hosts
    with connected(one, other) as (near, far):
        assert far.getpeername()[0] == other.address
        round_trip(near, far)

        other.cut()
        far.settimeout(0.5)
        near.sendall(b"lost")
        with pytest.raises(TimeoutError):
            far.recv(4)
        far.settimeout(PATIENCE)
        other.mend()
        assert far.recv(4) == b"lost"  # sent again

        other.delay(50)
        assert round_trip(near, far) >= 0.1
        other.cut()
        other.mend()
        assert round_trip(near, far) >= 0.1
        sending = threading.Thread(target=near.sendall, args=(b"x" * 3_000_000,))
        sending.start()
        with far.makefile("rb") as coming:
            assert len(coming.read(3_000_000)) == 3_000_000
        sending.join(PATIENCE)
        other.delay(0)
        assert min(round_trip(near, far) for _ in range(20)) < 0.1

    with one.network(), pytest.raises(OSError, match="unreachable") as outside:
        socket.create_connection(("192.0.2.1", 9), 1)
    assert outside.value.errno == errno.ENETUNREACH  # no way out of these networks


def test_a_host_has_its_own_name_and_loopback_and_its_processes_are_those_that_were_started(
    two_hosts: list[Host], tmp_path: Path
) -> None:
    for host in two_hosts:
        process = host.popen([sys.executable, "-c", WHO], stdout=subprocess.PIPE)
        assert process.communicate(timeout=PATIENCE)[0].split() == [str(process.pid), host.name, host.address]
        assert host.run(["pwd"], cwd=tmp_path).stdout.strip() == str(tmp_path)
        assert (
            host.run(["env"], env={"PATH": os.environ["PATH"], "COLOUR": "green"}).stdout.count("COLOUR=green\n") == 1
        )
    with two_hosts[0].network():
        listening = socket.create_server(("127.0.0.1", 0))
    with listening, two_hosts[1].network(), pytest.raises(ConnectionRefusedError):
        socket.create_connection(listening.getsockname()[:2], PATIENCE)
    assert socket.gethostname() not in {host.name for host in two_hosts}


def test_a_host_crashes_without_a_word_and_comes_back(two_hosts: list[Host]) -> None:
    one, other = two_hosts
    client = (
        "import socket, time; held = socket.create_connection(({!r}, {}), 30);"
        " held.sendall(b'here'); print('sent', flush=True); time.sleep(600)"
    )
    with one.network():
        listening = socket.create_server((one.address, 0))
    with listening:
        listening.settimeout(PATIENCE)
        for _ in range(2):
            argv = [sys.executable, "-c", client.format(one.address, listening.getsockname()[1])]
            with other.popen(argv, stdout=subprocess.PIPE) as process:
                held, _ = listening.accept()
                held.settimeout(PATIENCE)
                assert held.recv(4) == b"here"
                other.crash()
                assert process.wait(PATIENCE) == -signal.SIGKILL
                held.settimeout(0.5)
                with held, pytest.raises(TimeoutError):
                    held.recv(1)  # no end of the stream, and no reset
                other.mend()


def test_hosts_with_a_tmp_of_their_own(tmp_path: Path) -> None:
    with hosts(2, tmp_path, private_tmp=True) as made:
        for host in made:
            write = "echo {} > /tmp/mine; echo {} > /dev/shm/mine; echo {} >> shared; cat shared"
            said = host.run(["sh", "-c", write.replace("{}", host.name)], cwd=tmp_path)
            assert said.stdout.split() == [each.name for each in made[: host.number + 1]], said.stderr
            assert host.run(["cat", "/tmp/mine", "/dev/shm/mine"]).stdout.split() == [host.name] * 2
            assert (
                host.run([sys.executable, "-c", "import pytest_elastic"], cwd=Path(__file__).parents[2]).returncode == 0
            )


def test_nothing_is_left_also_after_a_failure(tmp_path: Path) -> None:
    before = Path("/proc/self/mounts").read_text(), Path("/proc/self/net/dev").read_text().count("\n")
    mark = f"mark-of-{tmp_path.name}-{os.getpid()}"
    left: list[subprocess.Popen[str]] = []
    holders: list[int] = []

    def fail() -> None:
        with hosts(2, tmp_path) as made:
            made[1].delay(5)
            argv = [
                sys.executable,
                "-c",
                "import os, time; os.fork(); os.write(1, b'here\\n'); time.sleep(600)",
                mark,
            ]
            left.append(made[0].popen(argv, stdout=subprocess.PIPE))
            assert left[0].stdout is not None
            assert [left[0].stdout.readline() for _ in range(2)] == ["here\n"] * 2
            holders.extend(host.namespaces.holder.pid for host in made)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    with left[0]:
        assert left[0].wait(PATIENCE) == -signal.SIGKILL
    assert processes_that_mention(mark) == []
    assert not any(os.path.exists(f"/proc/{pid}") for pid in holders)
    assert (Path("/proc/self/mounts").read_text(), Path("/proc/self/net/dev").read_text().count("\n")) == before


def test_nothing_is_left_when_the_test_run_is_killed(tmp_path: Path) -> None:
    mark = f"mark-of-{tmp_path.name}-{os.getpid()}"
    program = f"""
import sys, time
from pathlib import Path
from tests.cluster.hosts import hosts
with hosts(2, Path({str(tmp_path)!r})) as made:
    made[0].popen([sys.executable, "-c", "import time; print('sleeping', flush=True); time.sleep(600)", {mark!r}])
    time.sleep(600)
"""
    root = Path(__file__).parents[2]
    with hosts(1, tmp_path):
        pass  # skips where there can be none
    with subprocess.Popen([sys.executable, "-c", program], cwd=root, stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None
        assert run.stdout.readline() == "sleeping\n"
        run.kill()
        deadline = time.monotonic() + PATIENCE
        while processes_that_mention(mark):
            assert time.monotonic() < deadline
            time.sleep(0.02)
