"""In what the ranks' pytest session differs from the controller's: nothing in it destroys or doubles what is there."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
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
    # Measurements: ranks wait for each other, and each would make another number of rounds.
    "benchmark_autosave": False,
    "benchmark_compare": None,
    "benchmark_disable": True,
    "benchmark_enable": False,
    "benchmark_json": None,
    "benchmark_only": False,
    "benchmark_save": None,
    # What is said at the end of a session.
    "durations": None,
    "pastebin": None,
}
"""Options of the copy that are not the controller's."""

_DONE_BY_THE_CONTROLLER: Final = ("pytest_cov", "pytest_dependency", "pytest_rerunfailures", "pytest_timeout")
"""Packages of plugins whose work is done once. Their options and fixtures stay known, their hooks are not called."""

_DECLARATIONS: Final = ("pytest_addoption", "pytest_addhooks")
"""What is called of plugins that are left out too: their options would be unknown ones."""

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
        elif name == "pdbinvoke":
            manager.unregister(plugin)  # it debugs on the terminal, which ranks ask the controller for
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
        registered, parsed = manager.register, manager.parse_hookimpl_opts

        def register(plugin: object, name: str | None = None) -> str | None:
            return registered(self._in_place_of(plugin, name), name)

        def parse_hookimpl_opts(plugin: object, name: str) -> Any:
            foreign = _package(plugin) not in ("_pytest", "pytest_elastic")
            return None if foreign and name in _HOOKS_OF_THE_CONTROLLER else parsed(plugin, name)

        manager.register = register  # type: ignore[method-assign]
        manager.parse_hookimpl_opts = parse_hookimpl_opts  # type: ignore[method-assign]

    def _in_place_of(self, plugin: object, name: str | None) -> object:
        """Return a plugin, or what is left of one that is not wanted in the copy."""
        if self._is_blocked(plugin, name):
            return _part(plugin, lambda attribute: attribute in _DECLARATIONS)
        if isinstance(plugin, ModuleType) and _package(plugin) in _DONE_BY_THE_CONTROLLER:
            return _part(plugin, lambda name: not name.startswith("pytest_") or name in _DECLARATIONS)
        return plugin

    def _is_blocked(self, plugin: object, name: str | None) -> bool:
        return name in self._blocked or _module(plugin) in self._blocked

    def complete(self, config: pytest.Config) -> None:
        """Take blocked plugins out altogether, once the command line has been read."""
        manager = config.pluginmanager
        for name, plugin in manager.list_name_plugin():
            if plugin is not None and self._is_blocked(plugin, name):
                manager.unregister(plugin)


def _part(plugin: object, wanted: Callable[[str], bool]) -> ModuleType:
    """Make a plugin of some attributes of another."""
    part = ModuleType(_module(plugin))
    vars(part).update({name: getattr(plugin, name) for name in dir(plugin) if name[:2] != "__" and wanted(name)})
    return part


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
