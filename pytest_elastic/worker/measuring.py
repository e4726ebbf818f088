"""What is kept of the work of a rank: coverage, where the pytest process is measured, and collectives."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pytest

    from pytest_elastic.messages import RankOrder
    from pytest_elastic.worker.identity import Identity


class Measurement:
    """What is kept of this rank's work. This one keeps nothing: it stands where nobody asked for any."""

    def begin_test(self, nodeid: str) -> None:
        """Take note of the test that runs next."""

    def begin_phase(self, item: pytest.Item, when: str) -> None:
        """Take note of a phase of a test that begins: ``"setup"``, ``"call"`` or ``"teardown"``."""

    def end_phase(self) -> None:
        """Take note that the phase is over."""

    def save(self) -> None:
        """Keep what was executed so far for the controller."""


class _Several(Measurement):
    """Several of them at once.

    Args:
        each: What is kept by each.
    """

    def __init__(self, each: Sequence[Measurement]) -> None:
        self._each = each

    def begin_test(self, nodeid: str) -> None:
        for each in self._each:
            each.begin_test(nodeid)

    def begin_phase(self, item: pytest.Item, when: str) -> None:
        for each in self._each:
            each.begin_phase(item, when)

    def end_phase(self) -> None:
        for each in self._each:
            each.end_phase()

    def save(self) -> None:
        for each in self._each:
            each.save()


def measure(order: RankOrder, me: Identity) -> Measurement:
    """Begin to keep what the order says of this process."""
    wanted: list[Measurement] = []
    # What does it is imported where it is used only.
    if order.coverage is not None:
        from pytest_elastic.worker.traced import TracedWork

        wanted.append(TracedWork(order.coverage))
    if order.keeps_collectives:
        from pytest_elastic.worker.collectives import KeptCollectives

        wanted.append(KeptCollectives(me.directory))
    return wanted[0] if len(wanted) == 1 else _Several(wanted) if wanted else Measurement()
