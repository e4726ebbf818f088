"""Measures a rank by coverage, as the pytest process is measured, but into a file of the run's directory.

The user's settings stay what they are for what a rank starts in turn: its subprocesses are measured, or not, as those
of a plain test.
"""

from __future__ import annotations

import atexit
import contextlib
import inspect
import os
import pickle
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from coverage import Coverage, version_info

from pytest_elastic import kernel
from pytest_elastic.messages import CoverageOrder
from pytest_elastic.one_line import one_line
from pytest_elastic.worker.measuring import Measurement
from pytest_elastic.worker.regularly import Regularly

if TYPE_CHECKING:
    import pytest

_SAID_BY_THE_CONTROLLER: Final = (
    "already-imported",
    "dynamic-conflict",
    "include-ignored",
    "module-not-imported",
    "module-not-measured",
    "module-not-python",
    "no-ctracer",
    "no-data-collected",
    "no-sysmon",
    "no-sysmon-context",
)
"""Warnings about settings, or about what one process alone has executed."""
_INTERVAL: Final = 0.1
"""Seconds: a rank that is killed loses no more. Others get twice the time to fail by themselves before they are."""
_BUSY: Final = 1.0
"""Seconds to wait for another thread that saves; a signal's handler may also have interrupted that very one."""

# coverage notes from where it is started. The first such look takes 40 ms in a process with torch, the next ones a
# sixth of that: the server, which imports this module, makes it for all ranks.
inspect.stack()


class _OwnCoverage(Coverage):
    """coverage, with data in memory, where :meth:`save` is what its own patches and we do with them.

    Attributes:
        unsaved: Something was executed since this was last set to ``False``.
    """

    def __init__(self, config: Any, keep: Callable[[], None]) -> None:
        super().__init__(data_file=None, config_file=False)
        # As pytest-cov does: there is no other way to hand on settings that came from a command line.
        self.config = config
        self.unsaved = True
        self._keep = keep

    def save(self) -> None:
        """Keep the data for the controller."""
        self._keep()

    def _post_save_work(self) -> None:
        """Leave it to the controller to look for files that nobody has executed, which takes a while."""
        self.unsaved = True


class TracedWork(Measurement):
    """A measurement by coverage.

    What goes wrong with it is told in pytest's summary, and fails no test.

    Args:
        order: What is measured, and where that is kept.
    """

    def __init__(self, order: CoverageOrder) -> None:
        self._owner = kernel.own_pid()
        self._files = f"{order.files}.{self._owner}"
        self._by_test = order.by_test
        self._saving = threading.Lock()
        self._nodeid = ""
        self._paused = False
        self._coverage: _OwnCoverage | None = None
        self._saver: Regularly | None = None
        try:
            self._coverage = self._start(order)
        except Exception as error:  # noqa: BLE001 (of a plugin of coverage's, say)
            self._lose(error)
        else:
            self._save_regularly(self._coverage)
        # What has registered itself later is called before, and is measured too.
        atexit.register(self._end)

    def _start(self, order: CoverageOrder) -> _OwnCoverage:
        while (other := Coverage.current()) is not None:
            other.stop()  # what a variable of the environment has started in a fresh interpreter
        config = pickle.loads(order.config)
        config.sigterm = False  # its handler would stand in the way of ours
        config.patch = [patch for patch in config.patch if patch != "subprocess"]  # the environment has it already
        config.disable_warnings = [*config.disable_warnings, *_SAID_BY_THE_CONTROLLER]
        # As the main module it goes by its own name, until it has made way for the user's script: any of that name.
        config.run_omit = [*(config.run_omit or ()), str(Path(__file__).with_name("script.py"))]
        coverage = _OwnCoverage(config, self.save)
        cwd = os.getcwd()
        os.chdir(order.base)  # directories in the settings are relative to that one
        try:
            coverage.start()
        finally:
            os.chdir(cwd)
        if order.context:
            coverage.switch_context(order.context)
        return coverage

    def _save_regularly(self, coverage: _OwnCoverage) -> None:
        """Save now and then, for the case that this rank is killed."""
        config = coverage.config
        if version_info < (7, 17, 4):  # it loses what one thread executes while another one saves
            return
        # The data are then switched from one context to another while the work runs, by whichever thread that is in.
        if config.dynamic_context or config.plugins or set(config.concurrency) - {"thread", "multiprocessing"}:
            return
        # coverage closes what threads have opened that threading does not know of. Somebody must have opened the data
        # before, or they would be gone with that.
        coverage.get_data().measured_contexts()
        self._saver = Regularly(lambda: self._save(only_new=True), interval=_INTERVAL)

    def _end(self) -> None:
        if self._saver is not None:
            self._saver.end()
        self.save()

    def begin_test(self, nodeid: str) -> None:
        """Take the name for the contexts of a test, as the controller has it."""
        self._nodeid = nodeid

    def begin_phase(self, item: pytest.Item, when: str) -> None:
        """Have what is executed from now on belong to a phase, and pause where pytest-cov pauses."""
        if self._coverage is None:
            return
        if self._by_test:
            with self._saving:
                self._coverage.switch_context(f"{self._nodeid}|{'run' if when == 'call' else when}")
                self._coverage.unsaved = True
        marked = item.get_closest_marker("no_cover") or "no_cover" in getattr(item, "fixturenames", ())
        if when == "call" and marked and item.config.pluginmanager.hasplugin("pytest_cov"):
            self._coverage.stop()
            self._paused = True

    def end_phase(self) -> None:
        """Go on where that was paused."""
        if self._coverage is not None and self._paused:
            self._paused = False
            self._coverage.start()

    def save(self) -> None:
        """Keep what was executed so far for the controller. A child that this process forks keeps nothing."""
        self._save(only_new=False)

    def _save(self, *, only_new: bool) -> None:
        if self._coverage is None or kernel.own_pid() != self._owner or not self._saving.acquire(timeout=_BUSY):
            return
        try:
            data = self._coverage.get_data()
            if only_new and not self._coverage.unsaved:
                return
            self._coverage.unsaved = False
            part = Path(f"{self._files}.part")
            part.write_bytes(data.dumps())
            part.replace(f"{self._files}.data")
            Path(f"{self._files}.lost").unlink(missing_ok=True)
        except Exception as error:  # noqa: BLE001 (the test may have replaced anything that this needs)
            self._lose(error)
        finally:
            self._saving.release()

    def _lose(self, error: Exception) -> None:
        with contextlib.suppress(OSError):  # the controller is gone, and the run's directory with it
            Path(f"{self._files}.lost").write_text(one_line(error))
