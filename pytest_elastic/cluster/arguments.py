"""What a controller was asked to do, as far as it must be the same in all of them."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import pytest

_OF_ONE: Final = re.compile(
    r"--elastic-(node-rank|rdzv-endpoint|key-file|log-dir|record)|--junit-?xml|--basetemp|--log-file|--html|"
    r"--report-log|--json-report-file|--cov-report"
)
"""Options that may differ: which of them it is, how it finds the others, and where it writes."""


def arguments_of(config: pytest.Config) -> tuple[str, ...]:
    """Return the directory that pytest was started in, and its arguments but for those that may differ."""
    given = config.invocation_params
    try:
        added = shlex.split(os.environ.get("PYTEST_ADDOPTS", ""))
    except ValueError:
        added = []  # pytest says so
    return (str(given.dir), *_shared([*added, *map(str, given.args)]))


def distributes(config: pytest.Config) -> bool:
    """Tell whether workers of pytest-xdist run the tests."""
    return bool(config.getoption("tx", None) or config.getoption("numprocesses", None))


def _shared(words: list[str]) -> Iterator[str]:
    left = iter(words)
    for word in left:
        name, equals, _ = word.partition("=")
        if not _OF_ONE.fullmatch(name):
            yield word
        elif not equals:
            next(left, None)


def difference(here: tuple[str, ...], there: tuple[str, ...]) -> str:
    """Say in a few words what differs between the arguments of two controllers; an empty text if nothing does."""
    if here == there:
        return ""
    if here[:1] != there[:1]:
        return f"it was started in {there[0]}, not in {here[0]}"
    return f"its arguments are {shlex.join(there[1:]) or 'none'!s}, not {shlex.join(here[1:]) or 'none'!s}"
