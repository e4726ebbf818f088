"""What all tests share."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from pytest_elastic import role

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
    "platformdirs",
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
"""Entry points of plugins that are installed beside this one; most are in the group ``test``, to be tested with it."""
_WITHOUT_THE_OTHERS = " ".join(f"-p no:{name}" for name in (*OTHERS, "hypothesispytest"))
"""Nor the one that only this suite itself uses, which takes a quarter of the time of a small session."""


_LAUNCHERS = (
    *("TORCHELASTIC_USE_AGENT_STORE", "TORCHELASTIC_RESTART_COUNT", "TORCHELASTIC_MAX_RESTARTS"),
    *("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "GROUP_WORLD_SIZE"),
    *("MASTER_ADDR", "MASTER_PORT", "MPI_LOCALRANKID", "MPI_LOCALNRANKS", "JOB_COMPLETION_INDEX"),
    *("PYTEST_ELASTIC_MEMBER", "PYTEST_ELASTIC_KEY"),
)
"""What launchers set, and what pytest itself has set if it is one of their processes."""


@pytest.fixture(autouse=True, scope="session")
def inner_sessions_load_what_they_ask_for() -> None:
    """Have inner sessions load the plugins that a test asks for with ``-p``, not all that are installed."""
    os.environ["PYTEST_ADDOPTS"] = _WITHOUT_THE_OTHERS


@pytest.fixture(autouse=True, scope="session")
def no_launcher_of_this_suite_is_seen(request: pytest.FixtureRequest) -> Iterator[None]:
    """Have inner sessions be on their own, also where this suite itself runs under torchrun, srun or mpirun."""
    if role(request.config) == "rank":  # of an example: it needs what its agent has told it
        yield
        return
    with pytest.MonkeyPatch.context() as patch:
        for name in list(os.environ):
            if name in _LAUNCHERS or name.startswith(("TORCHELASTIC_RUN", "SLURM_", "OMPI_COMM_", "PMI_", "PMIX_")):
                patch.delenv(name)
        yield


@pytest.fixture
def pytester(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """Have those of pytester do so too: it takes the variable away."""
    monkeypatch.setenv("PYTEST_ADDOPTS", _WITHOUT_THE_OTHERS)
    # An inner session is no worker of the outer one, and does the same on every machine: pytest tells more under CI.
    for name in (
        *("PYTEST_XDIST_WORKER", "PYTEST_XDIST_WORKER_COUNT", "PYTEST_XDIST_TESTRUNUID"),
        *("CI", "BUILD_NUMBER", "GITHUB_ACTIONS", "GITHUB_STEP_SUMMARY"),
    ):
        monkeypatch.delenv(name, raising=False)
    return pytester
