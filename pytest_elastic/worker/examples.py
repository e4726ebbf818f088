"""hypothesis in ranks: all draw the same examples, and go on to the next one together.

hypothesis chooses each example by what became of those before. So ranks that draw by one seed stay together only as
long as each of them knows whether an example has failed on any of them: they tell each other at the end of each.
Then all shrink the same example; without that, the one rank that failed would try others, and ranks that do not would
wait for it in a collective, or take part in one of another example.
"""

from __future__ import annotations

import datetime
import inspect
import random
import sys
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Final

import pytest

from pytest_elastic import compat
from pytest_elastic.given_tests import ATTRIBUTE, Changes, changed_settings, is_given, settings_of, without_checks
from pytest_elastic.worker.exchange import EXCHANGE
from pytest_elastic.worker.together import Together, given_up

_OURS: Final = ("elastic_barrier", "elastic_gather")
_UNHELPFUL: Final = "/pytest_elastic/**"
"""Lines of which hypothesis does not say that failing examples alone run them."""
_CHANGES: Final = pytest.StashKey[Changes]()


def seed_examples(seed: int) -> None:
    """Have hypothesis draw by a seed wherever the user gives it none.

    It keeps a generator of its own for that, which a forked rank would share with the server, and a spawned one with
    nobody.
    """
    if "hypothesis" in sys.modules:
        from hypothesis import core
        from hypothesis.internal import scrutineer

        holder: Any = getattr(core, "threadlocal", core)  # older ones have it in the module
        holder._hypothesis_global_random = random.Random(seed)
        unhelpful: Any = getattr(scrutineer, "UNHELPFUL_LOCATIONS", ())
        if _UNHELPFUL not in unhelpful:
            scrutineer.UNHELPFUL_LOCATIONS = (*unhelpful, _UNHELPFUL)


class ExamplesTogether:
    """The plugin by which the ranks of a test of hypothesis's stay together.

    Attributes:
        patience: Seconds for which a rank that has failed an example waits for the others.
    """

    patience: float

    def __init__(self) -> None:
        self._function: _FunctionUnderGiven | None = None

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Generator[None, None, None]:
        """Run the test with the others."""
        __tracebackhide__ = True
        if not is_given(item):
            return (yield)
        error: BaseException | None = None
        with _made_ready(item, self.patience) as self._function:
            try:
                return (yield)
            except BaseException as raised:
                error = given_up(raised)
                if error is None:
                    raise
            finally:
                self._function = None
        raise error

    @pytest.hookimpl
    def pytest_pyfunc_call(self) -> None:
        """Take a function that was a coroutine: pytest-asyncio has wrapped it by now, and anyio, first in this hook."""
        if self._function is not None:
            self._function.replace()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Send along what is to be done to the database."""
        report = yield
        if call.when == "call" and _CHANGES in item.stash:
            vars(report)[ATTRIBUTE] = item.stash[_CHANGES]
            del item.stash[_CHANGES]
        return report


class _FunctionUnderGiven:
    """The function under ``@given`` of a test, to be replaced by one that ranks run together.

    Args:
        item: The test.
        make: Makes the replacement.
    """

    def __init__(self, item: pytest.Item, make: Callable[[Callable[..., Any]], Callable[..., Any]]) -> None:
        self._handle: Any = getattr(item.obj, "hypothesis", None)  # type: ignore[attr-defined]
        self._before = getattr(self._handle, "inner_test", None)  # a state machine has none
        self._make = make
        self._replacement: Callable[..., Any] | None = None

    def replace(self) -> None:
        """Replace it, unless that is done, or it is a coroutine: one that no plugin has wrapped is refused."""
        if self._before is None or self._replacement is not None:
            return
        now = self._handle.inner_test
        if not inspect.iscoroutinefunction(now):
            self._replacement = self._handle.inner_test = self._make(now)

    def put_back(self) -> None:
        """Have it be what it was in the beginning."""
        if self._replacement is not None:
            self._handle.inner_test = self._before


@contextmanager
def _made_ready(item: pytest.Item, patience: float) -> Iterator[_FunctionUnderGiven]:
    """Change what hypothesis does with a test, for one run of it."""
    settings = settings_of(item)
    checks = ["too_slow"]
    if all(name in _OURS for name in _function_scoped(item)):
        checks.append("function_scoped_fixture")
    # Not by hypothesis: it would fail an example on one rank alone, past the others.
    changes = without_checks(item, *checks) | {"deadline": None}
    database: Any = None
    if settings.database is not None:
        database = changes["database"] = _overlay(settings.database)
    with ExitStack() as over:
        over.enter_context(changed_settings(item, **changes))

        def together(inner: Callable[..., Any]) -> Callable[..., Any]:
            return Together(item.config.stash[EXCHANGE], inner, patience, _own_deadline(settings)).wrapped()

        function = _FunctionUnderGiven(item, together)
        over.callback(function.put_back)
        function.replace()
        try:
            yield function
        finally:
            if database is not None:
                item.stash[_CHANGES] = database.changes()


def _function_scoped(item: pytest.Item) -> list[str]:
    """Return the arguments of a test that are fixtures of function scope, and not parameters."""
    _, arguments = compat.initial_names(item)
    names = [name for name in arguments if name not in compat.parameters_of(item)]
    return [name for name in names if (found := compat.definitions_for(item, name)) and found[-1].scope == "function"]


def _own_deadline(settings: Any) -> datetime.timedelta | None:
    """Return the deadline that the user has set; hypothesis's own is not meant for ranks that wait for others."""
    from hypothesis import settings as all_settings

    return None if settings.deadline == all_settings.get_profile("default").deadline else settings.deadline


def _overlay(shared: Any) -> Any:
    """Return a database that reads another one, and keeps for itself what is written."""
    from hypothesis.database import ExampleDatabase

    class Overlay(ExampleDatabase):
        """Reads each key once: what other ranks, or other runs, write meanwhile would lead this rank away from them."""

        def __init__(self) -> None:
            super().__init__()
            self._before: dict[bytes, frozenset[bytes]] = {}
            self._now: dict[bytes, set[bytes]] = {}

        def _of(self, key: bytes) -> set[bytes]:
            if key not in self._now:
                self._before[key] = frozenset(shared.fetch(key))
                self._now[key] = set(self._before[key])
            return self._now[key]

        def fetch(self, key: bytes) -> Iterator[bytes]:
            """Return the examples of a key, on all ranks in the same order."""
            yield from sorted(self._of(key))

        def save(self, key: bytes, value: bytes) -> None:
            """Keep an example."""
            self._of(key).add(value)

        def delete(self, key: bytes, value: bytes) -> None:
            """Forget an example."""
            self._of(key).discard(value)

        def changes(self) -> Changes:
            """Return what has changed."""
            saved = [("save", key, value) for key in self._now for value in sorted(self._now[key] - self._before[key])]
            lost = [("delete", key, value) for key in self._now for value in sorted(self._before[key] - self._now[key])]
            return (*saved, *lost)

    return Overlay()
