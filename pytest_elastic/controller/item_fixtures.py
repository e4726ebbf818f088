"""The controller's fixtures for one test that runs on ranks: set up by pytest here, their values sent there."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

import cloudpickle
import pytest

from pytest_elastic import compat
from pytest_elastic.controller.needs import needs_of
from pytest_elastic.controller.serving import Reply
from pytest_elastic.controller_fixtures import SETTING_UP, NotSent, kind_of, named_in_ini, unsendable
from pytest_elastic.errors import ElasticError
from pytest_elastic.messages import FactoryCalled, FixtureWanted, RankId
from pytest_elastic.refusal import TOLD, refuse

if TYPE_CHECKING:
    from pytest_elastic.controller.launch import Launch


class ControllerFixtures:
    """Fixtures of the controller, as one test needs them.

    Args:
        item: The test.
    """

    def __init__(self, item: pytest.Item) -> None:
        self._item = item
        self._named = named_in_ini(item.config)
        self._by_name: set[str] = set()
        self._sent: dict[tuple[str, int], Reply] = {}
        self._calls: dict[tuple[str, str, int], tuple[FactoryCalled, int, Reply]] = {}
        self._launch: Launch | None = None

    # --- for the test's own phases ---

    def set_up(self) -> None:
        """Set up what the ranks are going to ask for.

        Raises:
            BaseException: What a fixture raises; pytest reports it as for any test.
        """
        needs = needs_of(self._item, self._named)
        self._by_name |= needs.by_name
        for name, level in needs.moved:
            self._sent[name, level] = self._make(name, level)

    def endpoint(self, rdzv_backend: str) -> str:
        """Return the endpoint of the run's etcd where a rendezvous needs one, else an empty text."""
        if rdzv_backend not in ("etcd", "etcd-v2"):
            return ""
        return str(self._value("etcd_server", 1).endpoint)

    def outlast(self, launch: Launch) -> None:
        """Have what was set up for a launch live until its ranks have ended."""
        self._launch = launch

    def _wait_for_ranks(self) -> None:
        # pytest finalizes a test's fixtures before it calls the test's own teardown, which waits as well.
        if self._launch is not None:
            self._launch.wait_until(self._launch.test_is_over)

    # --- for the ranks ---

    def known(self, wanted: FixtureWanted) -> Reply | None:
        """Return a value that has been made; may be called from any thread."""
        return self._sent.get((wanted.name, wanted.level))

    def reply(self, id: RankId, wanted: FixtureWanted | FactoryCalled) -> Reply:  # noqa: A002 (the field's name)
        """Return what a rank asked for; only in the thread of the test."""
        if isinstance(wanted, FactoryCalled):
            return self._called(id, wanted)
        key = (wanted.name, wanted.level)
        if key not in self._sent:
            self._by_name.add(wanted.name)
            self._sent[key] = self._attempt(lambda: self._make(*key))
        return self._sent[key]

    def _called(self, id: RankId, wanted: FactoryCalled) -> Reply:  # noqa: A002
        key = (id.world, wanted.name, wanted.call)
        if key not in self._calls:
            self._calls[key] = (wanted, id.rank, self._attempt(lambda: self._call(wanted)))
        first, rank, reply = self._calls[key]
        if first.arguments != wanted.arguments:
            error = ElasticError(
                f"fixture {wanted.name!r} gives the same to all ranks, but call {wanted.call + 1} is "
                f"{wanted.name}({first.shown}) on rank {rank} and {wanted.name}({wanted.shown}) on rank {id.rank}"
            )
            return False, refuse(error, with_traceback=False)
        return reply

    def _attempt(self, work: Any) -> Reply:
        try:
            return work()  # type: ignore[no-any-return]
        except pytest.exit.Exception:
            raise
        except TOLD as error:
            return False, refuse(error)

    def _call(self, wanted: FactoryCalled) -> Reply:
        args, kwargs = cloudpickle.loads(wanted.arguments)
        return True, bytes(cloudpickle.dumps(self._value(wanted.name, wanted.level)(*args, **kwargs)))

    # --- with pytest ---

    def _make(self, name: str, level: int) -> Reply:
        value = self._value(name, level)
        if self._kind(name, level) == "factory":
            return True, cloudpickle.dumps(None)  # its calls are sent, one by one
        try:
            return True, bytes(cloudpickle.dumps(value))
        except Exception as error:  # noqa: BLE001 (whatever a foreign class does when it is pickled)
            why = unsendable(name, value, error)
        if name in self._by_name:
            pytest.fail(why, pytrace=False)
        return True, cloudpickle.dumps(NotSent(why))

    def _value(self, name: str, level: int) -> Any:
        stash = self._item.config.stash
        stash[SETTING_UP] = name
        try:
            return compat.fixture_value(self._item, name, level)
        finally:
            del stash[SETTING_UP]
            # Each time: finalizers are called in reverse order. A test that is being torn down takes no more of them.
            with suppress(AssertionError):
                self._item.addfinalizer(self._wait_for_ranks)

    def _kind(self, name: str, level: int) -> str | None:
        definitions = compat.definitions_for(self._item, name)
        return kind_of(definitions[-level], self._named) if level <= len(definitions) else None
