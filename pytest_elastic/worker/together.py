"""The function under ``@given`` on one rank, and what becomes of its examples on all of them."""

from __future__ import annotations

import datetime
import functools
import math
import time
from collections.abc import Callable
from typing import Any, Final

import pytest

from pytest_elastic.errors import ElasticError, RanksDivergedError, rebuild
from pytest_elastic.report.culprit import is_peer_loss
from pytest_elastic.report.describe import one_line
from pytest_elastic.worker.exchange import Exchange
from pytest_elastic.worker.failure import text_of, type_name

_MEETING: Final = "hypothesis_example_ended"
"""The call that ranks make at the end of each example, as it is named where others wait for it, and in stacks."""


class PeerExampleError(ElasticError):
    """Another rank has failed an example of hypothesis's; this one has not, or not first."""

    def __reduce__(self) -> tuple[Any, ...]:
        return rebuild, (PeerExampleError, self.args, dict(self.__dict__))


class GivenUp(BaseException):
    """Takes a failure past hypothesis, which would try to shrink it."""

    def __init__(self, error: BaseException) -> None:
        super().__init__()
        self.error: Final = error


def given_up(raised: BaseException) -> BaseException | None:
    """Return the failure that was taken past hypothesis, if one was; those of ``@example`` may be told beside it."""
    if isinstance(raised, GivenUp):
        return raised.error
    within = getattr(raised, "exceptions", ())
    return next((error.error for error in within if isinstance(error, GivenUp)), None)


