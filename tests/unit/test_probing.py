"""Whether an etcd is still there."""

from __future__ import annotations

import socket

import pytest

from pytest_elastic.controller.probing import unreachable_endpoint


def ask(host: str, port: int) -> str:
    return unreachable_endpoint({"rdzv_endpoint": f"{host}:{port}", "rdzv_backend": "etcd"})


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_server_of_this_machine_is_asked(host: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert ask(host, port) == ""
    assert ask(host, port) == f"{host}:{port}"


def test_names_are_not_looked_up(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    look_up = socket.getaddrinfo

    def numeric(host: str, port: int, **kwargs: int) -> object:
        asked.append(kwargs["flags"] & socket.AI_NUMERICHOST)
        return look_up(host, port, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", numeric)
    assert [ask(host, 2379) for host in ("a.host.example", "x" * 70, "[::1%nothing]")] == ["", "", ""]
    assert all(asked)
    assert len(asked) == 3
