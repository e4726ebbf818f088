"""The dimensions of the grid, its cells, and the rules that leave combinations out."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, Literal

Who = Literal["first", "last", "all"]
Kind = Literal["raises", "exits", "dies", "hangs", "expects", "returns"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Mode:
    """A way to fail.

    Attributes:
        says: What the rank does, in words.
        kind: What sort of end it is.
        cause: How it is told: what is raised as pytest's summary has it, an exit code, the name of a signal, a reason.
    """

    says: str
    kind: Kind
    cause: str = ""


MODES: Final[dict[str, Mode]] = {
    "assert": Mode(says="fails an assert", kind="raises", cause="assert 1 == 2"),
    "raise": Mode(says="raises an exception", kind="raises", cause="ValueError: on purpose"),
    "base": Mode(says="raises a `BaseException` of its own", kind="raises", cause="actions.OddError: on purpose"),
    "interrupt": Mode(says="raises `KeyboardInterrupt`", kind="raises", cause="KeyboardInterrupt"),
    "sys-exit-0": Mode(says="calls `sys.exit(0)`", kind="exits", cause="0"),
    "sys-exit-3": Mode(says="calls `sys.exit(3)`", kind="exits", cause="3"),
    "os-exit-0": Mode(says="calls `os._exit(0)`", kind="exits", cause="0"),
    "os-exit-9": Mode(says="calls `os._exit(9)`", kind="exits", cause="9"),
    "sigkill": Mode(says="dies of SIGKILL", kind="dies", cause="SIGKILL"),
    "sigsegv": Mode(says="dies of SIGSEGV", kind="dies", cause="SIGSEGV"),
    "sigabrt": Mode(says="dies of SIGABRT", kind="dies", cause="SIGABRT"),
    "hang": Mode(says="hangs", kind="hangs"),
    "stop": Mode(says="is stopped by SIGSTOP", kind="hangs"),
    "skip": Mode(says="skips", kind="expects", cause="not today"),
    "xfail": Mode(says="calls `pytest.xfail()`", kind="expects", cause="a known bug"),
    "return": Mode(says="returns early, while others block in a collective", kind="returns"),
}

PHASES: Final[dict[str, str]] = {
    "setup": "the set-up of a fixture",
    "body": "the body",
    "teardown": "the teardown of a fixture",
    "exit": "its exit (`atexit`)",
    "import": "its import of the module",
}
"""When a rank fails."""
SERVER_PHASES: Final[dict[str, str]] = {
    "server-import": "the import of the module",
    "server-collection": "a hook of collection",
}
"""When the preloaded server fails; it is no rank's doing."""
SIZES: Final = (1, 2, 4)
WHO: Final[tuple[Who, ...]] = ("first", "last", "all")


@dataclass(frozen=True, kw_only=True, slots=True)
class Cell:
    """One place in the grid.

    Attributes:
        mode: A key of :data:`MODES`.
        phase: A key of :data:`PHASES` or :data:`SERVER_PHASES`.
        who: Which ranks do it.
        world_size: How many ranks there are.
        nodes: How many nodes they are on.
        warm: The ranks have run a test before (``isolation="module"``).
    """

    mode: str
    phase: str
    who: Who = "all"
    world_size: int = 1
    nodes: int = 1
    warm: bool = False

    @property
    def id(self) -> str:
        """Return a name that pytest can have for it."""
        age = "warm" if self.warm else "fresh"
        return f"{self.mode}-{self.phase}-{self.who}-of-{self.world_size}-on-{self.nodes}-{age}"

    @property
    def ranks(self) -> tuple[int, ...]:
        """Return the ranks that do it."""
        return {"first": (0,), "last": (self.world_size - 1,), "all": tuple(range(self.world_size))}[self.who]

    @property
    def alone(self) -> bool:
        """Tell whether it needs a session of its own: it is about more than one test."""
        return self.phase in SERVER_PHASES or self.phase == "import"


LEFT_OUT: Final[dict[str, Callable[[Cell], bool]]] = {
    "a node has at least one rank": lambda cell: cell.world_size < cell.nodes,
    "of one rank the first, the last and all are the same": lambda cell: cell.world_size == 1 and cell.who != "all",
    "only a test's body returns, and it is early where others go on": lambda cell: (
        cell.mode == "return" and (cell.phase != "body" or cell.who == "all")
    ),
    "the server has no ranks yet": lambda cell: (
        cell.phase in SERVER_PHASES and (cell.world_size, cell.nodes, cell.warm) != (1, 1, False)
    ),
    "ranks that are kept have imported the module": lambda cell: cell.phase == "import" and cell.warm,
    "ranks import a module only where each is spawned, which takes seconds: two of them stand for all": lambda cell: (
        cell.phase == "import" and (cell.world_size, cell.nodes) != (2, 1)
    ),
    "nobody expects a failure outside of a test": lambda cell: (
        cell.mode == "xfail" and (cell.alone or cell.phase == "exit")
    ),
    "nobody skips on the way out, or where there is no test": lambda cell: (
        cell.mode == "skip" and (cell.phase in ("exit", "server-collection"))
    ),
}
"""Why a combination is not in the grid."""


def left_out_by(cell: Cell) -> str | None:
    """Return the rule that leaves a combination out, or ``None``."""
    return next((name for name, holds in LEFT_OUT.items() if holds(cell)), None)


def combinations() -> Iterator[Cell]:
    """Yield every combination, whether it is in the grid or not."""
    phases = (*PHASES, *SERVER_PHASES)
    for mode, phase, who, size, nodes, warm in itertools.product(MODES, phases, WHO, SIZES, (1, 2), (False, True)):
        yield Cell(mode=mode, phase=phase, who=who, world_size=size, nodes=nodes, warm=warm)


def all_cells() -> tuple[Cell, ...]:
    """Return the grid."""
    return tuple(cell for cell in combinations() if left_out_by(cell) is None)
