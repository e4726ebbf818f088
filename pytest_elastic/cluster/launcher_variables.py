"""The variables by which a launcher tells its processes of their world, kept from tests that are not in it.

A plain test runs in the first controller only, as it does on one machine: one that made a process group by what
torchrun says would wait for ranks that never come.
"""

from __future__ import annotations

import os
import re
from typing import Final

_OF_THE_WORLD: Final = re.compile(
    r"(RANK|WORLD_SIZE|LOCAL_RANK|LOCAL_WORLD_SIZE|GROUP_RANK|GROUP_WORLD_SIZE|ROLE_RANK|ROLE_WORLD_SIZE|ROLE_NAME|"
    r"MASTER_ADDR|MASTER_PORT|TORCHELASTIC_\w+)"
)


class LauncherVariables:
    """What was taken out of the environment, until it is put back."""

    def __init__(self) -> None:
        self._taken = {name: value for name, value in os.environ.items() if _OF_THE_WORLD.fullmatch(name)}
        for name in self._taken:
            del os.environ[name]

    def put_back(self) -> None:
        """Put all of it back, but for what has been set meanwhile."""
        for name, value in self._taken.items():
            os.environ.setdefault(name, value)
        self._taken = {}
