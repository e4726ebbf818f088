"""The comparison as a page of the documentation."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence

from .classify import WORDS, Session, word_for
from .harnesses import HARNESSES, ROOT, Harness, Limits
from .modes import MODES, Mode
from .running import GONE_WITHIN

Results = Mapping[tuple[str, str], Session]
"""What came of each mode under each harness, by their names."""

_HEAD = """\
# Comparison

What becomes of a test on two ranks in which something goes wrong, under this plugin and under what else runs such tests: torch's own `elastic_launch` called in a plain test, its test classes `MultiProcessTestCase` and `MultiProcContinuousTest`, and mpi-pytest.
`make compare` runs each cell once, in a pytest of its own, and writes this page; nothing of it is written by hand.

What the ranks do is the same file everywhere, [`doing.py`](../tests/compare/work/doing.py); around it each harness has a test as its users write it.
The second rank does what is said, unless another one is named; "waits" means that the first one is in a collective then.
A harness's own time limit, usually minutes, is shortened to {own} s by its own setting, where it has one, according to how long an import of torch takes just before; a pytest that has not ended after {session} s is killed.
"""


def render(results: Results, versions: Mapping[str, str], machine: str, limits: Sequence[Limits]) -> str:
    """Return the page.

    Args:
        results: What came of each cell.
        versions: Versions of the packages that matter, by name of the harness.
        machine: What they ran on.
        limits: How long they were given: longer where the machine had other things to do.
    """
    lines = [
        _HEAD.format(own=_span(each.own for each in limits), session=_span(each.session for each in limits)).rstrip(),
        "",
        f"On {machine}.",
        "",
    ]
    lines += ["| harness | its test | versions | its time limit |", "|---|---|---|---|"]
    lines += [
        f"| {each.name} | [`{each.file}`](../tests/compare/work/{each.file}) | {versions[each.name]} | {each.setting} |"
        for each in HARNESSES
    ]
    names = " | ".join(each.name for each in HARNESSES)
    lines += ["", "## Scoreboard", "", f"| of {len(MODES)} | {names} |", "|---" * (len(HARNESSES) + 1) + "|"]
    for word in WORDS:
        lines.append(f"| {word} | " + " | ".join(str(_count(results, each, word)) for each in HARNESSES) + " |")
    lines.append("| left processes behind | " + " | ".join(_count_left(results, each) for each in HARNESSES) + " |")
    lines += ["", "| word | means that |", "|---|---|"]
    lines += [f"| {word} | {meaning} |" for word, meaning in WORDS.items()]
    lines.append(
        f"| left processes behind | processes that the session started still ran {GONE_WITHIN:g} s after pytest's end, "
        "beside any of the words above; those of a hang are not counted |"
    )
    lines += [
        "",
        "The rank counts as told where it is named at all, also among others, and in whatever words.",
        "Each cell is one run: where ranks race, another run may come out in another way.",
        "Seconds are those of a machine that may have had other things to do, three of these sessions among them.",
        "",
        "## Each of them",
        "",
        "The second column has what the test must come to, the others the word and the seconds that pytest took.",
        "",
        f"| a rank ... | must be | {names} |",
        "|---" * (len(HARNESSES) + 2) + "|",
    ]
    for mode in MODES:
        cells = " | ".join(_cell(mode, results[mode.name, each.name]) for each in HARNESSES)
        lines.append(f"| {mode.says} | {' or '.join(mode.wanted)} | {cells} |")
    lines += ["", "## What each says", "", _SAYS, ""]
    for mode in MODES:
        if mode.wanted != ("passed",):
            lines += [f"### {mode.says[0].upper()}{mode.says[1:]}", ""]
            lines += [f"- {each.name}: {_said(results[mode.name, each.name])}" for each in HARNESSES]
            lines.append("")
    return "\n".join(lines)


_SAYS = "The last line of pytest's short summary that tells of the test, in which most people begin to read."


def _span(seconds: Iterable[int]) -> str:
    low, *_, high = sorted({*seconds}) * 2
    return f"{low}" if low == high else f"{low} to {high}"


def _count(results: Results, harness: Harness, word: str) -> int:
    return sum(word_for(mode, results[mode.name, harness.name]) == word for mode in MODES)


def _count_left(results: Results, harness: Harness) -> str:
    return str(sum(bool(results[mode.name, harness.name].left) for mode in MODES))


def _cell(mode: Mode, session: Session) -> str:
    word = word_for(mode, session)
    left = ", left processes behind" if session.left else ""
    return f"{f'**{word}**' if word != 'right' or left else word}{left}, {session.seconds:.0f} s"


def _said(session: Session) -> str:
    lines = [line.strip() for line in session.text.splitlines()]
    said = [line for line in lines if line.startswith(("FAILED ", "ERROR ", "SKIPPED "))]
    if said:
        return f"`{_short(said[-1])}`"
    if not session.ended:
        return "nothing, it was killed"
    return f"`{_short(lines[-1])}`" if lines else "nothing"


def _short(line: str) -> str:
    line = line.strip("= ").replace(f"{ROOT}{os.sep}", "").replace("`", "'").replace("|", "\\|")
    return line if len(line) <= 160 else line[:157] + "..."
