"""What tests with hosts share."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from ..ready.popen import Zygote, popen_by
from .hosts import Host, hosts


@pytest.fixture(scope="session")
def zygote() -> Iterator[Zygote]:
    zygote = Zygote()
    yield zygote
    zygote.stop()


@pytest.fixture
def pytester(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, zygote: Zygote, request: pytest.FixtureRequest
) -> pytest.Pytester:
    """Have inner sessions come from the zygote, unless the test or ``OWN_SERVERS=1`` says otherwise."""
    if request.node.get_closest_marker("own_server") is None and "OWN_SERVERS" not in os.environ:
        monkeypatch.setattr(subprocess, "Popen", popen_by(zygote))
    return pytester


@pytest.fixture
def two_hosts(tmp_path: Path) -> Iterator[list[Host]]:
    with hosts(2, tmp_path) as made:
        yield made


@pytest.fixture
def three_hosts(tmp_path: Path) -> Iterator[list[Host]]:
    with hosts(3, tmp_path) as made:
        yield made


@pytest.fixture
def place(pytester: pytest.Pytester) -> Path:
    """Return where the tests of a session are: processes of the suite itself are elsewhere."""
    place = pytester.path / "place"
    place.mkdir()
    return place
