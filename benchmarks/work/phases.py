"""A plugin that writes down when each phase of a test on ranks was over, by ``time.monotonic_ns()``."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Generator
from typing import Any

import pytest

from pytest_elastic.controller.launch import Launch
from pytest_elastic.report.records import LaunchRecord

_records: list[LaunchRecord] = []


def pytest_configure() -> None:
    waits = Launch.wait_for_test

    def wait_for_test(self: Launch) -> LaunchRecord:
        record = waits(self)
        _records.append(record)
        return record

    Launch.wait_for_test = wait_for_test  # type: ignore[method-assign]


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol() -> Generator[None, Any, Any]:
    begin = time.monotonic_ns()
    result = yield
    end = time.monotonic_ns()
    if not _records:
        return result  # in a rank
    record = _records.pop()
    ranks = record.last_world()
    reports = [report for rank in ranks for report in rank.reports]
    times = {
        "begin": begin,
        "started": record.started_ns,
        "first rank": min(rank.hello_ns or 0 for rank in ranks),
        "last rank": max(rank.hello_ns or 0 for rank in ranks),
        **{when: max(each.time_ns for each in reports if each.when == when) for when in ("setup", "call")},
        "finished": max(rank.finished.time_ns for rank in ranks if rank.finished is not None),
        "exited": max(rank.exited.time_ns for rank in ranks if rank.exited is not None),
        "record": record.ended_ns,
        "end": end,
    }
    with open(os.environ["BENCH_PHASES"], "a") as file:
        file.write(json.dumps(times) + "\n")
    return result
