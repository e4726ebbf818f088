"""The device of a rank."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from pytest_elastic.accelerators import CPU, Accelerators
from pytest_elastic.messages import RankOrder

if TYPE_CHECKING:
    import torch


def device_of(order: RankOrder, accelerators: Accelerators) -> torch.device:
    """Return the device of this rank: the CPU, the one that it sees, or the one that has its local rank as index."""
    index = 0 if order.devices.single else int(os.environ.get("LOCAL_RANK", "0"))
    return accelerators.device(order.devices.kind, index)


def select_device(order: RankOrder, accelerators: Accelerators) -> None:
    """Make this rank's accelerator the current one, before anything can use another; a CPU needs nothing."""
    if order.devices.kind != CPU:
        accelerators.select(device_of(order, accelerators))
