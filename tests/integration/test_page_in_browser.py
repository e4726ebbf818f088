"""The page, in a browser: what a person sees and does there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_elastic.report.page import PageHead, make_page
from pytest_elastic.report.seen import SeenTest

from ..seeing import samples
from ..seeing.browser import DEADLINE, chromium, logs, open_all, open_page, press, wait_for

if TYPE_CHECKING:
    from selenium.webdriver import Chrome

NAMES = "return [...document.querySelectorAll('#tests .name')].map(name => name.textContent.split('::')[1])"
OPEN = "return [...document.querySelectorAll('#tests > li > details[open] .name')].map(name => name.textContent)"
FOCUSED = "return document.activeElement.querySelector('.name')?.textContent"
COUNT = "return document.getElementById('count').textContent"


def write_page(directory: Path, tests: list[SeenTest]) -> Path:
    head = PageHead(title="project", seconds=5.0, when="today", made_of="pytest", version="1")
    outcomes = [test.outcome for test in tests]
    counts = {outcome: outcomes.count(outcome) for outcome in dict.fromkeys(outcomes)}
    page = directory / "page.html"
    page.write_text(make_page(head, tests, counts), encoding="utf-8")
    return page


@pytest.fixture(scope="module")
def browser() -> Iterator[Chrome]:
    with chromium() as started:
        yield started


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_page(tmp_path_factory.mktemp("page"), samples.session())


@pytest.fixture
def opened(browser: Chrome, page: Path) -> Chrome:
    open_page(browser, page)
    return browser


def fill(browser: Chrome, element: str, value: str) -> None:
    """Give an element of the form a value, as a person's input does."""
    browser.execute_script(
        "const e = document.getElementById(arguments[0]); e.value = arguments[1];"
        "e.dispatchEvent(new Event('input', {bubbles: true}))",
        element,
        value,
    )


def test_it_opens_with_the_failures_and_asks_nobody_for_anything(opened: Chrome, page: Path) -> None:
    names = opened.execute_script(NAMES)
    assert names == ["test_fails", "test_skipped", "test_passes", "test_slow", "test_plain"]
    assert opened.execute_script(OPEN) == ["tests/test_a.py::test_fails"]
    assert opened.title == "project: 3 passed, 1 failed, 1 skipped"
    said, asked = logs(opened)
    assert said == []
    assert {address for address in asked if not address.startswith("data:")} == {page.as_uri()}


def test_a_failure_shows_what_each_rank_did(opened: Chrome) -> None:
    launch = "document.querySelector('details[open] .launch')"
    wait_for(opened, f"return {launch} !== null")
    groups = opened.execute_script(f"return [...{launch}.querySelectorAll('.group')].map(e => e.textContent)")
    assert groups == [f"world {world} of 2 (4 ranks), node {node}" for world in (1, 2) for node in (0, 1)]
    lanes = opened.execute_script(
        f"return [...{launch}.querySelectorAll('.lane')].map(e => ['who', 'state', 'hidden'].map("
        "name => e.querySelector('.' + name).textContent))"
    )
    assert [who for who, _, _ in lanes] == ["rank 0", "rank 2", "rank 1", "rank 3"] * 2
    assert [state for _, state, _ in lanes[4:]] == ["lost peer", "failed", "ok", "killed"]
    assert lanes[5][2].startswith(
        "failed first: assert 1 == 2: start 50 ms, rendezvous 50 ms, fork 50 ms, set-up 150 ms"
    )
    spans = opened.execute_script(
        f"return [...{launch}.querySelectorAll('.lane')].pop().querySelectorAll('.track b').length"
    )
    assert spans == 7  # five steps, the end, and a wait within the call
    marks = opened.execute_script(f"return [...{launch}.querySelectorAll('.marks li')].map(e => e.textContent)")
    assert [mark.partition(": ")[2] for mark in marks] == [
        "KillRank(1)",
        "restart 1, world of 4 ranks",
        "rank 2 failed first: assert 1 == 2",
    ]
    parts = opened.execute_script(
        "return [...document.querySelectorAll('details[open] details.part > summary')].map(e => e.textContent)"
    )
    assert parts[:2] == ["Stack of ranks 0,3", "Seconds of each rank"]
    assert "stdout of rank 2 of world 2 (2 lines)" in parts
    assert parts[-1] == "Call failed"
    assert "</script><script>document.title = 'hacked'</script>" in opened.execute_script(
        "return document.querySelector('details[open] .launch').textContent"
    )


