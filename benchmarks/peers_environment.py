"""The environment of the peers: made once, made again when its requirements change."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import venv
from pathlib import Path

HERE = Path(__file__).parent
DIRECTORY = HERE.parent / ".venv-peers"
REQUIREMENTS = HERE / "peers.txt"
CONSTRAINTS = HERE.parent / "constraints.txt"
PYTHON = DIRECTORY / "bin" / "python"
STAMP = DIRECTORY / ".installed"


def prepare() -> None:
    """Install the peers; where that fails, each by itself. pip says why, and the tables who is absent."""
    wanted = hashlib.sha256(REQUIREMENTS.read_bytes() + CONSTRAINTS.read_bytes()).hexdigest()
    if STAMP.exists() and STAMP.read_text() == wanted:
        return
    print(f"Installing the peers into {DIRECTORY.name}, which takes a while ...", file=sys.stderr, flush=True)
    venv.create(DIRECTORY, with_pip=True, clear=STAMP.exists(), symlinks=True)
    if _install("-r", str(REQUIREMENTS)):
        STAMP.write_text(wanted)
        return
    for line in REQUIREMENTS.read_text().splitlines():
        if line and not line.startswith("#"):
            _install(line)


def _install(*what: str) -> bool:
    command = [str(PYTHON), "-m", "pip", "install", "-qq", "--disable-pip-version-check", "-c", str(CONSTRAINTS), *what]
    return subprocess.run(command, check=False).returncode == 0


if __name__ == "__main__":
    prepare()
