"""A rank's questions to the controller, and calls that all ranks of a test make together."""

from __future__ import annotations

import os
import pickle
import sys
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import cloudpickle
import pytest

from pytest_elastic import kernel
from pytest_elastic.channel import Outbox
from pytest_elastic.errors import ElasticError
from pytest_elastic.messages import (
    Answer,
    FactoryCalled,
    FixtureWanted,
    Meeting,
    Period,
    RankAsks,
    RankId,
    TestOver,
)
from pytest_elastic.refusal import raise_refusal
from pytest_elastic.worker.function import UnsendableValueError

_PACKAGE: Final = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep
_LOOK: Final = 0.2
"""Seconds after which a rank that does not wait for ever looks whether another one is debugged."""


class Exchange:
    """This rank's end of the exchange with the controller.

    Args:
        me: Which rank it is.
        outbox: Its connection.
        hold: A file that is there while a person debugs a rank.

    Attributes:
        shared: Directory that all ranks of the test have in common.
        period: Part of the test that is under way.
        interrupted: Name of a call whose answer nobody has taken, or an empty text.
    """

    def __init__(self, me: RankId, outbox: Outbox, hold: Path) -> None:
        self.me: Final = me
        self._hold = hold
        self.shared = Path()
        self.period: Period = "test"
        self._outbox = outbox
        self._owner = kernel.own_pid()
        self._lock = threading.Lock()
        self._number = 0
        self._rounds: Counter[Period] = Counter()
        self._calls: Counter[tuple[str, int]] = Counter()
        self.interrupted = ""

    def begin_test(self, shared: Path) -> None:
        """Take note that another test begins. Calls of factories, which wider fixtures may hold, are counted on."""
        self.shared = shared
        self.period = "test"
        self._rounds.clear()

    def meet(self, what: str, value: object, *, patience: float | None = None) -> list[Any]:
        """Give a value, wait until every rank has given one, and return all of them in order of rank.

        Args:
            what: Name of the call.
            value: The value.
            patience: Seconds to wait for the others at most, without those in which a person debugs one of them;
                ``None`` for as long as the test may take.

        Raises:
            TimeoutError: The others have not come in that time.
            UnsendableValueError: The value cannot be pickled.
            RanksDivergedError: Not all ranks make this call.
        """
        __tracebackhide__ = True
        data, error = b"", ""
        try:
            data = bytes(cloudpickle.dumps(value))
        except Exception as reason:  # noqa: BLE001 (whatever a foreign class does when it is pickled)
            why = str(reason).partition("\n")[0]
            error = (
                f"with a value of type {type(value).__qualname__!r} that cannot be pickled "
                f"({type(reason).__name__}: {why})"
            )
        with self._lock:
            place = _place_of_call()
            number = self._rounds[self.period]
            self._rounds[self.period] += 1
            meeting = Meeting(what=what, period=self.period, round=number, place=place, value=data, error=error)
            try:
                answer = self._ask(what, meeting, patience)
            except BaseException:
                if not error:
                    raise
                answer = b""
        if error:
            # The others have heard of it, too: each of them would wait for this rank else.
            raise UnsendableValueError(f"{what} on rank {self.me.rank} was called {error}")
        return [pickle.loads(each) for each in pickle.loads(answer)]

    def fixture(self, name: str, level: int) -> Any:
        """Return the value that a fixture has in the controller."""
        __tracebackhide__ = True
        with self._lock:
            answer = self._ask(f"fixture {name!r}", FixtureWanted(name=name, level=level))
        return pickle.loads(answer)

    def factory(self, name: str, level: int) -> Callable[..., Any]:
        """Return a function that calls the controller's, once for all ranks."""

        def call(*args: Any, **kwargs: Any) -> Any:
            __tracebackhide__ = True
            shown = ", ".join([*map(repr, args), *(f"{key}={value!r}" for key, value in kwargs.items())])
            with self._lock:
                number = self._calls[name, level]
                self._calls[name, level] += 1
                wanted = FactoryCalled(
                    name=name,
                    level=level,
                    call=number,
                    arguments=bytes(cloudpickle.dumps((args, kwargs))),
                    shown=shown,
                )
                return pickle.loads(self._ask(name, wanted))

        call.__name__ = call.__qualname__ = name
        return call

    def over(self, how: str) -> None:
        """Tell the controller that the set-up and call of this rank's test are over."""
        self._outbox.send(TestOver(id=self.me, how=how))

    def _ask(self, who: str, what: Meeting | FixtureWanted | FactoryCalled, patience: float | None = None) -> bytes:
        __tracebackhide__ = True
        if kernel.own_pid() != self._owner:
            raise ElasticError(
                f"{who} was used in a process that rank {self.me.rank} forked; use it in the rank's own process"
            )
        if self.interrupted:
            raise ElasticError(
                f"{who} on rank {self.me.rank}: {self.interrupted} was interrupted on this rank, and nothing more "
                "can be asked of the controller in this test"
            )
        self._number += 1
        try:
            self._outbox.send(RankAsks(id=self.me, number=self._number, what=what))
            heard = patience is None or self._hears_within(patience)
            good, data = self._answer() if heard else (False, b"")
        except (OSError, EOFError) as error:
            self.interrupted = who
            raise ElasticError(f"{who} on rank {self.me.rank}: the controller is gone ({error})") from error
        except BaseException:
            self.interrupted = who  # perhaps in the middle of a frame
            raise
        if not heard:
            # Its answer, should it come, is passed over when the next one is read.
            raise TimeoutError(f"{who} on rank {self.me.rank}: not all ranks have made this call after {patience:g} s")
        if not good:
            raise_refusal(data)
        return data

    def _hears_within(self, patience: float) -> bool:
        left = patience
        while left > 0:
            some = min(left, _LOOK)
            if self._outbox.hears_within(some):
                return True
            if not self._hold.exists():
                left -= some
        return False

    def _answer(self) -> tuple[bool, bytes]:
        while True:
            answer = self._outbox.receive()
            assert isinstance(answer, Answer)
            data = self._outbox.receive_bytes()
            if answer.number == self._number:
                return answer.good, data


def _place_of_call() -> str:
    """Return the file and line of the test from which this package was called."""
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_PACKAGE):
        frame = frame.f_back
    return f"{os.path.basename(frame.f_code.co_filename)}:{frame.f_lineno}"


EXCHANGE: Final = pytest.StashKey[Exchange]()
