"""Ranks that hang: the deadline ends them, and says where each was."""

from __future__ import annotations

from .row import GRACE, Row


def hangs(file: str, *words: str) -> Row:
    """Return the row of a test that hangs."""
    return Row(
        file=file,
        outcome="failed",
        message="timed out after {timeout} s: test_it",
        words=("timed out after {timeout} s: test_it", *words),
        within=GRACE,
        since="deadline",
        session="hangs",
    )


HANGING = (
    Row(file="passes", outcome="passed", session="hangs"),
    hangs(
        "hangs_in_python",
        "rank 0: finished",
        "rank 1: in wait at hangs_in_python.py:11",
        '    File "*hangs_in_python.py", line 11 in test_it',
    ),
    hangs(
        "hangs_in_a_collective",
        "rank 0: in barrier at hangs_in_a_collective.py:13",
        "ranks 1-2: in broadcast at hangs_in_a_collective.py:14",
    ),
    hangs("hangs_in_c", "rank 0: finished", "rank 1: in test_it at hangs_in_c.py:13"),
    hangs("hangs_with_the_gil", "rank 0: finished", "rank 1: in test_it at hangs_with_the_gil.py:13"),
    hangs("is_stopped", "rank 0: finished", "rank 1: stopped by a signal (SIGSTOP) in test_it at is_stopped.py:12"),
)
