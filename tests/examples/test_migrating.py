"""The tests of the migration guides before they were migrated, under what they were written for.

`make migrating` makes the environment; what is not there is skipped. DeepSpeed's classes are in its checkout only:
`DEEPSPEED_TESTS` names the directory `tests` of one.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import pytest

HERE = Path(__file__).parent / "migrating"
PYTHON = HERE.parents[2] / ".venv-migrating" / "bin" / "python"
DEEPSPEED = os.environ.get("DEEPSPEED_TESTS", "")
LIMIT = 300
"""Seconds for a session; each rank imports torch."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Before:
    """How such a test is run.

    Attributes:
        outcomes: What pytest counts, or the pytest sessions of all ranks do together.
        launcher: What stands before ``pytest``.
        arguments: What stands behind it.
        variables: Environment variables.
        package: What has to be installed.
    """

    outcomes: dict[str, int]
    launcher: tuple[str, ...] = ("-m",)
    arguments: tuple[str, ...] = ()
    variables: dict[str, str] = field(default_factory=dict)
    package: str


RUNS = {
    "multi_process": Before(package="expecttest", outcomes={"passed": 2, "skipped": 1}),
    "torchrun": Before(
        package="torch",
        launcher=("-m", "torch.distributed.run", "--nproc-per-node=2", "-m"),
        outcomes={"passed": 7, "skipped": 1},
    ),
    "spawn": Before(package="torch", outcomes={"passed": 3}),
    "mpi": Before(package="pytest_mpi", outcomes={"passed": 4}),
    "torchsnapshot": Before(package="torchsnapshot", outcomes={"passed": 3}),
    "deepspeed": Before(
        package="deepspeed",
        arguments=("-p", "conftest"),
        # So many devices has the CPU; DeepSpeed counts its NUMA nodes otherwise.
        variables={"PYTHONPATH": DEEPSPEED, "LOCAL_SIZE": "2"},
        outcomes={"passed": 4, "skipped": 1},
    ),
}


@pytest.mark.soak
@pytest.mark.parametrize("name", RUNS)
def test_as_it_was(name: str, tmp_path: Path) -> None:
    run = RUNS[name]
    _skip_what_is_absent(name, run)
    # A directory of its own: neither the settings nor the conftest of this project reach it.
    test = tmp_path / "test_it.py"
    test.write_text((HERE / name / "before.py").read_text())
    command = [str(PYTHON), *run.launcher, "pytest", "-q", *run.arguments, test.name]
    environment = {**os.environ, **run.variables, "PYTEST_ADDOPTS": ""}
    # mpi-pytest calls the mpiexec that is found first.
    environment["PATH"] = f"{PYTHON.parent}{os.pathsep}{environment['PATH']}"
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=LIMIT, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert _outcomes(done.stdout) == run.outcomes, done.stdout


def _skip_what_is_absent(name: str, run: Before) -> None:
    if not PYTHON.exists():
        pytest.skip(f"no {PYTHON.parents[1].name}: `make migrating` makes it")
    if subprocess.run([str(PYTHON), "-c", f"import {run.package}"], capture_output=True, check=False).returncode != 0:
        pytest.skip(f"no {run.package} in {PYTHON.parents[1].name}")
    if name == "deepspeed" and not DEEPSPEED:
        pytest.skip("DEEPSPEED_TESTS names no checkout's directory `tests`")


def _outcomes(output: str) -> dict[str, int]:
    """Add up what the sessions count; those of several ranks may do so on one line."""
    counts: Counter[str] = Counter()
    # DeepSpeed's conftest has pytest write in colours.
    for number, word in re.findall(r"(\d+) (passed|skipped|failed|error)", re.sub("\x1b[^m]*m", "", output)):
        counts[word] += int(number)
    return dict(counts)
