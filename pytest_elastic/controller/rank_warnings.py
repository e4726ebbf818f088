"""Warnings of ranks in pytest's own summary: each once, with the ranks that gave it."""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Sequence

import pytest

from pytest_elastic.messages import RankWarned
from pytest_elastic.report.stacks import fold


def warn_for_ranks(item: pytest.Item, recorded: Sequence[RankWarned]) -> None:
    """Record the warnings of a test's ranks as pytest records those of a test.

    Ranks have applied the filters already; what is here was to be shown.
    """
    ranks: dict[tuple[str, str, str, int], set[int]] = {}
    first: dict[tuple[str, str, str, int], RankWarned] = {}
    for warned in recorded:
        key = (warned.category, warned.message, warned.file, warned.line)
        first.setdefault(key, warned)
        ranks.setdefault(key, set()).add(warned.id.rank)
    for key, warned in first.items():
        category, text = _category_of(warned), f"[{fold(ranks[key])}] {warned.message}"
        message = warnings.WarningMessage(_make(category, text), category, warned.file, warned.line)
        item.ihook.pytest_warning_recorded.call_historic(
            kwargs={"warning_message": message, "nodeid": item.nodeid, "when": "runtest", "location": None}
        )


def _category_of(warned: RankWarned) -> type[Warning]:
    try:
        category = pickle.loads(warned.pickled) if warned.pickled is not None else None
    except Exception:  # noqa: BLE001 (it may not be importable here)
        category = None
    return category if isinstance(category, type) and issubclass(category, Warning) else UserWarning


def _make(category: type[Warning], text: str) -> Warning | str:
    try:
        return category(text)
    except Exception:  # noqa: BLE001 (its __init__ may want anything)
        return text
