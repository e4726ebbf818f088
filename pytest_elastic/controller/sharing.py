"""Session-scoped controller fixtures under pytest-xdist: one worker has each, the others borrow its value.

The worker that comes first sets the fixture up, by pytest's own ways, and publishes its value. Others get the value;
what the fixture requests is not set up there. The owner tears it down when no worker uses it any more: at once where
another parameter takes its place, else at the end of its session, for which it waits.
"""

from __future__ import annotations

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
        def key(request: pytest.FixtureRequest) -> str:
            given = compat.parameters_of(compat.item_of(request))
            names = sorted(self._parameters[definition] & given.keys())
            what = (definition.baseid, definition.argname, definition.func.__qualname__)
            return hashlib.sha256(cloudpickle.dumps((what, [(name, given[name]) for name in names]))).hexdigest()[:20]

        return key

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_fixture_setup(self, fixturedef: Any, request: pytest.FixtureRequest) -> Generator[None, object, object]:
        """Have pytest set up a shared fixture as its owner, or make its value of what another worker published."""
        if fixturedef not in self._requests:
            return (yield)
        seat = Seat(self._directory / fixturedef.cache_key(request), self._worker)
        with seat.guarded():
            record = seat.take()
            if record is None:
                return (yield from self._own(fixturedef, request, seat))
        if record.good:
            request.addfinalizer(seat.give_back)
        function = fixturedef.func
        compat.redefine(fixturedef, function=lambda: _borrowed(record, fixturedef.argname, request))
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
        owned = _Owned(seat, compat.take_finalizers(definition, before))
        request.addfinalizer(owned.end_if_unused)
        request.node.addfinalizer(owned.end)  # after that of the definition, and before those of what it requested
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
        self._ended = False

    def end_if_unused(self) -> None:
        """Tear the fixture down unless another worker uses it."""
        if self._ended:
            return
        with self._seat.guarded():
            if self._seat.vacate():
                self._ended = True
                try:
                    self._tear_down()
                finally:
                    self._seat.leave()

    def end(self) -> None:
        """Tear the fixture down when no other worker uses it any more."""
        while not self._ended:
            self._seat.wait_for_leases()
            self.end_if_unused()

    def _tear_down(self) -> None:
        errors: list[BaseException] = []
        while self._finalizers:
            try:
                self._finalizers.pop()()
            except TOLD as error:
                errors.append(error)
        if errors:
            # pytest tells of one failure of a fixture's teardown as it is; of several the first has to do.
            raise errors[0]


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
