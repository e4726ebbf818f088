"""Run one test under one harness, in a pytest of its own, and end whatever is left of it."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import psutil

from pytest_elastic import kernel

from .classify import Session, outcome_in
from .harnesses import ROOT, WORK, Harness, Limits
from .modes import Mode

GONE_WITHIN: Final = 2.0
"""Seconds after the end of pytest within which all that it started must be gone."""
_ENDING: Final = 30.0
"""Seconds within which processes that were killed are gone, also on a busy machine."""
_MARK: Final = "COMPARE_RUN"
_FOREIGN: Final = ("PYTEST", "COV_", "TORCHELASTIC_", "CONFORMANCE_", "PYTHONDONTWRITEBYTECODE")


def run(mode: Mode, harness: Harness, limits: Limits) -> Session:
    """Run the test of a harness with a mode, in a directory of its own."""
    with tempfile.TemporaryDirectory(prefix="compare-") as name:
        directory = Path(name)
        for file in WORK.iterdir():
            if file.is_file():
                shutil.copy(file, directory)
        return _run(mode, harness, limits, directory)


def _run(mode: Mode, harness: Harness, limits: Limits, directory: Path) -> Session:
    environ = {key: value for key, value in os.environ.items() if not key.startswith(_FOREIGN)}
    environ |= {_MARK: name_of(directory), "COMPARE_MODE": mode.name, "COMPARE_OWN_LIMIT": str(limits.own)}
    environ |= {"TMPDIR": str(directory), "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", "COLUMNS": "200"}
    # What peers start must be found, mpiexec for one; and this plugin, where it is not installed.
    environ["PATH"] = os.pathsep.join([str(harness.python.parent), environ["PATH"]])
    if harness.arguments:
        environ["PYTHONPATH"] = str(ROOT)
    environ |= {name: value.format(own=limits.own) for name, value in harness.variables.items()}
    junit, log = directory / "junit.xml", directory / "log"
    command = [str(harness.python), "-m", "pytest", f"--junitxml={junit}", "-p", "no:cacheprovider"]
    started = time.monotonic()
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*command, *harness.arguments, harness.file],
            cwd=directory,
            env=environ,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            preexec_fn=_die_with_us(os.getpid()),
        )
        try:
            ended = _wait(process, limits)
            seconds = time.monotonic() - started
            left = _left(directory) if ended else ()
        finally:
            _end(process, directory)
    return Session(
        outcome=outcome_in(junit.read_text() if junit.exists() else ""),
        ended=ended,
        text=log.read_text(errors="replace"),
        left=left,
        seconds=seconds,
    )


def name_of(directory: Path) -> str:
    """Return what every process of a session has in its environment."""
    return directory.name


def _die_with_us(parent: int) -> Callable[[], None]:
    return lambda: kernel.die_with_parent(parent)


def _wait(process: subprocess.Popen[bytes], limits: Limits) -> bool:
    try:
        process.wait(limits.session)
    except subprocess.TimeoutExpired:
        return False
    return True


def _left(directory: Path) -> tuple[str, ...]:
    """Return the command lines of what outlived pytest."""
    deadline = time.monotonic() + GONE_WITHIN
    while (alive := _alive(directory)) and time.monotonic() < deadline:
        time.sleep(0.02)
    return tuple(alive.values())


def _alive(directory: Path) -> dict[int, str]:
    found = {}
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get(_MARK) == name_of(directory) and process.status() != psutil.STATUS_ZOMBIE:
                found[process.pid] = " ".join(process.cmdline())
    return found


def _end(process: subprocess.Popen[bytes], directory: Path) -> None:
    """End all processes of a session, and those that they start meanwhile."""
    deadline = time.monotonic() + _ENDING
    while (alive := _alive(directory)) and time.monotonic() < deadline:
        for pid in alive:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.poll()
        time.sleep(0.02)
    process.wait(_ENDING)
