"""What cannot be a rendezvous is refused before anything starts."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from pytest_elastic.controller.launch_config import fields_of
from pytest_elastic.controller.planning import HOST_AND_PORT, HOST_OR_BOTH, check_rendezvous
from pytest_elastic.one_line import one_line
from pytest_elastic.spec import ArgumentError


def refusal(backend: str = "c10d", endpoint: object = "", settings: object = None, form: Any = HOST_AND_PORT) -> str:
    with pytest.raises(ArgumentError) as caught:
        check_rendezvous("call", backend, endpoint, {} if settings is None else settings, form=form)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("endpoint", ["127.0.0.1:29400", "localhost:0", "[::1]:2379", "a-b.example:65535", ""])
@pytest.mark.parametrize("form", [HOST_AND_PORT, HOST_OR_BOTH], ids=["call", "config"])
def test_endpoints(endpoint: str, form: Any) -> None:
    check_rendezvous("call", "c10d", endpoint, {}, form=form)


@pytest.mark.parametrize("endpoint", ["garbage", "host:", ":1", "host:65536", "host:x", "http://h:1", "h:1:2", 5, None])
def test_what_is_no_endpoint(endpoint: object) -> None:
    assert refusal(endpoint=endpoint) == f'call(rdzv_endpoint=): got {endpoint!r}, expected "host:port"'


def test_torchs_own_config_needs_no_port() -> None:
    check_rendezvous("config", "c10d", "localhost", {}, form=HOST_OR_BOTH)


def test_the_local_backend_has_no_endpoint() -> None:
    assert 'rdzv_backend "local" has no endpoint' in refusal("local", "127.0.0.1:1")


@pytest.mark.parametrize("name", ["backend", "endpoint", "run_id", "min_nodes", "max_nodes", "local_addr", 1])
def test_settings_that_are_given_otherwise(name: object) -> None:
    assert refusal(settings={name: 1}).startswith(
        f"call(rdzv_configs=): got the key {name!r}, expected a str, and none"
    )


@pytest.mark.parametrize("name", ["timeout", "join_timeout", "read_timeout", "keep_alive_interval"])
@pytest.mark.parametrize("value", ["x", "-1", 0, -1, True, float("nan"), float("inf"), 10**30, [1]], ids=repr)
def test_a_setting_that_is_no_number(name: str, value: object) -> None:
    text = f"call(rdzv_configs=): got {one_line(value)} for {name!r}, expected a number greater than 0"
    assert refusal(settings={name: value}) == text


def test_settings_that_torch_takes() -> None:
    settings = {"timeout": 5, "join_timeout": "30", "read_timeout": 1.5, "close_timeout": None, "protocol": "http"}
    check_rendezvous("call", "etcd", "", settings, form=HOST_OR_BOTH)
    check_rendezvous("call", "of a plugin", "", {"timeout": "soon"}, form=HOST_OR_BOTH)


def test_a_setting_that_cannot_be_sent() -> None:
    text = refusal(settings={"timeout": 5, "f": lambda: 1})
    assert text.startswith("call(rdzv_configs=): the value of 'f' cannot be sent to the agents: ")


def config(**fields: Any) -> Any:
    usual = {
        "min_nodes": 1,
        "max_nodes": 2,
        "nproc_per_node": 2,
        "role": "r",
        "rdzv_backend": "c10d",
        "max_restarts": 0,
        "start_method": "spawn",
        "metrics_cfg": {},
        "numa_options": None,
        "signals_to_handle": "SIGTERM",
    }
    return SimpleNamespace(**(usual | fields))


def test_a_config_of_an_older_torch_has_fewer_fields() -> None:
    assert fields_of(config()) == vars(config())
    assert fields_of(config(shutdown_timeout=3))["shutdown_timeout"] == 3


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"nproc_per_node": 0}, "nproc_per_node is 0, expected an int >= 1"),
        ({"nproc_per_node": "gpu"}, "nproc_per_node is 'gpu', expected an int >= 1"),
        ({"max_restarts": -1}, "max_restarts is -1, expected an int >= 0"),
        ({"min_nodes": 0}, "min_nodes is 0, expected an int >= 1"),
        ({"min_nodes": 3}, "min_nodes is 3, expected an int up to max_nodes (2)"),
        ({"start_method": "bogus"}, 'start_method is \'bogus\', expected "forkserver", "spawn" or "fork"'),
        ({"rdzv_backend": "static"}, "rdzv_backend is 'static', expected"),
    ],
    ids=repr,
)
def test_a_wrong_config_is_one_line(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(ArgumentError) as caught:
        fields_of(config(**fields))
    assert str(caught.value).startswith(f"elastic_launch(config=): {words}")
    assert "\n" not in str(caught.value)
