"""Who gets the terminal, of ranks that reach breakpoints or fail."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pytest

from pytest_elastic.controller import debugging
from pytest_elastic.controller.clocks import Clocks
from pytest_elastic.controller.debugging import Debugging
from pytest_elastic.controller.roster import Roster
from pytest_elastic.messages import (
    HOLD,
    RankCaught,
    RankId,
    TerminalAnswer,
    TerminalDone,
    TerminalUsed,
    TerminalWanted,
)


class Ranks:
    """Three ranks, and what they hear."""

    def __init__(self, scratch: Path, wanted_rank: int | None, refusal: str = "") -> None:
        self.wanted_rank, self.refusal = wanted_rank, refusal
        self.lines: list[str] = []
        self.roster = Roster()
        self.ids = [
            RankId(world="w", rank=rank, local_rank=rank, node=0, group_rank=0, world_size=3, restart=0)
            for rank in range(3)
        ]
        for id in self.ids:  # noqa: A001 (the field's name)
            self.roster.rank(id)
        self.clocks = Clocks(grace=2.0)
        self.clocks.start(100.0)
        self.answers: dict[int, str] = {}
        self.peers: dict[int, Any] = {}
        self.hold = scratch / HOLD
        self.debugging = Debugging(
            self.roster,
            self.clocks,
            self,  # type: ignore[arg-type]
            directory=scratch,
            scratch=scratch,
            errand=lambda errand: errand(),
            do=lambda action: action(),
        )

    def write(self, text: str) -> None:
        self.lines.append(text)

    def lend(self, loan: Any, hand_over: Callable[[list[int]], None]) -> None:
        hand_over([])

    def ask(
        self, rank: int, why: Literal["breakpoint", "failure"] = "breakpoint", place: str = "x.py:1", **held: bool
    ) -> None:
        self.peers[rank] = Peer(self.answers, rank)
        self.debugging.hear(TerminalWanted(id=self.ids[rank], why=why, place=place, **held), self.peers[rank])
        self.debugging.look()

    def fail(self, rank: int, time_ns: int, message: str = "wrong") -> None:
        self.roster.rank(self.ids[rank]).caught = RankCaught(
            id=self.ids[rank], time_ns=time_ns, when="call", type="RuntimeError", message=message, place="x.py:1"
        )
        self.ask(rank, "failure")

    def done(self, rank: int, *, quits: bool = False) -> None:
        self.debugging.hear(TerminalDone(id=self.ids[rank], quits=quits), self.peers[rank])
        self.debugging.look()

    def take(self) -> dict[int, str]:
        """Return what ranks have been told since the last time."""
        taken = dict(self.answers)
        self.answers.clear()
        return taken


class Peer:
    def __init__(self, answers: dict[int, str], rank: int) -> None:
        self._answers, self._rank = answers, rank

    def send(self, answer: TerminalAnswer) -> None:
        self._answers[self._rank] = answer.refusal or ("granted" if answer.granted else "go on")

    def pass_descriptors(self, fds: list[int]) -> None:
        """Take none."""


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_FOR_THE_CHOSEN", "_FOR_OTHERS", "_LONG_STEP"):
        monkeypatch.setattr(debugging, name, 0.0)


def test_the_first_to_ask_is_debugged_and_the_others_go_on_after_it(tmp_path: Path) -> None:
    ranks = Ranks(tmp_path, None)
    ranks.ask(1)
    ranks.ask(0)
    ranks.ask(2)
    assert ranks.take() == {1: "granted"}
    assert ranks.clocks.patience() is None
    assert ranks.hold.exists()
    ranks.done(1)
    assert ranks.take() == {0: "go on", 2: "go on"}
    assert ranks.lines == [
        "ranks 0,2 reached the breakpoint at x.py:1 too; --elastic-pdb-rank=0 debugs rank 0\n",
    ]
    assert ranks.clocks.patience() is not None
    assert not ranks.hold.exists()
    assert not ranks.debugging.quits


def test_it_stays_the_one_to_be_debugged_and_is_waited_for(tmp_path: Path) -> None:
    ranks = Ranks(tmp_path, None)
    ranks.ask(1)
    ranks.done(1)
    ranks.ask(0)  # late at the first place
    assert ranks.take() == {1: "granted", 0: "go on"}
    ranks.ask(0, place="x.py:2")
    assert ranks.take() == {}
    patience = ranks.debugging.patience()
    assert patience is not None
    assert 0 < patience <= 2
    ranks.ask(1, place="x.py:2")
    assert ranks.take() == {1: "granted"}


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize(("wanted", "answer"), [(None, "granted"), (1, "go on")])
def test_one_that_does_not_come_is_not_waited_for_any_longer(tmp_path: Path, wanted: int | None, answer: str) -> None:
    ranks = Ranks(tmp_path, wanted)
    ranks.ask(1)
    ranks.done(1)
    ranks.take()
    ranks.ask(2, place="x.py:2")
    assert ranks.take() == {2: answer}


def test_a_place_in_a_loop_is_counted_also_while_the_debugger_steps_over_it(tmp_path: Path) -> None:
    ranks = Ranks(tmp_path, 1)
    ranks.ask(1)
    ranks.ask(0)
    peer = ranks.peers[1]
    ranks.ask(1, has_it=True)
    ranks.peers[1] = peer
    ranks.done(1)
    assert ranks.take() == {1: "granted", 0: "go on"}
    ranks.ask(0)
    assert ranks.take() == {0: "go on"}
    ranks.ask(0)
    assert ranks.take() == {}


@pytest.mark.usefixtures("impatient")
def test_a_long_step_lets_the_others_go_on(tmp_path: Path) -> None:
    ranks = Ranks(tmp_path, 1)
    ranks.ask(1)
    ranks.ask(0)
    ranks.debugging.hear(TerminalUsed(id=ranks.ids[1], prompting=True), ranks.peers[1])
    ranks.debugging.look()
    assert ranks.take() == {1: "granted"}
    ranks.debugging.hear(TerminalUsed(id=ranks.ids[1], prompting=False), ranks.peers[1])
    ranks.debugging.look()
    assert ranks.take() == {0: "go on"}


@pytest.mark.parametrize("end", ["hung_up", "gone"])
def test_the_end_of_a_rank_gives_the_terminal_back(tmp_path: Path, end: str) -> None:
    ranks = Ranks(tmp_path, None)
    ranks.ask(1)
    ranks.ask(2)
    if end == "hung_up":
        ranks.debugging.hung_up(ranks.peers[1])
    else:
        ranks.debugging.gone(ranks.ids[1])
    ranks.debugging.look()
    assert ranks.take() == {1: "granted", 2: "go on"}
    assert not ranks.hold.exists()


def test_whoever_waits_when_the_person_quits_waits_for_the_end(tmp_path: Path) -> None:
    ranks = Ranks(tmp_path, None)
    ranks.ask(1)
    ranks.ask(2)
    ranks.done(1, quits=True)
    # So does whoever comes later: no prompt follows the one at which the person said that it was the last.
    ranks.ask(0)
    ranks.ask(2, place="x.py:2")
    ranks.fail(0, 10)
    assert ranks.take() == {1: "granted"}
    assert ranks.debugging.quits
    assert ranks.lines == []
    assert ranks.clocks.patience() is not None
    # Unless it is the rank itself, which has caught that and goes on.
    ranks.ask(1, place="x.py:3")
    assert ranks.take() == {1: "granted"}


def test_a_rank_that_does_not_exist_is_told_once(tmp_path: Path) -> None:
    ranks = Ranks(tmp_path, 7)
    ranks.ask(2)
    ranks.done(2)
    ranks.ask(1)
    assert ranks.take() == {2: "granted", 1: "go on"}
    assert ranks.lines[0] == ("--elastic-pdb-rank=7: this launch has ranks 0-2 only; the first to ask is debugged\n")
    assert len(ranks.lines) == 2


def test_nobody_gets_what_is_not_there(tmp_path: Path) -> None:
    ranks = Ranks(tmp_path, None, refusal="there is no terminal")
    ranks.ask(1)
    assert ranks.take() == {1: "there is no terminal"}
    assert not ranks.hold.exists()


def test_the_culprit_is_debugged_when_all_have_said_how_they_failed(tmp_path: Path) -> None:
    ranks = Ranks(tmp_path, None)
    ranks.fail(0, 30, "Connection closed by peer")
    assert ranks.hold.exists()
    assert ranks.clocks.patience() is None
    ranks.fail(2, 20)
    assert ranks.take() == {}
    ranks.fail(1, 10)
    assert ranks.take() == {1: "granted"}
    assert ranks.debugging.had_failure
    ranks.done(1)
    assert ranks.take() == {0: "go on", 2: "go on"}
    assert ranks.lines == []
    ranks.ask(1, "failure")  # its teardown
    assert ranks.take() == {1: "granted"}


def test_the_rank_that_the_person_wants_is_debugged_if_it_has_failed_too(tmp_path: Path) -> None:
    ranks = Ranks(tmp_path, 0)
    ranks.fail(1, 10)
    ranks.fail(2, 30)
    ranks.fail(0, 20)
    assert ranks.take() == {0: "granted"}


@pytest.mark.usefixtures("impatient")
def test_those_that_fail_late_are_not_waited_for(tmp_path: Path) -> None:
    ranks = Ranks(tmp_path, 0)
    ranks.fail(1, 10)
    assert ranks.take() == {1: "granted"}
    ranks.fail(0, 20)
    ranks.done(1)
    assert ranks.take() == {0: "go on"}
