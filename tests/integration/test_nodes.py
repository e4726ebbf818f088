"""Nodes that are lost, come late, leave and come back, under real agents; and worlds that come apart."""

from __future__ import annotations

import os
import re
import signal
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest
import torch
import torch.distributed as dist
from torch.distributed import HashStore
from torch.distributed.elastic.multiprocessing import SignalException
from torch.distributed.elastic.rendezvous import (
    RendezvousHandler,
    RendezvousInfo,
    RendezvousStateError,
    RendezvousStoreInfo,
    rendezvous_handler_registry,
)
from torch.distributed.launcher.api import LaunchConfig

from pytest_elastic import (
    AddNode,
    AgentFailedError,
    ElasticError,
    ElasticTimeoutError,
    EtcdServer,
    KillNode,
    KillRank,
    LaunchResult,
    WorkerFailedError,
)
from pytest_elastic.faults import Fault

if TYPE_CHECKING:
    from pytest_elastic.controller.launcher import ElasticLaunch

DEADLINE = 60


def train(done: Path) -> int:
    """Reduce step by step until a file is there, and return the size of the world."""
    # A peer's death now and then leaves gloo waiting for it: the group's timeout ends that.
    dist.init_process_group("gloo", timeout=timedelta(seconds=10))
    step = 0
    while True:
        over = torch.tensor(int(done.exists()))
        dist.all_reduce(over, dist.ReduceOp.MAX)
        print(f"step {step} of {dist.get_world_size()} ranks", flush=True)
        if over:
            return dist.get_world_size()
        step += 1
        time.sleep(0.01)  # the work of a step


def forever() -> None:
    while True:
        time.sleep(1)


@pytest.fixture
def done(tmp_path: Path) -> Path:
    """The file that ends the training."""
    return tmp_path / "done"


# --- the number of nodes changes ------------------------------------------------------------------------------


@pytest.mark.parametrize(("backend", "lost"), [("c10d", 0), ("c10d", 1), ("etcd-v2", 0), ("etcd", 1)])
def test_two_nodes_become_one(elastic_launch: ElasticLaunch, done: Path, backend: str, lost: int) -> None:
    with elastic_launch.start(
        train, done, nnodes="1:2", nproc=2, max_restarts=2, rdzv_backend=backend, timeout=DEADLINE
    ) as run:
        run.wait_for_output(r"step 3 of 4", rank=3)
        pids = [rank.pid for rank in run.ranks.values() if rank.node_rank == run.agents[lost].node_rank]
        run.agents[lost].kill()
        run.agents[lost].join(timeout=10)
        assert run.agents[lost].state == "KILLED"
        assert len(pids) == 2
        run.wait_for_world(2)
        assert not any(pid is not None and psutil.pid_exists(pid) for pid in pids)
        done.touch()
        result = run.wait()
    assert result == {0: 2, 1: 2}
    assert result.worlds == [4, 2]
    result.assert_ok()
    result.assert_restarted(1)  # torch takes the loss of their peers for a failure of the workers
    gone, left = result.agents[lost], result.agents[1 - lost]
    assert (gone.state, gone.exitcode, gone.worlds) == ("KILLED", -signal.SIGKILL, [4])
    assert (left.state, left.exitcode, left.worlds, left.node_rank) == ("SUCCEEDED", 0, [4, 2], 0)
    assert left.rendezvous_rounds == 2
    assert left.rendezvous_shutdown


@pytest.mark.parametrize("backend", ["c10d", "etcd-v2", "etcd"])
def test_one_node_becomes_two(elastic_launch: ElasticLaunch, done: Path, backend: str) -> None:
    with elastic_launch.start(
        train, done, nnodes="1:2", nproc=2, agents=1, rdzv_backend=backend, timeout=DEADLINE
    ) as run:
        run.wait_for_output(r"step 3 of 2", rank=1)
        assert run.world_size == 2
        added = run.add_agent()
        run.wait_for_world(4)
        assert (added.state, added.worlds, run.worlds, run.restarts) == ("RUNNING", [4], [2, 4], 0)
        done.touch()
        result = run.wait()
    assert result == dict.fromkeys(range(4), 4)
    assert result.worlds == [2, 4]
    result.assert_restarted(0)  # a change of membership is no restart
    assert [agent.worlds for agent in result.agents] == [[2, 4], [4]]
    assert [agent.rendezvous_shutdown for agent in result.agents] == [True, True]


