"""Coverage of a rank, which is measured where the pytest process is."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pytest

    from pytest_elastic.messages import RankOrder


class Measurement:
    """The measurement of this rank. This one is none: it stands where nobody asked for any."""

    def begin_test(self, nodeid: str) -> None:
        """Take note of the test that runs next."""

    def begin_phase(self, item: pytest.Item, when: str) -> None:
        """Take note of a phase of a test that begins: ``"setup"``, ``"call"`` or ``"teardown"``."""

    def end_phase(self) -> None:
        """Take note that the phase is over."""

    def save(self) -> None:
        """Keep what was executed so far for the controller."""


def measure(order: RankOrder) -> Measurement:
    """Begin to measure this process, if the order says so."""
    if order.coverage is None:
        return Measurement()
    # coverage is imported where it is used only.
    from pytest_elastic.worker.traced import TracedWork

    return TracedWork(order.coverage)
