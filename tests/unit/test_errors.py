from __future__ import annotations

import pickle
import signal
from pathlib import Path

import pytest

import pytest_elastic
from pytest_elastic import AgentFailedError, AgentResult, ElasticError, ElasticTimeoutError, EtcdServerError, PortError
from pytest_elastic.pickling import UnpicklableError, pickle_exception
from pytest_elastic.report.verdict import load_exception
from pytest_elastic.result import LaunchResult, Output

RESULT = LaunchResult(
    name="train",
    values_by_rank={0: 1},
    stdout=Output({}),
    stderr=Output({}),
    exitcodes={},
    durations={},
    failures=(),
    restarts=0,
    worlds=[4, 2],
    agents=(),
    log_dir=Path("/nowhere"),
)


@pytest.mark.parametrize(
    ("error", "attributes"),
    [
        (ElasticError("words"), ()),
        (PortError("words", wanted=3), ("wanted",)),
        (EtcdServerError("words", tried=("a",), output="o"), ("tried", "output")),
        (ElasticTimeoutError("words", timeout=3.0, stacks={0: "s"}, result=RESULT), ("timeout", "stacks", "first")),
        (
            AgentFailedError("words", agent=AgentResult(node_rank=0, state="FAILED", exitcode=1), result=RESULT),
            ("agent",),
        ),
    ],
    ids=lambda value: type(value).__name__,
)
def test_every_error_pickles_with_its_facts(error: ElasticError, attributes: tuple[str, ...]) -> None:
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error)
    assert str(again) == "words"
    for name in attributes:
        assert getattr(again, name) == getattr(error, name)


def test_a_timeout_is_a_timeout_error() -> None:
    assert issubclass(ElasticTimeoutError, TimeoutError)


def test_a_result_is_a_mapping() -> None:
    assert RESULT == {0: 1}
    assert list(RESULT) == [0]
    assert RESULT.world_size == 2
    assert RESULT.first is None


def test_the_public_names_are_sorted_and_there() -> None:
    assert pytest_elastic.__all__ == sorted(pytest_elastic.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        pytest_elastic.nothing  # noqa: B018


class NeedsTwoError(Exception):
    def __init__(self, message: str, sigval: signal.Signals) -> None:
        super().__init__(message)
        self.sigval = sigval


class NoTextError(Exception):
    def __str__(self) -> str:
        raise ValueError("no")


class HoldsGeneratorError(Exception):
    def __init__(self) -> None:
        super().__init__(iter(()))


def test_an_exception_whose_init_wants_more_is_rebuilt_by_its_parts() -> None:
    again = pickle.loads(pickle_exception(NeedsTwoError("words", signal.SIGTERM)))
    assert isinstance(again, NeedsTwoError)
    assert again.sigval is signal.SIGTERM
    assert again.args == ("words",)


@pytest.mark.parametrize("error", [NoTextError("x"), HoldsGeneratorError(), ValueError("plain")])
def test_every_exception_can_be_sent_somehow(error: Exception) -> None:
    again = pickle.loads(pickle_exception(error))
    assert isinstance(again, (type(error), UnpicklableError))


def test_what_cannot_be_read_again_becomes_a_stand_in_that_says_so() -> None:
    error = load_exception(b"not a pickle", "lib.Odd", "what it said")
    assert isinstance(error, UnpicklableError)
    assert str(error) == "lib.Odd: what it said (the exception itself could not be sent)"
