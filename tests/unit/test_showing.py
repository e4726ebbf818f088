"""What is made of the launches of a session: the page, the trace, and what GitHub Actions shows."""

from __future__ import annotations

import base64
import json
import re
import time
import zlib
from collections import defaultdict
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from pytest_elastic.report.github import annotation, summary
from pytest_elastic.report.page import PageHead, make_page, pack
from pytest_elastic.report.picture import picture
from pytest_elastic.report.seen import LAUNCHES, SeenSession, SeenTest, counts_of
from pytest_elastic.report.timeline import to_data
from pytest_elastic.report.trace import make_trace

from ..seeing import samples

HEAD = PageHead(title="a <b>project</b>", seconds=12.3, when="today", made_of="pytest 1", version="1")


def unpacked(page: str) -> dict[str, Any]:
    found = re.search(r'id="data">([^<]*)<', page)
    assert found is not None
    data: dict[str, Any] = json.loads(zlib.decompress(base64.b64decode(found[1])))
    return data


class Outline(HTMLParser):
    """What a page loads, and what is in which element."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "action")]


def test_the_page_is_one_file_that_loads_nothing() -> None:
    page = make_page(HEAD, samples.session(), {"failed": 1, "passed": 3})
    outline = Outline()
    outline.feed(page)
    assert outline.addresses == ["data:,", "#tests"]
    assert outline.tags.count("script") == 2  # what ranks write cannot add one
    assert not re.search(r"https?://", page)
    assert "a &lt;b&gt;project&lt;/b&gt;" in page
    assert "1 failed, 3 passed" in page
    assert [test["id"] for test in unpacked(page)["tests"]] == [test.nodeid for test in samples.session()]


def test_a_thousand_tests_of_eight_ranks_stay_small() -> None:
    begin = time.process_time()
    page = make_page(HEAD, samples.large_session(1_000, 8), {"passed": 1_000})
    print(f"{len(page) / 1e6:.2f} MB, made in {time.process_time() - begin:.2f} s")
    assert len(page) < 8_000_000


def test_what_ranks_wrote_is_left_out_where_it_is_too_much() -> None:
    tests = samples.session()
    tests[1].launches[0]["lanes"][0]["stdout"] = "".join(map(str, range(1_000)))
    whole, note = pack(tests)
    assert note == ""
    for most, told in ((len(whole) - 1, "Of what"), (1, "What ranks wrote is not here")):
        packed, note = pack(tests, most)
        assert note.startswith(told)
    lanes = json.loads(zlib.decompress(base64.b64decode(packed)))["tests"][1]["launches"][0]["lanes"]
    assert not any("stdout" in lane for lane in lanes)
    assert lanes[0]["spans"]


def test_long_tracebacks_are_shortened_where_they_are_too_much() -> None:
    tests = samples.session()
    tests[0].texts = [("Call failed", "a" * 100_000 + "the end")]
    packed, note = pack(tests, 1)
    assert note.endswith("of tracebacks only the ends: it was too much.")
    [(_, text)] = json.loads(zlib.decompress(base64.b64decode(packed)))["tests"][0]["texts"]
    assert len(text) < 1_000
    assert text.endswith("the end")


def test_the_worst_of_its_phases_is_the_outcome_of_a_test() -> None:
    session = SeenSession()
    data = to_data(samples.fails())
    for when, category, longrepr in (
        ("setup", "", None),
        ("call", "failed", "assert 1 == 2"),
        ("teardown", "error", "assert 3 == 4"),
    ):
        outcome = "failed" if longrepr else "passed"
        report = pytest.TestReport(
            "test_it.py::test_it",
            ("test_it.py", 6, "test_it"),
            {},
            outcome,  # type: ignore[arg-type]
            longrepr,
            when,  # type: ignore[arg-type]
            sections=[("Captured log", "text")],
            duration=0.5,
        )
        if when == "teardown":
            vars(report)[LAUNCHES] = [data]
        session.add(report, category)
    [test] = session.tests
    assert (test.outcome, test.seconds, test.file, test.line) == ("error", 1.5, "test_it.py", 7)
    assert test.texts == [("Call failed", "assert 1 == 2"), ("Teardown error", "assert 3 == 4")]
    assert test.launches == [data]
    assert test.sections == [("Captured log", "text")]
    assert counts_of(session.tests) == {"error": 1}


def test_what_could_not_be_collected_is_there() -> None:
    session = SeenSession()
    session.add_error(pytest.CollectReport("test_it.py", "failed", "some lines\nE   ImportError: no such module", []))
    [test] = session.tests
    assert (test.nodeid, test.outcome, test.verdict) == ("test_it.py", "error", "ImportError: no such module")
    assert not unpacked(make_page(HEAD, session.tests, counts_of(session.tests)))["tests"][0]["launches"]


def test_a_trace_has_a_process_for_each_rank() -> None:
    trace = json.loads(json.dumps(make_trace(samples.session())))
    events = trace["traceEvents"]
    names = {e["pid"]: e["args"]["name"] for e in events if e["name"] == "process_name"}
    assert names == {1: "tests", 2: "rank 0", 3: "rank 1", 4: "rank 2", 5: "rank 3"}
    check_nesting(events)
    slices = [(names[e["pid"]], e["name"]) for e in events if e["ph"] == "X"]
    assert slices.count(("rank 2", "call")) == 3  # test_passes, and both worlds of test_fails
    assert ("tests", "tests/test_a.py::test_fails") in slices
    marks = {e["name"]: names[e["pid"]] for e in events if e["ph"] == "i"}
    assert marks == {
        "KillRank(1)": "rank 1",
        "restart 1, world of 4 ranks": "tests",
        "rank 2 failed first: assert 1 == 2": "rank 2",
    }
    memory = [e["args"]["MB"] for e in events if e["ph"] == "C" and e["pid"] == 3]
    assert len(memory) > 8
    assert set(memory) == {101.0}
    assert min(e["ts"] for e in events if e["ph"] != "M") == 0


def test_launches_that_run_at_the_same_time_have_tracks_of_their_own() -> None:
    tests = [samples.seen(f"test_{i}", "passed", samples.passes(f"test_{i}", at=i / 2)) for i in range(4)]
    events = make_trace(tests)["traceEvents"]
    check_nesting(events)
    assert [e["tid"] for e in events if e["ph"] == "X" and e["pid"] == 1] == [1, 2, 3, 1]


def check_nesting(events: list[dict[str, Any]]) -> None:
    """Check that slices of one track lie beside or within each other, as those who draw them expect."""
    tracks: dict[tuple[int, int], list[tuple[int, int]]] = defaultdict(list)
    for event in events:
        assert type(event["pid"]) is int
        assert type(event["tid"]) is int
        if event["ph"] == "X":
            assert event["dur"] >= 0
            tracks[event["pid"], event["tid"]].append((event["ts"], event["ts"] + event["dur"]))
    for slices in tracks.values():
        open_until: list[int] = []
        for begin, end in sorted(slices, key=lambda times: (times[0], -times[1])):
            while open_until and open_until[-1] <= begin:
                open_until.pop()
            assert not open_until or end <= open_until[-1], (begin, end, open_until)
            open_until.append(end)


def test_github_is_told_where_and_why(tmp_path: Path) -> None:
    test = samples.seen("test_a.py::test_x[a,b]", "failed", samples.fails(), file="sub/test_a.py", line=7)
    test.rank_map = "0 ok 1 FAILED"
    line = annotation(test, {"GITHUB_WORKSPACE": str(tmp_path)}, tmp_path / "project")
    assert line == (
        "::error file=project/sub/test_a.py,line=7,title=test_a.py%3A%3Atest_x[a%2Cb] [0 ok 1 FAILED]::"
        "rank 2 of 4 failed first, after 1.00 s: assert 1 == 2 (rank 3 blocked in barrier, killed)"
    )
    text = summary([test, *samples.session()], {"failed": 1, "passed": 3})
    assert text.startswith("### Tests on ranks: 1 failed, 3 passed\n\n| test | ranks | verdict |\n")
    assert r"| test\_a.py::test\_x\[a,b\] | 0 ok 1 FAILED | rank 2 of 4 failed first" in text
    good: list[SeenTest] = [test for test in samples.session() if not test.bad]
    assert "2 tests ran on ranks; none failed." in summary(good, {"passed": 3})


def test_a_picture_has_each_rank_and_says_what_it_shows() -> None:
    drawn = ElementTree.fromstring(picture(samples.fails()))
    names = "{http://www.w3.org/2000/svg}"
    assert drawn.findtext(f"{names}title") == samples.fails().verdict
    texts = [element.text for element in drawn.iter(f"{names}text")]
    assert texts[:4] == ["rank 0 (1)", "lost a peer", "rank 1 (1)", "failed"]
    assert len(list(drawn.iter(f"{names}line"))) == 3
    many = picture(samples.passes(ranks=100))
    assert "... 36 ranks more" in many


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        ("test_it.py:1: in <module>\n    raise\nE   RuntimeError: first\nE   second", "RuntimeError: first"),
        (
            'E     File "test_it.py", line 1\nE       x =\nE   SyntaxError: invalid syntax',
            "SyntaxError: invalid syntax",
        ),
        ("no such thing", "no such thing"),
    ],
)
def test_what_could_not_be_collected_has_a_verdict(text: str, verdict: str) -> None:
    session = SeenSession()
    session.add_error(pytest.CollectReport("test_it.py", "failed", text, None))
    assert [test.verdict for test in session.tests] == [verdict]
