"""From what a pytest session printed and left to a word for it: pure functions."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, Literal
from xml.etree import ElementTree

from .modes import Mode, Outcome

Word = Literal["right", "false pass", "false alarm", "hang", "cause lost"]
WORDS: Final[dict[Word, str]] = {
    "right": "the outcome that it must have, and where that is a failure or a skip the cause and the rank are printed",
    "false pass": "the test passes, or is skipped, although it must fail",
    "false alarm": "the test fails, or pytest does, although nothing that it tests is wrong",
    "hang": "pytest had not ended when its time was over, and was killed",
    "cause lost": "the test fails, or is skipped, as it must, but what happened, or on which rank, is not printed",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Session:
    """What came of a pytest session with one test.

    Attributes:
        outcome: What became of the test; ``None`` where pytest did not come to say so.
        ended: pytest ended by itself.
        text: What it printed.
        left: Command lines of processes that outlived it.
        seconds: How long it took.
    """

    outcome: Outcome | None
    ended: bool
    text: str
    left: tuple[str, ...] = ()
    seconds: float = 0.0


def outcome_in(junit: str) -> Outcome | None:
    """Return what became of the one test of a session, from its report in JUnit's format; an empty text has none."""
    if not junit:
        return None
    case = ElementTree.fromstring(junit).find(".//testcase")
    if case is None:
        return None
    if case.find("failure") is not None or case.find("error") is not None:
        return "failed"
    return "skipped" if case.find("skipped") is not None else "passed"


_STARTED: Final = re.compile(r"^.*Started process \d+ with pid.*$", re.MULTILINE)
"""torch's classes log each rank when they start it, whatever becomes of it."""


def names_rank(text: str, rank: int) -> bool:
    """Tell whether a text names a rank, in any of the ways in which harnesses do; not that it was started."""
    text = _STARTED.sub("", text)
    named = rf"(?i)\b(global_|local_)?(rank|ranks|process|proc|worker|node_rank)\b\W{{0,4}}{rank}\b"
    listed = rf"(?i)\branks?\W{{0,4}}(\d+[-, ]+)*{rank}\b|\[(rank|default)?{rank}\]"
    return re.search(named, text) is not None or re.search(listed, text) is not None


def word_for(mode: Mode, session: Session) -> Word:
    """Return the word for what came of a mode."""
    if not session.ended:
        return "hang"
    outcome = session.outcome or "failed"  # pytest ended without a word: whoever looks at its exit code sees a failure
    if outcome not in mode.wanted:
        return "false alarm" if outcome == "failed" or "passed" in mode.wanted else "false pass"
    if outcome == "passed":
        return "right"
    told = re.search(mode.cause, session.text) is not None
    return "right" if told and (mode.rank is None or names_rank(session.text, mode.rank)) else "cause lost"
