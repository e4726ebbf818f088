"""What a fault may be, and how it is told."""

from __future__ import annotations

import signal
from typing import Any

import pytest

from pytest_elastic import AddNode, ArgumentError, KillNode, KillRank, SignalRank, StopRank, TerminateAgent
from pytest_elastic.faults import check_faults

NAMES = "KillRank, SignalRank, StopRank, KillNode, TerminateAgent, InterruptAgent, AddNode"


def check(faults: Any, *, may_add: bool = True, agents_are_processes: bool = True) -> Any:
    return check_faults("elastic_launch", faults, may_add=may_add, agents_are_processes=agents_are_processes)


@pytest.mark.parametrize(
    ("faults", "words"),
    [
        (3, f"got 3, expected a list of {NAMES}"),
        (KillRank(1), f"got KillRank(1), expected a list of {NAMES}"),
        ([KillRank], f"got <class 'pytest_elastic.faults.KillRank'> in the list, expected one of {NAMES}"),
        ([KillRank(-1)], "KillRank(-1) has rank=-1, expected an int >= 0"),
        ([KillRank(True)], "KillRank(True) has rank=True, expected an int >= 0"),
        ([KillNode("1")], "KillNode('1') has node='1', expected an int >= 0"),  # type: ignore[arg-type]
        (
            [KillRank(1, of_rank=-2, when_output="x")],
            "KillRank(1, when_output='x', of_rank=-2) has of_rank=-2, expected an int >= 0",
        ),
        ([KillRank(1, of_rank=2)], "KillRank(1, of_rank=2) has of_rank= without when_output="),
        ([KillRank(1, after=-1)], "KillRank(1, after=-1) has after=-1, expected seconds >= 0"),
        ([KillRank(1, after=float("inf"))], "KillRank(1, after=inf) has after=inf, expected seconds >= 0"),
        ([StopRank(1, for_=-0.5)], "StopRank(1, for_=-0.5) has for_=-0.5, expected seconds >= 0, or None"),
        ([SignalRank(1, 9999)], "SignalRank(1, 9999) has sig=9999, expected a signal such as signal.SIGTERM"),
        (
            [KillRank(1, when_output="(")],
            "KillRank(1, when_output='(') has when_output='(', expected a regular expression "
            "(missing ), unterminated subpattern at position 0)",
        ),
        (
            [KillRank(1, when_output=b"x")],  # type: ignore[arg-type]
            "KillRank(1, when_output=b'x') has when_output=b'x', expected a str",
        ),
    ],
    ids=str,
)
def test_what_is_not_allowed_is_one_line(faults: Any, words: str) -> None:
    with pytest.raises(ArgumentError) as caught:
        check(faults)
    text = str(caught.value)
    assert text == f"elastic_launch(faults=): {words}"
    assert text.isprintable()


def test_what_needs_another_launch() -> None:
    with pytest.raises(
        ArgumentError, match=r'AddNode\(\) needs a rendezvous that takes late nodes: rdzv_backend "c10d"'
    ):
        check([AddNode()], may_add=False)
    with pytest.raises(
        ArgumentError, match=r'KillNode\(0\) needs an agent in a process of its own, which agent="inline"'
    ):
        check([KillNode(0)], agents_are_processes=False)


def test_what_is_allowed() -> None:
    faults = (
        KillRank(0),
        StopRank(1, after=0.5, for_=2.0),
        SignalRank(2, signal.SIGUSR1, when_output="step 3", of_rank=0),
        TerminateAgent(0),
        AddNode(after=1),
    )
    assert check(faults) == faults
    assert check([]) == ()


def test_a_fault_is_told_as_one_writes_it() -> None:
    for text in (
        "KillRank(2, when_output='step 3')",
        "StopRank(1, for_=2.0, after=0.5)",
        "KillNode(1)",
        "AddNode(after=1.5)",
    ):
        assert eval(text) == eval(repr(eval(text)))
    assert repr(KillRank(2, when_output="step 3")) == "KillRank(2, when_output='step 3')"
    assert repr(AddNode()) == "AddNode()"
    assert repr(SignalRank(0, signal.SIGTERM)) == "SignalRank(0, signal.SIGTERM)"
