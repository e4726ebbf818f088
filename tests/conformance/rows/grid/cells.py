"""Every cell of the grid that is about one test: what it is comes from a file that the environment names."""

import atexit
import json
import os
from pathlib import Path

import actions
import pytest
import torch.distributed as dist

FAR = 60
RAN_BEFORE = []
CELLS = json.loads(Path(os.environ["CONFORMANCE_CELLS"]).read_text())


def steps():
    """Yield the tests: of a cell with warm ranks there is one before, which warms them."""
    for cell in CELLS["cells"]:
        timeout = CELLS["timeout"] if cell["hangs"] else FAR
        # Those that fail on their way out must be nobody's but their own.
        env = {"CELL": cell["id"]} if cell["phase"] == "exit" else {}
        isolation = "module" if cell["warm"] else "function"
        arguments = {"nproc": cell["nproc"], "nnodes": cell["nodes"], "isolation": isolation, "env": env}
        if cell["warm"]:
            mark = pytest.mark.elastic(**arguments, backend="gloo", timeout=FAR)
            yield pytest.param(None, id=f"before-{cell['id']}", marks=mark)
        mark = pytest.mark.elastic(**arguments, backend="gloo", timeout=timeout)
        yield pytest.param(cell, id=cell["id"], marks=mark)


def act(mode):
    if mode == "assert":
        measured = 1
        assert measured == 2
    actions.act(mode)


@pytest.fixture
def fails_around(cell, rank):
    mine = cell is not None and rank in cell["ranks"]
    if mine and cell["phase"] == "setup":
        act(cell["mode"])
    yield
    if mine and cell["phase"] == "teardown":
        act(cell["mode"])


@pytest.mark.parametrize("cell", steps())
def test_it(cell, rank, fails_around, elastic_barrier):
    warm, mine = bool(RAN_BEFORE), cell is not None and rank in cell["ranks"]
    RAN_BEFORE.append(True)
    if cell is not None and warm is not cell["warm"]:
        raise RuntimeError(f"these ranks are {'warm' if warm else 'fresh'}")
    if cell is not None and cell["phase"] == "body" and cell["mode"] == "stop":
        elastic_barrier()  # rank 0 hosts the store with which the others are still in their set-up
    if mine and cell["phase"] == "body":
        if cell["mode"] == "return":
            return
        act(cell["mode"])
    if mine and cell["phase"] == "exit":
        atexit.register(act, cell["mode"])
    dist.barrier()
