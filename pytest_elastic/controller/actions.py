"""What other threads want done in the thread of a supervisor."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

from pytest_elastic.errors import ElasticError

T = TypeVar("T")


class Actions:
    """A queue of functions, each with somebody who waits for what it returns.

    Args:
        wake: Wakes the thread that performs them.
    """

    def __init__(self, wake: Callable[[], None]) -> None:
        self._wake = wake
        self._lock = threading.Lock()
        self._closed = False
        self._queue: deque[tuple[Callable[[], Any], Future[Any]]] = deque()

    def do(self, action: Callable[[], T]) -> T:
        """Have something done, and return what it returns; may be called from any other thread.

        Raises:
            ElasticError: The launch is over.
        """
        __tracebackhide__ = True
        future: Future[T] = Future()
        with self._lock:
            if self._closed:
                raise ElasticError("the launch is over")
            self._queue.append((action, future))
        self._wake()
        return future.result()

    def perform(self) -> None:
        """Do what is in the queue; what goes wrong is raised where it was asked for."""
        while self._queue:
            action, future = self._queue.popleft()
            try:
                future.set_result(action())
            except BaseException as error:  # noqa: BLE001 (raised in the thread that asked)
                future.set_exception(error)

    def close(self) -> None:
        """Do nothing from now on; whoever still waits is told."""
        with self._lock:
            self._closed = True
        for _, future in self._queue:
            future.set_exception(ElasticError("the launch is over"))
