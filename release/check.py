"""Check what `make dist` has built: `release/check.py dist`.

The sdist has what git has of its folders, and unit tests run from it. The wheel is installed where nothing else is,
and the example project of the sdist is tested with it.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import tempfile
import venv
from collections.abc import Mapping
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[1]
CONSTRAINTS: Final = ROOT / "constraints.txt"
LIMIT: Final = 900
"""Seconds for a step: torch may be a download of gigabytes."""


def main(dist: Path) -> None:
    """Check the one sdist and the one wheel in a directory."""
    [sdist], [wheel] = dist.glob("*.tar.gz"), dist.glob("*.whl")
    with tempfile.TemporaryDirectory(prefix="pytest-elastic-dist-") as name:
        directory = Path(name).resolve()
        source = _unpack(sdist, directory / "sdist")
        _check_complete(source)
        _say(f"unit tests from {sdist.name}")
        _run([sys.executable, "-m", "pytest", "-q", "-n", "2", "tests/unit"], source, {"PYTHONPATH": str(source)})
        python = _install(wheel, directory / "venv")
        _check_version(python, wheel, directory)
        _say(f"the example project of {sdist.name} with {wheel.name}")
        _run([str(python), "-m", "pytest", "--elastic-report=build/elastic.html"], source / "examples" / "project")
    _say("complete")


def _unpack(sdist: Path, into: Path) -> Path:
    with tarfile.open(sdist) as archive:
        archive.extractall(into, filter="data")
    [source] = into.iterdir()
    return source


def _check_complete(source: Path) -> None:
    """Compare with what git tracks, of all that the sdist has a part of."""
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60)
    tops = {path.name for path in source.iterdir()}
    missing = [
        name for name in tracked.stdout.splitlines() if name.split("/")[0] in tops and not (source / name).exists()
    ]
    if missing:
        raise SystemExit(f"the sdist lacks {', '.join(missing)}")


def _install(wheel: Path, into: Path) -> Path:
    _say(f"installing {wheel.name} into an environment of its own, which takes a while")
    venv.create(into, with_pip=True)
    python = into / "bin" / "python"
    # numpy: torch warns without it.
    what = [f"pytest-elastic[report] @ {wheel.resolve().as_uri()}", "numpy"]
    _run([str(python), "-m", "pip", "install", "-qq", "-c", str(CONSTRAINTS), *what], into)
    _run([str(python), "-m", "pip", "check"], into)
    return python


def _check_version(python: Path, wheel: Path, directory: Path) -> None:
    question = "import pytest_elastic; print(pytest_elastic.__version__, pytest_elastic.__file__)"
    told = subprocess.run(
        [str(python), "-c", question], cwd=directory, capture_output=True, text=True, check=True, timeout=60
    )
    version, _, file = told.stdout.strip().partition(" ")
    if wheel.name.split("-")[1] != version or not Path(file).is_relative_to(directory):
        raise SystemExit(f"{wheel.name} is imported as version {version} from {file}")


def _run(command: list[str], cwd: Path, variables: Mapping[str, str] | None = None) -> None:
    # What is set for this checkout must not reach into the others.
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "PYTEST"))}
    done = subprocess.run(command, cwd=cwd, env=environ | dict(variables or {}), check=False, timeout=LIMIT)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(command)} left with {done.returncode}")


def _say(what: str) -> None:
    print(f"== {what}", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
