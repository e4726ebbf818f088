"""What tests with hosts share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from .hosts import Host, hosts


@pytest.fixture
def two_hosts(tmp_path: Path) -> Iterator[list[Host]]:
    with hosts(2, tmp_path) as made:
        yield made


@pytest.fixture
def three_hosts(tmp_path: Path) -> Iterator[list[Host]]:
    with hosts(3, tmp_path) as made:
        yield made
