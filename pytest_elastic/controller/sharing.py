"""Session-scoped controller fixtures under pytest-xdist: one worker has each, the others borrow its value.

The worker that comes first sets the fixture up, by pytest's own ways, and publishes its value. Others get the value;
what the fixture requests is not set up there. The owner tears it down at the end of its session, when no other worker
uses it any more. Values for several parameters live side by side: one worker may be at the first still, another at the
next.
"""

from __future__ import annotations

import functools
import hashlib
import pickle
from collections.abc import Callable, Generator, Iterable, Sequence
from pathlib import Path
from typing import Any

import cloudpickle
import pytest

from pytest_elastic import compat
from pytest_elastic.controller.needs import needs_of, requested_by
from pytest_elastic.controller_fixtures import NotSent, unsendable
from pytest_elastic.refusal import TOLD, raise_refusal, refuse
from pytest_elastic.services.seats import Record, Seat

_NAMED = "!"


class SharedFixtures:
    """The fixtures that this worker shares with the others of the run.

    Args:
        definitions: pytest's definitions of them, by name.
        directory: A directory that all workers share.
        worker: Name of this worker.
    """

    def __init__(self, definitions: Iterable[Any], directory: Path, worker: str) -> None:
        self._directory = directory
        self._worker = worker
        self._own_values: dict[str, object] = {}
        self._not_sent: set[str] = set()
        self._requests: dict[Any, tuple[str, ...]] = {definition: definition.argnames for definition in definitions}
        self._parameters: dict[Any, set[str]] = {definition: {definition.argname} for definition in self._requests}

    def install(self, items: Sequence[pytest.Item]) -> None:
        """Have the fixtures request nothing by themselves, so that a worker that borrows one sets nothing up.

        A fixture stays each worker's own if what it requests has parameters and is not shared: pytest ends that where
        the parameter changes, and other workers would be left with a value that nothing stands behind.
        """
        users = {definition: users_of(definition, items) for definition in self._requests}
        for definition, its_items in users.items():
            for item in its_items:
                self._parameters[definition] |= requested_by(item, definition) & compat.parameters_of(item).keys()
        shared = {definition.argname for definition in self._requests}
        for definition in list(self._requests):
            if self._parameters[definition] <= shared:
                compat.redefine(definition, argnames=(), key=self._key_of(definition))
            else:
                del self._requests[definition]
        for item in {item for definition in self._requests for item in users[definition]}:
            compat.prune(item)

    def _key_of(self, definition: Any) -> Callable[[pytest.FixtureRequest], str]:
        # Now: while a value is borrowed the definition has another function. With another key then, pytest would give
        # the value back and borrow it anew at each use, and it could be torn down before what was made of it.
        what = (definition.baseid, definition.argname, getattr(definition.func, "__qualname__", ""))

        def key(request: pytest.FixtureRequest) -> str:
            item = compat.item_of(request)
            given = compat.parameters_of(item)
            names = sorted(self._parameters[definition] & given.keys())
            try:
                data = cloudpickle.dumps((what, [(name, given[name]) for name in names]))
            except Exception:  # noqa: BLE001 (whatever a foreign class does when it is pickled)
                data = repr((what, item.nodeid)).encode()  # all workers have the same tests
            found = hashlib.sha256(data).hexdigest()[:20]
            # Of a value that was not sent, only tests that use it have an error; pytest is to keep the two apart.
            named = found in self._not_sent and definition.argname in needs_of(item, ()).by_name
            return f"{found}{_NAMED}" if named else found

        return key

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_fixture_setup(self, fixturedef: Any, request: pytest.FixtureRequest) -> Generator[None, object, object]:
        """Have pytest set up a shared fixture as its owner, or make its value of what another worker published."""
        if fixturedef not in self._requests:
            return (yield)
        key = str(fixturedef.cache_key(request)).removesuffix(_NAMED)
        if key in self._own_values:  # pytest has come back to a parameter
            value = self._own_values[key]
            known: Callable[[], object] = lambda: value  # noqa: E731
        else:
            seat = Seat(self._directory / key, self._worker)
            with seat.guarded():
                record = seat.take()
                if record is None:
                    value = self._own_values[key] = yield from self._own(fixturedef, request, seat)
                    request.node.addfinalizer(functools.partial(self._own_values.pop, key, None))
                    return value
            if record.good:
                request.addfinalizer(seat.give_back)
                if isinstance(pickle.loads(record.data), NotSent):
                    self._not_sent.add(key)
            known = functools.partial(_borrowed, record, fixturedef.argname, request)
        function = fixturedef.func
        compat.redefine(fixturedef, function=known)
        try:
            return (yield)
        finally:
            compat.redefine(fixturedef, function=function)

    def _own(self, definition: Any, request: pytest.FixtureRequest, seat: Seat) -> Generator[None, object, object]:
        before = compat.count_finalizers(definition)
        compat.redefine(definition, argnames=self._requests[definition])
        try:
            value = yield
        except TOLD as error:
            seat.publish(Record(False, refuse(error)))
            raise
        except BaseException:
            seat.leave()
            raise
        finally:
            compat.redefine(definition, argnames=())
        # Not by the definition's own finalizers: pytest calls those, too, where another parameter takes its place, and
        # other workers may go on with this one. Its node's come after those, and before those of what it requested.
        owned = _Owned(seat, compat.take_finalizers(definition, before))
        request.node.addfinalizer(owned.end)
        try:
            seat.publish(Record(True, _published(definition.argname, value)))
        except BaseException:
            seat.leave()
            raise
        return value


class _Owned:
    """A fixture that this worker has set up for all."""

    def __init__(self, seat: Seat, finalizers: list[Callable[[], object]]) -> None:
        self._seat = seat
        self._finalizers = finalizers

    def end(self) -> None:
        """Tear the fixture down when no other worker uses it any more."""
        while not self._tear_down():
            self._seat.wait_for_leases()

    def _tear_down(self) -> bool:
        with self._seat.guarded():
            if not self._seat.vacate():
                return False
            errors: list[BaseException] = []
            while self._finalizers:
                try:
                    self._finalizers.pop()()
                except TOLD as error:
                    errors.append(error)
            self._seat.leave()
        if errors:
            # pytest shows one failure of a fixture's teardown as it is; of several the first has to do.
            raise errors[0]
        return True


def users_of(definition: Any, items: Iterable[pytest.Item]) -> list[pytest.Item]:
    """Return the tests that are known to use a fixture."""
    name = definition.argname
    return [
        item
        for item in items
        if name in getattr(item, "fixturenames", ()) and definition in compat.definitions_for(item, name)
    ]


def _published(name: str, value: object) -> bytes:
    try:
        return bytes(cloudpickle.dumps(value))
    except Exception as error:  # noqa: BLE001 (whatever a foreign class does when it is pickled)
        return bytes(cloudpickle.dumps(NotSent(unsendable(name, value, error, to="other workers of pytest-xdist"))))


def _borrowed(record: Record, name: str, request: pytest.FixtureRequest) -> object:
    __tracebackhide__ = True
    if not record.good:
        raise_refusal(record.data)
    value: object = pickle.loads(record.data)
    if isinstance(value, NotSent) and name in needs_of(compat.item_of(request), ()).by_name:
        pytest.fail(repr(value)[1:-1], pytrace=False)
    return value
