"""Fails when this module is imported in the server, or in a rank that is spawned."""

import os

import actions
import pytest

PHASE = os.environ.get("CONFORMANCE_PHASE", "")
MODE = os.environ.get("CONFORMANCE_MODE", "")
RANKS = os.environ.get("CONFORMANCE_RANKS", "").split()

if "PYTEST_ELASTIC_RUN" in os.environ:
    rank = os.environ.get("RANK")
    if PHASE == "server-import" and rank is None:
        actions.act(MODE)
    if PHASE == "import" and rank in RANKS:
        actions.act(MODE)


@pytest.mark.elastic(nproc=2 if PHASE == "import" else 1)
def test_it(rank):
    pass


def test_plain():
    pass
