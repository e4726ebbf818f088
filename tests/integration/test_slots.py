"""Launches of several workers and of several runs wait for each other's CPUs and devices, and for nothing else."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from pytest_elastic.services.slots import Lease, Pool, Slots, Waiting, Want

DEADLINE = 100.0
LOGGING = """
import json, os, time
from contextlib import contextmanager
from pathlib import Path
import pytest

@contextmanager
def logged(rank, size, **more):
    begin = time.monotonic()
    yield
    time.sleep(0.1)  # what the test takes
    if rank == 0:
        line = json.dumps({"size": size, "begin": begin, "end": time.monotonic(), **more})
        with open(os.environ["SLOT_LOG"], "a") as log:
            log.write(line + "\\n")
"""
FAKE_DEVICES = """
import pytest_elastic
from pytest_elastic.accelerators import Survey

def pytest_configure(config):
    if pytest_elastic.role(config) != "controller":
        import torch
        torch.cuda.set_device = lambda index: None

def pytest_elastic_find_devices(environ):
    visible = environ.get("CUDA_VISIBLE_DEVICES")
    names = visible.split(",") if visible else ["0", "1", "2", "3"]
    return Survey(kind="cuda", private="npu", counts={"cuda": len(names)}, ids={"cuda": [f"GPU-{n}" for n in names]})
"""


def read(log: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log.read_text().splitlines()]


def overlapping(entries: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """Return what ran at each moment at which something began."""
    return [[e for e in entries if e["begin"] <= moment < e["end"]] for moment in (e["begin"] for e in entries)]


def test_the_dead_hold_nothing_and_stand_in_no_queue(tmp_path: Path) -> None:
    source = f"""
from pathlib import Path
from pytest_elastic.services.slots import Pool, Slots, Want
pool = Pool(Path({str(tmp_path / "run")!r}))
want = Want(pool=pool, names=("cpu-0", "cpu-1"), number=2, what="CPU slots")
tell = lambda word: print(word, flush=True)
take = lambda: Slots().take([want], waits=lambda w: tell("waits"), give_back=lambda: None, timeout=None)
held = take()
tell("holds")
take()
"""
    pool = Pool(tmp_path / "run")
    waits, leases = threading.Event(), list[Lease]()
    seen: list[Waiting] = []

    def wait() -> None:
        def note(waiting: Waiting) -> None:
            seen.append(waiting)
            waits.set()

        want = Want(pool=pool, names=("cpu-0", "cpu-1"), number=2, what="CPU slots")
        leases.extend(Slots().take([want], waits=note, give_back=lambda: None, timeout=None))

    process = subprocess.Popen([sys.executable, "-c", source], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    with process.stdout:
        assert [process.stdout.readline() for _ in range(2)] == ["holds\n", "waits\n"]
        waiter = threading.Thread(target=wait, daemon=True)
        waiter.start()
        assert waits.wait(DEADLINE)
        assert seen[0].ahead == 1
        process.kill()
        process.wait(DEADLINE)
    waiter.join(DEADLINE)
    assert [lease.names for lease in leases] == [("cpu-0", "cpu-1")]
    leases[0].release()
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["guard"]


def test_workers_queue_for_cpus_and_a_test_larger_than_the_machine_runs_alone(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = pytester.path / "log"
    monkeypatch.setenv("SLOT_LOG", str(log))
    pytester.makepyfile(
        test_it=LOGGING
        + """
def work():
    with logged(int(os.environ["RANK"]), 2): pass

def beside():
    pass

@pytest.mark.elastic(timeout=60)
@pytest.mark.parametrize("nproc", [1, 1, 2, 1, 5, 1, 2, 1, 1, 1])
def test_ranks(rank, world_size, nproc):
    with logged(rank, world_size): pass

@pytest.mark.parametrize("n", range(2))
def test_launches(elastic_launch, n):
    with elastic_launch.start(work, nproc=2, timeout=60) as run:
        # A test that works with CPUs does not wait for more: it might be itself that it waits for.
        assert len(elastic_launch(beside, nproc=2, timeout=60)) == 2
        run.wait()

@pytest.mark.elastic(timeout=60, isolation="module")
@pytest.mark.parametrize("nproc", [1, 1])
def test_kept(rank, world_size, nproc):
    with logged(rank, world_size): pass
"""
    )
    result = pytester.run(sys.executable, "-m", "pytest", "-n3", "--elastic-cpu-slots=3", "-p", "no:cacheprovider")
    result.assert_outcomes(passed=14)
    entries = read(log)
    assert len(entries) == 14
    taken = [sum(min(entry["size"], 3) for entry in together) for together in overlapping(entries)]
    assert max(taken) <= 3
    assert max(len(together) for together in overlapping(entries)) > 1


def test_no_two_launches_of_two_runs_have_the_same_device(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(pytester.mkdir("tmp")))
    pytester.makepyfile(
        conftest=FAKE_DEVICES,
        test_it=LOGGING
        + """
@pytest.mark.elastic(timeout=60, device="cuda")
@pytest.mark.parametrize("nproc", [2, 1, 4, 3])
def test_ranks(rank, world_size, local_rank, device, elastic_gather, nproc):
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "0,1,2,3").split(",")
    assert len(visible) == world_size and device.index == local_rank
    assert elastic_gather(visible) == [visible] * world_size
    with logged(rank, world_size, visible=visible): pass

@pytest.mark.elastic(timeout=60, device="cuda", nproc=1, nnodes=2, isolation="module")
@pytest.mark.parametrize("n", range(3))
def test_kept(rank, node_rank, device, elastic_gather, n):
    visible = os.environ["CUDA_VISIBLE_DEVICES"]
    assert device.index == 0
    both = elastic_gather(visible)
    assert both[0] != both[1]
    with logged(rank, 2, visible=both): pass

@pytest.mark.elastic(timeout=60, device="cuda", nproc=5)
def test_too_many(rank): pass
""",
    )
    logs, runs = [], []
    for number in range(2):
        logs.append(pytester.path / f"log-{number}")
        command = [sys.executable, "-m", "pytest", "-n2", "-p", "no:cacheprovider", f"--basetemp=base-{number}"]
        environ = {**os.environ, "SLOT_LOG": str(logs[-1])}
        output = (pytester.path / f"out-{number}").open("w+")
        runs.append((subprocess.Popen(command, stdout=output, stderr=output, env=environ), output))
    for run, output in runs:
        with output:
            try:
                run.wait(DEADLINE)
            finally:
                run.kill()
    assert all("7 passed, 1 skipped" in (pytester.path / f"out-{number}").read_text() for number in range(2))
    entries = [entry for log in logs for entry in read(log)]
    assert len(entries) == 14
    for together in overlapping(entries):
        used = [name for entry in together for name in entry["visible"]]
        assert len(used) == len(set(used)), together
    # How the two runs meet is up to the machine: that some launches overlapped is shown, and no matter of the verdict.
    print("at the same time:", max(len(together) for together in overlapping(entries)))
    [directory] = (pytester.path / "tmp").glob("pytest-elastic-devices-*")
    assert [path.name for path in directory.iterdir()] == ["guard"]
