"""The page and the trace of the rows: each way to fail, looked at in a browser."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ..seeing.browser import chromium, logs, open_all, open_page
from ..seeing.perfetto import trace_processor
from .sessions import run_session
from .table import ROWS


@pytest.mark.soak
def test_the_page_of_the_conformance_suite(tmp_path: Path) -> None:
    files = list(dict.fromkeys(row.file for row in ROWS if row.session != "alone"))
    page, trace = tmp_path / "page.html", tmp_path / "trace.json"
    run_session(files, "--elastic-timeout=10", f"--elastic-report={page}", f"--elastic-trace={trace}")
    print(f"{page.stat().st_size / 1e6:.2f} MB, {trace.stat().st_size / 1e6:.2f} MB")
    assert json.loads(trace.read_text())["traceEvents"]
    with chromium() as browser:
        open_page(browser, page)
        listed = browser.execute_script("return document.querySelectorAll('#tests > li').length")
        outcomes = "return [...document.querySelectorAll('#tests > li')].map(row => row.dataset.outcome)"
        assert {"failed", "error", "passed", "skipped", "xfailed"} <= set(browser.execute_script(outcomes))
        assert listed >= len(files)
        open_all(browser)
        drawn = browser.execute_script("return document.querySelectorAll('.lane').length")
        assert drawn > listed
        assert browser.execute_script("return document.documentElement.scrollWidth <= innerWidth")
        said, asked = logs(browser)
        assert said == []
        assert {address for address in asked if not address.startswith("data:")} == {page.as_uri()}
        with trace_processor(browser, trace) as perfetto:
            assert perfetto.query("select name, value from stats where value > 0 and severity != 'info'") == []
