"""From an exception in a rank to what the controller is told of it."""

from __future__ import annotations

import contextlib
import pickle
import traceback
from types import TracebackType
from typing import Final, Literal

from pytest_elastic.messages import RankFailed, RankId
from pytest_elastic.report.describe import shortened
from pytest_elastic.report.stacks import is_internal, place

_LONGEST: Final = 40_000


def type_name(error: BaseException) -> str:
    """Return the name of an exception's class as a traceback prints it."""
    cls = type(error)
    return cls.__qualname__ if cls.__module__ in ("builtins", "__main__") else f"{cls.__module__}.{cls.__qualname__}"


def place_of(error: BaseException) -> str:
    """Say where in the user's code an exception was raised: ``all_reduce at test_x.py:17``."""
    frames = [(f.f_code.co_filename, line, f.f_code.co_name) for f, line in traceback.walk_tb(error.__traceback__)]
    return place(frames[::-1])


def frames_above_the_work(error: BaseException) -> int:
    """Return how many frames of a traceback, from the outermost, lead from pytest and this package to the user's."""
    files = [frame.f_code.co_filename for frame, _ in traceback.walk_tb(error.__traceback__)]
    return next((number for number, file in enumerate(files) if not is_internal(file)), 0)


def text_of(error: BaseException) -> str:
    """Return ``str(error)``, also if that raises."""
    try:
        return str(error)
    except Exception as nested:  # noqa: BLE001 (a user's __str__ may raise anything)
        return f"<its __str__ raised {type_name(nested)}>"


def pickled(error: BaseException) -> bytes | None:
    """Pickle an exception, or return ``None`` if it cannot be pickled and read again."""
    if type(error).__module__ == "builtins":
        # Also where nothing is installed that could do more: in front of a command.
        with contextlib.suppress(Exception):
            return pickle.dumps(error)
    try:
        import cloudpickle

        data = bytes(cloudpickle.dumps(error))
        # Many exceptions pickle but cannot be made again: their __init__ wants other arguments than .args.
        pickle.loads(data)
    except BaseException:  # noqa: BLE001 (a user's __reduce__ may raise anything, or call sys.exit)
        return None
    return data


def traceback_text(error: BaseException, first: TracebackType | None) -> str:
    """Format a traceback, beginning at the frame ``first``; chained exceptions are kept."""
    try:
        return "".join(traceback.format_exception(type(error), error, first))
    except Exception:  # noqa: BLE001 (a user's __str__ may raise anything)
        frames = "".join(traceback.format_tb(first))
        return f"Traceback (most recent call last):\n{frames}{type_name(error)}: {text_of(error)}\n"


def traceback_of_the_work(error: BaseException) -> str:
    """Format a traceback from the first frame on that is the user's, shortened if it is long."""
    first = error.__traceback__
    for _ in range(frames_above_the_work(error)):
        first = first.tb_next if first is not None else None
    return shortened(traceback_text(error, first), _LONGEST)


def describe(
    id: RankId,  # noqa: A002 (the field's name)
    error: BaseException,
    *,
    time_ns: int,
    how: Literal["raised", "exited", "result"],
    skip: int,
    exitcode: int | None = None,
) -> RankFailed:
    """Describe a failure.

    Args:
        id: Which rank.
        error: What was caught.
        time_ns: ``time.monotonic_ns()`` when it was caught.
        how: How the rank failed.
        skip: Number of frames, from the outermost, that are this package's own.
        exitcode: Exit code of ``sys.exit``.
    """
    first = error.__traceback__
    for _ in range(skip):
        if first is not None and first.tb_next is not None:
            first = first.tb_next
    return RankFailed(
        id=id,
        time_ns=time_ns,
        how=how,
        type=type_name(error),
        message=text_of(error),
        # For a value that cannot be sent the frames are all this package's own.
        traceback="" if how == "result" else traceback_text(error, first),
        exception=pickled(error),
        exitcode=exitcode,
    )
