"""hypothesis in the controller: its tests run elsewhere, but what they found is saved here, once."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from pytest_elastic.given_tests import ATTRIBUTE, Changes, changed_settings, is_given, settings_of, without_checks
from pytest_elastic.report.judgement import sent_along

if TYPE_CHECKING:
    from pytest_elastic.report.records import RankRecord


def new_seed() -> int:
    """Return what the ranks of one launch draw examples by: other ones in each run, as ever."""
    return random.SystemRandom().getrandbits(128)


@contextmanager
def checked_in_ranks(item: pytest.Item) -> Iterator[None]:
    """Keep hypothesis from looking for fixtures of a test in the controller: it would set them up here."""
    if not is_given(item):
        yield
        return
    with changed_settings(item, **without_checks(item, "function_scoped_fixture", "differing_executors")):
        yield


def save_examples(item: pytest.Item, ranks: Sequence[RankRecord]) -> str:
    """Do to hypothesis's database what the ranks of a test wanted, now that none of them reads it any more.

    A failing example of any rank is saved. One that does not fail any more is only dropped if all ranks say so.

    Returns:
        What went wrong with that, or an empty text.
    """
    if not is_given(item):
        return ""
    database = settings_of(item).database
    told: list[Changes] = [found for rank in ranks if (found := sent_along(rank, ATTRIBUTE)) is not None]
    if database is None or not any(told):
        return ""
    saved = dict.fromkeys(change for changes in told for change in changes if change[0] == "save")
    dropped = [change for change in told[0] if change[0] == "delete" and all(change in other for other in told)]
    try:
        for _, key, value in saved:
            database.save(key, value)
        for _, key, value in dropped if len(told) == len(ranks) else ():
            if ("save", key, value) not in saved:
                database.delete(key, value)
    except Exception as error:  # noqa: BLE001 (whatever a database of the user's raises)
        return f"hypothesis's database was not updated: {type(error).__name__}: {error}"
    return ""
