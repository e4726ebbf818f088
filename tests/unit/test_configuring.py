"""What hooks of other plugins raise."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from pytest_elastic.controller.configuring import tell_finished


class SilentError(Exception):
    """Cannot say what is wrong."""

    def __str__(self) -> str:
        raise RuntimeError("no text")


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (OSError("no\nserver"), "OSError: no server"),
        (SilentError(), "SilentError: <its __str__ raised RuntimeError>"),
        (ValueError("x" * 9000), f"ValueError: {'x' * 168} ... {'x' * 15}"),
    ],
)
def test_what_a_plugin_raises_when_it_sees_a_launch_is_one_line_and_no_verdict(error: Exception, told: str) -> None:
    def see(**_: object) -> None:
        raise error

    item: Any = SimpleNamespace(ihook=SimpleNamespace(pytest_elastic_launch_finished=see))
    result: Any = None
    assert tell_finished(result, item) == [f"pytest_elastic_launch_finished raised {told}"]
