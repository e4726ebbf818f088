"""The table as a page of the documentation: ``python -m tests.plugins.page > docs/plugins.md``."""

from __future__ import annotations

from importlib.metadata import version

from .table import GROUPS, Row

_HEAD = """\
# Other plugins

What was tried beside tests on ranks, with the version that was current when this page was made; the tests of this project run with the current one.
Each line has its tests, in `tests`; they run the plugin itself.
Plain tests, and those that call `elastic_launch`, run in pytest itself: for them every plugin does what it always does.
"""
_NOTES = """\
## hypothesis

Ranks draw by one seed that is new for each launch, unless the test, `derandomize` or `--hypothesis-seed` gives one.
At the end of each example the ranks tell each other, by pytest-elastic's own channel, how it went.
An example that fails on one rank counts as failed on all, one that `assume` rejects on one is rejected on all.
So collectives inside of `@given` always meet the same example, and all ranks shrink together; the report is that of the rank that failed, with its falsifying example.

- Where a rank fails while others wait for it in a collective, nothing can be tried again: their group is broken. The rank waits for them for `elastic_grace`, and then fails with the example that it has, which is not shrunk; the report says so. Calls of `elastic_gather` and `elastic_barrier` do not break, and shrink.
- What a rank gives to `hypothesis.target()` is replaced by what rank 0 gives, at the end of the example: all ranks aim at the same.
- The database is read by ranks and written by pytest itself, after the test: no rank sees what another one saves. A failing example of any rank is saved; one that passes again is dropped if it does on all.
- The deadline of 200 ms that hypothesis has by itself does not hold, since ranks wait for each other. Another one that you set holds for each rank; what it takes to wait in a collective is included. The health check `too_slow` is off, for the same reason.
- `elastic_gather` and `elastic_barrier` may be used in `@given` without a word to the health check of function-scoped fixtures.
- Ranks that draw unlike each other go their own ways from there on: by `data.draw` under a condition that depends on the rank, or because one of them has imported modules of your project that others have not (hypothesis takes constants from them).
- State machines (`RuleBasedStateMachine`) and functions that a test on ranks calls which have a `@given` of their own draw alike, but their ranks do not wait for each other.
- A `@given` in a function that `elastic_launch` runs draws on each rank for itself: give it a `@seed`, or `derandomize`, where ranks are to draw alike; they do not wait for each other there either.

## pytest-rich, pytest-forked

pytest-rich 0.3.0 was tried by hand in a terminal: one mark a test, and the right one; it leaves out the line that says which rank failed first.
pytest-forked 1.7.5 failed a plain test with pytest 9.2.0, without this plugin: it was not tried further.
"""


def _cells(row: Row) -> tuple[str, ...]:
    name = f"{row.name} {version(row.name)}" + (f": {row.what}" if row.what else "")
    tests = "<br>".join(f"`{test.rpartition('::')[2]}`" for test in row.tests)
    return name, row.works, row.differs, tests


def render() -> str:
    """Return the page."""
    lines = [_HEAD]
    for title, rows in GROUPS.items():
        lines += [f"## {title}", "", "| plugin | works | different | test |", "|---|---|---|---|"]
        lines += [f"| {' | '.join(_cells(row))} |" for row in rows]
        lines.append("")
    return "\n".join([*lines, _NOTES.rstrip()]) + "\n"


if __name__ == "__main__":
    print(render(), end="")
