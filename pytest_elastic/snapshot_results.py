"""What a rank tells the controller of the snapshots that its test has asserted (syrupy)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

ATTRIBUTE: Final = "elastic_snapshots"
"""Attribute of a rank's report: an instance of :class:`SnapshotsOfRank`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AssertedSnapshot:
    """One assertion.

    Attributes:
        location: File of the snapshot.
        name: Its name in there.
        asserted: What the test compared, serialized; ``None`` if that failed.
        recalled: What the file had, or ``None``.
        created: It is a new one, which is to be written.
        updated: It is another one now, which is to be written.
        success: The assertion held.
    """

    location: str
    name: str
    asserted: str | bytes | None
    recalled: str | bytes | None
    created: bool
    updated: bool
    success: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class WrittenSnapshot:
    """A snapshot that is to be written.

    Attributes:
        location: Its file.
        name: Its name in there.
        index: What syrupy makes the name of.
        extension: The class that writes it, pickled.
        data: What is written.
    """

    location: str
    name: str
    index: str | int
    extension: bytes
    data: str | bytes


@dataclass(frozen=True, kw_only=True, slots=True)
class SnapshotsOfRank:
    """All that a test has asserted on one rank.

    Attributes:
        asserted: In their order, each with the class, pickled, that its assertion has by default.
        written: In their order.
    """

    asserted: tuple[tuple[bytes, AssertedSnapshot], ...]
    written: tuple[WrittenSnapshot, ...]
