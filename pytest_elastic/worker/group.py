"""The process group that a launch asks for by ``backend=``."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


def make_group(backend: str | None) -> None:
    """Initialise the default process group; ``None`` makes none, ``"auto"`` torch's default for the CPU."""
    if backend is None:
        return
    import torch.distributed as dist

    dist.init_process_group(dist.get_default_backend_for_device("cpu") if backend == "auto" else backend)


def end_group(backend: str | None) -> None:
    """Destroy the group, if it is there (the work may have destroyed it)."""
    if backend is None:
        return
    import torch.distributed as dist

    if dist.is_initialized():
        dist.destroy_process_group()


@contextmanager
def process_group(backend: str | None) -> Iterator[None]:
    """Have a group while the block runs. After a failure it is left to the end of the process: peers may be gone."""
    make_group(backend)
    yield
    end_group(backend)
