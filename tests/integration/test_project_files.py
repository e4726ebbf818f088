"""What is around the code: its version, the Makefile, hooks for commits, and continuous integration of the example."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import pytest_elastic

from ..examples.runs import RUNS

ROOT = Path(__file__).parents[2]


def test_the_version_is_in_one_place() -> None:
    [version] = re.findall(r'^version = "(.+?)"', (ROOT / "pyproject.toml").read_text(), flags=re.MULTILINE)
    assert pytest_elastic.__version__ == version, "pyproject.toml has changed: install again, `make demo` does"


def test_help_has_every_target() -> None:
    told = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60).stdout
    [targets] = re.findall(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    assert re.findall(r"^make (\w+) ", told, flags=re.MULTILINE) == targets.split()


@pytest.mark.parametrize("name", [".github/workflows/tests.yml", ".gitlab-ci.yml"])
def test_the_example_runs_the_command_of_its_continuous_integration(name: str) -> None:
    lines = (ROOT / "examples" / "project" / name).read_text().splitlines()
    commands = [line.partition("pytest")[2] for line in lines if re.match(r" +- (run: )?pytest", line)]
    assert [f"pytest{command}" for command in commands] == list(RUNS["project"].commands)


def test_the_example_is_complete() -> None:
    project = ROOT / "examples" / "project"
    code = {path.relative_to(project).as_posix() for path in project.rglob("*.py")}
    assert code <= set(RUNS["project"].files)


def test_hooks_for_commits() -> None:
    pytest.importorskip("pre_commit")
    command = [sys.executable, "-m", "pre_commit", "validate-config", str(ROOT / ".pre-commit-config.yaml")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
