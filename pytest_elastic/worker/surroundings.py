"""Make a rank's surroundings those of the launching test, and apply again what torch read when it was imported."""

from __future__ import annotations

import os
import random
import sys

from pytest_elastic.messages import RankOrder
from pytest_elastic.worker.identity import Identity


def apply_environment(order: RankOrder, me: Identity) -> None:
    """Replace ``os.environ`` by the launching test's, with what torch's agent set for this rank on top."""
    kept = {key: os.environ[key] for key in me.keys if key in os.environ}
    wanted = order.environ | kept
    for key in [key for key in os.environ if key not in wanted]:
        del os.environ[key]
    # Most are as they were when the server started, and to set one takes a while.
    os.environ.update({key: value for key, value in wanted.items() if os.environ.get(key) != value})
    # All nodes are on this machine, of which torch's agents do not know: the devices of other nodes are left to them.
    if order.devices.variable:
        os.environ[order.devices.variable] = order.devices.visible[me.id.rank]


def line_buffered_output() -> None:
    """Have each line reach the rank's log when it is written: a killed process flushes nothing."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(line_buffering=True, errors="backslashreplace")


def apply_to_torch() -> None:
    """Apply the environment to a torch that was imported before it was known: threads, debug level."""
    import torch
    import torch.distributed as dist

    cores = os.cpu_count() or 1
    try:
        # As torch itself has it: a number that is given is bounded by the machine, not by this process's share of it.
        threads = min(cores, int(os.environ.get("OMP_NUM_THREADS", "").split(",")[0]))
    except ValueError:
        threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else cores
    if threads > 0 and threads != torch.get_num_threads():
        torch.set_num_threads(threads)
    if "TORCH_DISTRIBUTED_DEBUG" in os.environ:
        dist.set_debug_level_from_env()


def apply_seed(seed: int | None) -> None:
    """Seed random, numpy (if it is loaded) and torch alike on every rank.

    ``None`` gives each rank what a fresh interpreter has, a seed of its own: forked ranks would share the server's.
    """
    import torch

    random.seed(seed)
    if torch.accelerator.current_accelerator() is None:
        # torch.manual_seed also seeds devices to come, for which it notes where it was called from: that takes longer
        # than all the rest.
        torch.default_generator.seed() if seed is None else torch.default_generator.manual_seed(seed)
    elif seed is None:
        torch.seed()
    else:
        torch.manual_seed(seed)
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed(None if seed is None else seed % 2**32)
