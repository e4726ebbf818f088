"""Ranks that skip, return early, or are expected to fail: all alike, or not."""

from __future__ import annotations

from .row import GRACE, PROMPTLY, Row

UNEQUAL = (
    Row(file="all_skip", outcome="skipped", message="no data here"),
    Row(
        file="one_skips",
        outcome="failed",
        message="the ranks disagree: rank 1 skipped: no data here; rank 0 passed",
        words=("the ranks disagree: rank 1 skipped: no data here; rank 0 passed",),
    ),
    Row(
        file="skips_in_a_fixture",
        outcome="failed",
        message="the ranks disagree: rank 1 skipped: no data here; rank 0 passed",
    ),
    Row(
        file="skips_for_its_own_reason",
        outcome="failed",
        message="the ranks disagree: rank 0 skipped: no data for rank 0; rank 1 skipped: no data for rank 1",
    ),
    Row(
        file="skips_while_others_wait",
        outcome="failed",
        message="the ranks disagree: rank 1 skipped: no data here; "
        "rank 0 * in barrier at skips_while_others_wait.py:12*",
        within=PROMPTLY,
    ),
    Row(
        file="returns_early",
        outcome="failed",
        message="the ranks disagree: rank 0 * in all_reduce at returns_early.py:13*; rank 1 passed",
        within=PROMPTLY,
    ),
    Row(
        file="rank_0_returns_early",
        outcome="failed",
        message="the ranks disagree: rank 1 * in all_reduce at rank_0_returns_early.py:13*; rank 0 passed",
        within=PROMPTLY,
    ),
    Row(file="known_bug_on_one_rank", outcome="xfailed", message="the last rank has no data", within=PROMPTLY),
    Row(
        file="other_bug_than_known",
        outcome="failed",
        message="[rank 1] ValueError: something else",
        words=("rank 1 of 2 failed first, after * s: ValueError: something else (rank 0 *)",),
        within=PROMPTLY,
    ),
    Row(
        file="known_bug_is_gone",
        outcome="failed",
        message="[XPASS(strict)] it used to fail",
    ),
    Row(file="known_bug_kills", outcome="xfailed", message="it kills a rank", within=PROMPTLY),
    Row(
        file="known_bug_kills_unlike",
        outcome="failed",
        message="[rank 1] exited with code 1 before the test ended",
        within=PROMPTLY,
    ),
    Row(
        file="known_bug_hangs",
        outcome="xfailed",
        message="it hangs",
        within=GRACE,
        since="deadline",
        session="hangs",
    ),
    Row(file="xfails_on_one_rank", outcome="xfailed", message="not on the last rank", within=PROMPTLY),
)
