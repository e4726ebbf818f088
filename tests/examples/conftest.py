"""The examples are collected with the suite, those that fail on purpose, or want a directory of their own, are not."""

from __future__ import annotations

import pytest

collect_ignore_glob = ["*/failing/*", "*/alone/*"]

SOAK = frozenset(("elastic_training/test_lost_node.py::", "failures/test_failures.py::test_hang"))
"""Tests of examples that take seconds, as their ids have them; ``make soak`` runs them."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if any(f"tests/examples/{name}" in item.nodeid for name in SOAK):
            item.add_marker(pytest.mark.soak)
