"""What tests with inner pytest sessions share."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator

import pytest

from ..ready.popen import Zygote, popen_by


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
