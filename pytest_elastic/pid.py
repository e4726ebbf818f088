"""The process id of this process, whatever a test has put into ``os``; without an import that costs anything."""

from __future__ import annotations

import os
from typing import Final

# Bound once, as the clock.
own_pid: Final = os.getpid
