"""The page about other plugins says what is tested, with what is installed."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from ..plugins.page import render
from ..plugins.table import GROUPS

TESTS = Path(__file__).parents[1]
VERSION = re.compile(r"(?<=^\| )[\w-]+ \d[\w.]*", re.MULTILINE)
NAMED = sorted({test for rows in GROUPS.values() for row in rows for test in row.tests})


def test_the_page_tells_the_table() -> None:
    """A plugin that has a new release since then is no reason for this test to fail: its tests run with that one."""
    page = (TESTS.parent / "docs" / "plugins.md").read_text()
    made = render()
    assert VERSION.sub("*", page) == VERSION.sub("*", made), "make it: python -m tests.plugins.page > docs/plugins.md"
    assert len(VERSION.findall(page)) == len([row for rows in GROUPS.values() for row in rows])


def test_every_row_has_a_test() -> None:
    assert all(row.tests for rows in GROUPS.values() for row in rows)


@pytest.mark.parametrize("test", NAMED)
def test_the_tests_exist(test: str) -> None:
    file, _, name = test.partition("::")
    tree = ast.parse((TESTS / file).read_text())
    assert name in [node.name for node in tree.body if isinstance(node, ast.FunctionDef)]
