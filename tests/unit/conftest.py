"""Unit tests start no process and import no torch."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def no_process_and_no_torch(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    def refuse(*args: object, **kwargs: object) -> None:
        pytest.fail("a unit test tried to start a process")

    monkeypatch.setattr(subprocess, "Popen", refuse)
    monkeypatch.setattr(os, "fork", refuse)
    before = "torch" in sys.modules
    yield
    assert before or "torch" not in sys.modules, "a unit test imported torch"