@pytest.mark.parametrize(
    ("element", "value", "names"),
    [
        ("words", "KILLRANK", ["test_fails"]),
        ("words", "shard test_a", ["test_fails", "test_passes", "test_slow"]),
        ("words", "nothing has this", []),
        ("rank", "2", ["test_fails"]),
        ("rank", "7", []),
        ("least", "1.05", ["test_fails", "test_passes", "test_slow"]),
        ("node", "node 1", ["test_fails", "test_passes", "test_slow"]),
        ("order", "run", ["test_passes", "test_fails", "test_slow", "test_skipped", "test_plain"]),
        ("order", "slow", ["test_fails", "test_passes", "test_slow", "test_skipped", "test_plain"]),
    ],
)
def test_what_is_listed_can_be_chosen(browser: Chrome, page: Path, element: str, value: str, names: list[str]) -> None:
    if browser.current_url != page.as_uri():  # each test clears what it has chosen
        open_page(browser, page)
    opened = browser
    fill(opened, element, value)
    wait_for(opened, f"return (() => {{ {NAMES} }})().join() === '{','.join(names)}'")
    assert opened.execute_script(COUNT) == ("5 tests" if len(names) == 5 else f"{len(names)} of 5 tests")
    opened.execute_script("document.getElementById('filters').reset()")
    wait_for(opened, f"return (() => {{ {COUNT} }})() === '5 tests'")


def test_an_outcome_can_be_left_out(opened: Chrome) -> None:
    opened.execute_script("document.querySelector('#outcomes input[value=passed]').click()")
    wait_for(opened, f"return (() => {{ {COUNT} }})() === '2 of 5 tests'")
    assert opened.execute_script(NAMES) == ["test_fails", "test_skipped"]


def test_everything_can_be_done_by_keys(opened: Chrome) -> None:
    from selenium.webdriver.common.keys import Keys

    press(opened, "j", "j")
    assert opened.execute_script(FOCUSED) == "tests/test_b.py::test_skipped"
    press(opened, "p")
    assert opened.execute_script(FOCUSED) == "tests/test_a.py::test_fails"
    press(opened, Keys.ENTER)
    wait_for(opened, f"return (() => {{ {OPEN} }})().length === 0")
    press(opened, "j", "j", Keys.ENTER)
    wait_for(opened, f"return (() => {{ {OPEN} }})().join() === 'tests/test_a.py::test_passes'")
    press(opened, "k", "e")
    assert len(opened.execute_script(OPEN)) == 5
    press(opened, "c", "/")
    assert opened.execute_script("return document.activeElement.id") == "words"
    press(opened, "s", "l", "o", "w")
    wait_for(opened, f"return (() => {{ {COUNT} }})() === '1 of 5 tests'")
    press(opened, Keys.ESCAPE)
    wait_for(opened, f"return (() => {{ {COUNT} }})() === '5 tests'")
    press(opened, "?")
    assert opened.execute_script("return document.getElementById('keys').open")
    press(opened, Keys.ESCAPE)
    wait_for(opened, "return !document.getElementById('keys').open")
    press(opened, Keys.TAB)
    assert opened.execute_script("return document.activeElement !== document.body")


def test_a_test_can_be_linked_to(browser: Chrome, page: Path) -> None:
    open_page(browser, page, "#tests/test_a.py::test_slow")
    assert "tests/test_a.py::test_slow" in browser.execute_script(OPEN)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_is_in_the_way_of_those_who_see_or_use_it_otherwise(browser: Chrome, page: Path, scheme: str) -> None:
    Axe = pytest.importorskip("axe_selenium_python").Axe  # noqa: N806 (a class)
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    open_page(browser, page)
    open_all(browser)
    axe = Axe(browser)
    axe.inject()
    found = [(rule["id"], node["html"][:200]) for rule in axe.run()["violations"] for node in rule["nodes"]]
    assert found == [], "\n".join(map(str, found))


