"""An exception of a controller fixture on its way to those who asked for the fixture: ranks, other workers."""

from __future__ import annotations

import pickle
import re
import traceback
from types import TracebackType
from typing import Any, Final, Literal, NoReturn

import pytest

from pytest_elastic.messages import Refusal
from pytest_elastic.pickling import pickle_exception

_INTERNAL: Final = re.compile(r"[/\\](_pytest|pluggy|pytest_elastic)[/\\]")

_OUTCOMES: Final[dict[Literal["skip", "fail", "xfail"], Any]] = {
    "skip": pytest.skip.Exception,
    "xfail": pytest.xfail.Exception,  # is a failure, too
    "fail": pytest.fail.Exception,
}
TOLD: Final[tuple[Any, ...]] = (Exception, *_OUTCOMES.values())
"""What a fixture or hook may raise that is told to those who asked; anything else ends the session."""


class ControllerTraceback(Exception):  # noqa: N818 (it is shown as the cause of an error, and is none itself)
    """The traceback of an exception that was raised in the controller; its text."""

    def __str__(self) -> str:
        return f"in the controller:\n{self.args[0]}"


def refuse(error: BaseException, *, with_traceback: bool = True) -> bytes:
    """Pickle an exception, with its traceback from the user's first frame on."""
    text = ""
    if with_traceback:
        text = "".join(traceback.format_exception(type(error), error, _users_part(error)))
    for outcome, cls in _OUTCOMES.items():
        if isinstance(error, cls):
            # Their classes pretend to be built in, and do not pickle.
            text = text if outcome == "fail" and error.pytrace else ""
            return pickle.dumps(Refusal(outcome=outcome, message=error.msg or "", traceback=text))
    return pickle.dumps(Refusal(exception=pickle_exception(error), traceback=text))


def raise_refusal(data: bytes) -> NoReturn:
    """Raise what was refused, where it was asked for."""
    __tracebackhide__ = True
    refusal: Refusal = pickle.loads(data)
    raise _exception_of(refusal) from (ControllerTraceback(refusal.traceback) if refusal.traceback else None)


def _exception_of(refusal: Refusal) -> BaseException:
    if refusal.exception is not None:
        error: BaseException = pickle.loads(refusal.exception)
        return error
    if refusal.outcome == "skip":
        return pytest.skip.Exception(refusal.message, _use_item_location=True)
    if refusal.outcome == "xfail":
        return pytest.xfail.Exception(refusal.message)
    return pytest.fail.Exception(refusal.message, pytrace=bool(refusal.traceback))


def _users_part(error: BaseException) -> TracebackType | None:
    frame = error.__traceback__
    while frame is not None and _INTERNAL.search(frame.tb_frame.f_code.co_filename):
        frame = frame.tb_next
    return frame or error.__traceback__
