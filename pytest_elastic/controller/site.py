"""Where the nodes of a launch are: on this machine, or on others whose controllers follow this one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from pytest_elastic.errors import ElasticError
from pytest_elastic.loopback_store import LOOPBACK
from pytest_elastic.messages import Seats
from pytest_elastic.spec import ArgumentError


class TooFewNodesError(ArgumentError):
    """There are fewer nodes, or places for ranks, than a launch needs."""


class NoFreeNodesError(ElasticError):
    """No nodes are free for a launch that is ahead of its turn."""


class Member(Protocol):
    """Another controller of the run, for which agents and ranks are started there."""

    @property
    def host(self) -> str:
        """Name of its machine."""

    @property
    def shift_ns(self) -> int:
        """What is added to its clock to have that of this machine."""

    @property
    def lost(self) -> str:
        """Why nothing more is to come from it, or an empty text."""

    def open(self, launch: str, hear: Callable[[Any], None]) -> None:
        """Have what it says of a launch be heard, and its loss."""

    def close(self, launch: str) -> None:
        """Have nothing more be heard of a launch."""

    def tell(self, message: object) -> None:
        """Send it a message, soon."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Site:
    """Where the agents of a launch run.

    Attributes:
        members: Where each agent runs, in order of start: ``None`` for this machine.
        hosts: The names of their machines.
        address: Address of this machine for the others.
        seats: How ranks are numbered, where each agent has one of them; ``None``: as torch does.
        key: Key of the channel, which the others have too; ``None`` where there are none.
        state_key: Key by which agents sign the state of their rendezvous; ``None`` likewise.
        extra: Variables that the test has changed since the session began.
        removed: Names of those that it has removed.
        ranks: Numbers of the controllers behind the agents.
    """

    members: tuple[Member | None, ...] = ()
    hosts: tuple[str, ...] = ()
    address: str = LOOPBACK
    seats: Seats | None = None
    key: bytes | None = field(default=None, repr=False)
    state_key: bytes | None = field(default=None, repr=False)
    extra: dict[str, str] = field(default_factory=dict, repr=False)
    removed: tuple[str, ...] = ()
    ranks: tuple[int, ...] = ()

    @property
    def is_here(self) -> bool:
        """Some agents run on this machine."""
        return not self.members or any(member is None for member in self.members)

    @property
    def has_others(self) -> bool:
        """Some agents run on other machines."""
        return any(member is not None for member in self.members)

    def host_of(self, node: int) -> str:
        """Return the name of an agent's machine; an empty text where all are this one."""
        return self.hosts[node] if node < len(self.hosts) else ""


HERE: Final = Site()
"""Everything on this machine."""
