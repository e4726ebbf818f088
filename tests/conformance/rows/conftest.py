"""What rows share: they say when they fail, and a record of every report is kept where one is asked for."""

import json
import os
import time
from pathlib import Path

import pytest

from pytest_elastic import role

_RECORD = "CONFORMANCE_RECORD"
"""Environment variable with the directory of the record."""


@pytest.fixture
def failing_now(request):
    """Return a function that a row calls just before it fails: the verdict's time is measured from there."""
    row = request.path.stem

    def note():
        directory = os.environ.get(_RECORD)
        if directory is not None:
            # One clock for all processes of a machine.
            Path(directory, f"{row}.failing").write_text(repr(time.monotonic()))

    return note


def pytest_configure(config):
    directory = os.environ.get(_RECORD)
    if directory is not None and role(config) == "controller":
        config.pluginmanager.register(Recorder(Path(directory, "reports.jsonl")))


class Recorder:
    """Writes a line of JSON for each thing that the controller's pytest tells."""

    def __init__(self, file):
        self.file = file

    def write(self, kind, nodeid, **facts):
        row = nodeid.partition("::")[0].partition("/")[0].removesuffix(".py")
        with self.file.open("a") as stream:
            stream.write(
                json.dumps({"kind": kind, "row": row, "nodeid": nodeid, "time": time.monotonic()} | facts) + "\n"
            )

    def pytest_runtest_logstart(self, nodeid):
        self.write("start", nodeid)

    def pytest_runtest_logreport(self, report):
        crash = getattr(report.longrepr, "reprcrash", None)
        self.write(
            "report",
            report.nodeid,
            when=report.when,
            outcome=report.outcome,
            expected=getattr(report, "wasxfail", None),
            subtest=type(report) is not pytest.TestReport,
            text=report.longreprtext,
            message=crash.message if crash is not None else None,
            sections=report.sections,
            properties=[[name, repr(value)] for name, value in report.user_properties],
        )

    def pytest_collectreport(self, report):
        if report.failed:
            self.write("collect", report.nodeid, text=report.longreprtext)

    def pytest_warning_recorded(self, warning_message, nodeid):
        text = f"{warning_message.category.__name__}: {warning_message.message}"
        self.write("warning", nodeid, text=text)
