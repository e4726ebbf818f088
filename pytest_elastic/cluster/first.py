"""The first controller: it waits for the others, gives its launches places on their machines, and releases them."""

from __future__ import annotations

import difflib
import os
import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from pytest_elastic import clock
from pytest_elastic.cluster.arguments import difference
from pytest_elastic.cluster.key import VARIABLE, derive
from pytest_elastic.cluster.meeting import Listening, listen
from pytest_elastic.cluster.member import Membership
from pytest_elastic.cluster.members import FollowingController, Members
from pytest_elastic.cluster.messages import Collect, Collected, LeaveAlone, Release
from pytest_elastic.cluster.node_launch import TOKEN
from pytest_elastic.controller.devices import Devices
from pytest_elastic.controller.site import HERE, NoFreeNodesError, Site, TooFewNodesError
from pytest_elastic.errors import ElasticError
from pytest_elastic.loopback_store import LOOPBACK
from pytest_elastic.messages import PreloadOrder, Seats, SessionOrder
from pytest_elastic.spec import LaunchSpec

if TYPE_CHECKING:
    from pytest_elastic.controller.planning import Request

_RELEASE: Final = 1.0
"""Seconds that the last word to the others gets to go out."""
_STAY: Final = 1.0
"""Seconds for which the others wait for the end of this process, to end after it."""
_LATE: Final = 30.0
_SOON: Final = 3.0
_SHOWN: Final = 20
"""Lines of a difference that are shown."""


class MembersMissingError(ElasticError):
    """Some controllers did not come, or did not say what they have collected."""


class DifferentArgumentsError(ElasticError):
    """The controllers were not asked to do the same."""


