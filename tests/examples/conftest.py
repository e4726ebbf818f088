"""The examples are collected with the suite, those that fail on purpose are not."""

from __future__ import annotations

import pytest

collect_ignore_glob = ["*/failing/*"]

SOAK: frozenset[str] = frozenset()
"""Tests of examples that take seconds, as ``tutorial/test_sums.py::test_x``: ``make soak`` runs them."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if any(item.nodeid.endswith(f"examples/{name}") for name in SOAK):
            item.add_marker(pytest.mark.soak)
