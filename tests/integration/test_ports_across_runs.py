"""No two tests, workers or runs of this machine get the same port."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pytest_elastic.errors import PortError
from pytest_elastic.services.ports import BLOCK, PortReservations

# Each process of the runs notes its ports in a file of its own, and waits until so many processes have, so many ports.
NOTES = """
import os, pathlib, time

NOTES = pathlib.Path({notes!r})

def note(ports):
    with open(NOTES / str(os.getpid()), "a") as file:
        file.writelines(f"{{port}}\\n" for port in ports)

def wait_for(processes, ports=1):
    deadline = time.monotonic() + 60
    while True:
        noted = [file.read_text() for file in NOTES.iterdir()]
        if len(noted) >= processes and len("".join(noted).split()) >= ports:
            return
        assert time.monotonic() < deadline
        time.sleep(0.01)
"""


@pytest.fixture
def notes(pytester: pytest.Pytester) -> Path:
    folder = pytester.mkdir("notes")
    pytester.makepyfile(notes=NOTES.format(notes=str(folder)))
    return folder


def ports_in(notes: Path) -> list[int]:
    return [int(line) for path in notes.iterdir() for line in path.read_text().split()]


def test_two_runs_at_once_never_share(pytester: pytest.Pytester, notes: Path) -> None:
    pytester.makepyfile(
        """
        from notes import note, wait_for

        def test_one(free_port_factory, free_port, free_socket):
            note([free_port, free_socket.getsockname()[1], *free_port_factory(100)])
            wait_for(2)
            note(free_port_factory(100))
            wait_for(2, ports=2 * 202)  # A run that ends before gives its ports back.
        """
    )
    command = [sys.executable, "-m", "pytest", "-q", "-Werror"]
    runs = [
        pytester.popen([*command, f"--basetemp={pytester.path / name}"], stdin=subprocess.DEVNULL)
        for name in ("one", "two")
    ]
    for run in runs:
        output = run.communicate(timeout=120)[0].decode()
        assert run.returncode == 0, output
    ports = ports_in(notes)
    assert len(ports) == len(set(ports)) == 2 * 202


def test_workers_of_a_run_never_share(pytester: pytest.Pytester, notes: Path) -> None:
    pytest.importorskip("xdist")
    pytester.makepyfile(
        """
        import pytest
        from notes import note, wait_for

        @pytest.mark.parametrize("n", range(20))
        def test_many(n, free_port_factory, free_port):
            note([free_port, *free_port_factory(5)])
            wait_for(2)
        """
    )
    pytester.runpytest_subprocess("-n2", "-Werror").assert_outcomes(passed=20)
    ports = ports_in(notes)
    assert len(ports) == len(set(ports)) == 20 * 6
    assert len(list(notes.iterdir())) == 2


def test_ports_of_a_crashed_worker_do_not_come_again(pytester: pytest.Pytester, notes: Path) -> None:
    pytest.importorskip("xdist")
    pytester.makepyfile(
        """
        import os, signal
        import pytest
        from notes import note

        @pytest.mark.parametrize("n", range(6))
        def test_many(n, free_port_factory):
            note(free_port_factory(40))
            if n % 2:
                os.kill(os.getpid(), signal.SIGKILL)
        """
    )
    pytester.runpytest_subprocess("-n1", "-Werror").assert_outcomes(passed=3, failed=3)
    ports = ports_in(notes)
    assert len(ports) == len(set(ports)) == 6 * 40


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")  # xdist's workers have threads
def test_a_forked_child_leaves_the_ports_to_its_parent(tmp_path: Path) -> None:
    """The child neither unlocks nor hands out what is its parent's."""
    ranges = (range(12000, 12000 + 3 * BLOCK),)

    def make() -> PortReservations:
        return PortReservations(lock_dir=tmp_path / "locks", claim_dir=None, ranges=ranges)

    parents = make()
    got = parents.reserve(1)
    child = os.fork()
    if not child:
        try:
            parents.release()
            others = parents.reserve(BLOCK)
            parents.release()
            os._exit(3 if set(others).intersection(range(got[0], got[0] + BLOCK)) else 0)
        finally:
            os._exit(4)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    other = make()
    assert not set(other.reserve(2 * BLOCK)).intersection(range(got[0], got[0] + BLOCK))
    with pytest.raises(PortError, match="no port left"):
        make().reserve(1)
    other.release()
    parents.release()
    assert [path.name for path in (tmp_path / "locks").iterdir()] == ["guard"]
