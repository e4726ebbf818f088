"""What all tests share."""

from __future__ import annotations

import os

import pytest

collect_ignore = ["compare/work"]  # tests that fail on purpose

OTHERS = (
    "anyio",
    "asyncio",
    "benchmark",
    "check",
    "dependency",
    "env",
    "html",
    "html_fixtures",
    "metadata",
    "pretty",
    "pytest-describe",
    "pytest-split",
    "pytest_cov",
    "pytest_jsonreport",
    "pytest_mock",
    "pytest_order",
    "pytest_reportlog",
    "randomly",
    "repeat",
    "rerunfailures",
    "sugar",
    "syrupy",
    "timeout",
)
"""Entry points of the plugins that the group ``test`` installs for the tests of living together with them."""
_WITHOUT_THE_OTHERS = " ".join(f"-p no:{name}" for name in (*OTHERS, "hypothesispytest"))
"""Nor the one that only this suite itself uses, which takes a quarter of the time of a small session."""


@pytest.fixture(autouse=True, scope="session")
def inner_sessions_load_what_they_ask_for() -> None:
    """Have inner sessions load the plugins that a test asks for with ``-p``, not all that are installed."""
    os.environ["PYTEST_ADDOPTS"] = _WITHOUT_THE_OTHERS


@pytest.fixture
def pytester(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """Have those of pytester do so too: it takes the variable away."""
    monkeypatch.setenv("PYTEST_ADDOPTS", _WITHOUT_THE_OTHERS)
    # An inner session is no worker of the outer one, and does the same on every machine: pytest tells more under CI.
    for name in ("PYTEST_XDIST_WORKER", "PYTEST_XDIST_WORKER_COUNT", "PYTEST_XDIST_TESTRUNUID", "CI", "BUILD_NUMBER"):
        monkeypatch.delenv(name, raising=False)
    return pytester
