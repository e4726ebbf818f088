"""The verdict of each cell, by one rule: what the reference and the explanation promise, not what came out once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from .cells import MODES, SERVER_PHASES, Cell

When = Literal["setup", "call", "teardown"]
Outcome = Literal["passed", "failed", "skipped", "xfailed"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """What is to become of a test. In the texts ``*`` stands for anything, ``{timeout}`` for the deadline.

    Attributes:
        outcome: pytest's word; ``"failed"`` outside of the call is an error.
        when: The phase that it is told in.
        message: What pytest's short summary says.
        headline: The first line of the report.
        also: Another line of the report.
        unsaid: What must be nowhere in the report: that somebody else failed, too.
    """

    outcome: Outcome
    when: When = "call"
    message: str = ""
    headline: str = ""
    also: str = ""
    unsaid: tuple[str, ...] = ()


def expected(cell: Cell) -> Verdict:
    """Return the verdict that a cell must have."""
    if cell.alone:
        return _while_imported(cell)
    mode = MODES[cell.mode]
    if cell.phase == "exit" and (mode.kind in ("raises", "expects") or cell.mode in ("sys-exit-0", "sys-exit-3")):
        return Verdict(outcome="passed")  # Python prints what `atexit` raises, and leaves as it would have
    if cell.phase == "exit" and cell.mode == "os-exit-0":
        return Verdict(outcome="passed")  # it was done, and its exit code says that all is well
    when: When = {"setup": "setup", "body": "call"}.get(cell.phase, "teardown")  # type: ignore[assignment]
    if mode.kind == "hangs":
        told = "timed out after {timeout} s: test_it[" + cell.id + "]"
        return Verdict(outcome="failed", when=when, message=told, headline=told)
    if cell.mode == "xfail":
        return Verdict(outcome="xfailed", when=when, message=mode.cause)
    if cell.mode == "skip" and cell.who == "all":
        return Verdict(outcome="skipped", when=when, message=mode.cause)
    if mode.kind in ("expects", "returns"):
        return _disagreement(cell)
    return _culprit(cell, when)


def _culprit(cell: Cell, when: When) -> Verdict:
    """Return the verdict over a rank that failed by itself: it is named, and nobody else is."""
    mode = MODES[cell.mode]
    moment = "after the test had ended" if cell.phase == "exit" else "before the test ended"
    what = {
        "raises": mode.cause,
        "exits": f"exited with code {mode.cause} {moment}",
        "dies": f"killed by {mode.cause}" + (" after the test had ended" if cell.phase == "exit" else ""),
    }[mode.kind]
    who = "*" if cell.who == "all" and cell.world_size > 1 else str(cell.ranks[0])
    others = " (*rank*)" if cell.world_size > 1 else ""
    headline = f"rank {who} of {cell.world_size} failed first, after * s: {what}{others}"
    unsaid = () if cell.who == "all" else ("failed too", "failed alike")
    return Verdict(outcome="failed", when=when, message=f"[rank {who}] {what}", headline=headline, unsaid=unsaid)


def _disagreement(cell: Cell) -> Verdict:
    """Return the verdict over ranks of which none failed by itself: each says what it did."""
    (odd,) = cell.ranks
    rest = "ranks *" if cell.world_size > 2 else "rank *"
    when: When = "teardown" if cell.phase == "teardown" else "call"
    if cell.mode == "skip":
        others = f"{rest} passed" if cell.phase == "teardown" else f"{rest} in barrier at cells.py:*"
        told = f"the ranks disagree: rank {odd} skipped: {MODES[cell.mode].cause}; {others}"
    else:
        told = f"the ranks disagree: {rest} in barrier at cells.py:*; rank {odd} passed"
    return Verdict(outcome="failed", when=when, message=told, headline=told)


def _while_imported(cell: Cell) -> Verdict:
    """Return the verdict over an import or collection that fails: the test is an error, and the cause is named."""
    mode = MODES[cell.mode]
    if cell.phase == "server-import" and (mode.kind in ("raises", "expects") and cell.mode != "interrupt"):
        return Verdict(outcome="passed")  # a test that the server does not have is collected anew by its ranks
    if mode.kind == "hangs":
        where = "rank*: * at actions.py:*" if cell.phase == "import" else '*actions.py", line * in act'
        if cell.mode == "stop" and cell.phase in SERVER_PHASES:
            where = "the preloaded server did not come to start an agent: *"  # it is stopped: it cannot say more
        return Verdict(outcome="failed", when="setup", message="timed out after {timeout} s: test_it", also=where)
    cause = {
        "raises": "*AssertionError*" if cell.mode == "assert" else f"*{mode.cause}*",
        "exits": f"*exited with code {mode.cause}*" if cell.mode.startswith("os") else f"*SystemExit: {mode.cause}*",
        "dies": f"*killed by {mode.cause}*",
        "expects": f"*{mode.cause}*",
    }[mode.kind]
    if cell.phase in SERVER_PHASES:
        return Verdict(outcome="failed", when="setup", message="the preloaded server *", headline=cause)
    blamed = "*" if cell.who == "all" else str(cell.ranks[0])
    return Verdict(outcome="failed", when="setup", message=f"[rank {blamed}] *", also=cause)
