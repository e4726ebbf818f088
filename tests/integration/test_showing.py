"""What a session shows of its launches: files, tables, and what others read."""

from __future__ import annotations

import base64
import json
import re
import sys
import zlib
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

pytestmark = pytest.mark.filterwarnings("ignore:Failed to initialize NumPy:UserWarning")

SOURCE = """
import os, sys, time
import pytest

@pytest.mark.elastic(nproc=2)
def test_passes(rank, elastic_barrier):
    print("spoken by", rank)
    if rank == 1:
        time.sleep(0.1)
    elastic_barrier()

@pytest.mark.elastic(nproc=3)
def test_fails(rank, elastic_barrier):
    if rank == 1:
        raise ValueError("in <b>one</b> rank")
    if rank == 2:
        os._exit(3)
    time.sleep(30)

@pytest.mark.elastic(nproc=2, max_restarts=1)
def test_restarts(rank, elastic_tmp_path):
    again = elastic_tmp_path / "again"
    if not again.exists():
        again.touch()
        os._exit(5)

def work(fails):
    print("at work")
    assert not fails, "a function"

def test_launches(elastic_launch):
    elastic_launch(work, False, nproc=1)
    elastic_launch(work, True, nproc=1)

def test_plain():
    pass
"""
OUTCOMES = {
    "test_passes": "passed",
    "test_fails": "failed",
    "test_restarts": "passed",
    "test_launches": "failed",
    "test_plain": "passed",
}


def run(pytester: pytest.Pytester, *args: str) -> pytest.RunResult:
    pytester.makepyfile(test_it=SOURCE)
    return pytester.run(sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *args, timeout=200)


def page_tests(page: Path) -> dict[str, dict[str, Any]]:
    found = re.search(r'id="data">([^<]*)<', page.read_text())
    assert found is not None
    tests = json.loads(zlib.decompress(base64.b64decode(found[1])))["tests"]
    return {test["id"].rpartition("::")[2]: test for test in tests}


def check_page(page: Path) -> None:
    tests = page_tests(page)
    assert {name: test["outcome"] for name, test in tests.items()} == OUTCOMES
    assert [len(tests[name]["launches"]) for name in OUTCOMES] == [1, 1, 1, 2, 0]
    [passed] = tests["test_passes"]["launches"]
    assert [lane["stdout"] for lane in passed["lanes"]] == ["spoken by 0", "spoken by 1"]
    assert [lane["text"] for lane in passed["lanes"]] == ["passed", "passed"]
    [failed] = tests["test_fails"]["launches"]
    assert failed["culprit"] == 2
    assert failed["verdict"].startswith("rank 2 of 3 failed first, after ")
    assert failed["verdict"] in tests["test_fails"]["texts"][0][1]
    [restarted] = tests["test_restarts"]["launches"]
    assert (restarted["worlds"], restarted["restarts"], len(restarted["lanes"])) == ([2, 2], 1, 4)
    assert "restart 1, world of 2 ranks" in [text for _, _, text, _ in restarted["marks"]]
    good, bad = tests["test_launches"]["launches"]
    assert (good["verdict"], good["culprit"], bad["culprit"]) == ("", None, 0)
    assert "a function" in bad["traceback"]


