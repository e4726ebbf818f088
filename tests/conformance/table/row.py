"""What a row of the table says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

StartMethod = Literal["forkserver", "spawn"]
START_METHODS: Final[tuple[StartMethod, ...]] = ("forkserver", "spawn")
PROMPTLY: Final = 0.5
"""Seconds from a failure to its verdict."""
GRACE: Final = 2.0
"""Seconds that ranks get to end after another one has failed (``elastic_grace``)."""


def deadline_for(method: StartMethod, pace: float) -> float:
    """Return the deadline, in seconds, of rows that hang: their ranks must have come to the place where they do.

    Args:
        method: How ranks are started. A spawned one imports torch first, which is part of its launch.
        pace: Seconds that importing torch takes on this machine, and with its present load.
    """
    return round(2 + pace) if method == "forkserver" else round(10 + 10 * pace)


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """What becomes of a test in which something goes wrong.

    In all texts ``*`` stands for anything, and ``{timeout}`` for the deadline of rows that hang.

    Attributes:
        file: The file in ``rows/``, without ``.py``; a directory, if it has a conftest of its own.
        outcome: pytest's word: ``"failed"`` in the call is a failure, in set-up or teardown an error. ``"collect"`` is
            an error of collection, and ``"none"`` no word at all: pytest ended before.
        when: The phase in which the outcome is told.
        message: What the short summary says of it, behind the test's name.
        words: Lines of the report, in order.
        unsaid: What must be nowhere in the report.
        sections: Title and text of sections of the report.
        warnings: Warnings of the test; there must be no others.
        warnings_if_forked: Those that it has with ``start_method="forkserver"`` besides.
        properties: Recorded properties, the values by ``repr()``.
        within: Seconds from the failure (or the deadline) to the verdict; ``None`` where nothing fails.
        since: Where ``within`` counts from.
        session: ``"together"`` with the other rows, ``"hangs"`` with those whose deadline is an option of the session,
            or ``"alone"``.
        exitcode: pytest's exit code, where the row is alone.
        prints: Lines that pytest prints, where the row is alone.
        plain: What became of the plain tests beside it, where the row is alone: name and outcome, or
            ``"not run"``.
        test: The test.
        needs: Name in pytest without which the row cannot be run.
        deviates: In what the plugin falls short of the row so far.
    """

    file: str
    outcome: Literal["passed", "failed", "skipped", "xfailed", "collect", "none"]
    when: Literal["setup", "call", "teardown"] = "call"
    message: str | None = None
    words: tuple[str, ...] = ()
    unsaid: tuple[str, ...] = ()
    sections: tuple[tuple[str, str], ...] = ()
    warnings: tuple[str, ...] = ()
    warnings_if_forked: tuple[str, ...] = ()
    properties: tuple[tuple[str, str], ...] = ()
    within: float | None = None
    since: Literal["failure", "deadline"] = "failure"
    session: Literal["together", "hangs", "alone"] = "together"
    exitcode: int = 1
    prints: tuple[str, ...] = ()
    plain: tuple[tuple[str, str], ...] = ()
    test: str = "test_it"
    needs: str | None = None
    deviates: str | None = None
