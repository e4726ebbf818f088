"""Keeps a record of every report, where one is asked for."""

import json
import os

import pytest

from pytest_elastic import role


def pytest_configure(config):
    file = os.environ.get("SUITE_RECORD")
    if file and role(config) == "controller":
        config.pluginmanager.register(Recorder(file))


class Recorder:
    """Writes a line of JSON for each report."""

    def __init__(self, file):
        self.file = file

    def pytest_runtest_logreport(self, report):
        crash = getattr(report.longrepr, "reprcrash", None)
        told = {
            "nodeid": report.nodeid,
            "when": report.when,
            "outcome": report.outcome,
            "expected": getattr(report, "wasxfail", None),
            "subtest": type(report) is not pytest.TestReport,
            "text": report.longreprtext,
            "message": crash.message if crash is not None else None,
            "sections": report.sections,
            "duration": report.duration,
        }
        if isinstance(report.longrepr, tuple):
            told["message"] = report.longrepr[2]
        with open(self.file, "a") as stream:
            stream.write(json.dumps(told) + "\n")
