"""Every name of pytest's that is not public, each with the reason for it. PYTEST_DONT_REWRITE."""

from __future__ import annotations

import io
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

# Reports are merged into pytest's own classes: others lose the short summary under xdist.
from _pytest._code.code import ExceptionChainRepr, ReprEntryNative, ReprFileLocation, ReprTraceback

# The server and ranks make a pytest session of their own, as pytest-xdist's workers do.
from _pytest.config import _prepareconfig as prepare_config

# A rank runs the three phases of one item without logstart and logfinish, which are the controller's.
from _pytest.runner import runtestprotocol

__all__ = [
    "ExceptionChainRepr",
    "ReprEntryNative",
    "ReprFileLocation",
    "ReprTraceback",
    "capture_nothing",
    "configure",
    "has_fixture_of_users",
    "prepare_config",
    "runtestprotocol",
    "set_basetemp",
    "show_live_log_by",
    "silence_terminal",
    "stop_capture",
    "write_lines",
]


def configure(config: pytest.Config) -> None:
    """Call ``pytest_configure`` of every plugin, as ``pytest.main`` does."""
    config._do_configure()


def stop_capture(config: pytest.Config) -> None:
    """Give the output back: its temporary files must not be shared by forked ranks."""
    manager: Any = config.pluginmanager.getplugin("capturemanager")
    if manager is not None:
        manager.suspend_global_capture(in_=True)
        manager.stop_global_capturing()


def capture_nothing(config: pytest.Config) -> None:
    """Let all output through, as ``-s`` does; ``capsys`` and its like still work.

    A rank's output goes to its log, where it survives the rank's death: pytest's own files would not.
    """
    manager: Any = config.pluginmanager.getplugin("capturemanager")
    if manager is not None:
        manager._method = "no"
        manager.start_global_capturing()


def set_basetemp(config: pytest.Config, basetemp: Path) -> None:
    """Have ``tmp_path`` of this process be under ``basetemp``, and leave pytest's own directories alone."""
    factory: Any = getattr(config, "_tmp_path_factory", None)
    if factory is None:
        return  # -p no:tmpdir
    factory._given_basetemp = basetemp
    factory._basetemp = None


def has_fixture_of_users(item: pytest.Item, name: str) -> bool:
    """Tell whether a name that a test asks for is a fixture of its authors (or of another plugin of theirs).

    It is not where the test is parametrized with the name directly: pytest makes a fixture of its own of that.
    """
    info: Any = getattr(item, "_fixtureinfo", None)
    fixtures = info.name2fixturedefs.get(name) if info is not None else None
    if not fixtures:
        return False
    home = str(fixtures[-1].func.__module__).partition(".")[0]
    return home not in ("_pytest", "pytest_elastic")


def show_live_log_by(config: pytest.Config, show: Callable[[str], None]) -> None:
    """Have pytest's live log (``log_cli``) call ``show`` with each formatted record."""
    plugin: Any = config.pluginmanager.getplugin("logging-plugin")
    if plugin is not None:
        live = _LiveLog(show)
        live.setFormatter(plugin.log_cli_handler.formatter)
        level = plugin.log_cli_level
        plugin.log_cli_handler = live
        # pytest does this around the loop over all tests, which a rank has not.
        root = logging.getLogger()
        root.addHandler(live)
        if level is not None:
            live.setLevel(level)
            root.setLevel(min(root.level, level))


class _LiveLog(logging.Handler):
    """What pytest's own live log handler is to the logging plugin, without a terminal."""

    def __init__(self, show: Callable[[str], None]) -> None:
        super().__init__()
        self._show = show

    def emit(self, record: logging.LogRecord) -> None:
        self._show(self.format(record))

    def reset(self) -> None:
        """Take note that another test begins: of no matter here."""

    def set_when(self, when: str | None) -> None:
        """Take note that another phase begins: of no matter here."""


class _Nowhere(io.TextIOBase):
    """Swallows text; it holds no descriptor, which a test might close."""

    def write(self, text: str) -> int:
        return len(text)


def write_lines(reporter: Any, text: str) -> None:
    """Write whole lines to the terminal, beginning at a fresh one, also behind the letter of an outcome."""
    if reporter._tw.width_of_current_line:
        reporter.write("\n")
    reporter.currentfspath = None  # the next outcome begins a line of its own, with the name of the file
    reporter.write(text, flush=True)


def silence_terminal(reporter: Any) -> None:
    """Keep the terminal reporter, which other plugins need, and have it write nowhere."""
    reporter._tw._file = _Nowhere()
