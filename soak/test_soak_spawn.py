"""Suites that spawn end as they do, with ``--elastic-spawn=forkserver``; each runs both ways."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

EXISTING = Path(__file__).parents[1] / "tests" / "integration" / "existing"
OPTION = "--elastic-spawn=forkserver"
HANGS = """
import threading
from torch.testing._internal.common_distributed import MultiProcessTestCase


class TestHangs(MultiProcessTestCase):
    world_size = 2

    def setUp(self):
        super().setUp()
        self._spawn_processes()

    def test_hangs(self):
        if self.rank == 1:
            threading.Event().wait()
"""


def outcomes(report: Path) -> dict[str, tuple[str, str]]:
    found = {}
    for case in ET.parse(report).iter("testcase"):
        child = case.find("*[@message]")
        outcome, message = ("passed", "") if child is None else (child.tag, child.get("message", ""))
        message = re.sub(r"pid: \d+|after [\d.]+ seconds|0x[0-9a-f]+", "N", message)
        found[f"{case.get('classname')}.{case.get('name')}"] = (outcome, message)
    return found


@pytest.mark.parametrize("name", ["multi_process", "continuous", "processes"])
def test_the_same_outcomes(pytester: pytest.Pytester, name: str) -> None:
    pytester.makepyfile(**{f"test_{name}": (EXISTING / f"{name}.py").read_text()})
    found = []
    for number, options in enumerate(((), (OPTION,), (OPTION,), (OPTION,))):
        report = pytester.path / f"report-{number}.xml"
        pytester.runpytest_subprocess("-p", "no:randomly", *options, f"--junitxml={report}")
        found.append(outcomes(report))
    assert len(found[0]) > 3
    assert found[1:] == found[:1] * 3


def test_a_test_that_times_out(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISTRIBUTED_TESTS_DEFAULT_TIMEOUT", "40")
    pytester.makepyfile(test_hangs=HANGS)
    found = []
    for number, options in enumerate(((), (OPTION,))):
        report = pytester.path / f"report-{number}.xml"
        result = pytester.runpytest_subprocess("-p", "no:randomly", *options, f"--junitxml={report}")
        result.stdout.fnmatch_lines("*Process 1 timed out with traceback:*")
        result.stdout.fnmatch_lines("*in test_hangs*")
        found.append(outcomes(report))
    assert found[0] == found[1]
    assert "Process 1 terminated or timed out N" in found[0]["test_hangs.TestHangs.test_hangs"][1]
