"""The controller's side of the reaper."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from pytest_elastic import kernel
from pytest_elastic.services import reaper


class Reaper:
    """A process that ends what is left of this run if pytest cannot do so itself.

    Args:
        directory: The run's private directory; its name is the mark that processes of the run carry.
        main: Process id of the main process if this is a worker of pytest-xdist.
    """

    def __init__(self, directory: Path, main: int | None = None) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", reaper.__file__, str(kernel.own_pid()), str(directory), str(main or 0)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def dismiss(self) -> None:
        """End the reaper: nothing is left for it to do."""
        try:
            self._process.communicate(b"q", timeout=5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
