from __future__ import annotations

from typing import Any

import pytest

from pytest_elastic.options import SETTINGS, Given
from pytest_elastic.spec import ArgumentError, check_names, make_spec


def test_defaults_are_the_documented_ones() -> None:
    spec = make_spec("marker elastic", {}, {})
    assert (spec.nproc, spec.min_nodes, spec.max_nodes, spec.backend) == (2, 1, 1, None)
    assert (spec.timeout, spec.max_restarts, spec.rdzv_backend, spec.seed) == (300.0, 0, "local", 0)
    assert (spec.start_method, spec.isolation, spec.device, spec.env) == ("forkserver", "function", "cpu", {})


def test_arguments_win_over_options() -> None:
    given = {"nproc": Given(value=8, source="--elastic-nproc"), "timeout": Given(value=5.0, source="ini")}
    spec = make_spec("marker elastic", {"nproc": 3}, given)
    assert (spec.nproc, spec.timeout) == (3, 5.0)
    assert spec.world_size == 3


@pytest.mark.parametrize(("nnodes", "least", "most"), [(1, 1, 1), (3, 3, 3), ("2", 2, 2), ("1:2", 1, 2), ("4:4", 4, 4)])
def test_nnodes_as_torchrun_writes_it(nnodes: int | str, least: int, most: int) -> None:
    spec = make_spec("elastic_launch", {"nnodes": nnodes}, {})
    assert (spec.min_nodes, spec.max_nodes) == (least, most)


def test_an_elastic_number_of_nodes_needs_an_elastic_rendezvous() -> None:
    assert make_spec("elastic_launch", {"nnodes": "1:2"}, {}).rdzv_backend == "c10d"
    for backend in ("local", "static"):
        with pytest.raises(ArgumentError, match=f'rdzv_backend "{backend}" knows a fixed number of nodes only'):
            make_spec("elastic_launch", {"nnodes": "1:2", "rdzv_backend": backend}, {})


BAD: list[tuple[str, Any]] = [
    ("nproc", 0),
    ("nproc", -1),
    ("nproc", True),
    ("nproc", 2.0),
    ("nproc", "4"),
    ("nproc", ""),
    ("nproc", "GPU"),
    ("nproc", None),
    ("nproc", [1, 2]),
    ("nnodes", 0),
    ("nnodes", "2:1"),
    ("nnodes", "0:1"),
    ("nnodes", "a:b"),
    ("nnodes", 1.5),
    ("backend", ""),
    ("backend", 3),
    ("device", "cuda:0"),
    ("device", ""),
    ("device", None),
    ("device", ["cpu"]),
    ("timeout", 0),
    ("timeout", -1.0),
    ("timeout", "10"),
    ("timeout", float("inf")),
    ("timeout", float("nan")),
    ("timeout", True),
    ("max_restarts", -1),
    ("max_restarts", "1"),
    ("rdzv_backend", "zookeeper"),
    ("isolation", "class"),
    ("start_method", "fork"),
    ("env", {"A": 1}),
    ("env", ["A=1"]),
    ("env", {"A=B": "1"}),
    ("seed", -1),
    ("seed", 2**64),
    ("seed", "0"),
]


@pytest.mark.parametrize(("name", "value"), BAD)
def test_a_bad_value_is_one_line_that_says_who_got_what_and_what_is_allowed(name: str, value: Any) -> None:
    with pytest.raises(ArgumentError) as error:
        make_spec("marker elastic", {name: value}, {})
    text = str(error.value)
    assert "\n" not in text
    assert text == f"marker elastic({name}=): got {SETTINGS[name].show(value)}, expected {SETTINGS[name].allowed}"
    assert name == "env" or f"got {value!r}," in text


def test_every_launch_argument_has_a_bad_value_above() -> None:
    assert {name for name, _ in BAD} == {name for name, setting in SETTINGS.items() if setting.launch}


def test_an_unknown_name_is_refused_with_the_nearest_and_all_others() -> None:
    with pytest.raises(ArgumentError, match=r"'nprocs' \(did you mean nproc\?\); allowed are nproc, nnodes, backend"):
        make_spec("marker elastic", {"nprocs": 2}, {})


def test_names_beside_a_config_are_few() -> None:
    with pytest.raises(ArgumentError, match=r"elastic_launch\(config=\) has no argument 'nproc'; allowed are timeout"):
        check_names("elastic_launch(config=)", ["nproc"], ("timeout", "env"))


@pytest.mark.parametrize(
    ("env", "shown"),
    [
        ({"TOKEN": "hunter2", "A": 1}, "{'A': 1}"),
        ({"TOKEN": b"hunter2"}, "{'TOKEN': <bytes>}"),
        ({"TOKEN": "hunter2\0"}, "{'TOKEN': <a str that no environment can hold>}"),
        ({"TOKEN": "hunter2", "A": None}, "{'A': None}"),
        ({"TOKEN": "hunter2", "": "hunter2"}, "{'': <str>}"),
        (["TOKEN=hunter2"], "a list"),
        ("TOKEN=hunter2", "a str"),
        ("TOKEN=hunter2\nA hunter2", "'A'"),
        ("==hunter2", "'=...'"),
        ("=hunter2", "'=...'"),
        ({"TOKEN=hunter2": ""}, "{'TOKEN=...': <str>}"),
        ({b"TOKEN=hunter2": ""}, "{<bytes>: <str>}"),
    ],
)
def test_what_variables_hold_is_not_shown(env: object, shown: str) -> None:
    with pytest.raises(ArgumentError) as error:
        make_spec("marker elastic", {"env": env}, {})
    assert str(error.value) == f"marker elastic(env=): got {shown}, expected a dict of str to str"
