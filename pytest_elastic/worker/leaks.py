"""What a test leaves changed in a rank that another test is going to use.

Only what can be seen cheaply and told for sure: environment, working directory, default process group, threads and
child processes. What fixtures of a wider scope than the test change is theirs to keep, as in a plain session.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any, Final

import pytest

from pytest_elastic import kernel

_MOST_NAMES: Final = 5
_TORCHS: Final = frozenset((b"TORCHINDUCTOR_CACHE_DIR", b"TRITON_CACHE_DIR"))
"""Variables in which torch's compiler keeps its directories when it is first needed, be that by a DDP."""


@dataclass(frozen=True, kw_only=True, slots=True)
class State:
    """What is looked at, at one moment.

    Attributes:
        environ: Environment variables, as the system has them.
        cwd: Working directory; an empty text if it does not exist any more.
        group: Default process group, or ``None``.
        threads: Python's threads.
        children: Process ids of child processes.
    """

    environ: dict[bytes, bytes]
    cwd: str
    group: Any
    threads: frozenset[threading.Thread]
    children: frozenset[int]


@dataclass(frozen=True, kw_only=True, slots=True)
class Leaks:
    """What a test left.

    Attributes:
        told: A few words for each thing.
        spoilt: Some of it cannot be undone.
    """

    told: tuple[str, ...]
    spoilt: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class _Change:
    """What somebody has changed by right: a fixture of a wider scope, or this package.

    Attributes:
        names: Environment variables.
        cwd: The working directory.
        group: The default process group.
    """

    names: frozenset[bytes]
    cwd: bool
    group: bool

    @classmethod
    def between(cls, before: State, after: State) -> _Change:
        return cls(
            names=frozenset(_differing(before.environ, after.environ)),
            cwd=before.cwd != after.cwd,
            group=before.group is not after.group,
        )


class LeakWatch:
    """Compares the process after a test with what it may be. A plugin of the rank's session.

    It does nothing in a rank that runs one test.
    """

    def __init__(self) -> None:
        self._watches = False

    def begin(self, group: Callable[[], Any]) -> None:
        """Take what is now for right.

        Args:
            group: Returns the default process group, or ``None``.
        """
        self._watches = True
        self._group = group
        now = self._look()
        self._environ = now.environ
        self._cwd = now.cwd
        self._right_group = _reference_to(now.group)
        self._threads = set(now.threads)
        self._children = set(now.children)
        self._changes: dict[pytest.FixtureDef[Any], _Change] = {}

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_fixture_setup(self, fixturedef: pytest.FixtureDef[Any]) -> Generator[None, object, object]:
        """Accept what a fixture changes that outlives the test."""
        __tracebackhide__ = True
        if not self._watches or fixturedef.scope == "function":
            return (yield)
        before = self._look()
        try:
            return (yield)
        finally:
            after = self._look()
            change = self._changes[fixturedef] = _Change.between(before, after)
            self._accept(change, after)
            self._threads |= after.threads - before.threads
            self._children |= after.children - before.children

    @pytest.hookimpl(tryfirst=True)
    def pytest_fixture_post_finalizer(self, fixturedef: pytest.FixtureDef[Any]) -> None:
        """Accept what has become of that when the fixture is torn down."""
        change = self._changes.pop(fixturedef, None) if self._watches else None
        if change is not None:
            self._accept(change, self._look())

    def own(self, change: Callable[[], object]) -> None:
        """Accept what this package itself changes."""
        if not self._watches:
            change()
            return
        before = self._look()
        change()
        after = self._look()
        self._accept(_Change.between(before, after), after)

    def _accept(self, change: _Change, now: State) -> None:
        """Take for right what is now of something that was changed by right."""
        for name in change.names:
            _put(self._environ, name, now.environ.get(name))
        if change.cwd:
            self._cwd = now.cwd
        if change.group:
            self._right_group = _reference_to(now.group)

    def look(self) -> Leaks:
        """Tell what a test that is over has left, and undo what can be undone."""
        now = self._look()
        told = self._put_variables_back(now)
        directory, is_lost = self._go_back(now)
        told += directory
        group_is_right = self._is_right(now.group)
        if not group_is_right:
            told.append(self._doing_to_group(now.group))
        threads = [thread for thread in now.threads - self._threads if thread.is_alive()]
        # Libraries keep such threads for good: told once, and no reason to begin anew.
        told += [f"left daemon thread {thread.name!r} behind" for thread in threads if thread.daemon]
        self._threads = {thread for thread in self._threads if thread.is_alive()} | set(threads)
        # The others, and processes, are named when the rank ends with them. One without a command line has ended.
        lasting = any(not thread.daemon for thread in threads)
        running = any(kernel.command_line(pid) for pid in now.children - self._children)
        return Leaks(told=tuple(told), spoilt=not group_is_right or lasting or running or is_lost)

    def _put_variables_back(self, now: State) -> list[str]:
        for name in (_TORCHS & now.environ.keys()) - self._environ.keys():
            self._environ[name] = now.environ[name]
        names = sorted(_differing(now.environ, self._environ))
        for name in names:
            _put(os.environb, name, self._environ.get(name))
        if not names:
            return []
        shown = ", ".join(map(os.fsdecode, names[:_MOST_NAMES]))
        more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
        return [f"left the environment changed ({shown}{more}), which was put back"]

    def _go_back(self, now: State) -> tuple[list[str], bool]:
        if now.cwd == self._cwd:
            return [], False
        try:
            os.chdir(self._cwd)
        except OSError:
            return ["left the working directory changed, and the one before is gone"], True
        return ["left the working directory changed, which was put back"], False

    def _is_right(self, group: Any) -> bool:
        if self._right_group is None:
            return group is None
        return group is not None and group is self._right_group()

    def _doing_to_group(self, group: Any) -> str:
        if group is None:
            return "destroyed the default process group that is kept for other tests"
        if self._right_group is None:
            return "left a default process group behind"
        return "replaced the default process group that is kept for other tests"

    def _look(self) -> State:
        try:
            cwd = os.getcwd()
        except FileNotFoundError:
            cwd = ""
        # Threads of torch's that call Python (autograd) appear as dummies.
        threads = [thread for thread in threading.enumerate() if not isinstance(thread, threading._DummyThread)]
        return State(
            environ=kernel.raw_environ(),
            cwd=cwd,
            group=self._group(),
            threads=frozenset(threads),
            children=frozenset(kernel.children(kernel.own_pid())),
        )


def _reference_to(group: Any) -> Callable[[], Any] | None:
    # A weak one: a group that is destroyed must close its connections, for which other ranks may wait.
    return None if group is None else weakref.ref(group)


def _differing(one: dict[bytes, bytes], other: dict[bytes, bytes]) -> set[bytes]:
    return {name for name, _ in one.items() ^ other.items()} if one != other else set()


def _put(variables: Any, name: bytes, value: bytes | None) -> None:
    if value is None:
        variables.pop(name, None)
    else:
        variables[name] = value
