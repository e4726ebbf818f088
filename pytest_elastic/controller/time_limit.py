"""pytest-timeout's limit of a test that runs on ranks: a deadline of its launch, beside that of ``timeout=``."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, Final

import pytest

from pytest_elastic import compat

if TYPE_CHECKING:
    from pytest_elastic.controller.launch import Launch

SOURCE: Final = "pytest-timeout"
_LATER: Final = 15.0
"""Seconds from the launch's deadline to pytest-timeout's own timer. The verdict, with the stacks of all ranks, is there
long before; the timer is for what no deadline of a launch ends: a fixture of the controller's that hangs."""


class TimeLimit:
    """What pytest-timeout wants of one test.

    Its own timer is set for what the controller does before the launch. While there is a launch it is set to a later
    time: by the method ``thread`` it would end the whole session, and by neither would it know where the ranks are.

    Args:
        item: The test.
    """

    def __init__(self, item: pytest.Item) -> None:
        self._item = item
        self._settings: Any = None
        self._setting = False
        self._launch: Launch | None = None

    def set_by(self, settings: Any) -> bool | None:
        """Take note of a limit, just when pytest-timeout is about to set its timer; return whether it is not to.

        Args:
            settings: pytest-timeout's, with ``timeout`` in seconds and ``func_only``.
        """
        if self._setting:
            return None
        self._settings = settings
        if not settings.func_only:
            return None
        if self._launch is not None:  # the call begins
            self._launch.limit_call(settings.timeout, SOURCE)
        self._set(settings.timeout + _LATER)
        return True

    def begin_attempt(self) -> None:
        """Count anew: the test begins, perhaps once more (pytest-rerunfailures)."""
        self._launch = None
        if self._counts():
            self._set(self._settings.timeout)

    def smaller(self, timeout: float | None) -> tuple[float | None, str]:
        """Return the deadline of the launch to come, and whose it is if it is not that of ``timeout=``.

        pytest-timeout's timer is unset until the launch begins: a wait for slots that others have is nobody's fault.
        """
        if not self._counts():
            return timeout, ""
        self._item.ihook.pytest_timeout_cancel_timer(item=self._item)
        mine = float(self._settings.timeout)
        return (mine, SOURCE) if timeout is None or mine < timeout else (timeout, "")

    def begun(self, launch: Launch) -> None:
        """Take note of the launch; pytest-timeout's timer comes later than its deadline from now on."""
        self._launch = launch
        if self._counts():
            self._set(self._settings.timeout + _LATER)

    def is_of_call(self) -> bool:
        """Tell whether the call alone is limited, before pytest-timeout has said so."""
        settings = compat.timeout_settings(self._item)
        return settings is not None and bool(settings.func_only and settings.timeout)

    def call_begins(self) -> None:
        """Count from now on, where pytest is going to hear of the call only when it is over."""
        assert self._launch is not None
        self._launch.limit_call(compat.timeout_settings(self._item).timeout, SOURCE)

    def call_ended(self) -> None:
        """Unset pytest-timeout's timer, which is set until pytest hears of the end: that may be after the teardown."""
        if self._settings is not None and self._settings.func_only:
            self._item.ihook.pytest_timeout_cancel_timer(item=self._item)

    def _counts(self) -> bool:
        return self._settings is not None and not self._settings.func_only

    def _set(self, seconds: float) -> None:
        hooks = self._item.ihook
        hooks.pytest_timeout_cancel_timer(item=self._item)
        self._setting = True
        try:
            hooks.pytest_timeout_set_timer(item=self._item, settings=self._settings._replace(timeout=seconds))
        finally:
            self._setting = False


LIMIT: Final = pytest.StashKey[TimeLimit]()


class Pause:
    """pytest-timeout's timer of a plain test, which stands still while a launch of it waits for slots.

    That is nobody's fault, so the whole limit counts once more after it.

    Args:
        item: The test.
    """

    def __init__(self, item: pytest.Item) -> None:
        self._item = item
        self._paused = False

    def begin(self) -> None:
        """Unset the timer, if it is set, and was set by this thread."""
        armed = getattr(self._item, "cancel_timeout", None) is not None and LIMIT not in self._item.stash
        if not self._paused and armed and threading.current_thread() is threading.main_thread():
            self._paused = True
            self._item.ihook.pytest_timeout_cancel_timer(item=self._item)

    def end(self) -> None:
        """Set it again."""
        settings = compat.timeout_settings(self._item) if self._paused else None
        if settings is not None and settings.timeout:
            self._item.ihook.pytest_timeout_set_timer(item=self._item, settings=settings)
