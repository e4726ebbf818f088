"""Every name of pytest's that is not public, each with the reason for it. PYTEST_DONT_REWRITE."""

from __future__ import annotations

import io
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
    "prepare_config",
    "runtestprotocol",
    "set_basetemp",
    "silence_terminal",
    "stop_capture",
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


class _Nowhere(io.TextIOBase):
    """Swallows text; it holds no descriptor, which a test might close."""

    def write(self, text: str) -> int:
        return len(text)


def silence_terminal(reporter: Any) -> None:
    """Keep the terminal reporter, which other plugins need, and have it write nowhere."""
    reporter._tw._file = _Nowhere()