def test_a_node_leaves_and_comes_back(elastic_launch: ElasticLaunch, done: Path) -> None:
    with elastic_launch.start(train, done, nnodes="1:2", nproc=1, max_restarts=3, timeout=DEADLINE) as run:
        run.wait_for_output("step 3 of 2", rank=1)
        run.agents[1].terminate()
        run.agents[1].join(timeout=10)
        run.wait_for_world(1)
        run.add_agent()
        run.wait_for_world(2)
        done.touch()
        result = run.wait()
    assert result.worlds == [2, 1, 2]
    result.assert_ok()
    left = result.agents[1]
    assert isinstance(left.exception, SignalException)
    assert left.exception.sigval == signal.SIGTERM
    assert (left.state, left.exitcode, left.rendezvous_shutdown) == ("FAILED", 1, False)
    assert [agent.worlds for agent in result.agents] == [[2, 1, 2], [2], [2]]


def test_a_node_of_a_fixed_number_is_replaced(elastic_launch: ElasticLaunch, done: Path) -> None:
    """Below the least number of nodes the others wait: somebody who holds the handle may add one."""
    with elastic_launch.start(
        train, done, nnodes=2, nproc=1, max_restarts=3, rdzv_backend="c10d", timeout=DEADLINE
    ) as run:
        run.wait_for_output("step 3 of 2", rank=1)
        run.agents[0].kill()
        run.agents[0].join(timeout=10)
        run.add_agent()
        run.wait_for_output("step 0 of 2", rank=0)
        done.touch()
        result = run.wait()
    assert result == {0: 2, 1: 2}
    assert result.worlds == [2, 2]
    assert [agent.state for agent in result.agents] == ["KILLED", "SUCCEEDED", "SUCCEEDED"]


# --- a node is lost that the others cannot do without ---------------------------------------------------------


@pytest.mark.parametrize("backend", ["local", "static", "c10d"])
def test_a_node_that_is_missed_is_what_failed(elastic_launch: ElasticLaunch, done: Path, backend: str) -> None:
    begin = time.monotonic()
    with pytest.raises(AgentFailedError) as caught:
        elastic_launch(
            train,
            done,
            nnodes=2,
            nproc=2,
            rdzv_backend=backend,
            timeout=DEADLINE,
            faults=[KillNode(1, when_output="step 3 of 4")],
        )
    assert time.monotonic() - begin < DEADLINE / 2
    first, *_ = str(caught.value).splitlines()
    assert re.fullmatch(
        r"agent 1 was killed by SIGKILL after \d+\.\d s \(KillNode\(1, when_output='step 3 of 4'\)\), with ranks 2-3; "
        r"ranks 0-1 (lost a peer|killed)|.*; ranks? [01] (lost a peer|killed); ranks? [01] (lost a peer|killed)",
        first,
    ), first
    assert caught.value.agent.state == "KILLED"
    assert all(failure.collateral for failure in caught.value.result.failures)
    caught.value.result.assert_failed(match="agent 1 was killed")


def lose_and_complain(done: Path) -> None:
    try:
        train(done)
    except RuntimeError as error:
        raise ValueError("the others are gone") from error


def test_what_ranks_make_of_a_lost_node_is_not_its_cause(elastic_launch: ElasticLaunch, done: Path) -> None:
    faults = [KillNode(1, when_output="step 3 of 2")]
    with pytest.raises(AgentFailedError, match=r"^agent 1 was killed .*; rank 0 failed too: ValueError: the others"):
        elastic_launch(lose_and_complain, done, nnodes=2, nproc=1, timeout=DEADLINE, faults=faults)


def test_a_rank_that_died_before_its_node_is_the_culprit(elastic_launch: ElasticLaunch, done: Path) -> None:
    faults: list[Fault] = [
        KillRank(2, when_output="step 3 of 4"),
        KillNode(0, when_output="step 3 of 4", of_rank=2, after=0.1),
    ]
    with pytest.raises(WorkerFailedError) as caught:
        elastic_launch(train, done, nnodes=2, nproc=2, timeout=DEADLINE, faults=faults)
    assert caught.value.first.rank == 2
    assert caught.value.first.message == "killed by SIGKILL (KillRank(2, when_output='step 3 of 4'))"


