"""Which fixtures of the controller a test on ranks needs, by what pytest knows when it has collected."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytest

from pytest_elastic import compat
from pytest_elastic.controller_fixtures import kind_of


@dataclass(frozen=True, kw_only=True, slots=True)
class Needs:
    """What a test needs.

    Attributes:
        moved: Name and level of the controller's fixtures, in the order in which pytest sets them up. What these
            request in turn is not among them.
        by_name: Names of all fixtures that the test or another fixture has as an argument: somebody uses their values.
    """

    moved: tuple[tuple[str, int], ...]
    by_name: frozenset[str]


def needs_of(item: pytest.Item, named: Sequence[str]) -> Needs:
    """Return what a test needs.

    Args:
        item: The test.
        named: Names of the controller's fixtures from the ini file.
    """
    initial, arguments = compat.initial_names(item)
    by_name = set(arguments)
    moved: list[tuple[str, int]] = []
    seen: set[tuple[str, int]] = set()
    todo = [(name, 1) for name in reversed(initial)]
    while todo:
        name, level = todo.pop()
        definitions = compat.definitions_for(item, name)
        if (name, level) in seen or level > len(definitions):
            continue
        seen.add((name, level))
        if kind_of(definitions[-level], named) is not None:
            moved.append((name, level))
            continue
        by_name.update(definitions[-level].argnames)
        todo += [(other, level + 1 if other == name else 1) for other in reversed(definitions[-level].argnames)]
    order = {name: place for place, name in enumerate(getattr(item, "fixturenames", ()))}
    moved.sort(key=lambda pair: order.get(pair[0], len(order)))
    return Needs(moved=tuple(moved), by_name=frozenset(by_name))


def requested_by(item: pytest.Item, definition: Any) -> set[str]:
    """Return the names of all fixtures that a fixture requests for a test, directly or not."""
    found: set[str] = set()
    todo = list(definition.argnames)
    while todo:
        name = todo.pop()
        if name not in found:
            found.add(name)
            for other in compat.definitions_for(item, name):
                todo += other.argnames
    return found
