"""Tests that are refused, each with one line; and two that are not. It is copied into a session of its own."""

from __future__ import annotations

from typing import Any

import pytest

import pytest_elastic
from pytest_elastic.options import LAUNCH_ARGUMENTS
from pytest_elastic.parametrizing import ALLOWED
from tests.hostile import HOSTILE

VALUES = (*("True", "10**5000", "nan", "''", "unicode", "[[]]", "{1: 1}", "numpy int", "numpy array", "without repr"),)
"""One of each kind of what is wrong everywhere; the unit tests try all."""
FINE = {("backend", "unicode")}
TWO_WORLDS = 'marker elastic(nnodes="1:2"): rdzv_backend "{}" knows a fixed number of nodes only'
KEPT = 'marker elastic(isolation="{}"): ranks that are kept for other tests cannot have {}'
TOO_MANY = "marker elastic(nproc=): got {}, which with nnodes {} is {} ranks; expected at most 4096 on one machine"
CONTRADICTIONS: list[tuple[dict[str, Any], str]] = [
    ({"nnodes": "1:2", "rdzv_backend": "local"}, TWO_WORLDS.format("local")),
    ({"nnodes": "1:2", "rdzv_backend": "static"}, TWO_WORLDS.format("static")),
    ({"isolation": "module", "max_restarts": 1}, KEPT.format("module", "max_restarts=1")),
    ({"isolation": "session", "nnodes": "1:2"}, KEPT.format("session", 'nnodes="1:2"')),
    ({"isolation": "module", "faults": [pytest_elastic.KillRank(0)]}, KEPT.format("module", "faults")),
    ({"faults": [pytest_elastic.AddNode()]}, "marker elastic(faults=): AddNode() needs a rendezvous that takes late"),
    ({"nproc": 5000}, TOO_MANY.format(5000, 1, 5000)),
    ({"nproc": 2, "nnodes": 4000}, TOO_MANY.format(2, 4000, 8000)),
    ({"rdzv_configs": {1: 2}}, "marker elastic(rdzv_configs=): got the key 1, expected a str, and none of"),
    ({"nproc": "gpu"}, "pytest_elastic_find_devices: got Survey(kind='cpu', private='mine', counts={'cuda': 'many'}"),
]
elastic = pytest.mark.elastic


def case(mark: pytest.MarkDecorator, *, name: str, what: str = "") -> Any:
    return pytest.param(marks=mark, id=f"{name}={what}")


@pytest.mark.parametrize(
    (),
    [
        case(elastic(**{"nproc": 2, name: HOSTILE[what]}), name=name, what=what)
        for name in ALLOWED
        for what in VALUES
        if (name, what) not in FINE
    ],
)
def test_argument() -> None:
    pass


@pytest.mark.parametrize("world_size", [HOSTILE[what] for what in VALUES], ids=range(len(VALUES)))
@elastic(nnodes=2)
def test_parameter(world_size: object) -> None:
    pass


@pytest.mark.parametrize("rank", [HOSTILE["numpy array"]], ids=["x"])
@elastic(nproc=2)
def test_rank(rank: object) -> None:
    pass


@pytest.mark.parametrize((), [case(elastic(HOSTILE[what]), name="positional", what=what) for what in VALUES])
def test_positional() -> None:
    pass


@pytest.mark.parametrize("returned", [HOSTILE[what] for what in VALUES], ids=range(len(VALUES)))
@elastic(nproc=2)
def test_hook(returned: object) -> None:
    pass


@pytest.mark.parametrize(
    "returned", [{name: HOSTILE["numpy array"]} for name in LAUNCH_ARGUMENTS], ids=LAUNCH_ARGUMENTS
)
@elastic(nproc=2)
def test_hook_value(returned: object) -> None:
    pass


@elastic(nproc=[2, HOSTILE["numpy array"]])
def test_list() -> None:
    pass


@pytest.mark.parametrize((), [case(elastic(**given), name=str(n)) for n, (given, _) in enumerate(CONTRADICTIONS)])
def test_contradiction() -> None:
    pass


@elastic(nproc=[2], timeout=60)
def test_good(rank: int) -> None:
    assert rank < 2


def test_plain() -> None:
    pass
