"""A thread that lives as long as the run, for what must not be started from a thread that ends earlier."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

_T = TypeVar("_T")


class SteadyThread:
    """Calls functions in the main thread where that is who asks, else in one other thread that is kept.

    The kernel ends a child process that wishes to die with its parent when the *thread* that started it ends.
    That other thread is made when it is first needed. One thread asks at a time.
    """

    def __init__(self) -> None:
        self._calls: queue.SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def call(self, function: Callable[[], _T]) -> _T:
        """Call a function and return its value, or raise what it raises."""
        if threading.current_thread() is threading.main_thread():
            return function()
        if self._thread is None:
            thread = threading.Thread(target=self._work, name="elastic-starter", daemon=True)
            thread.start()  # it may not be possible to start one
            self._thread = thread
        future: Future[_T] = Future()
        self._calls.put((future, function))
        return future.result()

    def end(self) -> None:
        """End the thread: whatever was started in it has ended."""
        if self._thread is not None:
            self._calls.put(None)
            self._thread.join()
            self._thread = None

    def _work(self) -> None:
        while (call := self._calls.get()) is not None:
            future, function = call
            try:
                future.set_result(function())
            except BaseException as error:  # noqa: BLE001 (raised where it was asked for)
                future.set_exception(error)
