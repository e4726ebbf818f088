"""Python stacks that need no cooperation: written at C level while a rank blocks, holds the GIL or crashes."""

from __future__ import annotations

import faulthandler
import os
import signal
import sys
from pathlib import Path
from typing import Final

STACK_SIGNAL: Final = signal.SIGRTMAX - 3 if sys.platform == "linux" else signal.SIGUSR2
"""The signal on which a rank writes its stacks: one that no test and no job scheduler uses."""

FILE_NAME: Final = "stacks.txt"


def write_stacks_to(directory: Path) -> int:
    """Have this process write its stacks into a file on fatal errors, SIGTERM and :data:`STACK_SIGNAL`.

    Returns:
        The file's descriptor, which stays open for the life of the process.
    """
    file = os.open(directory / FILE_NAME, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    faulthandler.enable(file=file, all_threads=True)
    faulthandler.register(STACK_SIGNAL, file=file, all_threads=True)
    faulthandler.register(signal.SIGTERM, file=file, all_threads=True, chain=True)
    return file
