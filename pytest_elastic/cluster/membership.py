"""Whether this pytest is one of many that make one session, which of them it is, and where they meet."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from typing import Final

import pytest

from pytest_elastic.cluster.launchers import ALONE, READ, launcher_of, number, run_id_of
from pytest_elastic.cluster.member import Membership
from pytest_elastic.one_line import one_line
from pytest_elastic.options import MOST, Given, split_endpoint
from pytest_elastic.pid import own_pid

__all__ = ["IN_RANK", "TAKEN", "Membership", "find_membership", "give_back", "take"]

TAKEN: Final = "PYTEST_ELASTIC_MEMBER"
"""Environment variable that says which process has taken a membership, and which: others that inherit it are none."""
IN_RANK: Final = "PYTEST_ELASTIC_LAUNCH"
"""Environment variable of every process of a launch: torchelastic's variables are then those of our own agent."""
_taken: Final[set[str]] = set()
"""What this process itself has taken: a session within it is another one."""


def find_membership(environ: Mapping[str, str], given: Mapping[str, Given]) -> Membership | None:
    """Return which member of a larger session this process is.

    Options win over the environment. A process that has inherited a membership that another one has taken (see
    :func:`take`) is no member, and neither is one that a rank of a launch has started.

    Args:
        environ: The environment.
        given: The settings that are given.

    Returns:
        The membership, or ``None`` if this is a session of its own on this machine.

    Raises:
        pytest.UsageError: Environment or options are wrong, half of what is needed, or contradict each other.
    """
    nodes = given["nodes"].value if "nodes" in given else None
    if nodes == 1:
        _refuse_rank_alone(given)
        return None
    if "node_rank" in given:
        found = _by_options(given)
    elif IN_RANK in environ:
        return None
    else:
        launcher = launcher_of(environ)
        if _has_taken(environ, None if launcher is None else run_id_of(launcher, environ)):
            return None
        read = None if launcher is None else READ[launcher](environ, "rdzv_endpoint" in given)
        if read is not None:
            return _with_options(read, given)
        if launcher is not None and "nodes" not in given:
            return None  # a world of one
        if "nodes" not in given and "rdzv_endpoint" not in given:
            return None
        found = _by_completion_index(environ, given)
    return None if _has_taken(environ, found.run_id) else found


def take(membership: Membership) -> None:
    """Have processes that this one starts, and sessions within it, be none of the members."""
    _taken.add(membership.run_id)
    os.environ[TAKEN] = f"{own_pid()} {membership.run_id}"


def give_back(membership: Membership) -> None:
    """Have a later session of this process be the member again: this one has ended."""
    _taken.discard(membership.run_id)
    os.environ.pop(TAKEN, None)


def _has_taken(environ: Mapping[str, str], run_id: str | None) -> bool:
    """Tell whether this process, or one that it comes from, is a member of a run: of this one, or any for ``None``."""
    pid, _, taken = environ.get(TAKEN, "").partition(" ")
    if not taken or (run_id is not None and taken != run_id):
        return False
    # A process that was replaced by another program keeps its pid: that one has taken nothing yet.
    return pid != str(own_pid()) or taken in _taken


def _by_options(given: Mapping[str, Given]) -> Membership:
    rank = given["node_rank"].value
    for name, wanted in (("nodes", "--elastic-nodes=N"), ("rdzv_endpoint", "--elastic-rdzv-endpoint=host:port")):
        if name not in given:
            raise pytest.UsageError(
                f"{given['node_rank'].source}: got {rank} and no {wanted.partition('=')[0]}, expected both on every "
                f"node: add {wanted}"
            )
    return _one_a_node("options", rank, given)


def _by_completion_index(environ: Mapping[str, str], given: Mapping[str, Given]) -> Membership:
    if "nodes" not in given:
        setting = given["rdzv_endpoint"]
        raise pytest.UsageError(
            f"{setting.source}: got {one_line(setting.value)} and no --elastic-nodes, expected both, or the "
            "environment of torchrun, srun or mpirun: add --elastic-nodes=N --elastic-node-rank=R"
        )
    nodes = given["nodes"]
    if "JOB_COMPLETION_INDEX" not in environ:
        raise pytest.UsageError(
            f"{nodes.source}: got {nodes.value} and no --elastic-node-rank, expected it on every node, or the "
            f"environment of torchrun, srun, mpirun or an Indexed Job: add --elastic-node-rank=R; {ALONE}"
        )
    if "rdzv_endpoint" not in given:
        raise pytest.UsageError(
            f"{nodes.source}: got {nodes.value} and no --elastic-rdzv-endpoint, expected host:port of the pod with "
            "index 0: add --elastic-rdzv-endpoint=host:port"
        )
    rank = number(environ, "Kubernetes", "JOB_COMPLETION_INDEX", 0, MOST)
    return _one_a_node("Kubernetes", rank, given)


def _one_a_node(launcher: str, rank: int, given: Mapping[str, Given]) -> Membership:
    nodes, endpoint = given["nodes"].value, given["rdzv_endpoint"].value
    if rank >= nodes:
        source = given["node_rank"].source if launcher == "options" else "Kubernetes: JOB_COMPLETION_INDEX"
        raise pytest.UsageError(
            f"{source}: got {rank} with {given['nodes'].source} {nodes}, expected an int from 0 to {nodes - 1}: nodes "
            "are counted from 0"
        )
    host, port = _split(endpoint)
    return Membership(
        launcher=launcher,
        rank=rank,
        size=nodes,
        local_rank=0,
        local_size=1,
        node=rank,
        nodes=nodes,
        host=host,
        port=port,
        store=False,
        attempt=0,
        run_id=endpoint,
    )


def _with_options(found: Membership, given: Mapping[str, Given]) -> Membership:
    if "nodes" in given and given["nodes"].value != found.nodes:
        nodes = given["nodes"]
        raise pytest.UsageError(
            f"{nodes.source}: got {nodes.value}, expected {found.nodes}, the number of nodes that {found.launcher} has "
            f"started: leave it out; {ALONE}"
        )
    if "rdzv_endpoint" not in given:
        return found
    host, port = _split(given["rdzv_endpoint"].value)
    return replace(found, host=host, port=port, store=False)


def _refuse_rank_alone(given: Mapping[str, Given]) -> None:
    if "node_rank" in given and given["node_rank"].value > 0:
        raise pytest.UsageError(
            f"{given['node_rank'].source}: got {given['node_rank'].value} with {given['nodes'].source} 1, expected 0: "
            "nodes are counted from 0"
        )


def _split(endpoint: str) -> tuple[str, int]:
    split = split_endpoint(endpoint)
    if split is None:  # pragma: no cover (checked where it was given)
        raise ValueError(endpoint)
    return split
