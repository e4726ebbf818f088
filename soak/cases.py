"""Random tests, each with the verdict that it must get."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

HEADER: Final = """
import os, signal, sys, threading, time
import pytest
import torch
import torch.distributed as dist
from pytest_elastic import (
    AgentFailedError, ElasticTimeoutError, InterruptAgent, KillNode, KillRank, SignalRank, StopRank, TerminateAgent,
    WorkerFailedError,
)


def train(steps=30):
    dist.init_process_group("gloo")
    for step in range(steps):
        dist.all_reduce(torch.ones(10))
        print("step", step, flush=True)
        time.sleep(0.01)
    return dist.get_world_size()


def work(steps=10):
    for _ in range(steps):
        dist.all_reduce(torch.ones(10))


def fail(how):
    if how == "raise":
        raise ValueError("on purpose")
    if how == "assert":
        assert how == "on purpose"
    if how.startswith("os._exit"):
        os._exit(int(how[9:-1]))
    if how.startswith("sys.exit"):
        sys.exit(int(how[9:-1]))
    if how.startswith("SIG"):
        os.kill(os.getpid(), getattr(signal, how))
    threading.Event().wait()
"""
"""How each module begins."""
WAYS: Final = {
    "raise": "ValueError: on purpose",
    "assert": "AssertionError: assert 'assert' == 'on purpose'",
    "os._exit(0)": "exited with code 0 before the test ended",
    "os._exit(9)": "exited with code 9 before the test ended",
    "sys.exit(3)": "exited with code 3 before the test ended",
    "SIGKILL": "killed by SIGKILL",
    "SIGSEGV": "killed by SIGSEGV",
    "SIGABRT": "killed by SIGABRT",
}
"""What a rank does to fail, and what is told of it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """A test and its verdict.

    Attributes:
        name: Name of the test.
        source: Its source.
        outcome: ``"passed"``, ``"failed"``, ``"skipped"``, ``"error"`` (of its set-up), or two of them, with ``or``.
        told: Part of the message of its report; empty if nothing is to be told.
        launches: How many launches it is.
        faults: How many things go wrong in it.
    """

    name: str
    source: str
    outcome: str
    told: str = ""
    launches: int = 1
    faults: int = 0


def draw(dice: random.Random, number: int) -> Case:
    """Return a random case.

    Args:
        dice: Where it comes from.
        number: Its number in the module.
    """
    kinds: list[tuple[int, Callable[[random.Random, str], Case]]] = [
        (5, _passes),
        (8, _fails),
        (2, _fails_in_setup),
        (1, _hangs),
        (2, _skips),
        (4, _suffers),
        (3, _survives),
        (2, _launch_suffers),
        (3, _etcd_dies),
        (1, _launch_passes),
    ]
    (make,) = dice.choices([kind for _, kind in kinds], weights=[weight for weight, _ in kinds])
    return make(dice, f"test_{number:03d}{make.__name__}")


def _size(dice: random.Random) -> tuple[int, int]:
    return dice.choice([(1, 1), (1, 2), (1, 2), (1, 3), (1, 4), (2, 1), (2, 2)])


def _marker(dice: random.Random, nodes: int, nproc: int, **more: object) -> str:
    settings: dict[str, object] = {"nnodes": nodes, "nproc": nproc, "backend": "gloo", "timeout": 60}
    if nodes > 1:
        settings["rdzv_backend"] = dice.choice(["local", "local", "c10d", "static"])
    elif dice.random() < 0.3:
        settings["isolation"] = dice.choice(["module", "session"])
    words = [f"{name}={value!r}" for name, value in settings.items() if name not in more]
    return f"@pytest.mark.elastic({', '.join([*words, *(f'{name}={value}' for name, value in more.items())])})"


def _passes(dice: random.Random, name: str) -> Case:
    mark = _marker(dice, *_size(dice))
    return Case(name=name, source=f"{mark}\ndef {name}(rank):\n    work({dice.randrange(50)})\n", outcome="passed")


def _fails(dice: random.Random, name: str) -> Case:
    nodes, nproc = _size(dice)
    rank, how = dice.randrange(nodes * nproc), dice.choice(list(WAYS))
    before, after = dice.randrange(20), dice.choice(["work()", "pass", "dist.barrier()"])
    source = (
        f"{_marker(dice, nodes, nproc)}\ndef {name}(rank):\n"
        f"    work({before})\n    if rank == {rank}: fail({how!r})\n    {after}\n"
    )
    return Case(name=name, source=source, outcome="failed", told=f"[rank {rank}] {WAYS[how]}", faults=1)


def _fails_in_setup(dice: random.Random, name: str) -> Case:
    nodes, nproc = _size(dice)
    rank, how = dice.randrange(nodes * nproc), dice.choice(list(WAYS))
    told = WAYS[how]
    source = (
        f"@pytest.fixture\ndef of_{name}(rank):\n    if rank == {rank}: fail({how!r})\n"
        f"{_marker(dice, nodes, nproc)}\ndef {name}(of_{name}): work()\n"
    )
    return Case(name=name, source=source, outcome="error", told=f"[rank {rank}] {told}", faults=1)