def finish_on_node_0(done: Path) -> None:
    if os.environ["GROUP_RANK"] == "1":
        forever()
    done.touch()


def test_a_node_that_is_lost_when_the_others_are_done(elastic_launch: ElasticLaunch, done: Path) -> None:
    """The other agent waits for it before it ends: it is not waited for until the deadline."""
    with elastic_launch.start(finish_on_node_0, done, nnodes="1:2", nproc=1, timeout=DEADLINE) as run:
        run.wait_for_world(2)
        run.agents[1].kill()
        with pytest.raises(AgentFailedError, match="agent 1 was killed by SIGKILL"):
            run.wait()
    assert done.exists()


def test_a_single_agent_that_is_told_to_end(elastic_launch: ElasticLaunch, done: Path) -> None:
    for how, signum in (("terminate", signal.SIGTERM), ("interrupt", signal.SIGINT)):
        with elastic_launch.start(train, done, nproc=2, timeout=DEADLINE) as run:
            run.wait_for_output("step 3 of 2", rank=1)
            getattr(run.agents[0], how)()
            with pytest.raises(
                AgentFailedError, match=rf"^agent 0 left: SignalException: .*run\.agents\[0\]\.{how}"
            ) as caught:
                run.wait()
        assert isinstance(caught.value.agent.exception, SignalException)
        assert caught.value.agent.exception.sigval == signum
        assert not caught.value.agent.rendezvous_shutdown
        ends = [event.metadata["state"] for event in caught.value.result.events if event.source == "AGENT"]
        assert [state for state in ends if state in ("SUCCEEDED", "FAILED")] == ["FAILED"]


def test_an_agent_that_somebody_else_interrupts(elastic_launch: ElasticLaunch, done: Path) -> None:
    """torch passes SIGINT on: that ranks raise KeyboardInterrupt is the agent's doing."""
    with elastic_launch.start(train, done, nproc=2, timeout=DEADLINE) as run:
        run.wait_for_output("step 3 of 2", rank=1)
        pid = run.agents[0].pid
        assert pid is not None
        os.kill(pid, signal.SIGINT)
        with pytest.raises(AgentFailedError, match=r"^agent 0 left: SignalException: Process \d+ got signal: 2 after"):
            run.wait()


@pytest.mark.parametrize("backend", ["local", "c10d"])
def test_restarts_do_not_make_up_for_a_missed_node(elastic_launch: ElasticLaunch, done: Path, backend: str) -> None:
    begin = time.monotonic()
    faults: list[Fault] = [KillNode(1, when_output="step 3 of 2")]
    if backend == "c10d":
        faults.append(AddNode(when_output="never"))
    with pytest.raises(AgentFailedError, match=r"^agent 1 was killed by .*, with rank 1; rank 0 lost a peer"):
        elastic_launch(
            train, done, nnodes=2, nproc=1, max_restarts=2, rdzv_backend=backend, timeout=DEADLINE, faults=faults
        )
    assert time.monotonic() - begin < DEADLINE / 2


def test_a_wait_ends_with_the_node_that_nobody_can_replace(elastic_launch: ElasticLaunch, done: Path) -> None:
    begin = time.monotonic()
    with elastic_launch.start(train, done, nnodes=2, nproc=1, timeout=DEADLINE) as run:
        run.wait_for_output("step 3 of 2", rank=1)
        run.agents[1].kill()
        with pytest.raises(AgentFailedError, match=r"^agent 1 was killed by SIGKILL"):
            run.wait_for_output("never")
    assert time.monotonic() - begin < DEADLINE / 2


def return_on_node_1(done: Path) -> str:
    if os.environ["GROUP_RANK"] == "1":
        print("returns", flush=True)
        return "early"
    deadline = time.monotonic() + DEADLINE
    while not done.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    return "late"


@pytest.mark.parametrize("by_handle", [True, False])
def test_a_node_whose_ranks_had_returned_is_not_missed(
    elastic_launch: ElasticLaunch, done: Path, by_handle: bool
) -> None:
    """Those of the other node are not cut off when the grace is over, whoever killed it."""
    with elastic_launch.start(return_on_node_1, done, nnodes=2, nproc=1, timeout=DEADLINE) as run:
        run.wait_for_output("returns", rank=1)
        while run.ranks[1].state != "SUCCEEDED":
            time.sleep(0.01)
        if by_handle:
            run.agents[1].kill()
        else:
            os.kill(run.agents[1].pid or 0, signal.SIGKILL)
        run.agents[1].join(timeout=10)
        with pytest.raises(ElasticTimeoutError, match="the launch goes on"):
            run.wait_for_output("never", rank=0, timeout=3)  # longer than the grace
        done.touch()
        result = run.wait()
    result.assert_ok()
    assert result == {0: "late", 1: "early"}


