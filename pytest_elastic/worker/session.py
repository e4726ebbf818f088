"""The controller's pytest session once more: collected in the server, used by the ranks that it forks."""

from __future__ import annotations

import contextlib
import os
import pickle
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import pytest

from pytest_elastic import compat
from pytest_elastic.messages import ItemOrder, SessionOrder
from pytest_elastic.roles import Role
from pytest_elastic.worker.collecting import Collecting
from pytest_elastic.worker.debugger import NoDebugger
from pytest_elastic.worker.differences import SWITCHED_OFF, Differences
from pytest_elastic.worker.examples import ExamplesTogether
from pytest_elastic.worker.interaction import Interaction
from pytest_elastic.worker.leaks import LeakWatch
from pytest_elastic.worker.runner import GroupBeforeFixtures, ItemRunner
from pytest_elastic.worker.services import Progress, leave_to_controller
from pytest_elastic.worker.snapshots import Snapshots

_MOST_IDS = 5


class CollectionError(Exception):
    """A test is not in the session that ranks have; its text says why."""


class RankPlugins:
    """The plugins by which a rank runs tests.

    They are registered when the session is made, which the server does once: registering takes longer than a test.
    """

    def __init__(self) -> None:
        self.examples: Final = ExamplesTogether()
        self.snapshots: Final = Snapshots()
        self.progress: Final = Progress()
        self.runner: Final = ItemRunner()
        self.group: Final = GroupBeforeFixtures()
        self.watch: Final = LeakWatch()
        self.interaction: Final = Interaction()

    def register(self, config: pytest.Config) -> None:
        """Make them known to a session. Those that are last come around all others."""
        for name, plugin in vars(self).items():
            config.pluginmanager.register(plugin, f"elastic-{name}")


class RankSession:
    """A configured and collected pytest session.

    Attributes:
        config: Its configuration.
        session: pytest's session object.
        plugins: What is to run its tests, in a rank.
        unsafe: Why ranks must not be forked from this process, or ``None``.
    """

    def __init__(self, config: pytest.Config, session: pytest.Session, collecting: Collecting) -> None:
        self.config = config
        self.session = session
        self.plugins = RankPlugins()
        self.plugins.register(config)
        self.unsafe = collecting.unsafe
        self._failures = collecting.failures
        self._skips = collecting.skips
        self._found = collecting.found
        self._indexes: dict[int, dict[str, list[pytest.Item]]] = {}

    @classmethod
    def collect(cls, order: SessionOrder, *, role: Role = "server") -> RankSession:
        """Make the session.

        Args:
            order: What the controller's session was made of.
            role: What :func:`pytest_elastic.role` tells in it: ``"rank"`` if a rank makes its own.
        """
        differences = Differences(role, order.workerinput, order.blocked)
        collecting = Collecting()
        # Whoever wants to stop there has done so in the controller, and this process may have no terminal to lend.
        with _surroundings(order), compat.breakpoints_passed_over(NoDebugger):
            config = compat.prepare_config(list(order.args), plugins=[differences, collecting, *order.plugins])
            vars(config.option).update(_loaded(order.options))
            vars(config.option).update(SWITCHED_OFF)
            differences.complete(config)
            compat.configure(config)
            for line in order.markers:
                # Those of plugins that were not configured here: with strict markers, unknown ones are errors.
                if line not in config.getini("markers"):
                    config.addinivalue_line("markers", line)
            collecting.look("a conftest.py or plugin")
            session = pytest.Session.from_config(config)
            config.hook.pytest_sessionstart(session=session)
            given = config.args
            if order.files is not None:
                config.args = [file for file in order.files if Path(file).exists()]
                config.option.pyargs = False
            if config.args:
                config.hook.pytest_collection(session=session)
                leave_to_controller(session)
            config.args = given
            compat.stop_capture(config)
        return cls(config, session, collecting)

    def find(self, nodeid: str, occurrence: int) -> pytest.Item:
        """Return the test that the controller means.

        Raises:
            CollectionError: It is not here; the text says why.
        """
        ids = [nodeid]
        if getattr(self.config.option, "loadgroup", False):
            ids.append(nodeid.rpartition("@")[0])  # pytest-xdist adds the group, in its workers only
        for items in (self.session.items, self._found):
            same = [item for each in ids for item in self._by_id(items).get(each, ())]
            if occurrence < len(same):
                return same[occurrence]
        for collector, text in self._failures.items():
            if nodeid.startswith(collector):
                raise CollectionError(f"collecting {collector} in the ranks' session failed\n{text}")
        for collector, reason in self._skips.items():
            if nodeid.startswith(collector):
                raise CollectionError(f"{collector} was skipped in the ranks' session: {reason}")
        if same:
            raise CollectionError(f"the ranks' session has {nodeid} {len(same)} times only, not {occurrence + 1} times")
        raise CollectionError(f"the ranks' session has no test {nodeid}; {self._near(nodeid)}")

    def _by_id(self, items: list[pytest.Item]) -> dict[str, list[pytest.Item]]:
        if id(items) not in self._indexes:
            index = self._indexes[id(items)] = {}
            for item in items:
                index.setdefault(item.nodeid, []).append(item)
        return self._indexes[id(items)]

    def _near(self, nodeid: str) -> str:
        """Say what is here in the place of a test that is not."""
        function = nodeid.partition("[")[0]
        near = [item.nodeid for item in self._found if item.nodeid.partition("[")[0] == function]
        if not near:
            return "it has none of that name (is the test made under a condition that does not hold there?)"
        more = f" and {len(near) - _MOST_IDS} more" if len(near) > _MOST_IDS else ""
        return f"it has {', '.join(near[:_MOST_IDS])}{more} (do ids differ from collection to collection?)"

    def found_ids(self) -> list[str]:
        """Return the node ids of all tests, also of those that plugins have deselected, sorted."""
        return sorted(item.nodeid for item in self._found)

    def failures(self) -> list[str]:
        """Return what could not be collected, and why."""
        return [f"{collector}: {text}" for collector, text in self._failures.items()]

    def forget_modules(self) -> None:
        """Have the next session of this process import conftests and test modules again."""
        modules = [plugin for plugin in self.config.pluginmanager.get_plugins() if _is_conftest(plugin)]
        nodes = {node for item in self._found for node in item.listchain()}
        modules += [node.obj for node in nodes if isinstance(node, pytest.Module)]
        for module in modules:
            name = getattr(module, "__name__", "")
            if sys.modules.get(name) is module:
                del sys.modules[name]