def _hangs(dice: random.Random, name: str) -> Case:
    nodes, nproc = _size(dice)
    rank = dice.randrange(nodes * nproc)
    source = (
        f"{_marker(dice, nodes, nproc, timeout=4)}\ndef {name}(rank):\n"
        f"    if rank == {rank}: fail('hang')\n    work()\n"
    )
    return Case(name=name, source=source, outcome="failed", told=f"timed out after 4 s: {name}", faults=1)


def _skips(dice: random.Random, name: str) -> Case:
    nodes, nproc = _size(dice)
    everybody = nodes * nproc == 1 or dice.random() < 0.5
    rank = dice.randrange(nodes * nproc)
    condition = "True" if everybody else f"rank == {rank}"
    source = f"{_marker(dice, nodes, nproc)}\ndef {name}(rank):\n    if {condition}: pytest.skip('no data')\n"
    if everybody:
        return Case(name=name, source=source, outcome="skipped", told="no data")
    told = f"the ranks disagree: rank {rank} skipped: no data; "
    return Case(name=name, source=source, outcome="failed", told=told, faults=1)


def _suffers(dice: random.Random, name: str) -> Case:
    """A fault ends a test that is marked."""
    rank, after = dice.randrange(4), round(dice.uniform(0, 0.3), 3)
    sig = dice.choice(["SIGKILL", "SIGSEGV", "SIGBUS", "SIGUSR2"])
    lost = dice.random() < 0.4
    node, kind = dice.randrange(2), dice.choice(["KillNode", "TerminateAgent", "InterruptAgent"])
    fault = f"{kind}({node}, after={after})" if lost else f"SignalRank({rank}, signal.{sig}, after={after})"
    mark = _marker(dice, 2, 2, faults=f"[{fault}]")
    source = f"{mark}\ndef {name}(rank):\n    while True: work(); time.sleep(0.01)\n"
    told = f"agent {node} " if lost else f"[rank {rank}] killed by {sig}"
    # It may come while the group is made, which is the set-up.
    return Case(name=name, source=source, outcome="failed or error", told=told, faults=1)


def _survives(dice: random.Random, name: str) -> Case:
    """A fault does not end a test that may start again, or whose rank is only slow."""
    rank, after = dice.randrange(2), round(dice.uniform(0, 0.1), 3)
    slow = dice.random() < 0.5
    fault = f"StopRank({rank}, for_=0.3, after={after})" if slow else f"KillRank({rank}, after={after})"
    more = {"faults": f"[{fault}]"} | ({} if slow else {"max_restarts": "1"})
    mark = _marker(dice, 1, 2, isolation="'function'", **more)
    source = f"{mark}\ndef {name}(rank):\n    for _ in range(60): work(1); time.sleep(0.01)\n"
    return Case(name=name, source=source, outcome="passed", faults=1)


def _launch_suffers(dice: random.Random, name: str) -> Case:
    rank, after = dice.randrange(4), round(dice.uniform(0, 0.2), 3)
    source = f"""
def {name}(elastic_launch):
    with pytest.raises(WorkerFailedError) as caught:
        elastic_launch(train, 100, nnodes=2, nproc=2, timeout=60, faults=[KillRank({rank}, after={after})])
    assert (caught.value.first.rank, caught.value.first.signal) == ({rank}, "SIGKILL")
"""
    return Case(name=name, source=source, outcome="passed", faults=1)


def _etcd_dies(dice: random.Random, name: str) -> Case:
    """Lose etcd at any moment of a launch: either its agents say so, or everything had been done by then."""
    backend, after = dice.choice(["etcd", "etcd-v2"]), round(dice.uniform(0, 1.5), 3)
    source = f"""
def {name}(elastic_launch, etcd_server_factory):
    etcd = etcd_server_factory()
    killer = threading.Timer({after}, etcd.kill)
    killer.start()
    try:
        result = elastic_launch(
            train, 50, nnodes=2, nproc=1, rdzv_backend="{backend}", rdzv_endpoint=etcd.endpoint, timeout=20
        )
    except AgentFailedError as error:
        assert "etcd" in str(error).lower().partition("\\n")[0], error
    except ElasticTimeoutError as error:  # torch's agents go on asking while they have no world
        assert f"never completed: 2 agents came (node 0, 1); nothing takes connections at its" in str(error)
    else:
        assert result == {{0: 2, 1: 2}}
    finally:
        killer.join()
"""
    return Case(name=name, source=source, outcome="passed", faults=1)


def _launch_passes(dice: random.Random, name: str) -> Case:
    size = dice.choice([1, 2, 4])
    source = f"""
def {name}(elastic_launch, free_port):
    assert elastic_launch(train, 5, nproc={size}, timeout=60) == dict.fromkeys(range({size}), {size})
"""
    return Case(name=name, source=source, outcome="passed")