def test_a_world_whose_node_was_lost_is_not_waited_for(elastic_launch: ElasticLaunch, done: Path) -> None:
    with elastic_launch.start(train, done, nnodes=2, nproc=1, max_restarts=3, rdzv_backend="c10d", timeout=60) as run:
        run.wait_for_world(2)
        run.wait_for_output("step 1 of 2", rank=1)
        run.agents[1].kill()
        assert run.agents[1].state == "KILLED"
        assert "FAILED" in {rank.state for rank in run.ranks.values()}
        run.add_agent()
        run.wait_for_world(2)
        assert run.worlds == [2, 2]


def test_a_node_that_is_needed_comes_late(elastic_launch: ElasticLaunch, done: Path) -> None:
    done.touch()
    result = elastic_launch(
        train, done, nnodes=2, agents=1, nproc=1, rdzv_backend="c10d", timeout=DEADLINE, faults=[AddNode(after=0.2)]
    )
    assert result == {0: 2, 1: 2}


def fail_on_rank_0() -> int:
    """Fail at first, while the other rank is still busy: with a static rendezvous, agents restart one by one."""
    dist.init_process_group("gloo")
    attempt = int(os.environ["TORCHELASTIC_RESTART_COUNT"])
    if attempt == 0:
        if dist.get_rank() == 0:
            raise ValueError("the first attempt fails")
        time.sleep(1)  # its work
    dist.barrier()
    return attempt


def test_static_agents_restart_one_by_one(elastic_launch: ElasticLaunch) -> None:
    result = elastic_launch(fail_on_rank_0, nnodes=2, nproc=1, max_restarts=1, rdzv_backend="static", timeout=DEADLINE)
    assert result == {0: 1, 1: 1}


def test_an_agent_that_loses_its_etcd_is_the_cause_of_what_its_peers_lose(
    elastic_launch: ElasticLaunch, done: Path, etcd_server_factory: Callable[[], EtcdServer]
) -> None:
    etcd = etcd_server_factory()
    with elastic_launch.start(
        train, done, nnodes=2, nproc=1, rdzv_backend="etcd-v2", rdzv_endpoint=etcd.endpoint, timeout=DEADLINE
    ) as run:
        run.wait_for_output("step 3 of 2", rank=1)
        etcd.kill()
        with pytest.raises(AgentFailedError, match=r"^agent [01] failed: RendezvousConnectionError: .*etcd") as caught:
            run.wait()
    result = caught.value.result
    assert all(failure.collateral for failure in result.failures)
    with pytest.raises(AssertionError, match="did not fail first"):
        result.assert_failed(rank=0)


def test_a_rendezvous_that_lost_its_etcd_says_so_at_the_deadline(
    elastic_launch: ElasticLaunch, done: Path, etcd_server_factory: Callable[[], EtcdServer]
) -> None:
    """torch's agents go on asking for it, until the deadline."""
    etcd = etcd_server_factory()
    keys = f"http://{etcd.endpoint}/v2/keys/torchelastic?recursive=true"
    with elastic_launch.start(
        train, done, nnodes=2, agents=1, rdzv_backend="etcd", rdzv_endpoint=etcd.endpoint, timeout=12
    ) as run:
        until = time.monotonic() + DEADLINE
        while "participants" not in _text_of(keys):
            assert time.monotonic() < until
            time.sleep(0.05)
        etcd.kill()
        gone = rf"; nothing takes connections at its endpoint {etcd.endpoint}$"
        with pytest.raises(ElasticTimeoutError, match=r"\nthe rendezvous never completed: 1 agent came .*" + gone):
            run.wait()


def _text_of(url: str) -> str:
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return str(answer.read())
    except urllib.error.HTTPError:
        return ""  # there is no such key yet


# --- nothing goes on without its agent ------------------------------------------------------------------------


