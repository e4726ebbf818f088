"""Tests of hypothesis's, as controller and ranks see them. Nothing here imports hypothesis before a test has.

hypothesis has no public way to change the settings of a test for one run, or to give it a seed that neither replaces
the test's own nor turns its database off; what is used of its inner parts is all here and in ``worker/examples.py``.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import pytest

ATTRIBUTE: Final = "elastic_examples"
"""Attribute of a rank's report: what its test wants changed in hypothesis's database, as :data:`Changes`."""

SHOWN_BY_HYPOTHESIS: Final = ("_hypothesis_stats", "_hypothesis_failing_examples")
"""Attributes of reports that hypothesis's plugin makes its part of the summary of."""

Changes = tuple[tuple[str, bytes, bytes], ...]
"""``"save"`` or ``"delete"``, the key of a test, and an example."""

_SETTINGS: Final = "_hypothesis_internal_use_settings"


def is_given(item: pytest.Item) -> bool:
    """Tell whether a test draws its arguments from hypothesis."""
    if "hypothesis" not in sys.modules:
        return False
    return bool(getattr(getattr(item, "obj", None), "is_hypothesis_test", False))


def settings_of(item: pytest.Item) -> Any:
    """Return hypothesis's settings of a test."""
    from hypothesis import settings

    return getattr(item.obj, _SETTINGS, None) or settings.default  # type: ignore[attr-defined]


@contextmanager
def changed_settings(item: pytest.Item, **changes: Any) -> Iterator[None]:
    """Have hypothesis's settings of a test be others for a while."""
    from hypothesis import settings

    function = getattr(item.obj, "__func__", item.obj)  # type: ignore[attr-defined]
    before = vars(function).get(_SETTINGS)
    setattr(function, _SETTINGS, settings(parent=settings_of(item), **changes))
    try:
        yield
    finally:
        if before is None:
            delattr(function, _SETTINGS)
        else:
            setattr(function, _SETTINGS, before)


def without_checks(item: pytest.Item, *names: str) -> dict[str, Any]:
    """Return the setting that leaves out some of hypothesis's health checks, as an argument of ``changed_settings``."""
    from hypothesis import HealthCheck

    checks = {getattr(HealthCheck, name) for name in names if hasattr(HealthCheck, name)}
    return {"suppress_health_check": checks | set(settings_of(item).suppress_health_check)}
