"""The server begins before the collection where a session with the same arguments needed it the last time."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.own_server

CONFTEST = """
import psutil, pytest
def servers(): return sum("forkserver" in " ".join(child.cmdline()) for child in psutil.Process().children())
@pytest.hookimpl(tryfirst=True)
def pytest_collection(session):
    if "PYTEST_ELASTIC_RUN" not in __import__("os").environ: print("\\nSERVERS BEFORE", servers())
@pytest.hookimpl(trylast=True)
def pytest_collection_finish(session):
    if "PYTEST_ELASTIC_RUN" not in __import__("os").environ: print("\\nSERVERS AFTER", servers())
"""
ELASTIC = """
import pytest
@pytest.mark.elastic(nproc=1, timeout=60)
def test_it(rank): assert rank == 0
"""
PLAIN = "def test_it(): pass\n"


def servers(pytester: pytest.Pytester, *args: str) -> tuple[str, str]:
    """Run a session; return how many servers there were before and after its collection."""
    result = pytester.run(sys.executable, "-m", "pytest", "-s", *args)
    assert result.ret == 0
    assert result.stderr.str() == ""
    lines = dict(line.rsplit(" ", 1) for line in result.outlines if line.startswith("SERVERS"))
    return lines["SERVERS BEFORE"], lines["SERVERS AFTER"]


def test_the_need_is_remembered(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(CONFTEST)
    file = pytester.makepyfile(test_it=ELASTIC)
    assert servers(pytester) == ("0", "1")
    assert servers(pytester) == ("1", "1")
    assert servers(pytester, "--collect-only") == ("0", "0")
    assert servers(pytester, "-p", "no:cacheprovider") == ("0", "1")
    # A wrong guess is ended when the collection is over, and not made again.
    file.write_text(PLAIN)
    assert servers(pytester) == ("1", "0")
    assert servers(pytester) == ("0", "0")


def test_a_cache_that_is_not_ours_to_read(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(CONFTEST)
    pytester.makepyfile(test_it=PLAIN)
    memory = Path(pytester.path, ".pytest_cache", "v", "elastic", "needed")
    memory.parent.mkdir(parents=True)
    for text in ("{", json.dumps({"a": 1}), json.dumps([1, None])):
        memory.write_text(text)
        assert servers(pytester) == ("0", "0")
