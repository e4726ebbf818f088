"""What there is to collect on this machine, told by a fork of the preloaded server."""

from __future__ import annotations

import json
import os
import pickle
import traceback
from pathlib import Path

from pytest_elastic.messages import SessionOrder
from pytest_elastic.worker import server_state
from pytest_elastic.worker.session import RankSession


def tell(file: str, order: str) -> None:
    """Collect, and write the node ids and what went wrong, as JSON.

    Args:
        file: Where to.
        order: File with the order.
    """
    state = server_state.state
    assert state is not None
    tests: list[str] = []
    trouble = state.broken or ""
    if not trouble:
        try:
            everything: SessionOrder = pickle.loads(Path(order).read_bytes())
            session = RankSession.collect(everything)
            tests, trouble = session.found_ids(), "\n".join(session.failures())
        except BaseException:  # noqa: BLE001 (whatever a conftest or plugin raises)
            trouble = traceback.format_exc()
    Path(file).write_text(json.dumps({"tests": tests, "trouble": trouble}))
    os._exit(0)  # what was imported may have started threads
