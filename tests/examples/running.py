"""Run the commands of a page as a reader would, and keep what they print."""

from __future__ import annotations

import io
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

import pexpect

from ..conftest import OTHERS
from .runs import Run

OUTPUT: Final = Path(__file__).with_name("output")
_ROOT: Final = Path(__file__).parents[2]
_HOME: Final = "/home/me"
"""What is called the home of the reader in what is kept."""
_LIMIT: Final = 240.0
"""Seconds that a command may take, also on a busy machine."""
_OURS: Final = (
    "PYTEST",
    "PYTHON",
    "COV_",
    "TORCHELASTIC",
    "SLURM_",
    "COLUMNS",
    "LINES",
    "CI",
    "GITHUB_",
    "BUILD_NUMBER",
)
"""How variables begin that a reader's terminal has not."""
_SHELL: Final = set("|&;<>()$`*?[#~\"'\\")
_BY_SIGNAL: Final = 128
"""From which on an exit code is a shell's word for the end by a signal."""
_MASKS: Final = (
    (r"\b\d+\.\d+ ?s\b", "1.00s"),
    (r"\b\d+(\.\d+)? (ms|seconds)\b", "1 s"),
    (r"0x[0-9a-f]{6,}", "0x1"),
    (r"\b(pid|port|process) \d+", r"\1 1"),
    (r"/tmp/[\w./-]+", "/tmp/x"),
    (r'File "[^"]*/site-packages/.*', "File x"),
    (r"(127\.0\.0\.1\]?|localhost):\d+", r"\1:1"),
    (r"[=_-]{5,}", "==="),
    (r" +\[ *\d+%\]", " [1%]"),
    (r"^(platform|plugins:|rootdir:|configfile:).*\n", ""),
)
"""What is another text each time."""


def run(each: Run) -> list[tuple[str, str]]:
    """Run the commands of a run; return each with what it printed.

    Raises:
        AssertionError: A command left with another exit code than the run says.
    """
    with tempfile.TemporaryDirectory(prefix="example-") as name:
        directory = Path(name).resolve()
        project = directory / "project"
        project.mkdir()
        for path, source in each.files.items():
            (project / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(_ROOT / source, project / path)
        environ = _environ(directory, each)
        return [
            (command, _told(_execute(command, each.answers, code, project, environ), project))
            for command, code in zip(each.commands, each.exits, strict=True)
        ]


def _environ(directory: Path, each: Run) -> dict[str, str]:
    environ = {name: value for name, value in os.environ.items() if not name.startswith(_OURS)}
    programs = directory / "bin"
    programs.mkdir()
    (programs / "pytest").write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m pytest "$@"\n')
    (programs / "pytest").chmod(0o755)
    (programs / "python").symlink_to(sys.executable)
    environ["PATH"] = os.pathsep.join([str(programs), str(Path(sys.executable).parent), environ["PATH"]])
    environ |= {"PYTHONPATH": str(_ROOT), "COLUMNS": "80", "TMPDIR": str(directory), "NO_COLOR": "1", "TERM": "dumb"}
    # Only the plugins that a page speaks of, not all that this suite is tested with.
    blocked = [name for name in _others() if name not in each.plugins]
    return environ | {"PYTEST_ADDOPTS": " ".join(f"-p no:{name}" for name in blocked)} | dict(each.env)


def _others() -> tuple[str, ...]:
    return (*OTHERS, "hypothesispytest", "xdist", "xdist.looponfail")


def _execute(command: str, answers: tuple[str, ...], code: int, project: Path, environ: dict[str, str]) -> str:
    words = shlex.split(command)
    if answers:
        text, left = _in_a_terminal(command, answers, project, environ)
    elif words[0] == "pytest" and not _SHELL & set(command) and code < _BY_SIGNAL:
        # Without a shell where none is needed, so that the suite can have the session start faster.
        text, left = _in_a_pipe([sys.executable, "-m", "pytest", *words[1:]], project, environ)
    else:
        text, left = _in_a_pipe(["sh", "-c", f"{command}\nexit $?"], project, environ)
    assert left == code, f"{command!r} left with {left}, expected {code}:\n{text}"
    return text


def _in_a_pipe(command: list[str], project: Path, environ: dict[str, str]) -> tuple[str, int]:
    process = subprocess.Popen(
        command,
        cwd=project,
        env=environ,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        text = process.communicate(timeout=_LIMIT)[0].decode(errors="replace")
    except BaseException:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(30)
        raise
    return text, process.returncode


def _in_a_terminal(command: str, answers: tuple[str, ...], project: Path, environ: dict[str, str]) -> tuple[str, int]:
    text = io.StringIO()
    with pexpect.spawn(
        "sh", ["-c", command], cwd=str(project), env=environ, encoding="utf-8", dimensions=(40, 80), timeout=_LIMIT
    ) as child:
        child.logfile_read = text
        for answer in answers:
            child.expect_exact("(Pdb) ")
            child.sendline(answer)
        child.expect(pexpect.EOF)
    return text.getvalue().replace("\r\n", "\n"), -(child.signalstatus or 0) or child.exitstatus or 0


def _told(text: str, project: Path) -> str:
    """Return what was printed, with paths as they would be for a reader, and as it looks in the end."""
    text = text.replace(str(project), f"{_HOME}/project").replace(sys.prefix, f"{_HOME}/.venv")
    lines = [line.rstrip("\r").rpartition("\r")[2].rstrip() for line in text.rstrip("\n").split("\n")]
    return "\n".join(lines) + "\n" if text else ""


def stored(each: Run) -> list[tuple[str, str]]:
    """Return the commands of a run, each with what it printed when it was kept."""
    path = OUTPUT / f"{each.name}.txt"
    if not path.exists():
        raise ValueError(f"run {each.name!r} has not been run: python -m tests.examples.write {each.name}")
    texts = re.split(r"^\$ (.*)\n", path.read_text(), flags=re.MULTILINE)[1:]
    return [(command, text) for command, text in zip(texts[::2], texts[1::2], strict=True)]


def keep(each: Run, told: list[tuple[str, str]]) -> None:
    """Keep what the commands of a run printed."""
    OUTPUT.mkdir(exist_ok=True)
    (OUTPUT / f"{each.name}.txt").write_text("".join(f"$ {command}\n{text}" for command, text in told))


def masked(each: Run, told: list[tuple[str, str]]) -> str:
    """Return what is the same each time of what the commands of a run printed."""
    text = "".join(f"$ {command}\n{text}" for command, text in told)
    for pattern, instead in (*((pattern, "*") for pattern in each.varies), *_MASKS):
        text = re.sub(pattern, instead, text, flags=re.MULTILINE)
    return text
