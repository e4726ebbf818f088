"""How to make this pytest session once more, in the server or in a rank."""

from __future__ import annotations

import os
import pickle
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final

from pytest_elastic import kernel
from pytest_elastic.messages import SessionOrder
from pytest_elastic.options import BLOCK_PLUGINS

if TYPE_CHECKING:
    import pytest

_VARIABLES: Final = ("PYTEST_ADDOPTS", "PYTEST_PLUGINS", "PYTEST_DISABLE_PLUGIN_AUTOLOAD")


def pytest_variables() -> dict[str, str | None]:
    """Return the environment variables that pytest itself reads when it starts."""
    return {name: os.environ.get(name) for name in _VARIABLES}


def session_order(config: pytest.Config, files: tuple[str, ...] | None, environ: dict[str, str | None]) -> SessionOrder:
    """Return what a copy of a pytest session is made of.

    Args:
        config: The session's configuration.
        files: Files that the copy collects; ``None`` for all that the arguments name.
        environ: The variables that pytest read when the session began.
    """
    given = config.invocation_params
    return SessionOrder(
        args=tuple(str(arg) for arg in given.args),
        invocation_dir=str(given.dir),
        options=_options(config.option),
        workerinput=worker_input(config),
        files=files,
        sys_path=[path or str(given.dir) for path in sys.path],
        argv=list(sys.argv),
        environ=environ,
        plugins=tuple(name for name, _ in _plugins(config) if name is not None),
        blocked=tuple(config.getini(BLOCK_PLUGINS)),
        markers=tuple(config.getini("markers")),
    )


def worker_input(config: pytest.Config) -> dict[str, object]:
    """Return the ``config.workerinput`` of the copies: the controller's own under xdist, else one like it."""
    own = getattr(config, "workerinput", None)
    if own is not None:
        return dict(own)
    return {
        "workerid": "master",
        "workercount": 1,
        "testrunuid": f"elastic-{kernel.own_pid()}",
        "mainargv": list(sys.argv),
        "randomly_seed": getattr(config.option, "randomly_seed", None),
    }


def plugins_left_behind(config: pytest.Config) -> list[str]:
    """Name the plugins given to ``pytest.main`` that other processes cannot make again."""
    return [_describe(plugin) for name, plugin in _plugins(config) if name is None]


def _plugins(config: pytest.Config) -> Iterator[tuple[str | None, object]]:
    """Yield each plugin given to ``pytest.main`` with the name under which it can be imported, if it can be."""
    for plugin in config.invocation_params.plugins or ():
        if isinstance(plugin, str):
            yield plugin, plugin
        elif isinstance(plugin, ModuleType) and plugin.__spec__ is not None and plugin.__name__ != "__main__":
            yield plugin.__name__, plugin
        elif type(plugin).__module__.partition(".")[0] != "_pytest":  # pytester has some of its own
            yield None, plugin


def _describe(plugin: object) -> str:
    if isinstance(plugin, ModuleType):
        return f"module {plugin.__name__}"
    cls = plugin if isinstance(plugin, type) else type(plugin)
    return f"{cls.__module__}.{cls.__qualname__}"


def _options(option: Any) -> dict[str, bytes]:
    """Pickle what of ``config.option`` can cross a process border."""
    options = {}
    for name, value in vars(option).items():
        try:
            options[name] = pickle.dumps(value)
        except Exception:  # noqa: BLE001 (whatever a foreign class does when it is pickled)
            continue
    return options
