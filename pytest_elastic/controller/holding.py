"""Where a session keeps what is behind its elastic tests. PYTEST_DONT_REWRITE."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pytest_elastic.roles import GIVEN

if TYPE_CHECKING:
    from pytest_elastic.controller.run import ElasticRun

RUN: pytest.StashKey[ElasticRun] = pytest.StashKey()


def run_of(config: pytest.Config) -> ElasticRun:
    """Return what the session holds for its elastic tests; it is made, and costs an import, when first asked for."""
    if RUN not in config.stash:
        from pytest_elastic.controller.run import ElasticRun

        run = config.stash[RUN] = ElasticRun(config, config.stash[GIVEN])
        config.add_cleanup(run.close)
    return config.stash[RUN]
