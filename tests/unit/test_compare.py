"""The words of the comparison with peers, and its page."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.compare.classify import WORDS, Session, Word, names_rank, outcome_in, word_for
from tests.compare.harnesses import HARNESSES, WORK, Limits
from tests.compare.modes import MODES, Mode, Outcome
from tests.compare.page import render

DIES = Mode(name="sigkill", says="dies", cause="SIGKILL")
PASSES = Mode(name="passes", says="passes", wanted=("passed",))
SKIPS = Mode(name="skips", says="skips", wanted=("skipped",), cause="no data", rank=None)
PAGE = Path(__file__).parents[2] / "docs" / "comparison.md"


@pytest.mark.parametrize(
    ("mode", "outcome", "ended", "text", "word"),
    [
        (DIES, "failed", True, "rank 1 was killed by SIGKILL", "right"),
        (DIES, "failed", True, "rank 0 was killed by SIGKILL", "cause lost"),
        (DIES, "failed", True, "rank 1 failed", "cause lost"),
        (DIES, "passed", True, "rank 1 was killed by SIGKILL", "false pass"),
        (DIES, "skipped", True, "", "false pass"),
        (DIES, None, True, "rank 1: SIGKILL", "right"),
        (DIES, None, True, "Killed", "cause lost"),
        (DIES, None, False, "rank 1: SIGKILL", "hang"),
        (PASSES, "passed", True, "", "right"),
        (PASSES, "failed", True, "rank 1", "false alarm"),
        (PASSES, "skipped", True, "rank 1", "false alarm"),
        (SKIPS, "skipped", True, "no data", "right"),
        (SKIPS, "skipped", True, "generic skip", "cause lost"),
        (SKIPS, "failed", True, "no data", "false alarm"),
        (SKIPS, "passed", True, "no data", "false pass"),
    ],
)
def test_the_word(mode: Mode, outcome: Outcome | None, ended: bool, text: str, word: Word) -> None:
    assert word_for(mode, Session(outcome=outcome, ended=ended, text=text)) == word


@pytest.mark.parametrize(
    "text",
    [
        "rank 1 of 2 failed first",
        "ranks 0-1: in wait",
        "rank      : 1 (local_rank: 1)",
        "Process 1 exited with error code 10",
        "[rank1]: Traceback",
        "[1] FAILED",
        "=   RANK 1 PID 4711 RUNNING AT host",
        "Detected failure from Rank 1 in",
        "process 1 terminated with signal SIGKILL",
    ],
)
def test_a_rank_is_named_in_the_words_of_each_harness(text: str) -> None:
    assert names_rank(text, 1)


@pytest.mark.parametrize(
    "text",
    [
        "rank 0",
        "rank 10",
        "Process 12 exited",
        "exit code 1",
        "1 failed",
        "rank 0 after 1 s",
        "Started process 1 with pid 9",
    ],
)
def test_a_rank_is_not_named(text: str) -> None:
    assert not names_rank(text, 1)


@pytest.mark.parametrize(
    ("inside", "outcome"),
    [
        ("", "passed"),
        ("<failure/>", "failed"),
        ("<error/>", "failed"),
        ("<skipped/>", "skipped"),
        ("<skipped/><error/>", "failed"),
    ],
)
def test_the_outcome_is_that_of_the_report(inside: str, outcome: Outcome) -> None:
    junit = f"<testsuites><testsuite><testcase>{inside}</testcase></testsuite></testsuites>"
    assert outcome_in(junit) == outcome


def test_there_is_no_outcome_without_a_report_or_a_test() -> None:
    assert outcome_in("") is None
    assert outcome_in("<testsuites><testsuite/></testsuites>") is None


def test_each_mode_is_one_that_ranks_know() -> None:
    doing = (WORK / "doing.py").read_text()
    prefixes = ("sys-exit-", "os-exit-", "leaves")
    known = [mode.name for mode in MODES if f'"{mode.name}"' in doing or mode.name.startswith(prefixes)]
    assert known == [mode.name for mode in MODES if mode.name != "returns-early"]  # that one does nothing
    assert len({mode.name for mode in MODES}) == len(MODES)
    assert all((WORK / each.file).exists() for each in HARNESSES)


def test_limits_follow_the_pace_of_the_machine() -> None:
    assert Limits.at(1.5) == Limits(own=20, session=60)
    assert Limits.at(4) == Limits(own=32, session=84)
    assert Limits.at(10) == Limits(own=60, session=140)


def test_the_page_says_what_came_out() -> None:
    good = Session(outcome="failed", ended=True, text="FAILED x - rank 1", left=("sleep",), seconds=3.4)
    results = {(mode.name, each.name): good for mode in MODES for each in HARNESSES}
    page = render(
        results,
        {each.name: "torch 9" for each in HARNESSES},
        "a machine",
        [Limits(own=20, session=60), Limits(own=32, session=84)],
    )
    assert "| passed | **false alarm**, left processes behind, 3 s |" in page.replace("\n", " ")
    assert f"| left processes behind | {' | '.join([str(len(MODES))] * len(HARNESSES))} |" in page
    assert "`FAILED x - rank 1`" in page
    assert "shortened to 20 to 32 s" in page


def test_the_page_in_the_documentation_has_every_mode_and_every_harness() -> None:
    page = PAGE.read_text()
    assert [mode.says for mode in MODES if f"| {mode.says} | {' or '.join(mode.wanted)} |" not in page] == []
    assert [each.name for each in HARNESSES if each.name not in page] == []
    assert [word for word in WORDS if f"| {word} |" not in page] == []
