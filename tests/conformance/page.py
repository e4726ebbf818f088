"""The table as a page of the documentation: ``python -m tests.conformance.page > docs/conformance.md``."""

from __future__ import annotations

import ast

from .grid.summary import render_grid
from .sessions import path_of
from .table import GROUPS, Row

_HEAD = """\
# Conformance

What becomes of a test when something goes wrong on a rank.
Each line is a file in `tests/conformance/rows`; the suite beside it runs them, one of each kind with `start_method="spawn"` too, asserts outcome, rank, words and the time from the failure to the verdict, and looks for what they left behind.
`*` stands for anything.

```
pytest tests/conformance                            # two minutes
CONFORMANCE_SPAWN=all pytest tests/conformance      # all of them with spawned ranks too, which import torch each
pytest tests/conformance -rP                        # with the seconds that each verdict took
pytest tests/conformance/rows/fails_an_assert.py    # one of them, as a user would see it
```
"""
_PHASES = {"setup": "error at set-up", "teardown": "error at teardown", "call": "failed"}


def says(row: Row) -> str:
    """Return a row in words: the first line of its file."""
    return (ast.get_docstring(ast.parse(path_of(row.file).read_text())) or "").partition("\n")[0]


def outcome(row: Row) -> str:
    """Return the outcome of a row in words."""
    if row.outcome == "failed":
        return _PHASES[row.when]
    return {"collect": "error of collection", "none": "pytest ends"}.get(row.outcome, row.outcome)


def told(row: Row) -> str:
    """Return what pytest tells of a row, in Markdown."""
    texts = [row.message] if row.message is not None else []
    texts += (*row.warnings, *row.warnings_if_forked)
    texts += [f"{name} = {value}" for name, value in row.properties]
    texts += row.prints
    cell = "<br>".join(f"`{text}`".replace("|", "\\|") for text in texts)
    return f"{cell} (not yet: {row.deviates})" if row.deviates is not None else cell


def bound(row: Row) -> str:
    """Return within how many seconds the verdict comes."""
    if row.within is None:
        return ""
    return f"{row.within:g} s" + (" after the deadline" if row.since == "deadline" else "")


def render() -> str:
    """Return the page."""
    lines = [_HEAD]
    for title, rows in GROUPS.items():
        lines += [f"## {title}", "", "| file | a rank, or pytest | the test | what is told | verdict within |"]
        lines += ["|---|---|---|---|---|"]
        lines += [
            f"| `{row.file}` | {says(row).rstrip('.')} | {outcome(row)} | {told(row)} | {bound(row)} |" for row in rows
        ]
        lines.append("")
    return "\n".join([*lines, *render_grid()])


if __name__ == "__main__":
    print(render(), end="")
