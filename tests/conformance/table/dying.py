"""Ranks whose process ends before the test does."""

from __future__ import annotations

from .row import PROMPTLY, Row


def exits(file: str, code: int) -> Row:
    """Return the row of a rank that exits."""
    return Row(
        file=file,
        outcome="failed",
        message=f"[rank 1] exited with code {code} before the test ended",
        words=(
            f"rank 1 of 2 failed first, after * s: exited with code {code} before the test ended "
            f"(rank 0 * in barrier at {file}.py:14*)",
        ),
        within=PROMPTLY,
    )


DYING = (
    exits("os_exits_0", 0),
    exits("os_exits_9", 9),
    exits("sys_exits_0", 0),
    exits("sys_exits_3", 3),
    Row(
        file="exits_9_on_its_way_out",
        outcome="failed",
        when="teardown",
        message="[rank 1] exited with code 9 after the test had ended",
        words=("rank 1 of 2 failed first, after * s: exited with code 9 after the test had ended (rank 0 passed)",),
    ),
    Row(file="registers_at_exit_when_imported", outcome="passed"),
    Row(
        file="dies_of_sigkill",
        outcome="failed",
        message="[rank 1] killed by SIGKILL",
        words=(
            "rank 1 of 2 failed first, after * s: killed by SIGKILL (rank 0 * in barrier at dies_of_sigkill.py:15*)",
        ),
        within=PROMPTLY,
    ),
    Row(
        file="dies_of_sigsegv",
        outcome="failed",
        message="[rank 1] killed by SIGSEGV",
        words=(
            "rank 1 of 2 failed first, after * s: killed by SIGSEGV (rank 0 * in barrier at dies_of_sigsegv.py:14*)",
            "Fatal Python error: Segmentation fault",
            '  File "*dies_of_sigsegv.py", line 13 in test_it',
        ),
        within=PROMPTLY,
    ),
    Row(
        file="dies_of_sigabrt",
        outcome="failed",
        message="[rank 1] killed by SIGABRT",
        words=(
            "rank 1 of 2 failed first, after * s: killed by SIGABRT (rank 0 * in barrier at dies_of_sigabrt.py:14*)",
            "Fatal Python error: Aborted",
            '  File "*dies_of_sigabrt.py", line 13 in test_it',
        ),
        within=PROMPTLY,
    ),
)
