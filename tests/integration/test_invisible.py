"""Where nothing is elastic, the plugin is not to be noticed."""

from __future__ import annotations

import subprocess
import sys

import pytest

from pytest_elastic.controller.launcher import ElasticLaunch
from pytest_elastic.controller.measuring import current_coverage

pytestmark = pytest.mark.own_server


def imported(code: str) -> set[str]:
    command = [sys.executable, "-X", "importtime", "-c", code]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    return {line.rpartition("|")[2].strip().partition(".")[0] for line in output.splitlines() if "|" in line}


@pytest.mark.parametrize("module", ["pytest_elastic", "pytest_elastic.plugin", "pytest_elastic.fixtures"])
def test_importing_the_plugin_imports_no_heavy_library(module: str) -> None:
    found = imported(f"import {module}")
    assert "pytest_elastic" in found
    assert not found & {"torch", "numpy", "etcd", "psutil", "filelock", "cloudpickle", "multiprocessing"}


PLAIN = """
import os, sys, threading
import psutil
import pytest

@pytest.mark.elastic
def test_tagged_for_something_else():
    pass

def test_plain():
    assert psutil.Process().children(recursive=True) == []
    assert threading.active_count() == 1
    assert "torch" not in sys.modules
    assert "coverage" not in sys.modules
    assert "pytest_elastic.controller.run" not in sys.modules
    assert "pytest_elastic.controller.spawning" not in sys.modules
    assert "pytest_elastic.controller.showing" not in sys.modules
"""


def test_a_session_without_elastic_tests_starts_nothing_and_prints_nothing(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    pytester.makepyfile(test_plain=PLAIN)
    result = pytester.runpytest_subprocess("-p", "no:xdist", "--strict-markers")
    result.assert_outcomes(passed=2)
    assert not any("elastic" in line for line in result.outlines if not line.startswith(("plugins:", "rootdir:")))
    assert not result.errlines


@pytest.mark.parametrize("option", ["--collect-only", "--help", "--fixtures", "--markers", "--setup-plan"])
def test_sessions_that_run_no_test_start_no_server(pytester: pytest.Pytester, option: str) -> None:
    pytester.makeconftest(
        "import psutil\ndef pytest_unconfigure():\n    print('CHILDREN', psutil.Process().children(recursive=True))\n"
    )
    pytester.makepyfile(
        "import multiprocessing, pytest\n"
        "@pytest.mark.elastic(nproc=2)\ndef test_it(rank): pass\ndef test_l(elastic_launch): pass\n"
    )
    result = pytester.runpytest_subprocess(option, "-s", "--elastic-spawn=forkserver")
    result.stdout.fnmatch_lines("*CHILDREN []")


def test_a_file_that_only_speaks_of_launches_costs_a_process_that_is_ended_silently(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        "# elastic_launch is not used here\n"
        "import psutil\n"
        "def test_plain(): assert psutil.Process().children(recursive=True) == []\n"
    )
    pytester.runpytest_subprocess().assert_outcomes(passed=1)


def test_without_the_plugin_its_fixtures_are_unknown(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("def test_it(elastic_launch): pass")
    result = pytester.runpytest_subprocess("-p", "no:elastic")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines("*fixture 'elastic_launch' not found*")


def test_the_plugin_can_be_named(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("def test_it(elastic_launch): assert elastic_launch(int, nproc=1) == {0: 0}")
    pytester.runpytest_subprocess("-p", "elastic").assert_outcomes(passed=1)


def test_its_modules_are_not_rewritten_twice(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("import pytest_elastic\ndef test_it(): assert pytest_elastic.RankFailure")
    result = pytester.runpytest_subprocess("-W", "error")
    result.assert_outcomes(passed=1)


def has_imported(name: str) -> bool:
    return name in sys.modules


def test_ranks_do_not_import_coverage_where_nothing_is_measured(elastic_launch: ElasticLaunch) -> None:
    if current_coverage() is not None:
        pytest.skip("this session is measured")
    assert elastic_launch(has_imported, "coverage", nproc=1) == {0: False}