class Together:
    """The function under ``@given``, run on all ranks with the same arguments.

    Args:
        exchange: This rank's end of the exchange with the controller.
        inner: The function.
        patience: Seconds for which a rank that has failed an example waits for the others.
        deadline: What an example may take.
    """

    def __init__(
        self, exchange: Exchange, inner: Callable[..., Any], patience: float, deadline: datetime.timedelta | None
    ) -> None:
        self._exchange = exchange
        self._inner = inner
        self._patience = patience
        self._deadline = deadline
        self._alone = False
        self._lost: BaseException | None = None
        self._peer: PeerExampleError | None = None
        self._kinds: dict[tuple[int, str], type[PeerExampleError]] = {}

    def wrapped(self) -> Callable[..., Any]:
        """Return what hypothesis is to call instead of the function."""

        # It looks like the function: hypothesis knows the examples of a test by its source and signature.
        @functools.wraps(self._inner)
        def run(*args: Any, **kwargs: Any) -> Any:
            __tracebackhide__ = True
            if self._lost is not None:
                raise GivenUp(self._lost)
            result, error = None, None
            try:
                result = self._timed(args, kwargs)
            except BaseException as raised:  # noqa: BLE001 (sorted below)
                error = raised
            error = self._agree(error, kwargs)
            if error is not None:
                raise error
            return result

        return run

    def _timed(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        __tracebackhide__ = True
        if self._deadline is None:
            return self._inner(*args, **kwargs)
        from hypothesis.control import current_build_context
        from hypothesis.errors import DeadlineExceeded

        context = current_build_context()

        def drawing() -> float:
            return math.fsum(context.data.draw_times.values())

        began = time.perf_counter() - drawing()
        result = self._inner(*args, **kwargs)
        took = datetime.timedelta(seconds=time.perf_counter() - drawing() - began)
        # As hypothesis has it: what comes close is not reported, since the last run of it might be quicker.
        if took >= (self._deadline if context.is_final else self._deadline * 1.25):
            raise DeadlineExceeded(took, self._deadline)
        return result

    def _agree(self, error: BaseException | None, kwargs: dict[str, Any]) -> BaseException | None:
        """Hear how the example went on the others; return what it is to be here, an exception or success."""
        if self._alone or not _is_of_example(error):
            return error
        mine = _Outcome.of(error, _observations())
        try:
            outcomes = self.hypothesis_example_ended(mine)
        except TimeoutError:
            assert error is not None
            self._lost = error
            _add_note(error, self._given_up_at(kwargs))
            return error
        if outcomes is None:
            self._alone = True
            # The rank that failed is at its end: there is nobody to shrink with.
            return GivenUp(self._peer) if self._peer is not None and mine.kind != "failed" else error
        # They lead to the examples to come.
        _observations().clear()
        _observations().update(outcomes[0].observations)
        failed = [rank for rank, outcome in enumerate(outcomes) if outcome.kind == "failed"]
        failed = failed or [rank for rank, outcome in enumerate(outcomes) if outcome.kind == "collateral"]
        if not failed:
            return _rejected() if error is None and any(each.kind == "rejected" for each in outcomes) else error
        first = failed[0]
        if first == self._exchange.me.rank or (mine.kind == "failed" and _is_final()):
            return error
        self._peer = self._peer_error(first, outcomes[first])
        return self._peer

    def hypothesis_example_ended(self, mine: _Outcome) -> list[_Outcome] | None:
        """Give this rank's outcome and return those of all; ``None`` if another rank makes no more examples.

        Raises:
            TimeoutError: This rank has failed, and another one does not come.
        """
        patience = self._patience if mine.kind == "failed" else None
        while True:
            try:
                return self._exchange.meet(_MEETING, mine, patience=patience)
            except RanksDivergedError as error:
                # Ranks that were in another call hear of this one, fail by that, and come here next.
                if any(not _goes_on(doing) for doing in error.ranks.values()):
                    return None

    def _peer_error(self, rank: int, outcome: _Outcome) -> PeerExampleError:
        """Return what hypothesis takes for one failure wherever that rank's is one: it goes by the class."""
        key = (rank, outcome.origin)
        if key not in self._kinds:
            self._kinds[key] = type(PeerExampleError.__name__, (PeerExampleError,), {"__module__": __name__})
        return self._kinds[key](f"rank {rank} failed this example: {outcome.text}")

    def _given_up_at(self, kwargs: dict[str, Any]) -> str:
        arguments = "".join(f"    {name}={value!r},\n" for name, value in kwargs.items())
        return (
            f"Failing test case: {self._inner.__name__}(\n{arguments})\n"
            f"(not shrunk: another rank had not ended this example {self._patience:g} s later)"
        )


class _Outcome:
    """How an example went on one rank.

    Attributes:
        kind: ``"passed"``, ``"rejected"`` (``assume``), ``"failed"``, or ``"collateral"``: it lost another rank.
        origin: Tells one failure from another, as hypothesis does.
        text: The failure in one line.
        observations: What it gave to ``hypothesis.target()``, by label.
    """

    def __init__(self, kind: str, origin: str, text: str, observations: dict[str, float]) -> None:
        self.kind: Final = kind
        self.origin: Final = origin
        self.text: Final = text
        self.observations: Final = observations

    def __reduce__(self) -> tuple[Any, ...]:
        return _Outcome, (self.kind, self.origin, self.text, self.observations)

    @classmethod
    def of(cls, error: BaseException | None, observations: dict[str, float]) -> _Outcome:
        """Return the outcome of an example that has raised something, or nothing."""
        if error is None:
            return cls("passed", "", "", dict(observations))
        if _is_control(error):
            return cls("rejected", "", "", dict(observations))
        from hypothesis.internal.escalation import InterestingOrigin

        kind = "collateral" if is_peer_loss(type_name(error), text_of(error)) else "failed"
        origin = str(InterestingOrigin.from_exception(error))
        return cls(kind, origin, one_line(type_name(error), text_of(error)), dict(observations))


def _observations() -> dict[str, float]:
    """Return what this example has given to ``hypothesis.target()`` so far: hypothesis's own, to be changed."""
    from hypothesis.control import current_build_context

    observations: dict[str, float] = current_build_context().data.target_observations
    return observations


def _is_control(error: BaseException) -> bool:
    from hypothesis.errors import StopTest, UnsatisfiedAssumption

    return isinstance(error, (StopTest, UnsatisfiedAssumption))


def _is_of_example(error: BaseException | None) -> bool:
    """Tell whether hypothesis goes on after what an example has raised: not after a skip or Ctrl-C."""
    if error is None or _is_control(error):
        return True
    if isinstance(error, pytest.skip.Exception):
        return False
    return isinstance(error, (Exception, SystemExit, GeneratorExit, pytest.fail.Exception))


def _rejected() -> BaseException:
    from hypothesis.errors import UnsatisfiedAssumption

    return UnsatisfiedAssumption()


def _is_final() -> bool:
    """Tell whether this is the run of an example whose failure is told."""
    from hypothesis.control import current_build_context

    return bool(current_build_context().is_final)


def _goes_on(doing: str) -> bool:
    return doing.startswith("called ") or doing == "has not called it yet"


def _add_note(error: BaseException, note: str) -> None:
    # Not by add_note, which Python 3.10 has not; pytest shows them there too.
    error.__notes__ = [*getattr(error, "__notes__", ()), note]  # type: ignore[attr-defined]
