"""The grid in a few tables, for the page of the documentation."""

from __future__ import annotations

from collections.abc import Iterable

from .cells import LEFT_OUT, MODES, PHASES, SERVER_PHASES, Cell, all_cells, combinations, left_out_by
from .verdicts import Verdict, expected

_HEAD = """\
## The grid

Beside the rows there is a grid, made by a rule: {modes} ways to fail x {phases} moments x the first, the last or all ranks x 1, 2 or 4 ranks x one or two nodes x fresh ranks or such that have run a test before (`isolation="module"`).
Of {combinations} combinations {left} are left out, each by one of the rules below; {cells} are run.
What must become of each is computed by one function from its dimensions, `tests/conformance/grid/verdicts.py`: outcome, phase, the rank that is named, the words, and that no other rank is said to have failed; no warning, nothing left behind.
`make test` runs a few of them, `make soak` all.

```
pytest tests/conformance/test_grid.py                          # a few, chosen so that the dimensions meet
pytest tests/conformance/test_grid.py -m soak                  # all: half an hour on two cores
GRID=sigkill-body pytest tests/conformance/test_grid.py -m soak   # those whose names have this in them
```

"error" is pytest's word for a failure in set-up or teardown.
Where one rank of several and all of them come to different ends, both are said; the number is that of cells.
"""


def render_grid() -> list[str]:
    """Return the lines of the page that tell of the grid."""
    cells = all_cells()
    every = list(combinations())
    head = _HEAD.format(
        modes=len(MODES),
        phases=len(PHASES) + len(SERVER_PHASES),
        combinations=len(every),
        left=len(every) - len(cells),
        cells=len(cells),
    )
    moments = {
        "setup": "set-up of a fixture",
        "body": "body",
        "teardown": "teardown of a fixture",
        "exit": "exit (`atexit`)",
        "import": "import, on ranks that are spawned",
        "server-import": "import, in the server",
        "server-collection": "hook of collection, in the server",
    }
    lines = [*head.splitlines(), "", "| a rank, or the server | is told as | " + " | ".join(moments.values()) + " |"]
    lines.append("|---" * (len(moments) + 2) + "|")
    for name, mode in MODES.items():
        told = [brief([cell for cell in cells if (cell.mode, cell.phase) == (name, moment)]) for moment in moments]
        lines.append(f"| {mode.says} | {as_told(name)} | {' | '.join(told)} |")
    lines += ["", "Left out, by the first rule that holds:", "", "| rule | combinations |", "|---|---|"]
    by = [left_out_by(cell) for cell in every]
    lines += [f"| {rule} | {by.count(rule)} |" for rule in LEFT_OUT]
    return [*lines, ""]


def as_told(name: str) -> str:
    """Return what the summary says of a rank that fails alone in the body, in Markdown."""
    cell = Cell(mode=name, phase="body", who="last", world_size=2)
    return f"`{expected(cell).message.replace(cell.id, '...').replace('|', chr(92) + '|')}`"


def brief(cells: Iterable[Cell]) -> str:
    """Return in a few words what becomes of cells of one mode and one phase."""
    found: dict[str, list[Cell]] = {}
    for cell in cells:
        found.setdefault(word(expected(cell)), []).append(cell)
    if not found:
        return "-"
    count = f" ({sum(map(len, found.values()))})"
    if len(found) == 1:
        return next(iter(found)) + count
    return ", ".join(f"{what} if {_who(some)}" for what, some in found.items()) + count


def _who(cells: list[Cell]) -> str:
    return "all do" if all(cell.who == "all" for cell in cells) else "one does"


def word(verdict: Verdict) -> str:
    """Return a verdict in a word or two."""
    what = "error" if verdict.outcome == "failed" and verdict.when != "call" else verdict.outcome
    if verdict.message.startswith("timed out"):
        return f"{what}, timed out"
    return f"{what}, ranks disagree" if verdict.message.startswith("the ranks disagree") else what
