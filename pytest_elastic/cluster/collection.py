"""What the preloaded server of a controller has collected: what has to agree on all machines."""

from __future__ import annotations

import json
import os
import pickle
import sys
from typing import TYPE_CHECKING

from pytest_elastic import tasks
from pytest_elastic.cluster.messages import Collected
from pytest_elastic.errors import ElasticError
from pytest_elastic.forking import Task

if TYPE_CHECKING:
    from pytest_elastic.controller.run import ElasticRun
    from pytest_elastic.messages import SessionOrder


def collected_by_server(run: ElasticRun, everything: SessionOrder) -> Collected:
    """Have a fork of the server collect all that the arguments name, and return what that is.

    Not what pytest itself has: it knows of the last session (``--lf``) and of plugins that take tests away. And not in
    the server itself, which imports only the files with tests that run on ranks.
    """
    try:
        return _ask(run, everything)
    except (ElasticError, OSError) as error:
        return Collected(tests=(), trouble=str(error))


def _ask(run: ElasticRun, everything: SessionOrder) -> Collected:
    server = run.server_for(torch_only=False)
    file = run.directory / "collected.json"
    order = run.directory / "collect.order"
    order.write_bytes(pickle.dumps(everything))
    task = Task("collection", tasks.tell_collection, (str(file), str(order)))
    try:
        status = server.fork(task, cwd=os.getcwd(), sys_path=sys.path, fds=[])
        try:
            while os.read(status, 16):
                pass
        finally:
            os.close(status)
    finally:
        server.leave()
    try:
        told = json.loads(file.read_text())
    except (OSError, ValueError):
        how, words = server.how_it_died(), server.last_words()
        raise ElasticError(f"the preloaded server died: {how}\n{words}") from None
    return Collected(tests=tuple(told["tests"]), trouble=told["trouble"])
