"""The page that shows what the ranks of a session's tests did: one file, made by a template."""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from pytest_elastic.report.seen import SeenTest

_MOST: Final = 8_000_000
"""Bytes of the data in a page; of more, what ranks have written is left out."""
_CUT: Final = 600


@dataclass(frozen=True, kw_only=True, slots=True)
class PageHead:
    """What the top of the page says.

    Attributes:
        title: What was tested.
        seconds: How long the session took.
        when: When it ended, for a reader.
        made_of: Versions and the like.
        version: Version of pytest-elastic.
        live: The session goes on, and serves the page.
    """

    title: str
    seconds: float
    when: str
    made_of: str
    version: str
    live: bool = False


def make_page(head: PageHead, tests: Sequence[SeenTest], counts: dict[str, int]) -> str:
    """Return the page.

    Args:
        head: Its top.
        tests: What it shows.
        counts: How many tests came to what.

    Raises:
        ImportError: Jinja2 is not installed.
    """
    from jinja2 import Environment, PackageLoader

    data, note = pack(tests)
    environment = Environment(
        loader=PackageLoader("pytest_elastic.report"), autoescape=True, keep_trailing_newline=True
    )
    return environment.get_template("page.html").render(
        title=head.title,
        headline=", ".join(f"{count} {outcome}" for outcome, count in counts.items()) or "no tests",
        bad=any(test.bad for test in tests),
        seconds=f"{head.seconds:.2f} s",
        when=head.when,
        made_of=head.made_of,
        version=head.version,
        live=head.live,
        notes=[note] if note else [],
        failures=[test for test in tests if test.bad],
        data=data,
    )


def pack(tests: Sequence[SeenTest], most: int = _MOST) -> tuple[str, str]:
    """Return the tests as the page holds them, compressed and in base64, and what had to be left out.

    Args:
        tests: The tests.
        most: Bytes that the result may have.
    """
    everything = [_data_of(test) for test in tests]
    packed, left_out = _compress(everything), ""
    for note, change in _SHORTER:
        if len(packed) <= most:
            break
        for test in everything:
            change(test)
        packed, left_out = _compress(everything), note
    return packed, left_out


def _compress(tests: list[dict[str, Any]]) -> str:
    text = json.dumps({"tests": tests}, separators=(",", ":"), ensure_ascii=False)
    return base64.b64encode(zlib.compress(text.encode("utf-8", "replace"), 6)).decode()


def _data_of(test: SeenTest) -> dict[str, Any]:
    return {
        "id": test.nodeid,
        "outcome": test.outcome,
        "us": round(test.seconds * 1e6),
        "verdict": test.verdict,
        "worker": test.worker,
        "texts": test.texts,
        # What ranks wrote is in their launches.
        "sections": [section for section in test.sections if not test.launches or "(rank " not in section[0]],
        "launches": [_without_memory(launch) for launch in test.launches],
    }


def _without_memory(launch: dict[str, Any]) -> dict[str, Any]:
    lanes = [{name: value for name, value in lane.items() if name != "memory"} for lane in launch["lanes"]]
    return {**launch, "lanes": lanes}


def _cut_outputs(test: dict[str, Any]) -> None:
    for launch in test["launches"]:
        for lane in launch["lanes"]:
            for stream in ("stdout", "stderr"):
                if stream in lane:
                    lane[stream] = _end_of(lane[stream])


def _drop_outputs_of_passed(test: dict[str, Any]) -> None:
    if test["outcome"] in ("passed", "skipped", "xfailed"):
        _drop_outputs(test)


def _drop_outputs(test: dict[str, Any]) -> None:
    for launch in test["launches"]:
        for lane in launch["lanes"]:
            lane.pop("stdout", None)
            lane.pop("stderr", None)
    test["sections"] = []


def _cut_texts(test: dict[str, Any]) -> None:
    test["texts"] = [(title, _end_of(text)) for title, text in test["texts"]]
    for launch in test["launches"]:
        launch["traceback"] = _end_of(launch["traceback"])
        launch["stacks"] = []
        for lane in launch["lanes"]:
            lane.pop("collectives", None)


def _end_of(text: str) -> str:
    return text if len(text) <= _CUT else "... " + text[-_CUT:]


_SHORTER: Final[tuple[tuple[str, Callable[[dict[str, Any]], None]], ...]] = (
    ("Of what ranks wrote only the ends are here: it was too much.", _cut_outputs),
    ("What ranks of tests that passed wrote is not here: it was too much.", _drop_outputs_of_passed),
    ("What ranks wrote is not here: it was too much.", _drop_outputs),
    (
        "What ranks wrote is not here, nor stacks and collectives, and of tracebacks only the ends: it was too much.",
        _cut_texts,
    ),
)