def test_everything_at_once(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_WORKSPACE", str(pytester.path.parent))
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(pytester.path / "summary.md"))
    result = run(
        pytester,
        "-v",
        "--elastic-report=shown/page.html",
        "--elastic-trace=shown/trace.json",
        "--elastic-durations=2",
        "--junitxml=junit.xml",
    )
    lines = result.outlines
    told = "\n".join(lines)
    assert result.ret == 1, told
    assert "test_it.py::test_passes PASSED [2 ranks]" in told
    assert re.search(r"test_it.py::test_fails FAILED \[0 killed 1 \w+ 2 FAILED\]", told)
    assert f"elastic report: {pytester.path / 'shown/page.html'}" in lines
    assert f"elastic trace: {pytester.path / 'shown/trace.json'}" in lines
    check_page(pytester.path / "shown/page.html")

    events = json.loads((pytester.path / "shown/trace.json").read_text())["traceEvents"]
    names = {event["pid"]: event["args"]["name"] for event in events if event["name"] == "process_name"}
    assert set(names.values()) == {"tests", "rank 0", "rank 1", "rank 2"}
    calls = [names[event["pid"]] for event in events if event["name"] == "call"]
    assert {"rank 0", "rank 1", "rank 2"} == set(calls)
    sizes = [event["args"]["MB"] for event in events if event["name"] == "memory"]
    assert min(sizes) > 10

    title = lines.index(next(line for line in lines if "where the time of the 2 slowest launches went" in line))
    assert lines[title + 1].split()[:2] == ["seconds", "start"]
    rows = [line.split() for line in lines[title + 2 : title + 4]]
    assert [len(row) for row in rows] == [len(lines[title + 1].split())] * 2
    assert float(rows[0][0]) >= float(rows[1][0])

    [failed, launched] = [line for line in lines if line.startswith("::error ")]
    where = f"file={pytester.path.name}/test_it.py,line="
    assert failed.startswith(f"::error {where}")
    assert "title=test_it.py%3A%3Atest_fails [0 killed" in failed
    assert "::rank 2 of 3 failed first" in failed
    assert launched.startswith(f"::error {where}")
    summary = (pytester.path / "summary.md").read_text()
    assert summary.startswith("### Tests on ranks: 2 failed, 3 passed\n")
    assert "| test\\_it.py::test\\_fails | 0 killed" in summary

    tree = ElementTree.parse(pytester.path / "junit.xml")
    properties = {
        case.get("name"): {each.get("name"): each.get("value") for each in case.iter("property")}
        for case in tree.iter("testcase")
    }
    common = {"elastic_nproc": "2", "elastic_nnodes": "1", "elastic_restarts": "0"}
    assert properties["test_passes"] == common
    assert properties["test_fails"] == common | {"elastic_nproc": "3", "elastic_culprit_rank": "2"}
    assert properties["test_restarts"] == common | {"elastic_restarts": "1"}
    assert properties["test_plain"] == {}


@pytest.mark.soak
def test_workers_of_xdist_send_what_they_know(pytester: pytest.Pytester) -> None:
    run(pytester, "-n", "2", "--elastic-report=page.html", "--elastic-trace=trace.json", "--elastic-durations=0")
    check_page(pytester.path / "page.html")
    assert json.loads((pytester.path / "trace.json").read_text())["traceEvents"]


@pytest.mark.soak
def test_a_session_that_goes_on_shows_what_was_over(pytester: pytest.Pytester) -> None:
    args = ("--elastic-record=record", "--elastic-report=page.html")
    pytester.makeconftest(
        """
        import os
        def pytest_runtest_logfinish(nodeid):
            if "test_launches" in nodeid and not os.path.exists("again"):
                open("again", "w").close()
                os._exit(9)
        """
    )
    assert run(pytester, *args).ret == 9
    run(pytester, *args)
    check_page(pytester.path / "page.html")


@pytest.mark.parametrize(
    ("args", "line"),
    [
        (["--elastic-report=."], "--elastic-report: '.' is a directory, expected a file"),
        (["--elastic-report="], "--elastic-report: got '', expected the path of a file"),
        (
            ["--elastic-report=one", "--elastic-trace=./one"],
            "--elastic-report and --elastic-trace: got './one' for both, expected two files",
        ),
        (["--elastic-durations=-1"], "--elastic-durations: got '-1', expected an int >= 0"),
        (
            ["-p", "hides_jinja", "--elastic-report=page.html"],
            '--elastic-report: needs Jinja2, which is not installed: pip install "pytest-elastic[report]"',
        ),
    ],
)
def test_what_cannot_be_done_is_told_in_one_line(pytester: pytest.Pytester, args: list[str], line: str) -> None:
    pytester.makepyfile(hides_jinja="import sys\nsys.modules['jinja2'] = None")
    pytester.syspathinsert()
    result = pytester.runpytest_inprocess("-p", "no:cacheprovider", *args)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert [text for text in result.errlines if text.strip()] == [f"ERROR: {line}"]


def test_the_address_of_the_page_is_told_without_a_terminal_reporter_too(pytester: pytest.Pytester) -> None:
    result = pytester.runpytest_inprocess("-p", "no:cacheprovider", "-p", "no:terminal", "--elastic-serve")
    result.stderr.re_match_lines([r"elastic page: http://127\.0\.0\.1:\d+/.+/$"])
