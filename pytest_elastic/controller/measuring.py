"""Coverage of what ranks execute, where the pytest process is measured: ranks measure themselves, it adds that up."""

from __future__ import annotations

import hashlib
import os
import pickle
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from pytest_elastic.messages import CoverageOrder
from pytest_elastic.one_line import one_line
from pytest_elastic.warning import ElasticWarning

if TYPE_CHECKING:
    from coverage import Coverage

FOR_SUBPROCESSES: Final = (
    "COVERAGE_PROCESS_START",
    "COVERAGE_PROCESS_CONFIG",
    "COV_CORE_SOURCE",
    "COV_CORE_CONFIG",
    "COV_CORE_DATAFILE",
)
"""Environment variables by which coverage and pytest-cov have every new interpreter measured."""


def without_coverage(environ: Mapping[str, str]) -> dict[str, str]:
    """Return an environment in which a new interpreter is not measured: one that only leads to ranks."""
    return {name: value for name, value in environ.items() if name not in FOR_SUBPROCESSES}


def current_coverage() -> Coverage | None:
    """Return what measures this process; nothing is imported to find out."""
    current = getattr(getattr(sys.modules.get("coverage"), "Coverage", None), "current", None)
    return current() if current is not None else None


class RankCoverage:
    """What the ranks of one pytest session have executed.

    Args:
        config: pytest's configuration.
    """

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._coverage: Coverage | None = None
        self._settings: tuple[bytes, str] | None = None
        self._directory: Path | None = None

    def begin(self) -> None:
        """Take what measures this process now for what measures the session."""
        self._coverage = self._coverage or current_coverage()

    def order(self, directory: Path, launch: str) -> CoverageOrder | None:
        """Return how the ranks of a launch are to be measured; ``None`` where this process is not, at the moment.

        Args:
            directory: The run's.
            launch: Name of the launch.
        """
        self.begin()
        # Another one than at the beginning is a test's own affair; none is that of pytest-cov's mark ``no_cover``.
        if self._coverage is None or current_coverage() is not self._coverage:
            return None
        if self._settings is None:
            self._settings = _settings_of(self._coverage)
        self._directory = directory / "coverage"
        self._directory.mkdir(exist_ok=True)  # several threads of a test may launch
        config, base = self._settings
        by_test = self._config.pluginmanager.hasplugin("_cov_contexts")  # pytest-cov's, for --cov-context=test
        return CoverageOrder(
            config=config,
            base=base,
            files=str(self._directory / launch),
            by_test=by_test,
            context=_context_of_this_test() if by_test else "",
        )

    @property
    def ordered(self) -> bool:
        """Some ranks were measured."""
        return self._directory is not None

    def merge(self) -> list[str]:
        """Add what ranks have executed to what this process has, and return what went wrong."""
        if self._directory is None or self._coverage is None:
            return []
        saved = {hashlib.sha256(data).digest(): data for data in self._take("*.data")}
        problems = [
            f"coverage of a rank is lost: {text}" for text in sorted({data.decode() for data in self._take("*.lost")})
        ]
        if saved:
            problems += self._add(self._coverage, list(saved.values()))
        return problems

    def _add(self, coverage: Coverage, saved: list[bytes]) -> list[str]:
        from coverage import CoverageData
        from coverage.exceptions import CoverageException

        with warnings.catch_warnings():
            # It may say that nothing was executed. When it is saved it looks again, with what ranks have executed.
            warnings.simplefilter("ignore")
            total = coverage.get_data()
        problems = set()
        for data in saved:
            of_rank = CoverageData(no_disk=True)
            try:
                of_rank.loads(data)
                total.update(of_rank)
            except CoverageException as error:
                problems.add(f"coverage of a rank cannot be added to that of pytest: {one_line(error)}")
            finally:
                of_rank.close(force=True)
        # It would say of a package that only ranks import that nobody does. pytest-cov does so in workers of xdist, and
        # where coverage has no such attribute any more, no harm is done.
        coverage._warn_unimported_source = False
        return sorted(problems)

    def _take(self, pattern: str) -> list[bytes]:
        assert self._directory is not None
        taken = []
        for file in sorted(self._directory.glob(pattern)):
            taken.append(file.read_bytes())
            file.unlink()
        return taken


def _settings_of(coverage: Coverage) -> tuple[bytes, str]:
    from coverage.files import relative_directory

    return pickle.dumps(coverage.config), relative_directory()


def _context_of_this_test() -> str:
    """Return the context by which pytest-cov calls what the test that runs executes."""
    nodeid, _, phase = os.environ.get("PYTEST_CURRENT_TEST", "").rpartition(" ")
    return f"{nodeid}|{'run' if phase == '(call)' else phase.strip('()')}"


def warn_of(problems: list[str], config: pytest.Config) -> None:
    """Have pytest's summary tell what went wrong."""
    for problem in problems:
        config.issue_config_time_warning(ElasticWarning(problem), stacklevel=2)
