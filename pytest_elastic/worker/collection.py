"""What the preloaded server has collected, told to the controller of another machine by a fork of the server."""

from __future__ import annotations

import json
from pathlib import Path

from pytest_elastic.worker import server_state


def tell(file: str) -> None:
    """Write the node ids, and what went wrong, as JSON."""
    state = server_state.state
    assert state is not None
    session = state.session
    tests = session.found_ids() if session is not None else []
    trouble = state.broken or "\n".join(session.failures() if session is not None else [])
    Path(file).write_text(json.dumps({"tests": tests, "trouble": trouble}))
