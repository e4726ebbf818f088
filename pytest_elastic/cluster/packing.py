"""Tests that run side by side on disjoint nodes (``--elastic-pack``): those to come are started ahead of their turn.

pytest runs one test at a time. What a marked test does in its process is to start a launch and to wait for it: so the
launches of tests that are still to come are started where nodes are free, and when their turn comes they are half done.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Final

import pytest

from pytest_elastic import compat
from pytest_elastic.controller.needs import needs_of
from pytest_elastic.controller_fixtures import named_in_ini
from pytest_elastic.detection import arguments_of
from pytest_elastic.errors import ElasticError
from pytest_elastic.parametrizing import spec_of
from pytest_elastic.roles import OVER

if TYPE_CHECKING:
    from pytest_elastic.controller.item import ElasticItem
    from pytest_elastic.controller.run import ElasticRun

_FAR: Final = 100
"""How many tests are looked at that follow the one whose turn it is."""


class Packing:
    """The launches that were started ahead of their test's turn.

    Args:
        run: What the session holds.
        items: The tests of the session, in order.
    """

    def __init__(self, run: ElasticRun, items: list[pytest.Item]) -> None:
        self._run = run
        self._items = items
        self._places = {item: place for place, item in enumerate(items)}
        self._ahead: dict[pytest.Item, ElasticItem] = {}
        self._passed: set[pytest.Item] = set()

    def take(self, item: pytest.Item) -> ElasticItem | None:
        """Return what was started for a test whose turn has come, or ``None``."""
        return self._ahead.pop(item, None)

    def look_ahead(self, item: pytest.Item) -> None:
        """Start tests that follow one, as long as there are nodes for them."""
        from pytest_elastic.controller.item import ElasticItem

        place = self._places.get(item)
        cluster = self._run.cluster
        if place is None or cluster is None:
            return
        for following in self._items[place + 1 : place + 1 + _FAR]:
            if not cluster.has_free_nodes():
                return
            if following in self._ahead or following in self._passed or not self._may_start(following):
                continue
            at = self._places[following]
            nextitem = self._items[at + 1] if at + 1 < len(self._items) else None
            ahead = ElasticItem(following, arguments_of(following) or {}, nextitem)
            try:
                started = ahead.start_ahead()
            except ElasticError:
                self._passed.add(following)  # it says so when its turn comes
                continue
            if started:
                self._ahead[following] = ahead

    def _may_start(self, item: pytest.Item) -> bool:
        """Tell whether nothing keeps a test from being started now: it is marked, and depends on nothing here."""
        arguments = arguments_of(item)
        if arguments is None or OVER in item.stash:
            return False
        try:
            spec = spec_of(item, arguments, self._run.given)
        except ElasticError:
            return False
        limit = compat.timeout_settings(item)
        needs = needs_of(item, named_in_ini(item.config))
        return (
            spec.isolation == "function"
            and spec.device == "cpu"
            and spec.rdzv_backend in ("local", "c10d")
            and not needs.moved
            and not (limit is not None and limit.timeout)
            and not _is_skipped(item)
            and all(mark.kwargs.get("run", True) for mark in item.iter_markers("xfail"))
        )

    def close(self) -> None:
        """End what was started and has not come to its turn: the session ends before."""
        for item in list(self._ahead):
            self._ahead.pop(item).close()


def _is_skipped(item: pytest.Item) -> bool:
    if not any(item.iter_markers(name="skip")) and not any(item.iter_markers(name="skipif")):
        return False
    with contextlib.suppress(Exception, pytest.fail.Exception):
        return compat.evaluate_skip_marks(item) is not None
    return True  # pytest says what is wrong with the condition when the test's turn comes
