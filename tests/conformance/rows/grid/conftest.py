"""Fails in a hook of collection in the server, if the environment says so."""

import os
import sys
from pathlib import Path

from pytest_elastic import role

sys.path.append(str(Path(__file__).parent))


def pytest_collection_modifyitems(config):
    if os.environ.get("CONFORMANCE_PHASE") == "server-collection" and role(config) == "server":
        import actions

        actions.act(os.environ["CONFORMANCE_MODE"])