class DifferentTestsError(ElasticError):
    """The controllers have not collected the same tests."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Environment:
    """The variables of this process when the session began.

    Attributes:
        variables: All of them.
    """

    variables: dict[str, str] = field(repr=False)

    def changes(self) -> tuple[dict[str, str], tuple[str, ...]]:
        """Return which variables have another value by now, and the names of those that are gone."""
        now = {name: value for name, value in os.environ.items() if name != "PYTEST_CURRENT_TEST"}
        changed = {name: value for name, value in now.items() if self.variables.get(name) != value}
        return changed, tuple(name for name in self.variables if name not in now)


class FirstController:
    """The other controllers, for the one that judges and reports.

    Args:
        membership: What this one is.
        key: Key of the run.
        arguments: What this one was asked to do.
        silence: Seconds without a word after which another one counts as lost.
        patience: Seconds that the others get to come, and to collect.
        packs: Tests run side by side on disjoint nodes.

    Attributes:
        while_waiting: Is called again and again while a test waits for nodes that are lost; what it raises ends that.
    """

    def __init__(
        self,
        membership: Membership,
        key: bytes,
        *,
        arguments: tuple[str, ...],
        silence: float,
        patience: float,
        packs: bool,
    ) -> None:
        self.membership: Final = membership
        self._key = key
        self._arguments = arguments
        self._patience = patience
        self._silence = silence
        self.packs: Final = packs
        self._busy: set[int] = set()
        self._environment = Environment(variables=dict(os.environ))
        may_restart = os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0") != "0"
        self._stays_away = membership.launcher == "torchrun" and not may_restart
        self._alone = False
        self._listening: Listening = listen(membership, derive(key, "meeting"), clock.monotonic() + patience)
        self._members = Members(
            self._listening.socket, derive(key, f"link {membership.identity}"), membership, silence=silence
        )
        self._tests: tuple[str, ...] = ()
        self._collect: Collect | LeaveAlone | None = None
        self._members.came = self._have_collected
        self.while_waiting: Callable[[], None] = lambda: None

    @property
    def hosts(self) -> list[str]:
        """Names of the machines, this one first; an empty text for a controller that has not come."""
        others = [self._members.get(rank) for rank in range(1, self.membership.size)]
        return [socket.gethostname(), *(other.host if other is not None else "" for other in others)]

    @property
    def address(self) -> str:
        """Address of this machine under which the others reach it; loopback while there are none."""
        return self._address(tuple(self._members.get(rank) for rank in range(1, self.membership.size)))

    def _have_collected(self, member: FollowingController) -> None:
        if self._collect is not None:
            member.tell(self._collect)

    def wait_for_all(
        self,
        order: PreloadOrder,
        everything: SessionOrder,
        collect: Callable[[], Collected],
        waits: Callable[[str], object],
    ) -> None:
        """Wait until all others have come and collected, and compare what that is with what was collected here.

        Args:
            order: What the preloaded server collects.
            everything: How to collect all that the arguments name.
            collect: Waits until it has here, and returns what.
            waits: Called, once, with who is waited for, if it takes long.

        Raises:
            MembersMissingError: Some have not come.
            DifferentArgumentsError: Some were asked to do something else.
            DifferentTestsError: Some have collected others.
        """
        with self._members.changed:
            self._collect = Collect(order=order, everything=everything)
            self._tell_all(self._collect)
        own = collect()
        self._tests = own.tests
        ranks = range(1, self.membership.size)

        def settled(rank: int) -> bool:
            member = self._members.get(rank)
            return member is not None and (member.collected is not None or bool(member.lost))

        def over() -> bool:
            return all(map(settled, ranks)) or bool(self._members.hopeless)

        if not self._members.wait(over, min(_SOON, self._patience)):
            waits(", ".join(self.name_of(rank) for rank in ranks if not settled(rank)))
            self._members.wait(over, self._patience - _SOON)
        if self._members.hopeless and not all(map(settled, ranks)):
            raise MembersMissingError(self._members.hopeless)
        missing = [self._missing(rank) for rank in ranks if (m := self._members.get(rank)) is None or not m.collected]
        if missing:
            raise MembersMissingError("; ".join(missing) + self._told_of_strangers())
        for rank in ranks:
            member = self._members.get(rank)
            if member is not None and (what := difference(self._arguments, member.hello.arguments)):
                raise DifferentArgumentsError(
                    f"{self.name_of(rank)} was not asked to do the same as {self.name_of(0)}: {what}; start all "
                    f"{self.membership.size} alike, or each with a launcher of its own"
                )
        if own.trouble:
            return  # each test says so
        different = [text for rank in ranks if (text := self._difference(rank))]
        if different:
            raise DifferentTestsError("\n".join(different))

    def _told_of_strangers(self) -> str:
        if not self._members.strangers:
            return ""
        who = ", ".join(self._members.strangers)
        return f"; {who} called without the key of this run: set {VARIABLE} to the same secret on every node"

    def _missing(self, rank: int) -> str:
        member = self._members.get(rank)
        if member is None:
            return f"{self.name_of(rank)} did not come within {self._patience:g} s"
        if member.lost:
            return f"{self.name_of(rank)} was lost before it had collected its tests: {member.lost}"
        return f"{self.name_of(rank)} has not collected its tests within {self._patience:g} s"

    def _difference(self, rank: int) -> str:
        member = self._members.get(rank)
        if member is None or member.collected is None:
            return ""
        there = member.collected
        if there.trouble:
            return f"{self.name_of(rank)} could not collect its tests:\n{there.trouble}"
        if there.tests == self._tests:
            return ""
        lines = list(
            difflib.unified_diff(self._tests, there.tests, self.name_of(0), self.name_of(rank), lineterm="", n=0)
        )
        more = [f"... ({len(lines) - _SHOWN} lines more)"] if len(lines) > _SHOWN else []
        return "\n".join(
            [f"Different tests were collected on {self.name_of(0)} and {self.name_of(rank)}:", *lines[:_SHOWN], *more]
        )

    def name_of(self, rank: int) -> str:
        """Return how messages call a controller."""
        member = self._members.get(rank)
        host = socket.gethostname() if rank == 0 else member.host if member is not None else ""
        what = "rank" if self.membership.in_place else "node"
        return f"{what} {rank}" + (f" ({host})" if host else "")

    def site_for(
        self, launch: str, spec: LaunchSpec, request: Request, devices: Devices, *, ahead: bool = False
    ) -> Site:
        """Return where the agents of a test run.

        Args:
            launch: Name of the launch.
            spec: What it is to be.
            request: What it is to do.
            devices: This machine's.
            ahead: Its turn has not come: it is for free nodes only.

        Raises:
            TooFewNodesError: There are fewer places than it needs.
            NoFreeNodesError: None are free for one that is ahead of its turn.
            ElasticError: Some of the machines that it needs were lost.
        """
        __tracebackhide__ = True
        seats = self._seats(spec, request, devices) if self.membership.in_place else None
        if seats is not None:
            needed = wanted = seats.nproc * seats.nodes
        else:
            size = self.membership.size
            needed, wanted = spec.min_nodes, min(spec.max_nodes, size)
            if needed > size:
                raise TooFewNodesError(f"needs {needed} nodes, {size} are there ({self.membership.launcher})")
        if not ahead and wanted == 1:
            return HERE
        ranks = self._take(needed, wanted, ahead=ahead)
        members = tuple(self._members.get(rank) if rank else None for rank in ranks)
        extra, removed = self._environment.changes()
        names = [member.host if member is not None else socket.gethostname() for member in members]
        site = Site(
            members=members,
            hosts=self._shown(names),
            address=self._address(members),
            seats=seats,
            key=derive(self._key, f"launch {launch}"),
            state_key=derive(self._key, "state of rendezvous"),
            extra=extra | dict(spec.env),
            removed=removed,
            ranks=ranks,
        )
        (request.temporary / TOKEN).write_text(launch)
        return site

    def _shown(self, hosts: list[str]) -> tuple[str, ...]:
        # On one machine with a rank each its name would only be noise.
        return () if self.membership.in_place and len(set(hosts)) == 1 else tuple(hosts)

    def _address(self, members: tuple[FollowingController | None, ...]) -> str:
        """Return the address of this machine under which the others reach it."""
        found = [member.local_address for member in members if member is not None]
        outside = [address for address in found if not address.startswith("127.") and address != "::1"]
        return (outside or found or [LOOPBACK])[0]

    def _seats(self, spec: LaunchSpec, request: Request, devices: Devices) -> Seats:
        """Return how the ranks of a test are numbered that runs in the ranks that are there."""
        __tracebackhide__ = True
        membership = self.membership
        if spec.min_nodes < spec.max_nodes or request.faults:
            what = "faults=" if request.faults else f'nnodes="{spec.min_nodes}:{spec.max_nodes}"'
            raise TooFewNodesError(
                f"{what} needs nodes that come and go; here one rank each is there ({membership.launcher})"
            )
        nproc = devices.place(spec, os.environ, nodes=1).nproc
        seats = Seats(nproc=nproc, nodes=spec.max_nodes)
        world = nproc * spec.max_nodes
        if world > membership.size:
            raise TooFewNodesError(f"needs {world} ranks, {membership.size} are there ({membership.launcher})")
        if membership.nodes > 1 and world > 1 and membership.local_size % nproc:
            raise TooFewNodesError(
                f"needs nodes of {nproc} ranks, each has {membership.local_size} ({membership.launcher})"
            )
        return seats

    def _take(self, needed: int, wanted: int, *, ahead: bool) -> tuple[int, ...]:
        """Take controllers that are there, this one first, as many as are wanted; wait for them where tests are packed.

        Returns:
            Their numbers.
        """
        __tracebackhide__ = True
        while True:
            with self._members.changed:
                there = [rank for rank in range(self.membership.size) if self._is_there(rank)]
                if len(there) < needed:
                    if ahead:
                        raise NoFreeNodesError
                    if not any(self._may_come_back(rank) for rank in range(1, self.membership.size)):
                        raise ElasticError(self._too_few_left(needed, there))
                    self.while_waiting()
                    self._members.changed.wait(0.5)
                    continue
                free = [rank for rank in there if rank not in self._busy]
                if len(free) >= needed and (not ahead or 0 not in free[:wanted]):
                    taken = tuple(free[:wanted])
                    if self.packs:
                        self._busy.update(taken)
                    return taken
                if ahead:
                    others = [rank for rank in free if rank]
                    if len(others) < needed:
                        raise NoFreeNodesError
                    taken = tuple(others[:wanted])
                    self._busy.update(taken)
                    return taken
                self._members.changed.wait(0.5)

    def _is_there(self, rank: int) -> bool:
        if rank == 0:
            return True
        member = self._members.get(rank)
        return member is not None and not member.lost and self._fits(member)

    def _may_come_back(self, rank: int) -> bool:
        """Tell whether a controller that is lost is waited for: as long as it takes to count as lost."""
        member = self._members.get(rank)
        if member is None or self._is_there(rank):
            return False
        if not member.lost:  # it has come again, and is about to collect
            return member.collected is None
        return not self._stays_away and clock.monotonic() - member.lost_at < self._silence

    def _too_few_left(self, needed: int, there: list[int]) -> str:
        what = "ranks" if self.membership.in_place else "nodes"
        gone = []
        for rank in range(1, self.membership.size):
            member = self._members.get(rank)
            if rank not in there:
                why = f" ({member.lost})" if member is not None and member.lost else ""
                gone.append(f"{self.name_of(rank)} was lost{why}")
        return f"needs {needed} {what}, {len(there)} of {self.membership.size} are left: {'; '.join(gone)}"

    def has_free_nodes(self) -> bool:
        """Tell whether a node other than this one could run a test."""
        with self._members.changed:
            return any(self._is_there(rank) and rank not in self._busy for rank in range(1, self.membership.size))

    def free(self, site: Site) -> None:
        """Take note that nothing is left of a launch."""
        if self.packs:
            with self._members.changed:
                self._busy.difference_update(site.ranks)
                self._members.changed.notify_all()

    def _fits(self, member: FollowingController) -> bool:
        """Tell whether a controller that has come again has collected the same tests."""
        return member.collected is not None and not member.collected.trouble and member.collected.tests == self._tests

    def has_lost(self) -> bool:
        """Tell whether one of the others is lost. Its launch may be over, and what became of the test still untold."""
        members = [self._members.get(rank) for rank in range(1, self.membership.size)]
        return any(member is not None and bool(member.lost) for member in members)

    def begin(self) -> None:
        """Take note that tests begin: what they change in the environment is to be known elsewhere."""
        self._environment = Environment(variables=dict(os.environ))

    def describe(self) -> str:
        """Say in one line who takes part."""
        me = self.membership
        hosts = ", ".join(dict.fromkeys(self.hosts))
        plain = "; plain tests run in the first process only" if me.in_place else ""
        return f"elastic: {me.size} {'ranks in place' if me.in_place else 'nodes'} ({me.launcher}): {hosts}{plain}"

    def leave_alone(self) -> None:
        """Have the others run a session of their own, also those that are still to come."""
        self._alone = True
        with self._members.changed:
            self._collect = LeaveAlone()
            self._tell_all(self._collect)

    def _tell_all(self, message: object) -> None:
        for rank in range(1, self.membership.size):
            if (member := self._members.get(rank)) is not None:
                member.tell(message)

    def wait_for_stragglers(self) -> None:
        """Wait for a while until all have come: those that are late must not look for somebody who has gone."""
        ranks = range(1, self.membership.size)
        self._members.wait(lambda: all(self._members.get(rank) for rank in ranks), min(_LATE, self._patience))

    def release(self, exitcode: int) -> None:
        """Let the others end with an exit code, and wait until they know."""
        if self._alone:
            self.wait_for_stragglers()
        self._members.close(Release(exitcode=exitcode), _RELEASE, stay=_STAY)
        self._listening.close()
