"""A headless Chromium, of the system's, that reaches nothing but this machine."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from selenium.webdriver import Chrome

DEADLINE = 60.0


@contextmanager
def chromium() -> Iterator[Chrome]:
    """Start a browser, or skip the test where there is none."""
    pytest.importorskip("selenium")
    program, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if program is None or driver is None:
        pytest.skip("needs chromium and chromedriver (Debian: chromium-driver)")
    from selenium.webdriver import Chrome, ChromeOptions
    from selenium.webdriver.chrome.service import Service

    options = ChromeOptions()
    options.binary_location = program
    for argument in (
        "--headless=new",
        "--no-sandbox",  # tests may run as root
        "--disable-dev-shm-usage",
        "--disable-gpu",
        "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
        "--window-size=1200,900",
    ):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    # What a browser leaves behind in the directory for temporary files goes with that.
    with TemporaryDirectory(prefix="chromium-", ignore_cleanup_errors=True) as directory:
        service = Service(driver, env={**os.environ, "TMPDIR": directory, "XDG_CONFIG_HOME": directory})
        browser = Chrome(options=options, service=service)
        try:
            browser.set_script_timeout(DEADLINE)
            browser.set_page_load_timeout(DEADLINE)
            yield browser
        finally:
            browser.quit()


def wait_for(browser: Chrome, script: str) -> Any:
    """Wait until a script returns something that counts as true, and return that."""
    deadline = time.monotonic() + DEADLINE
    while not (value := browser.execute_script(script)):
        assert time.monotonic() < deadline, f"{script}: {value!r}"
    return value


def open_page(browser: Chrome, path: Path, anchor: str = "") -> float:
    """Open a page; return after how many seconds it was ready, as the browser counts."""
    browser.get("about:blank")
    logs(browser)
    browser.get(path.as_uri() + anchor)
    wait_for(browser, "return document.documentElement.dataset.ready")
    return float(browser.execute_script("return performance.now()")) / 1e3


def logs(browser: Chrome) -> tuple[list[str], list[str]]:
    """Return what the console has said since the last time, and what was asked for at which addresses."""
    get_log: Any = browser.get_log
    said = [entry["message"] for entry in get_log("browser")]
    messages = [json.loads(entry["message"])["message"] for entry in get_log("performance")]
    asked = [each["params"]["request"]["url"] for each in messages if each["method"] == "Network.requestWillBeSent"]
    return said, asked


def press(browser: Chrome, *keys: str) -> None:
    """Press keys, wherever the focus is."""
    from selenium.webdriver import ActionChains

    ActionChains(browser, duration=0).send_keys(*keys).perform()


def open_all(browser: Chrome) -> None:
    """Open every test that is listed, and wait until all is drawn."""
    press(browser, "e")
    wait_for(browser, "return [...document.querySelectorAll('#tests details.test')].every(test => test.children[1])")
