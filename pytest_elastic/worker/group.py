"""The default process group of a rank: what ``backend=`` asks for, or the fixture ``process_group``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pytest_elastic.accelerators import CPU, Accelerators
from pytest_elastic.messages import RankOrder
from pytest_elastic.worker.device import device_of

if TYPE_CHECKING:
    import torch


class DefaultGroup:
    """The group that the plugin makes for a launch, if any. It is left alone if the work makes its own.

    One of CPUs is there until its rank leaves the world: gloo takes 10 ms for each of its connections to close them in
    order. After a failure any is: peers may be gone.

    Attributes:
        device: Device of this rank.
    """

    def __init__(self, order: RankOrder, accelerators: Accelerators) -> None:
        self.device: torch.device = device_of(order, accelerators)
        self._backend = order.backend
        self._accelerators = accelerators
        self._made = False

    def is_there(self) -> bool:
        """Tell whether the group was made here."""
        return self._made

    def make(self) -> None:
        """Initialise the group that ``backend=`` names, once; without one there is nothing to do."""
        if self._backend is not None and not self._made:
            self._make(self._backend)

    def need(self) -> Any:
        """Return the default group, which is initialised with the default backend of the device if there is none."""
        if self._accelerators.group() is None:
            self._make(self._backend or "auto")
        return self._accelerators.group()

    def end(self) -> None:
        """Destroy the group if it was made here, and is one of accelerators."""
        if self._made and self.device.type != CPU:
            self._accelerators.end_group()

    def _make(self, backend: str) -> None:
        if backend == "auto":
            backend = self._accelerators.default_backend(self.device.type)
        self._accelerators.make_group(backend, self.device)
        self._made = True

    def __enter__(self) -> None:
        self.make()

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.end()
