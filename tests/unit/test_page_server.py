"""The server of a page: whom it answers, and what."""

from __future__ import annotations

import http.client
import json
import socket
import threading
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest

from pytest_elastic.controller.page_server import PageServer

DEADLINE = 20.0


@pytest.fixture
def server() -> Iterator[PageServer]:
    server = PageServer(lambda: "<p>the page</p>", lambda: {"tests": 3})
    yield server
    server.close()


def ask(server: PageServer, path: str, host: str | None = None, method: str = "GET") -> tuple[int, str]:
    url = urlsplit(server.url)
    connection = http.client.HTTPConnection(url.hostname or "", url.port, timeout=DEADLINE)
    try:
        connection.request(method, path, headers={"Host": host or url.netloc})
        answer = connection.getresponse()
        assert answer.getheader("Server") == "pytest-elastic "
        return answer.status, answer.read().decode()
    finally:
        connection.close()


def test_whoever_knows_the_address_gets_the_page(server: PageServer) -> None:
    path = urlsplit(server.url).path
    assert ask(server, path) == (200, "<p>the page</p>")
    assert ask(server, path, host=f"localhost:{urlsplit(server.url).port}") == (200, "<p>the page</p>")
    status, state = ask(server, f"{path}state")
    assert (status, json.loads(state)) == (200, {"tests": 3})


@pytest.mark.parametrize("path", ["/", "/state", "/x/", "//", "/{secret}", "/{secret}x/", "/{secret}/other", "/%00/"])
def test_nobody_else_does(server: PageServer, path: str) -> None:
    secret = urlsplit(server.url).path.strip("/")
    status, text = ask(server, path.replace("{secret}", secret))
    # The address without its last slash is that of the page.
    assert (status, text) == ((200, "<p>the page</p>") if path == "/{secret}" else (404, "not found\n"))


def test_a_name_from_elsewhere_that_leads_here_is_not_answered(server: PageServer) -> None:
    assert ask(server, urlsplit(server.url).path, host="evil.example:80") == (404, "not found\n")
    assert ask(server, urlsplit(server.url).path, method="POST")[0] == 501


def test_it_ends_though_somebody_is_connected() -> None:
    server = PageServer(str, dict)
    url = urlsplit(server.url)
    with socket.create_connection((url.hostname or "", url.port or 0), DEADLINE):
        server.close()
    assert "elastic-page" not in [thread.name for thread in threading.enumerate()]
    with pytest.raises(OSError, match="refused"):
        socket.create_connection((url.hostname or "", url.port or 0), DEADLINE)
