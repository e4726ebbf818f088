"""What goes wrong in the comparison, and what the verdict must say of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

Outcome = Literal["passed", "failed", "skipped"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Mode:
    """Something that goes wrong on one of two ranks.

    Attributes:
        name: Its name in ``work/doing.py``.
        says: What the rank does.
        wanted: What the test must come to; any of these is right.
        cause: Regular expression of what must be found in what is printed; empty if nothing must.
        rank: The rank that must be named, or ``None`` where it is all of them.
    """

    name: str
    says: str
    wanted: tuple[Outcome, ...] = ("failed",)
    cause: str = ""
    rank: int | None = 1


def _exit(code: int) -> str:
    return rf"(?i)(exit(ed|s|ing)?|code|status|SystemExit)\W{{0,3}}(with |code |status |= )*\W{{0,4}}{code}\b"


def _signal(number: int, name: str) -> str:
    return rf"(?i){name}|signal:? \(?{number}\b|exit ?code\W{{0,4}}-?{number}\b|code:? -?{number}\b|-{number} != 0"


_STACK: Final = r"wait_for_ever"
"""The function that hangs: whoever shows a stack of it says where the rank was."""

MODES: Final = (
    Mode(name="passes", says="nothing: all ranks pass", wanted=("passed",), rank=None),
    Mode(name="assert", says="fails an assert while the other waits in a collective", cause="the loss is 7"),
    Mode(name="raises", says="raises an exception while the other waits in a collective", cause="no more data"),
    Mode(name="raises-first", says="the same on rank 0", cause="no more data", rank=0),
    Mode(name="unpicklable", says="raises an exception that does not pickle", cause="no more data"),
    Mode(name="interrupt", says="raises `KeyboardInterrupt`", cause="KeyboardInterrupt"),
    Mode(name="base", says="raises a `BaseException` of its own", cause="no more data"),
    Mode(name="sys-exit-0", says="calls `sys.exit(0)` before the end", cause=_exit(0)),
    Mode(name="sys-exit-3", says="calls `sys.exit(3)` before the end", cause=_exit(3)),
    Mode(name="os-exit-0", says="calls `os._exit(0)` before the end", cause=_exit(0)),
    Mode(name="os-exit-9", says="calls `os._exit(9)` before the end", cause=_exit(9)),
    Mode(name="sigkill", says="dies of SIGKILL while the other waits in a collective", cause=_signal(9, "SIGKILL")),
    Mode(name="sigkill-alone", says="dies of SIGKILL when the other is done", cause=_signal(9, "SIGKILL")),
    Mode(name="sigsegv", says="dies of SIGSEGV", cause=_signal(11, "SIGSEGV|segmentation fault")),
    Mode(name="dies-at-exit", says="dies of SIGKILL in `atexit`, after the test", cause=_signal(9, "SIGKILL")),
    Mode(name="hangs", says="hangs in Python when the other is done", cause=_STACK),
    Mode(name="hangs-with-gil", says="hangs in C code that holds the GIL", cause=_STACK),
    Mode(name="stopped", says="is stopped (SIGSTOP)", cause="SIGSTOP|stopped by a signal|stop_yourself"),
    Mode(
        name="mismatch",
        says="the ranks wait in different collectives",
        cause="all_reduce_alone",
        rank=None,
    ),
    Mode(name="returns-early", says="returns early while the other waits in a collective", cause="", rank=1),
    Mode(name="all-skip", says="skips, as the other one does", wanted=("skipped",), cause="no data here", rank=None),
    Mode(
        name="one-skips", says="skips, and the other one does not", wanted=("failed", "skipped"), cause="no data here"
    ),
    Mode(name="import-fails", says="cannot import the test file, nor can the other", cause="no_such_module", rank=None),
    Mode(name="leaves-child", says="leaves a child process behind", wanted=("passed",), rank=None),
    Mode(name="leaves-thread", says="leaves a thread behind that does not end", wanted=("passed",), rank=None),
    Mode(
        name="ignores-sigterm",
        says="raises, and the other one ignores SIGTERM and goes on",
        cause="no more data",
    ),
)
