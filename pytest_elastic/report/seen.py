"""What a session has seen of its tests: what reports say, with the launches that travelled on them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import pytest

from pytest_elastic.report.describe import shortened
from pytest_elastic.report.happened import clean
from pytest_elastic.report.rank_map import RANK_MAP

LAUNCHES: Final = "elastic_launches"
"""Attribute of a test's last report: its launches, as :func:`pytest_elastic.report.timeline.to_data` gives them."""
_WORST: Final = ("error", "failed", "xpassed", "rerun", "skipped", "xfailed", "passed")
BAD: Final = ("error", "failed", "xpassed")
_TEXT: Final = 60_000
_ERROR: Final = re.compile(r"^E +([\w.]*(?:Error|Exception|Warning)\b.*)", re.MULTILINE)
"""What was raised: lines of its message may follow, and where the syntax is wrong others come before."""
_SECTION: Final = 20_000


@dataclass(slots=True)
class SeenTest:
    """One test.

    Attributes:
        nodeid: Its id.
        outcome: ``"passed"``, ``"failed"``, ``"error"``, ``"skipped"``, ``"xfailed"``, ``"xpassed"`` or ``"rerun"``:
            the worst of its phases.
        seconds: How long all of them took.
        verdict: What came of it, in one line, or an empty text.
        texts: Title and text of what pytest shows of each phase that failed.
        sections: Title and text of what this process captured.
        launches: Its launches, as data.
        rank_map: What became of each rank, where it failed.
        file: Where it failed, or is defined.
        line: Line in that file, from 1.
        worker: The worker of pytest-xdist that ran it, or an empty text.
    """

    nodeid: str
    outcome: str = ""
    seconds: float = 0.0
    verdict: str = ""
    texts: list[tuple[str, str]] = field(default_factory=list)
    sections: list[tuple[str, str]] = field(default_factory=list)
    launches: list[dict[str, Any]] = field(default_factory=list)
    rank_map: str = ""
    file: str = ""
    line: int = 0
    worker: str = ""

    @property
    def bad(self) -> bool:
        """It did not come to what was expected."""
        return self.outcome in BAD

    def add(self, report: pytest.TestReport, category: str) -> None:
        """Take a report.

        Args:
            report: The report.
            category: What pytest counts it as.
        """
        self.seconds += report.duration
        self.worker = getattr(report, "worker_id", "") or self.worker
        self.launches += getattr(report, LAUNCHES, ())
        self.rank_map = getattr(report, RANK_MAP, "") or self.rank_map
        category = {"subtests passed": "passed", "subtests skipped": "skipped", "subtests failed": "failed"}.get(
            category, category
        )
        if category == "" or (report.passed and report.when != "call" and category not in BAD):
            category = "passed"
        if category not in _WORST:
            category = report.outcome
        if not self.outcome or _WORST.index(category) < _WORST.index(self.outcome):
            self.outcome = category
            self._describe(report)
        if report.failed and report.longrepr is not None:
            text = clean(shortened(report.longreprtext, _TEXT))
            self.texts.append((f"{str(report.when).capitalize()} {category}", text))
        if report.when == "teardown" or report.failed:
            known = {name for name, _ in self.sections}
            found = [(clean(name), clean(shortened(text, _SECTION))) for name, text in report.sections]
            self.sections += [section for section in found if section[0] not in known]

    def _describe(self, report: pytest.TestReport) -> None:
        file, line, _ = report.location
        self.file, self.line = file, (line or 0) + 1
        longrepr = report.longrepr
        if hasattr(report, "wasxfail"):
            self.verdict = clean(str(report.wasxfail))
        elif isinstance(longrepr, tuple):
            self.verdict = clean(str(longrepr[2]).removeprefix("Skipped: "))
        elif longrepr is not None:
            crash = getattr(longrepr, "reprcrash", None)
            message = str(crash.message) if crash is not None else report.longreprtext
            self.verdict = clean(shortened(message.strip().partition("\n")[0], 1_000))
            if crash is not None:
                self.line = int(crash.lineno)
                self.file = str(crash.path)
        else:
            self.verdict = ""


class SeenSession:
    """All tests of a session, in the order in which they were first heard of."""

    def __init__(self) -> None:
        self._tests: dict[str, SeenTest] = {}

    def add(self, report: pytest.TestReport, category: str) -> None:
        """Take a report of any test."""
        self._tests.setdefault(report.nodeid, SeenTest(report.nodeid)).add(report, category)

    def add_error(self, report: pytest.CollectReport) -> None:
        """Take what could not be collected."""
        text = clean(shortened(report.longreprtext, _TEXT))
        said = _ERROR.findall(text) or [text.strip().rpartition("\n")[2]]
        test = SeenTest(report.nodeid or "the session", outcome="error", verdict=shortened(said[-1], 1_000))
        test.texts.append(("Collection error", text))
        self._tests[f"collection of {report.nodeid}"] = test

    @property
    def tests(self) -> Sequence[SeenTest]:
        """The tests."""
        return list(self._tests.values())


def counts_of(tests: Sequence[SeenTest]) -> dict[str, int]:
    """Return how many tests came to what, the worst first."""
    outcomes = [test.outcome for test in tests]
    return {outcome: outcomes.count(outcome) for outcome in _WORST if outcome in outcomes}
