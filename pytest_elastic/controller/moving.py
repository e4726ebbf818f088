"""What a session does with controller fixtures once its tests are known. PYTEST_DONT_REWRITE."""

from __future__ import annotations

import warnings
from typing import Any

import pytest

from pytest_elastic import compat, detection
from pytest_elastic.controller_fixtures import kind_of, named_in_ini
from pytest_elastic.fixtures import is_xdist_worker, run_directory
from pytest_elastic.roles import role
from pytest_elastic.warning import ElasticWarning


def prepare(session: pytest.Session) -> None:
    """Warn of names in the ini file that no fixture has; share session-scoped fixtures with other workers of xdist."""
    config = session.config
    if role(config) != "controller" or detection.only_looks(config):
        return
    named = named_in_ini(config)
    definitions = compat.fixture_definitions(session)
    unknown = [name for name in named if all(definition.argname != name for definition in definitions)]
    if unknown and _warns_for_all(config) and any(detection.arguments_of(item) is not None for item in session.items):
        names = ", ".join(map(repr, unknown))
        text = f"ini elastic_controller_fixtures: no collected file or plugin defines {names}"
        warnings.warn(ElasticWarning(text), stacklevel=1)
    if is_xdist_worker(config):
        _share(session, [d for d in definitions if d.scope == "session" and kind_of(d, named) == "users"])


def _warns_for_all(config: pytest.Config) -> bool:
    """Tell whether this is the one process of a run whose warnings are to be seen."""
    return not is_xdist_worker(config) or config.workerinput["workerid"] == "gw0"  # type: ignore[attr-defined]


def _share(session: pytest.Session, definitions: list[Any]) -> None:
    config = session.config
    factory = getattr(config, "_tmp_path_factory", None)
    if not definitions or factory is None:  # -p no:tmpdir: there is no place that workers share
        return
    from pytest_elastic.controller.sharing import SharedFixtures

    worker = str(config.workerinput["workerid"])  # type: ignore[attr-defined]
    shared = SharedFixtures(definitions, run_directory(config, factory) / "fixtures", worker)
    shared.install(session.items)
    config.pluginmanager.register(shared, "elastic-shared-fixtures")