def with_variable(name: str) -> list[int]:
    """Return the processes that have a variable in their environment: each rank of a launch that gives it."""
    found = []
    for process in psutil.process_iter():
        try:
            if name in process.environ() and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process.pid)
        except psutil.Error:
            continue
    return found


@pytest.mark.parametrize("start_method", ["forkserver", pytest.param("spawn", marks=pytest.mark.soak)])
def test_an_agent_that_dies_while_it_starts_its_ranks(elastic_launch: ElasticLaunch, start_method: str) -> None:
    """Its ranks are the server's children: those that come to life later end as well, having run nothing."""
    name = f"ELASTIC_TEST_{uuid.uuid4().hex}"
    for attempt in range(8 if start_method == "forkserver" else 1):
        with elastic_launch.start(touch, nproc=8, env={name: "1"}, start_method=start_method, timeout=DEADLINE) as run:
            if attempt % 2:
                run.wait_for_output("touched", rank=attempt % 8)
            run.agents[0].kill()
            with pytest.raises(AgentFailedError, match="agent 0 was killed by SIGKILL"):
                run.wait()
        assert with_variable(name) == []


def touch() -> None:
    print("touched", flush=True)
    forever()


# --- worlds that come apart -----------------------------------------------------------------------------------


class Lonely(RendezvousHandler):
    """Lets each node believe that it is alone."""

    def __init__(self, parameters: Any) -> None:
        self._run_id = parameters.run_id
        self._rounds = parameters.get_as_int("rounds", 1000)

    def get_backend(self) -> str:
        return "lonely"

    def next_rendezvous(self) -> RendezvousInfo:
        if self._rounds == 0:
            raise RendezvousStateError("nobody is left to meet")
        self._rounds -= 1
        return RendezvousInfo(HashStore(), 0, 1, RendezvousStoreInfo("", 0))

    def is_closed(self) -> bool:
        return False

    def set_closed(self) -> None:
        pass

    def num_nodes_waiting(self) -> int:
        return 0

    def get_run_id(self) -> str:
        return str(self._run_id)

    def shutdown(self) -> bool:
        return True


rendezvous_handler_registry.register("lonely", Lonely)


@pytest.mark.elastic(nproc=1)
def test_the_server_knows_the_lonely_rendezvous() -> None:
    """That a test of this file runs on ranks is why the server imports it, and with it the line above."""
    assert "lonely" in rendezvous_handler_registry._registry


def test_two_worlds_at_once(elastic_launch: ElasticLaunch) -> None:
    config = LaunchConfig(min_nodes=2, max_nodes=2, nproc_per_node=2, rdzv_backend="lonely", rdzv_endpoint="x:1")
    begin = time.monotonic()
    with pytest.raises(ElasticError) as caught:
        elastic_launch(forever, config=config, timeout=DEADLINE)
    assert time.monotonic() - begin < DEADLINE / 2
    text = str(caught.value)
    assert text.startswith("forever ran in two worlds at the same time: rank")
    for node in (0, 1):
        assert f"of 2 under agent {node} (" in text


def fail_once() -> None:
    if os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
        raise ValueError("so they meet again")


def test_an_exception_in_the_rendezvous(elastic_launch: ElasticLaunch) -> None:
    """In the first round, and in the one that a restart needs."""
    for rounds in (0, 1):
        config = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=2,
            max_restarts=1,
            rdzv_backend="lonely",
            rdzv_endpoint="x:1",
            rdzv_configs={"rounds": rounds},
        )
        with pytest.raises(AgentFailedError, match="agent 0 failed: RendezvousStateError: nobody is left") as caught:
            elastic_launch(fail_once, config=config, timeout=DEADLINE)
        assert isinstance(caught.value.agent.exception, RendezvousStateError)
        assert caught.value.agent.rendezvous_rounds == rounds
        assert caught.value.agent.rendezvous_shutdown


def test_a_launch_result_names_its_worlds(elastic_launch: ElasticLaunch, done: Path) -> None:
    done.touch()
    result: LaunchResult = elastic_launch(train, done, nnodes=3, nproc=1, rdzv_backend="c10d", timeout=DEADLINE)
    assert result == {0: 3, 1: 3, 2: 3}
    assert [agent.worlds for agent in result.agents] == [[3], [3], [3]]
    assert sorted(agent.node_rank for agent in result.agents if agent.node_rank is not None) == [0, 1, 2]
