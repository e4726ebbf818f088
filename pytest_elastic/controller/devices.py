"""How many ranks torchrun's words mean on this machine. The one place that asks for accelerators.

The question is put to a process of its own, so that neither pytest nor the preloaded server ever touches a device.
"""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys

from pytest_elastic.spec import ArgumentError

_QUESTION = """
import json, torch
accelerator = getattr(torch, "accelerator", None)
found = accelerator is not None and accelerator.is_available()
print(json.dumps([accelerator.current_accelerator().type, accelerator.device_count()] if found else ["cpu", 0]))
"""


class TooFewDevicesError(ArgumentError):
    """This machine has not the accelerators that ``nproc`` names."""


@functools.cache
def find_accelerators() -> tuple[str, int]:
    """Return the type of this machine's accelerators and their number; ``("cpu", 0)`` if there are none."""
    answer = subprocess.run([sys.executable, "-c", _QUESTION], capture_output=True, text=True, check=True, timeout=120)
    kind, count = json.loads(answer.stdout.splitlines()[-1])
    return str(kind), int(count)


def resolve_nproc(nproc: int | str) -> int:
    """Turn ``nproc`` into a number, with torchrun's meaning of its words.

    Raises:
        TooFewDevicesError: It names accelerators that this machine has none of.
    """
    if isinstance(nproc, int):
        return nproc
    cores = os.cpu_count() or 1
    if nproc == "cpu":
        return cores
    kind, count = find_accelerators()
    if nproc == "auto":
        return count or cores
    wanted = {"gpu": "cuda"}.get(nproc, nproc)
    if kind != wanted or count == 0:
        raise TooFewDevicesError(
            f'nproc="{nproc}": this machine has {count or "no"} {kind if count else wanted} devices'
        )
    return count
