"""Serves the page of a session while it goes on, on this machine only and to whoever knows its address."""

from __future__ import annotations

import json
import secrets
import threading
from collections.abc import Callable, Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final

_HOST: Final = "127.0.0.1"
_SECONDS: Final = 10.0
"""How long a connection may say nothing."""


class PageServer:
    """A server of one page, which runs until it is closed.

    Args:
        make_page: Returns the page.
        make_state: Returns what the page asks for now and then, as JSON has it.

    Attributes:
        url: Address of the page. It has a secret in it, since other users of this machine can reach it too.

    Raises:
        OSError: There is no port to be had.
    """

    def __init__(self, make_page: Callable[[], str], make_state: Callable[[], Mapping[str, object]]) -> None:
        self._make_page = make_page
        self._make_state = make_state
        self._secret = secrets.token_urlsafe(16)
        self._server = _Server((_HOST, 0), self._handler_class())
        self.url = f"http://{_HOST}:{self._server.server_port}/{self._secret}/"
        self._thread = threading.Thread(target=self._server.serve_forever, name="elastic-page", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End it. What is being sent is broken off."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _handler_class(self) -> type[BaseHTTPRequestHandler]:
        server = self

        class Handler(BaseHTTPRequestHandler):
            timeout = _SECONDS
            server_version = "pytest-elastic"
            sys_version = ""

            def do_GET(self) -> None:
                status, kind, text = server.answer(self.path, self.headers.get("Host", ""))
                body = text.encode("utf-8", "replace")
                self.send_response(status)
                self.send_header("Content-Type", f"{kind}; charset=utf-8")
                self.send_header("Content-Length", str(len(body)))
                self.send_header("Cache-Control", "no-store")
                self.send_header("Referrer-Policy", "no-referrer")
                self.send_header("X-Content-Type-Options", "nosniff")
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 (the name that it has)
                """Say nothing: the terminal is pytest's."""

        return Handler

    def answer(self, path: str, host: str) -> tuple[HTTPStatus, str, str]:
        """Answer a request: status, type and text.

        Args:
            path: What is asked for.
            host: Whom it was sent to, as the browser says. A page from elsewhere, whose name leads here, says another.
        """
        _, _, port = host.rpartition(":")
        secret, _, name = path.lstrip("/").partition("/")
        known = secrets.compare_digest(secret.encode(), self._secret.encode())
        if not known or host not in (f"{_HOST}:{port}", f"localhost:{port}"):
            return HTTPStatus.NOT_FOUND, "text/plain", "not found\n"
        if name == "":
            return HTTPStatus.OK, "text/html", self._make_page()
        if name == "state":
            return HTTPStatus.OK, "application/json", json.dumps(self._make_state())
        return HTTPStatus.NOT_FOUND, "text/plain", "not found\n"


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: a browser may go away at any moment."""
