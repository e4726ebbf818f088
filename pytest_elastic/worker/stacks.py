"""Python stacks that need no cooperation: written at C level while a rank blocks, holds the GIL or crashes."""

from __future__ import annotations

import faulthandler
import signal
import sys
from pathlib import Path
from typing import Final

STACK_SIGNAL: Final = signal.SIGRTMAX - 3 if sys.platform == "linux" else signal.SIGUSR2
"""The signal on which a rank writes its stacks: one that no test and no job scheduler uses."""

FILE_NAME: Final = "stacks.txt"


def write_stacks_to(directory: Path) -> None:
    """Have this process write its stacks into a file on fatal errors, SIGTERM and :data:`STACK_SIGNAL`."""
    # Stays open for the life of the process: faulthandler keeps the descriptor.
    file = (directory / FILE_NAME).open("w")
    faulthandler.enable(file=file, all_threads=True)
    faulthandler.register(STACK_SIGNAL, file=file, all_threads=True)
    faulthandler.register(signal.SIGTERM, file=file, all_threads=True, chain=True)
    _keep_open.append(file)


_keep_open: list[object] = []
