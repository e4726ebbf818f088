"""What is asked of torch about accelerators: how many there are, which one is this rank's, how its group is made.

Code that needs an answer asks an :class:`Accelerators`, so that it can be tested on a machine without any. What torch
makes of real ones has not been run by this project.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Final, Protocol

from pytest_elastic import kernel

if TYPE_CHECKING:
    import torch

CPU: Final = "cpu"
KINDS: Final = ("cuda", "xpu", "mps", "mtia", "hpu")
"""Types of device that ``torch.accelerator`` may have, beside a private backend's."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Survey:
    """The accelerators of this machine, as one process sees them.

    Attributes:
        kind: Type of the one that ``torch.accelerator`` stands for, if it is there; else ``"cpu"``.
        private: Name of torch's private backend (``torch.utils.rename_privateuse1_backend``).
        counts: Type to the number of devices; types of which there is none are missing.
        ids: Type to what tells each of its devices from all others, whatever they are called here; a type whose
            devices tell nothing of the kind is missing.
    """

    kind: str
    private: str
    counts: Mapping[str, int]
    ids: Mapping[str, Sequence[str]] = field(default_factory=dict)

    @property
    def kinds(self) -> tuple[str, ...]:
        """Types that a device may have."""
        return (*KINDS, self.private)


class Accelerators(Protocol):
    """The questions and requests."""

    def survey(self) -> Survey:
        """Count this machine's accelerators. This may initialise them: a process of its own asks."""

    def device(self, kind: str, index: int) -> torch.device:
        """Return a ``torch.device``; that of a CPU has no index."""

    def select(self, device: torch.device) -> None:
        """Make an accelerator the current one of this process."""

    def default_backend(self, kind: str) -> str:
        """Return the backend of process groups for a type of device."""

    def make_group(self, backend: str, device: torch.device) -> None:
        """Initialise the default process group, bound to the device if it is an accelerator."""

    def end_group(self) -> None:
        """Destroy the default process group if there is one (the work may have destroyed it)."""

    def group(self) -> Any:
        """Return the default process group, or ``None``."""


class TorchAccelerators:
    """What torch says."""

    def survey(self) -> Survey:
        """Ask ``torch.accelerator``, and the modules of each type, as torchrun does."""
        import torch

        private = torch._C._get_privateuse1_backend_name()
        counts = {kind: count for kind in (*KINDS, private) if (count := self._count(kind))}
        current = torch.accelerator.current_accelerator()
        kind = current.type if current is not None and current.type in counts else CPU
        ids = {kind: ids for kind, count in counts.items() if (ids := self._ids(kind, count))}
        return Survey(kind=kind, private=private, counts=counts, ids=ids)

    def _ids(self, kind: str, count: int) -> tuple[str, ...]:
        import torch

        try:
            found = [getattr(torch, kind).get_device_properties(index).uuid for index in range(count)]
        except Exception:  # noqa: BLE001 (whatever a backend does that has no such thing)
            return ()
        return tuple(map(str, found))

    def _count(self, kind: str) -> int:
        import torch

        module = getattr(torch, kind, None)
        if module is None or not hasattr(module, "is_available") or not module.is_available():
            return 0
        return int(module.device_count())

    def device(self, kind: str, index: int) -> torch.device:
        """Make the device."""
        import torch

        return torch.device(kind) if kind == CPU else torch.device(kind, index)

    def select(self, device: torch.device) -> None:
        """Set the device."""
        import torch

        module = torch.get_device_module(device)
        if hasattr(module, "set_device"):
            module.set_device(device.index)
        else:  # mps, which has one device
            torch.accelerator.set_device_index(device)

    def default_backend(self, kind: str) -> str:
        """Return torch's choice: gloo, nccl, xccl, ..."""
        import torch.distributed as dist

        return str(dist.get_default_backend_for_device(kind))

    def make_group(self, backend: str, device: torch.device) -> None:
        """Initialise it, bound to the device where torch lets it be bound."""
        import torch.distributed as dist

        dist.init_process_group(backend, device_id=device if self._may_bind(backend, device) else None)

    def end_group(self) -> None:
        """Destroy it."""
        import torch.distributed as dist

        if dist.is_initialized():
            dist.destroy_process_group()

    def group(self) -> Any:
        """Return it."""
        import torch.distributed as dist

        return dist.group.WORLD if dist.is_initialized() else None

    def _may_bind(self, backend: str, device: torch.device) -> bool:
        """Tell whether torch accepts the device for such a group: its one accelerator, if the backend serves it."""
        import torch
        from torch.distributed.distributed_c10d import Backend, BackendConfig

        current = torch.accelerator.current_accelerator()
        if current is None or current.type != device.type:
            return False
        return device.type in BackendConfig(Backend(backend)).get_device_backend_map()


_ANSWER: Final = "accelerators of this machine: "


def print_survey(parent: int) -> None:
    """Print what torch says as one line. It is the whole work of a process that the controller starts.

    Args:
        parent: Process id of the controller, with which this process ends.
    """
    kernel.die_with_parent(parent)
    print(_ANSWER + json.dumps(asdict(TorchAccelerators().survey())), flush=True)


def read_survey(text: str) -> Survey:
    """Read what :func:`print_survey` printed; a backend that is loaded with torch may have printed too."""
    answer = next(line for line in reversed(text.splitlines()) if line.startswith(_ANSWER))
    return Survey(**json.loads(answer.removeprefix(_ANSWER)))
