"""The main process of pytest-xdist shows what its workers have to show: they have no terminal."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Generator
from pathlib import Path
from typing import Any, Final

import pytest

from pytest_elastic import compat
from pytest_elastic.controller.progress import INTERVAL, StatusLine
from pytest_elastic.fixtures import run_directory

_WANTED: Final = "elastic_progress"
"""Key of ``workerinput``: the main process shows what this worker has to show."""
_WATCH: Final = "elastic-workers-progress"


def tell_worker(node: Any) -> None:
    """Tell a worker that is about to start whether it may show its progress, and get ready to show it.

    Args:
        node: The worker, as pytest-xdist sees it.
    """
    config: pytest.Config = node.config
    factory: Any = getattr(config, "_tmp_path_factory", None)
    if factory is None or not StatusLine(config).interactive():
        return
    node.workerinput[_WANTED] = True
    if not config.pluginmanager.hasplugin(_WATCH):
        directory = run_directory(config, factory) / "progress"
        directory.mkdir(mode=0o700, exist_ok=True)
        config.pluginmanager.register(WorkersProgress(config, directory), _WATCH)


def workers_file(config: pytest.Config) -> Path | None:
    """Return the file in which a worker puts its progress; ``None`` in another process, or where nobody shows it."""
    workerinput: dict[str, Any] = getattr(config, "workerinput", {})
    if not workerinput.get(_WANTED):
        return None
    factory: Any = config._tmp_path_factory  # type: ignore[attr-defined]
    return run_directory(config, factory) / "progress" / str(workerinput["workerid"])


class WorkersProgress:
    """A thread that shows the lines of the workers on the terminal of the main process.

    Args:
        config: pytest's, of the main process.
        directory: Where workers put their lines.
    """

    def __init__(self, config: pytest.Config, directory: Path) -> None:
        self._directory = directory
        self._terminal = StatusLine(config)
        self._reporter: Any = config.pluginmanager.getplugin("terminalreporter")
        self._lock = threading.RLock()
        self._over = threading.Event()

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtestloop(self) -> Generator[None, object, object]:
        """Show lines while tests run."""
        thread = threading.Thread(target=self._follow, name="elastic-progress", daemon=True)
        # What pytest writes meanwhile comes from another thread, and the line must be gone before.
        give_back = compat.write_through(self._reporter, self._before_others)
        thread.start()
        try:
            return (yield)
        finally:
            self._over.set()
            thread.join()
            give_back()

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        """Forget what a worker had to show that is gone."""
        with contextlib.suppress(OSError):
            (self._directory / str(node.gateway.id)).unlink(missing_ok=True)

    def _before_others(self, write: Any, text: str) -> Any:
        with self._lock:
            self._terminal.wipe()
            return write(text)

    def _follow(self) -> None:
        while not self._over.wait(INTERVAL):
            lines = self._lines()
            with self._lock:
                if lines:
                    self._terminal.show(" | ".join(lines))
                else:
                    self._terminal.wipe()
        with self._lock:
            self._terminal.wipe()

    def _lines(self) -> list[str]:
        lines = []
        for path in sorted(self._directory.glob("gw*")):
            try:
                line = path.read_text(encoding="utf-8") if path.suffix == "" else ""
            except (OSError, ValueError):
                continue  # wiped just now
            if line:
                lines.append(f"[{path.name}] {line}")
        return lines