def find_item(wanted: ItemOrder, order: SessionOrder, preloaded: RankSession | None) -> tuple[RankSession, pytest.Item]:
    """Return a rank's test, and the session that it is in.

    A test that is not in the session that is there is looked for in one that is collected anew, as the controller's
    was: with its arguments, and this time in the environment of the test.

    Args:
        wanted: Which test.
        order: How to make the session.
        preloaded: The server's session, or ``None`` in a rank that has to make its own.

    Raises:
        CollectionError: It is nowhere; the text says why.
    """
    session = preloaded or RankSession.collect(order, role="rank")
    try:
        return session, session.find(wanted.nodeid, wanted.occurrence)
    except CollectionError as error:
        missing = error
    everything = replace(order, files=None)
    for again in (False, True):
        if again:
            # Importing a module twice may go wrong where it registers something: the last resort.
            session.forget_modules()
        with contextlib.suppress(CollectionError, pytest.UsageError):
            session = RankSession.collect(everything, role="rank")
            return session, session.find(wanted.nodeid, wanted.occurrence)
    raise missing  # where the server collected, it is the same on all ranks


@contextlib.contextmanager
def _surroundings(order: SessionOrder) -> Iterator[None]:
    """Have pytest start where and with which of its variables the controller's was started."""
    cwd, outer = os.getcwd(), {name: os.environ.get(name) for name in order.environ}
    os.chdir(order.invocation_dir)
    sys.path[:] = order.sys_path
    sys.argv[:] = order.argv
    _set_variables(order.environ)
    try:
        yield
    finally:
        _set_variables(outer)
        sys.path[:] = order.sys_path  # which has already what import modes and conftests put there
        os.chdir(cwd)


def _set_variables(variables: dict[str, str | None]) -> None:
    for name, value in variables.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


def _loaded(options: dict[str, bytes]) -> dict[str, Any]:
    """Load the options; one whose class is not to be found here keeps the value that the command line gave it."""
    loaded = {}
    for name, data in options.items():
        with contextlib.suppress(Exception):
            loaded[name] = pickle.loads(data)
    return loaded


def _is_conftest(plugin: object) -> bool:
    return Path(getattr(plugin, "__file__", None) or "").name == "conftest.py"
