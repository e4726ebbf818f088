"""In what the ranks' pytest session differs from the controller's: nothing in it destroys or doubles what is there."""

from __future__ import annotations

import os
from collections.abc import Mapping
from types import ModuleType
from typing import Any, Final

import pytest

from pytest_elastic import compat
from pytest_elastic.roles import ROLE, Role

SWITCHED_OFF: Final[Mapping[str, Any]] = {
    # Directories and files that are the controller's: these options remove or truncate them.
    "allure_report_dir": None,
    "basetemp": None,
    "cacheclear": False,
    "debug": None,
    "htmlpath": None,
    "json_report": False,
    "log_file": os.devnull,
    "report_log": None,
    "xmlpath": None,
    # Which tests run, in which order, and when to stop: decided by the controller, from what it remembers.
    "cacheshow": None,
    "collectonly": False,
    "failedfirst": False,
    "lf": False,
    "maxfail": 0,
    "newfirst": False,
    "stepwise": False,
    "stepwise_reset": False,
    "stepwise_skip": False,
    # Processes of pytest-xdist's.
    "dist": "no",
    "distload": False,
    "looponfail": False,
    "maxprocesses": None,
    "numprocesses": None,
    "tx": [],
    # A debugger would read from /dev/null.
    "trace": False,
    "usepdb": False,
    # What is said at the end of a session.
    "durations": None,
    "pastebin": None,
}
"""Options of the copy that are not the controller's."""

_DONE_BY_THE_CONTROLLER: Final = ("pytest_cov", "pytest_dependency", "pytest_rerunfailures", "pytest_timeout")
"""Modules of plugins whose work is done once. Their options, fixtures and hook specifications stay known."""

_DECLARATIONS: Final = ("pytest_addoption", "pytest_addhooks")
_HOOKS_OF_THE_CONTROLLER: Final = (
    "pytest_runtest_logstart",
    "pytest_runtest_logreport",
    "pytest_runtest_logfinish",
    "pytest_terminal_summary",
    "pytest_sessionfinish",
)


class Differences:
    """A plugin that is registered before any other but pytest's own, and makes a session the copy that ranks use.

    Args:
        role: Where the copy is made.
        workerinput: ``config.workerinput`` of the copy.
        blocked: Names of plugins that the user wants in the controller only.
    """

    def __init__(self, role: Role, workerinput: Mapping[str, object], blocked: tuple[str, ...]) -> None:
        self._role = role
        self._workerinput = workerinput
        self._blocked = blocked

    def pytest_plugin_registered(self, plugin: object, manager: pytest.PytestPluginManager) -> None:
        """Prepare what a plugin brings, before any of its hooks is called."""
        if isinstance(plugin, pytest.Config):
            self._begin(plugin)
            return
        name = manager.get_name(plugin)
        if name == "helpconfig":
            manager.unregister(plugin)  # --debug would truncate the controller's file
        elif name == "terminalreporter":
            compat.silence_terminal(plugin)
        elif name == "lfplugin":
            # The cache plugin has made the cache just before.
            _make_read_only(manager.get_plugin("pytestconfig").cache)  # type: ignore[union-attr]

    def _begin(self, config: pytest.Config) -> None:
        config.stash[ROLE] = self._role
        # What xdist gives its workers: conftests and plugins ask for it to do things once.
        config.workerinput = dict(self._workerinput)  # type: ignore[attr-defined]
        config.workeroutput = {}  # type: ignore[attr-defined]
        manager = config.pluginmanager
        everything = manager.parse_hookimpl_opts

        def parse_hookimpl_opts(plugin: object, name: str) -> Any:
            opts = everything(plugin, name)
            return opts if opts is None or self._wants(manager, plugin, name) else None

        manager.parse_hookimpl_opts = parse_hookimpl_opts  # type: ignore[method-assign]

    def _wants(self, manager: pytest.PytestPluginManager, plugin: object, hook: str) -> bool:
        """Tell whether a plugin's implementation of a hook runs in the copy."""
        if hook in _DECLARATIONS:
            return True  # or its options would be unknown ones
        if self._is_blocked(manager, plugin) or _package(plugin) in _DONE_BY_THE_CONTROLLER:
            return False
        return hook not in _HOOKS_OF_THE_CONTROLLER or _package(plugin) in ("_pytest", "pytest_elastic")

    def _is_blocked(self, manager: pytest.PytestPluginManager, plugin: object) -> bool:
        return manager.get_name(plugin) in self._blocked or _module(plugin) in self._blocked

    def complete(self, config: pytest.Config) -> None:
        """Take blocked plugins out altogether, once the command line has been read."""
        manager = config.pluginmanager
        for plugin in manager.get_plugins():
            if self._is_blocked(manager, plugin):
                manager.unregister(plugin)


def _module(plugin: object) -> str:
    return plugin.__name__ if isinstance(plugin, ModuleType) else type(plugin).__module__


def _package(plugin: object) -> str:
    return _module(plugin).partition(".")[0]


def _make_read_only(cache: Any) -> None:
    """Have what is put into the cache be seen by this process alone."""
    own: dict[str, Any] = {}
    stored = cache.get

    def get(key: str, default: Any) -> Any:
        return own[key] if key in own else stored(key, default)

    cache.get, cache.set = get, own.__setitem__
