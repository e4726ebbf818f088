"""The controller's side of coverage, and what this package takes of coverage that is not documented."""

from __future__ import annotations

import pickle
import sys
from collections.abc import Iterator
from pathlib import Path

import coverage
import pytest

from pytest_elastic.controller.measuring import RankCoverage, current_coverage, without_coverage


@pytest.fixture
def measured() -> Iterator[coverage.Coverage]:
    """This process, measured by branches."""
    own = coverage.Coverage(data_file=None, config_file=False, branch=True)
    own.start()
    yield own
    own.stop()


def test_nothing_is_imported_to_find_out_whether_this_process_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "coverage")
    assert current_coverage() is None
    assert "coverage" not in sys.modules


def test_another_module_of_that_name_is_none_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "coverage", pytest)
    assert current_coverage() is None


def test_variables_by_which_new_interpreters_are_measured() -> None:
    environ = {"COVERAGE_PROCESS_CONFIG": "x", "COVERAGE_PROCESS_START": "y", "COVERAGE_RCFILE": "z", "A": "b"}
    assert without_coverage(environ) == {"COVERAGE_RCFILE": "z", "A": "b"}


def test_ranks_are_measured_as_long_as_this_process_is(
    measured: coverage.Coverage, pytestconfig: pytest.Config, tmp_path: Path
) -> None:
    ranks = RankCoverage(pytestconfig)
    order = ranks.order(tmp_path, "launch-0")
    assert order is not None
    assert pickle.loads(order.config).branch
    assert Path(order.base) == Path.cwd()
    assert order.files == str(tmp_path / "coverage" / "launch-0")
    measured.stop()  # as pytest-cov does for its mark no_cover
    assert ranks.order(tmp_path, "launch-1") is None


def test_data_are_added_and_what_cannot_be_is_told(
    measured: coverage.Coverage, pytestconfig: pytest.Config, tmp_path: Path
) -> None:
    ranks = RankCoverage(pytestconfig)
    order = ranks.order(tmp_path, "launch-0")
    assert order is not None
    for rank, found in enumerate(({"good.py": [(1, 2)]}, {"good.py": [(1, 2)]})):
        data = coverage.CoverageData(no_disk=True)
        data.add_arcs(found)
        Path(f"{order.files}.{rank}.data").write_bytes(data.dumps())
        data.close(force=True)
    other = coverage.CoverageData(no_disk=True)
    other.add_lines({"bad.py": [1]})
    Path(f"{order.files}.2.data").write_bytes(other.dumps())
    other.close(force=True)
    for rank in (3, 4):
        Path(f"{order.files}.{rank}.lost").write_text("OSError(28, 'No space left on device')")
    measured.get_data().add_arcs({"own.py": [(1, 2)]})
    lost, unfit = ranks.merge()
    assert lost == "coverage of a rank is lost: OSError(28, 'No space left on device')"
    assert unfit.startswith("coverage of a rank cannot be added to that of pytest: DataError(")
    assert measured.get_data().arcs("good.py") == [(1, 2)]
    assert list((tmp_path / "coverage").iterdir()) == []
    assert ranks.merge() == []


@pytest.mark.parametrize("name", ["_post_save_work", "save", "switch_context"])
def test_methods_of_coverage_that_are_used_or_replaced(name: str) -> None:
    assert callable(getattr(coverage.Coverage, name))


def test_attributes_of_coverage_that_are_set() -> None:
    own = coverage.Coverage(data_file=None, config_file=False)
    assert own._warn_unimported_source
    assert {"sigterm", "patch", "disable_warnings", "run_omit", "dynamic_context", "plugins", "concurrency"} <= set(
        vars(own.config)
    )
