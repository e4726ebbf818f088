"""pytest's own ``--pdb`` while ranks run a test: it has nothing to look into where it is they that have failed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import pytest

from pytest_elastic.controller.live import terminal_writer
from pytest_elastic.report.describe import shortened

if TYPE_CHECKING:
    from pytest_elastic.controller.item import ElasticItem

_PLUGIN: Final = "pdbinvoke"
_SHOWN: Final = 200


class OwnDebugger:
    """The plugin by which pytest opens a debugger in its own process, for one test.

    Args:
        config: pytest's configuration.
    """

    def __init__(self, config: pytest.Config) -> None:
        self._manager = config.pluginmanager
        self._taken: Any = None

    @contextmanager
    def apart_from(self, test: ElasticItem) -> Iterator[None]:
        """Take the plugin away if a phase of a test fails by its ranks."""
        __tracebackhide__ = True
        self.put_back()
        try:
            yield
        except KeyboardInterrupt:
            raise
        except BaseException:
            if not test.in_controller:
                self._taken = self._manager.get_plugin(_PLUGIN)
                if self._taken is not None:
                    self._manager.unregister(self._taken)
            raise

    def put_back(self) -> None:
        """Have pytest open a debugger for the next failure."""
        if self._taken is not None:
            self._manager.register(self._taken, _PLUGIN)
            self._taken = None


def after_failure(test: ElasticItem, item: pytest.Item, error: BaseException) -> None:
    """End the session if the person has left a rank's debugger by ``quit``; say so if there was none with ``--pdb``.

    Raises:
        pytest.exit.Exception: The person wants no more.
    """
    if test.quits:
        pytest.exit("Quitting debugger")
    if not item.config.getoption("usepdb", False) or test.in_controller or isinstance(error, KeyboardInterrupt):
        return
    if not test.debugged_failure:
        first = str(error).partition("\n")[0] or type(error).__name__
        terminal_writer(item.config)(f"--pdb: there is no rank to look into: {shortened(first, _SHOWN)}\n")
