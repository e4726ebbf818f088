"""One line that says what became of a rank."""

from __future__ import annotations

import signal
from typing import Final

from pytest_elastic.report.culprit import ended_by_us
from pytest_elastic.report.records import RankRecord, Work

_SHOWN_MESSAGE: Final = 1_000


def signal_name(exitcode: int | None) -> str | None:
    """Return the name of the signal that an exit code stands for, or ``None``."""
    if exitcode is None or exitcode >= 0:
        return None
    try:
        return signal.Signals(-exitcode).name
    except ValueError:
        return f"signal {-exitcode}"


def exitcode_of(rank: RankRecord) -> int | None:
    """Return a rank's exit code; of one that was ended on its way out, the code that it was leaving with."""
    if rank.exited is None:
        return None
    if rank.exited.exitcode in (-signal.SIGTERM, -signal.SIGKILL) and (rank.killed or rank.exited.stopped):
        if rank.failed is not None:
            return rank.failed.exitcode if rank.failed.how == "exited" else 1
        if rank.finished is not None:
            return 0
    return rank.exited.exitcode


def one_line(type_name: str, message: str) -> str:
    """Say what was raised as a traceback's last line does, shortened to the first line of the message."""
    name = type_name.rpartition(".")[2]
    first, _, rest = message.strip().partition("\n")
    first = shortened(first, _SHOWN_MESSAGE)
    return (f"{name}: {first}" if first else name) + (" ..." if rest else "")


def shortened(text: str, most: int) -> str:
    """Return a text, or of a long one the beginning and the end."""
    if len(text) <= most:
        return text
    return f"{text[: most // 2]} ... ({len(text) - most} characters left out) ... {text[-(most // 2) :]}"


def what_happened(rank: RankRecord, *, work: Work) -> str:
    """Say how a rank failed, without naming it.

    Args:
        rank: A rank that failed.
        work: What the rank ran: ``"test"``, ``"function"`` or ``"command"``.
    """
    # A command ends when its process does; a test or function has an end of its own.
    too_early = "" if work == "command" else f" before the {work} ended"
    if rank.finished is not None and rank.exited is not None:
        how = signal_name(rank.exited.exitcode)
        death = f"killed by {how}" if how is not None else f"exited with code {rank.exited.exitcode}"
        return f"{death} after the {work} had ended"
    if rank.failed is not None:
        failed = rank.failed
        if failed.how == "exited":
            return f"exited with code {failed.exitcode}{too_early}"
        if failed.how == "result":
            return failed.message
        return one_line(failed.type, failed.message)
    if ended_by_us(rank) or rank.exited is None:
        return "killed"
    name = signal_name(rank.exited.exitcode)
    if name is not None:
        on_purpose = rank.fault if rank.fault_signal == -rank.exited.exitcode else ""
        return f"killed by {name}" + (f" ({on_purpose})" if on_purpose else "")
    if rank.hello_ns is None:
        said = f" (the log of the preloaded server ends with: {rank.server_said})" if rank.server_said else ""
        return f"exited with code {rank.exited.exitcode} before it could start{said}"
    return f"exited with code {rank.exited.exitcode}{too_early}"
