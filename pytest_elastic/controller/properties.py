"""What junitxml is told of the launch behind a test."""

from __future__ import annotations

import pytest

from pytest_elastic.report.records import LaunchRecord
from pytest_elastic.report.verdict import Verdict

_NPROC, _NNODES, _RESTARTS, _CULPRIT = "elastic_nproc", "elastic_nnodes", "elastic_restarts", "elastic_culprit_rank"


def culprit_of(verdict: Verdict) -> int | None:
    """Return the rank that failed first, if a launch failed of one."""
    if verdict.error is None:
        return None
    return next((failure.rank for failure in verdict.result.failures if not failure.collateral), None)


def put_properties(item: pytest.Item, record: LaunchRecord, culprit: int | None) -> None:
    """Add properties to a test if a file of junitxml is written; those of its last launch count.

    Args:
        item: The test.
        record: The launch.
        culprit: The rank that failed first, or ``None``.
    """
    if not item.config.getoption("xmlpath", None):
        return
    ranks = [rank.id for rank in record.last_world()]
    nodes = {each.group_rank for each in ranks}
    values = {
        _NPROC: max((each.local_rank + 1 for each in ranks), default=record.nproc),
        _NNODES: len(nodes) or record.nodes,
        _RESTARTS: max((rank.id.restart for rank in record.ranks), default=0),
        _CULPRIT: culprit,
    }
    others = [pair for pair in item.user_properties if pair[0] not in values]
    # In place: reports that are made already share the list.
    item.user_properties[:] = others + [(name, value) for name, value in values.items() if value is not None]
