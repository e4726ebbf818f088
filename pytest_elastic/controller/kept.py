"""Ranks that are kept for more than one test (``isolation="module"`` and ``"session"``): which test gets which.

Ranks are shared by tests that ask for the same launch in the same surroundings. Where anything differs, a test gets
others; whatever went wrong with some ends them, and the next test begins with fresh ones.
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import pytest

from pytest_elastic import kernel
from pytest_elastic.controller.launch import Launch
from pytest_elastic.controller.plan import TestPlan
from pytest_elastic.detection import arguments_of
from pytest_elastic.errors import ElasticError
from pytest_elastic.options import Given
from pytest_elastic.parametrizing import spec_of
from pytest_elastic.refusal import TOLD
from pytest_elastic.report.verdict import judge
from pytest_elastic.spec import LaunchSpec

if TYPE_CHECKING:
    from pytest_elastic.report.records import LaunchRecord

_MOST: Final = 4
"""Groups of ranks that wait at a time; each rank takes memory."""
_LAST: Final[pytest.StashKey[dict[Sharing, pytest.Item]]] = pytest.StashKey()
_DYING: Final = 10.0
"""Seconds that the agents of a group of which a rank is gone get to end the others; they have a grace time for it."""

Sharing = tuple[object, ...]
"""Equal for tests that may share ranks, as far as their marks tell."""


def sharing_of(item: pytest.Item, spec: LaunchSpec, rdzv_configs: Mapping[str, Any]) -> Sharing | None:
    """Return what tells whether two tests may share ranks; ``None`` for one that shares none."""
    if spec.isolation == "function":
        return None
    scope = ""
    if spec.isolation == "module":
        file = _file_of(item)
        if file is None:
            return None
        scope = file.nodeid
    same = repr(replace(spec, timeout=None, seed=None))
    return (scope, same, tuple(sorted(spec.env.items())), repr(sorted(rdzv_configs.items(), key=str)))


def _file_of(item: pytest.Item) -> pytest.Collector | None:
    return next((node for node in item.listchain() if isinstance(node, pytest.File)), None)


def kept_after(item: pytest.Item, nextitem: pytest.Item | None, isolation: str, *, followed: bool) -> int:
    """Return how many of a test's collectors, from the session on, stay set up in its ranks; 0 if they end with it.

    Args:
        item: The test.
        nextitem: The test that pytest runs after it.
        isolation: ``"module"`` or ``"session"``.
        followed: A later test may use the same ranks.
    """
    if nextitem is None or not followed:
        return 0
    shared = [one for one, other in zip(item.listchain(), nextitem.listchain(), strict=False) if one is other]
    if isolation == "module" and _file_of(item) not in shared:
        return 0
    # A test that runs again (pytest-rerunfailures) shares itself; it is torn down nevertheless.
    return len([node for node in shared if node is not item])


def is_followed(item: pytest.Item, sharing: Sharing, given: Mapping[str, Given]) -> bool:
    """Tell whether a later test of the session may share the ranks of this one."""
    session = item.session
    if hasattr(session.config, "workerinput"):
        return True  # pytest-xdist decides which tests this worker gets; only the next one is known
    if _LAST not in session.stash:
        last = session.stash[_LAST] = {}
        for other in session.items:
            wanted = _sharing_before(other, given)
            if wanted is not None:
                last[wanted] = other
    return session.stash[_LAST].get(sharing) is not item


def put_together(items: list[pytest.Item], given: Mapping[str, Given]) -> None:
    """Have the tests that may share ranks follow the first of them, in their order; others stay where they are."""
    followers: dict[Sharing, list[pytest.Item]] = {}
    ordered: list[pytest.Item | Sharing] = []
    for item in items:
        wanted = _sharing_before(item, given)
        if wanted is None:
            ordered.append(item)
        elif wanted in followers:
            followers[wanted].append(item)
        else:
            followers[wanted] = [item]
            ordered.append(wanted)
    items[:] = [each for one in ordered for each in (followers[one] if isinstance(one, tuple) else [one])]


def _sharing_before(item: pytest.Item, given: Mapping[str, Given]) -> Sharing | None:
    """Return whether and with whom a test is going to share ranks, before it runs."""
    arguments = arguments_of(item)
    if arguments is None or (arguments.get("isolation", "function") == "function" and "isolation" not in given):
        return None
    try:
        return sharing_of(item, spec_of(item, arguments, given), arguments.get("rdzv_configs", {}))
    except TOLD:
        return None  # also what a hook of another plugin's raises: the test says so when it runs


@dataclass(frozen=True, slots=True)
class _Surroundings:
    """What the ranks of a test find, beyond its marks."""

    environ: frozenset[tuple[bytes, bytes]]
    cwd: str
    sys_path: tuple[str, ...]

    @classmethod
    def now(cls) -> _Surroundings:
        variables = frozenset(kernel.raw_environ().items())
        try:
            cwd = os.getcwd()
        except FileNotFoundError:
            cwd = ""  # the launch is going to refuse it
        return cls(variables, cwd, tuple(sys.path))


class _Group:
    """Ranks that wait for a test, or run one.

    Attributes:
        launch: Their launch.
        isolation: How long they may be kept.
        scopes: The collectors that are set up in them while they wait, from the session on.
    """

    def __init__(self, launch: Launch, isolation: str) -> None:
        self.launch: Final = launch
        self.isolation: Final = isolation
        self.scopes: list[object] = []
        self._port: socket.socket | None = None

    def hold_port(self) -> int:
        """Return a port that nobody else is given; rank 0 may listen on it, by SO_REUSEADDR as every torch store."""
        self.release_port()
        self._port = socket.socket()
        self._port.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._port.bind(("", 0))
        return int(self._port.getsockname()[1])

    def release_port(self) -> None:
        """Give the port back."""
        if self._port is not None:
            self._port.close()
            self._port = None


_Key = tuple[Sharing, _Surroundings]


class KeptGroups:
    """The groups of ranks of one session that are kept.

    Args:
        remove: Ends a launch, if it is not over, and removes its files.
        resume: Waits until a launch may go on; tells whether it may.

    Attributes:
        untold: A line for each group that was lost, or did not end well, that no test has told yet.
        leftovers: A line for each thing that they left behind.
    """

    def __init__(self, remove: Callable[[Launch], None], resume: Callable[[Launch], bool]) -> None:
        self._remove = remove
        self._resume = resume
        self._groups: dict[_Key, _Group] = {}
        self.untold: Final[list[str]] = []
        self.leftovers: Final[list[str]] = []

    def begin(
        self, item: pytest.Item, sharing: Sharing, isolation: str, test: TestPlan, start: Callable[[], Launch]
    ) -> Launch:
        """Have a group run a test.

        Args:
            item: The test.
            sharing: What its marks ask for.
            isolation: How long its ranks may be kept.
            test: What ranks are told of it.
            start: Starts new ranks for it.
        """
        key = (sharing, _Surroundings.now())
        self._drop_lost()
        group = self._groups.pop(key, None)
        if group is not None and not self._begin_again(key, group, test):
            group = None
        if group is None:
            while len(self._groups) >= _MOST:
                self._end(next(iter(self._groups)))
            group = self._groups[key] = _Group(start(), isolation)
        group.scopes = list(item.listchain()[: test.order.kept])
        return group.launch

    def _begin_again(self, key: _Key, group: _Group, test: TestPlan) -> bool:
        """Have ranks that wait run a test; tell whether they do."""
        self._groups[key] = group  # the one that was used last comes last
        if not self._resume(group.launch):
            self._end(key)
            return False
        again = replace(test, order=replace(test.order, master_port=group.hold_port()))
        try:
            group.launch.begin_test(again)
        except ElasticError:
            group.launch.await_end(_DYING)
            self._drop_lost()
            return False
        return True

    def release(self, launch: Launch) -> None:
        """Take note that a test is done with a launch: end it unless its ranks wait for another."""
        if not launch.rests:
            for key in [key for key, group in self._groups.items() if group.launch is launch]:
                self._groups.pop(key).release_port()
            self._remove(launch)

    def leave(self, nextitem: pytest.Item | None) -> None:
        """Have ranks tear down what pytest's next test is outside of, and end those that no test is to use again.

        Args:
            nextitem: That test, or ``None`` if none follows.
        """
        chain = nextitem.listchain() if nextitem is not None else []
        for key, group in list(self._groups.items()):
            if not group.launch.rests:
                continue
            kept = sum(1 for one, other in zip(group.scopes, chain, strict=False) if one is other)
            lost_file = group.isolation == "module" and any(isinstance(s, pytest.File) for s in group.scopes[kept:])
            if kept == 0 or lost_file or not group.launch.fit:
                self._end(key)
            elif kept < len(group.scopes):
                group.scopes = group.scopes[:kept]
                record = group.launch.tear_down_to(kept)
                if record is not None:
                    self._forget(key)
                    self._take_note(record, "did not tear down well")

    def give_back_devices(self) -> None:
        """End the groups that wait and have devices: somebody else waits for these."""
        for key, group in list(self._groups.items()):
            if group.launch.rests and group.launch.plan.turn is not None and group.launch.plan.turn.holds_devices:
                self._end(key)

    def end_all(self, timeout: float | None) -> None:
        """End all groups.

        Args:
            timeout: Seconds that each of them gets at most, or ``None`` for those of its last test.
        """
        self._drop_lost()
        for key in list(self._groups):
            self._end(key, timeout)

    def close(self) -> None:
        """Kill all groups."""
        for group in self._groups.values():
            group.launch.close()
            group.release_port()
        self._groups.clear()

    def _drop_lost(self) -> None:
        """Forget the groups that ended while nobody used them."""
        for key in [key for key, group in self._groups.items() if group.launch.over]:
            record = self._groups[key].launch.record
            self._forget(key)
            self._take_note(record, "were lost between tests")

    def _end(self, key: _Key, timeout: float | None = None) -> None:
        record = self._groups[key].launch.end(timeout)
        self._forget(key)
        self._take_note(record, "did not end well")

    def _take_note(self, record: LaunchRecord | None, what: str) -> None:
        if record is None:
            return
        error = judge(record).error
        if error is not None:
            self.untold.append(f"ranks that were kept {what}: {error}")
        self.leftovers.extend(f"{left}; it was ended" for left in record.leftovers)

    def _forget(self, key: _Key) -> None:
        group = self._groups.pop(key)
        group.release_port()
        self._remove(group.launch)