def test_it_fits_a_phone(browser: Chrome, page: Path) -> None:
    size = {"width": 390, "height": 844, "deviceScaleFactor": 1, "mobile": True}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    try:
        open_page(browser, page)
        open_all(browser)
        assert browser.execute_script("return document.documentElement.scrollWidth") <= 390
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_a_browser_that_cannot_decompress_shows_the_same(browser: Chrome, page: Path) -> None:
    script = browser.execute_cdp_cmd(
        "Page.addScriptToEvaluateOnNewDocument", {"source": "delete window.DecompressionStream"}
    )
    try:
        open_page(browser, page)
        assert browser.execute_script("return typeof DecompressionStream") == "undefined"
        assert len(browser.execute_script(NAMES)) == 5
    finally:
        browser.execute_cdp_cmd("Page.removeScriptToEvaluateOnNewDocument", {"identifier": script["identifier"]})


def test_of_thousands_of_ranks_those_that_went_wrong_are_drawn(browser: Chrome, tmp_path: Path) -> None:
    launch = samples.passes(ranks=600)
    lanes = [samples.lane(rank, "failed" if rank > 590 else "passed") for rank in range(600)]
    page = write_page(tmp_path, [samples.seen("test_many", "failed", replace(launch, lanes=tuple(lanes)))])
    open_page(browser, page)
    wait_for(browser, "return document.querySelector('tbody tr') !== null")
    drawn = browser.execute_script("return [...document.querySelectorAll('.lane .state')].map(e => e.textContent)")
    assert (len(drawn), drawn.count("failed")) == (256, 9)
    assert len(browser.execute_script("return [...document.querySelectorAll('tbody tr')]")) == 600


def test_a_thousand_tests_of_eight_ranks_open_soon(browser: Chrome, tmp_path: Path, record_property: Any) -> None:
    page = write_page(tmp_path, samples.large_session(1_000, 8))
    seconds = open_page(browser, page)
    print(f"{page.stat().st_size / 1e6:.2f} MB, ready after {seconds:.2f} s")
    # As promised on a machine that has nothing else to do.
    assert seconds < float(os.environ.get("PAGE_SECONDS", "20"))
    fill(browser, "words", "test_77")
    wait_for(browser, f"return (() => {{ {COUNT} }})() === '11 of 1000 tests'")


SERVED = """
import pathlib, time

def test_first():
    pass

def test_second():
    while not pathlib.Path("go").exists():
        time.sleep(0.02)

def test_third():
    while not pathlib.Path("end").exists():
        time.sleep(0.02)
"""
LIVE = "return document.getElementById('live').textContent"


def test_it_is_served_while_the_session_goes_on(browser: Chrome, tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(SERVED)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--elastic-serve"]
    output = tmp_path / "output"
    with output.open("w") as stdout, subprocess.Popen(command, cwd=tmp_path, stdout=stdout) as session:
        try:
            deadline = time.monotonic() + DEADLINE
            while (found := re.search(r"^elastic page: (.*)\n", output.read_text(), re.MULTILINE)) is None:
                assert time.monotonic() < deadline, output.read_text()
                time.sleep(0.02)
            logs(browser)
            browser.get(found[1])
            wait_for(browser, f"{LIVE}.startsWith('Running: test_it.py::test_second.')")
            if browser.execute_script(NAMES) == []:  # it was asked for before the first test was over
                browser.execute_script("document.getElementById('again').click()")
                wait_for(browser, "return document.documentElement.dataset.ready")
            assert browser.execute_script(NAMES) == ["test_first"]
            assert "1 passed so far, after" in browser.execute_script("return document.body.textContent")
            fill(browser, "words", "test_it")
            (tmp_path / "go").touch()
            wait_for(browser, f"{LIVE} === 'Running: test_it.py::test_third. Show 1 more test'")
            browser.execute_script("document.getElementById('again').click()")
            wait_for(browser, f"{NAMES}.length === 2")
            assert browser.execute_script("return document.getElementById('words').value") == "test_it"
            (tmp_path / "end").touch()
            wait_for(browser, f"{LIVE} === 'The session is over, or was ended: nothing more comes.'")
            assert session.wait(DEADLINE) == 0
        finally:
            for name in ("go", "end"):
                (tmp_path / name).touch()
            session.wait(DEADLINE)
    said, asked = logs(browser)
    assert all("state" in message and "ERR_CONNECTION" in message for message in said)  # once the session was over
    assert {url.split("/")[2].split(":")[0] for url in asked if url.startswith("http")} == {"127.0.0.1"}
