"""A job on two nodes suffers one random fault at a random moment: the verdict matches it, and nothing is left."""

from __future__ import annotations

import os
import random
import signal
import time
import uuid
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import psutil
import torch
import torch.distributed as dist

from pytest_elastic import (
    AgentFailedError,
    ElasticTimeoutError,
    InterruptAgent,
    KillNode,
    KillRank,
    LaunchResult,
    SignalRank,
    StopRank,
    TerminateAgent,
    WorkerFailedError,
)
from pytest_elastic.controller.launcher import ElasticLaunch
from pytest_elastic.faults import Fault

RUNS = int(os.environ.get("SOAK_RUNS", "200"))
STEPS = 100
DEADLINE = 60
HANGS = 6
"""Deadline of runs that end with it."""

Outcome = LaunchResult | Exception


def train() -> int:
    dist.init_process_group("gloo")
    for _ in range(STEPS):
        dist.all_reduce(torch.ones(10))
        time.sleep(0.01)  # the work of a step: a second in all, and the fault comes within half of it
    return dist.get_world_size()


@dataclass(frozen=True, kw_only=True)
class Run:
    """One run: what it suffers, how it is launched, and whether an outcome is the right one."""

    fault: Fault
    settings: dict[str, Any]
    right: Callable[[Outcome], bool]


def failed_on(rank: int, name: str) -> Callable[[Outcome], bool]:
    return lambda out: (
        isinstance(out, WorkerFailedError)
        and (out.first.rank, out.first.signal, out.first.collateral) == (rank, name, False)
    )


def lost(node: int) -> Callable[[Outcome], bool]:
    return lambda out: isinstance(out, AgentFailedError) and str(out).startswith(f"agent {node} ")


def ended(*worlds: int) -> Callable[[Outcome], bool]:
    return lambda out: (
        isinstance(out, LaunchResult)
        and out.worlds == list(worlds)
        and out == dict.fromkeys(range(worlds[-1]), worlds[-1])
    )


def hung(rank: int) -> Callable[[Outcome], bool]:
    return lambda out: (
        isinstance(out, ElasticTimeoutError) and f"rank {rank}: stopped by a signal (SIGSTOP)" in str(out)
    )


def choose(dice: random.Random) -> Run:
    """Return a random run."""
    rank, node, after = dice.randrange(4), dice.randrange(2), dice.uniform(0, 0.5)
    fixed: dict[str, Any] = {"nnodes": 2, "rdzv_backend": dice.choice(["local", "local", "static", "c10d"])}
    elastic: dict[str, Any] = {"nnodes": "1:2", "rdzv_backend": "c10d", "max_restarts": 2}
    sig = dice.choice([signal.SIGSEGV, signal.SIGBUS, signal.SIGUSR2])
    lose: Fault = dice.choice([KillNode, TerminateAgent, InterruptAgent])(node, after=after)
    runs = [
        Run(fault=KillRank(rank, after=after), settings=fixed, right=failed_on(rank, "SIGKILL")),
        Run(fault=SignalRank(rank, sig, after=after), settings=fixed, right=failed_on(rank, sig.name)),
        Run(fault=StopRank(rank, after=after, for_=0.3), settings=fixed, right=ended(4)),
        Run(fault=StopRank(rank, after=after), settings=fixed | {"timeout": HANGS}, right=hung(rank)),
        Run(fault=lose, settings=fixed, right=lost(node)),
        Run(fault=KillRank(rank, after=after), settings=fixed | {"max_restarts": 1}, right=ended(4, 4)),
        Run(fault=lose, settings=elastic, right=ended(4, 2)),
        Run(fault=KillRank(rank, after=after), settings=elastic, right=ended(4, 4)),
    ]
    return dice.choices(runs, weights=[4, 4, 3, 1, 4, 3, 2, 1])[0]


def with_variable(name: str) -> list[int]:
    """Return the processes that have a variable in their environment: each rank and agent of the runs."""
    found = []
    for process in psutil.process_iter():
        try:
            if name in process.environ() and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process.pid)
        except psutil.Error:
            continue
    return found


def held() -> dict[str, int]:
    me = psutil.Process()
    return {"descriptors": me.num_fds(), "threads": me.num_threads(), "processes": len(me.children(recursive=True))}


def more_than(before: dict[str, int]) -> dict[str, int]:
    return {what: number for what, number in held().items() if number > before[what]}


def test_the_verdict_matches_the_fault_in_200_of_200(elastic_launch: ElasticLaunch) -> None:
    seed = int(os.environ.get("SOAK_SEED", "0"))
    dice = random.Random(seed)
    name = f"SOAK_{uuid.uuid4().hex}"
    wrong, kinds, seconds = [], Counter[str](), []
    elastic_launch(train, nproc=1, timeout=DEADLINE)
    before = held()
    for number in range(RUNS):
        run = choose(dice)
        kinds[type(run.fault).__name__] += 1
        begin = time.monotonic()
        out: Outcome
        try:
            settings: dict[str, Any] = {"nproc": 2, "timeout": DEADLINE, "env": {name: "1"}} | run.settings
            out = elastic_launch(train, faults=[run.fault], **settings)
        except Exception as error:  # noqa: BLE001 (whatever it is, it is judged)
            out = error
        seconds.append(time.monotonic() - begin)
        left = with_variable(name)
        if not run.right(out) or left:
            told = f"{type(out).__name__}: {out}" if isinstance(out, Exception) else f"{dict(out)}, worlds {out.worlds}"
            wrong.append(f"{number}: {run.fault!r} with {run.settings}: left {left}, {told}")
    print(f"verdict right in {RUNS - len(wrong)} of {RUNS} runs (seed {seed})")
    print(f"the longest took {max(seconds):.1f} s; {dict(kinds)}")
    deadline = time.monotonic() + 10
    while more_than(before) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert more_than(before) == {}
    assert not wrong, "\n\n".join(wrong)
