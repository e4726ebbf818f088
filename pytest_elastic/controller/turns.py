"""When a launch may start, and on which devices: what it takes of a run's CPUs and of a machine's accelerators."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Final

import pytest

from pytest_elastic.controller.devices import Placement, cores
from pytest_elastic.fixtures import is_xdist_worker, run_directory
from pytest_elastic.messages import DeviceOrder
from pytest_elastic.services.private_directories import machine_directory
from pytest_elastic.services.slots import Lease, Pool, Slots, Waiting, Want

_MOST_SLOTS: Final = 4096
"""Each is a name, and they are looked through."""


class Turn:
    """What one launch has taken: CPUs for as long as it works, devices until it is over.

    Attributes:
        world_size: Number of its ranks.
        devices: The devices of its ranks.
    """

    def __init__(self, world_size: int, devices: DeviceOrder, leases: Sequence[Lease], device_pool: Pool) -> None:
        self.world_size: Final = world_size
        self.devices: Final = devices
        self._cpus = [lease for lease in leases if lease.pool is not device_pool]
        self._devices = [lease for lease in leases if lease.pool is device_pool]
        self._over = False
        self._lock = threading.Lock()

    @property
    def holds_devices(self) -> bool:
        """Tell whether others may wait for its devices."""
        return any(lease.held for lease in self._devices)

    def rest(self) -> None:
        """Give the CPUs back: the ranks wait for another test, or have ended."""
        with self._lock:
            for lease in self._cpus:
                lease.release()
            for lease in self._devices:
                lease.idle = True

    def resume(self, cpus: Sequence[Lease]) -> None:
        """Go on, with other CPUs; a launch that is over meanwhile gives them back at once."""
        with self._lock:
            self._cpus = list(cpus)
            for lease in self._devices:
                lease.idle = False
        if self._over:
            self.end()

    def end(self) -> None:
        """Give everything back."""
        self._over = True
        with self._lock:
            for lease in (*self._cpus, *self._devices):
                lease.release()


class Turns:
    """The turns of one session's launches.

    CPUs are shared by the workers of pytest-xdist: a session without them runs one test at a time. Accelerators are
    shared by everything that this user runs on the machine.

    Args:
        config: pytest's.
        cpu_slots: How many ranks work at a time in this run; ``None`` for one on each core.
        give_back: Ends launches that only wait, and have devices.
    """

    def __init__(
        self,
        config: pytest.Config,
        *,
        cpu_slots: int | None,
        give_back: Callable[[], object],
    ) -> None:
        self._capacity = min(cpu_slots, _MOST_SLOTS) if cpu_slots is not None else cores()
        self._give_back = give_back
        self._slots = Slots()
        factory = getattr(config, "_tmp_path_factory", None)
        self._cpus: Pool | None = None
        if is_xdist_worker(config) and factory is not None:  # -p no:tmpdir: there is no place that workers share
            self._cpus = Pool(run_directory(config, factory) / "slots")
        self._devices = Pool(lambda: machine_directory("devices"))

    def take(self, placement: Placement, timeout: float | None, waits: Callable[[Waiting], object]) -> Turn:
        """Wait until a launch may start.

        Args:
            placement: Its ranks, and the devices that there are.
            timeout: Seconds that a launch waits at most whose test has another one running.
            waits: Called again and again while it waits.

        Raises:
            SlotError: Its test has what others wait for, and waits for them.
        """
        ids, number = placement.wanted
        names = tuple(f"{placement.kind}-{id}" for id in ids)  # noqa: A001
        what = f"{placement.kind} devices"
        devices = Want(pool=self._devices, names=names, number=number, what=what)
        leases = self._slots.take(
            [devices, *self._wanted_cpus(placement.world_size)],
            waits=waits,
            give_back=self._give_back,
            timeout=timeout,
        )
        taken = [name for lease in leases if lease.pool is self._devices for name in lease.names]
        order = placement.devices([id for id, name in zip(ids, names, strict=True) if name in taken])  # noqa: A001
        return Turn(placement.world_size, order, leases, self._devices)

    def elsewhere(self, placement: Placement) -> Turn:
        """Return the turn of a launch of which nothing is on this machine: it takes nothing here."""
        return Turn(placement.world_size, DeviceOrder(kind=placement.kind), (), self._devices)

    def resume(self, turn: Turn, waits: Callable[[Waiting], object]) -> bool:
        """Wait until ranks that are kept may run another test; tell whether they may.

        They may not, and are to be ended, if they have devices and would have to wait.
        """
        wants = self._wanted_cpus(turn.world_size)
        cpus = self._slots.take_now(wants)
        if cpus is None and turn.holds_devices:
            return False
        if cpus is None:
            cpus = self._slots.take(wants, waits=waits, give_back=self._give_back, timeout=None)
        turn.resume(cpus)
        return True

    def _wanted_cpus(self, ranks: int) -> list[Want]:
        if self._cpus is None:
            return []
        names = tuple(f"cpu-{number}" for number in range(self._capacity))
        return [Want(pool=self._cpus, names=names, number=min(ranks, self._capacity), what="CPU slots", modest=True)]
