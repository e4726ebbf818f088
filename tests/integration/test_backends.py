"""Every rendezvous backend forms the world that torchrun forms, also again and again."""

from __future__ import annotations

import importlib
import logging
import multiprocessing
import os
import signal
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
import torch.distributed as dist
from torch.distributed.elastic.agent.server import api as agent_api
from torch.distributed.elastic.agent.server.local_elastic_agent import LocalElasticAgent
from torch.distributed.elastic.events import handlers as event_handlers
from torch.distributed.elastic.multiprocessing import SignalException
from torch.distributed.launcher.api import LaunchConfig

from pytest_elastic import (
    AgentFailedError,
    ElasticError,
    ElasticTimeoutError,
    EtcdServer,
    LaunchResult,
    WorkerFailedError,
)

if TYPE_CHECKING:
    from pytest_elastic.controller.launcher import ElasticLaunch

DEADLINE = 30
BACKENDS = ("local", "c10d", "static", "etcd", "etcd-v2")
DYNAMIC = ("c10d", "etcd", "etcd-v2")

every_backend = pytest.mark.parametrize("backend", BACKENDS)
every_world = pytest.mark.parametrize("nodes", [1, 2], ids=["1x2", "2x2"])


def reduced() -> int:
    total = torch.tensor(dist.get_rank())
    dist.all_reduce(total)
    return int(total)


def describe_world() -> dict[str, Any]:
    dist.init_process_group("gloo")
    total = reduced()
    dist.destroy_process_group()
    names = (
        "RANK",
        "LOCAL_RANK",
        "GROUP_RANK",
        "WORLD_SIZE",
        "LOCAL_WORLD_SIZE",
        "GROUP_WORLD_SIZE",
        "MASTER_ADDR",
        "MASTER_PORT",
    )
    return {"total": total, "thread": threading.current_thread().name} | {name: os.environ[name] for name in names}


def failing_at_first(culprit: int) -> tuple[int, int]:
    """Fail on one rank in the first attempt, after the group was used."""
    dist.init_process_group("gloo")
    total = reduced()
    attempt = int(os.environ["TORCHELASTIC_RESTART_COUNT"])
    if attempt == 0 and dist.get_rank() == culprit:
        raise RuntimeError("the first attempt fails")
    dist.barrier()
    dist.destroy_process_group()
    return attempt, total


def failing_once(note: Path) -> int:
    """Fail on rank 1 where that has not happened before.

    Over several nodes an agent's count of restarts does not tell: torch does not count if another agent was faster.
    """
    dist.init_process_group("gloo")
    total = reduced()
    if dist.get_rank() == 1 and not note.exists():
        note.touch()
        raise RuntimeError("the first attempt fails")
    dist.barrier()
    dist.destroy_process_group()
    return total


def three_groups() -> list[int]:
    totals = []
    for _ in range(3):
        dist.init_process_group("gloo")
        totals.append(reduced())
        dist.destroy_process_group()
    return totals


def over_tcp() -> int:
    dist.init_process_group(
        "gloo",
        init_method=f"tcp://{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}",
        rank=int(os.environ["RANK"]),
        world_size=int(os.environ["WORLD_SIZE"]),
    )
    total = reduced()
    dist.destroy_process_group()
    return total


def own_rank() -> int:
    return int(os.environ["RANK"])


def world_size() -> int:
    return int(os.environ["WORLD_SIZE"])


def group_is_there() -> tuple[bool, int]:
    return dist.is_initialized(), reduced()


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where this process makes its temporary directories; torch makes one for each LaunchConfig."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def final_states(result: LaunchResult) -> list[str]:
    return [
        event.metadata["state"]
        for event in result.events
        if event.source == "AGENT" and event.metadata["state"] in ("SUCCEEDED", "FAILED")
    ]


# --- worlds -------------------------------------------------------------------------------------------------


@every_backend
@every_world
def test_ranks_meet_and_find_their_places(elastic_launch: ElasticLaunch, backend: str, nodes: int) -> None:
    result = elastic_launch(describe_world, nproc=2, nnodes=nodes, rdzv_backend=backend, timeout=DEADLINE)
    size = 2 * nodes
    assert set(result) == set(range(size))
    for rank, seen in result.items():
        assert seen["total"] == sum(range(size))
        assert seen["RANK"] == str(rank)
        assert seen["LOCAL_RANK"] == str(rank % 2)
        assert seen["GROUP_RANK"] == str(rank // 2)
        assert seen["WORLD_SIZE"] == str(size)
        assert seen["LOCAL_WORLD_SIZE"] == "2"
        assert seen["GROUP_WORLD_SIZE"] == str(nodes)
    assert len({(seen["MASTER_ADDR"], seen["MASTER_PORT"]) for seen in result.values()}) == 1
    assert sorted(agent.node_rank for agent in result.agents if agent.node_rank is not None) == list(range(nodes))
    assert all(agent.state == "SUCCEEDED" and agent.exitcode == 0 for agent in result.agents)
    assert all(agent.rendezvous_shutdown and agent.rendezvous_rounds == 1 for agent in result.agents)
    assert (tuple(result.worlds), result.world_size, result.restarts) == ((size,), size, 0)


@pytest.mark.parametrize("backend", DYNAMIC)
def test_one_of_at_most_two_nodes_is_enough(elastic_launch: ElasticLaunch, backend: str) -> None:
    result = elastic_launch(describe_world, nproc=2, nnodes="1:2", agents=1, rdzv_backend=backend, timeout=DEADLINE)
    assert [seen["total"] for seen in result.values()] == [1, 1]
    assert result.world_size == 2
    assert len(result.agents) == 1


def test_a_range_of_nodes_meets_over_c10d(elastic_launch: ElasticLaunch) -> None:
    result = elastic_launch(world_size, nproc=1, nnodes="1:2", timeout=DEADLINE)
    assert result == {0: 2, 1: 2}
    endpoints = {event.metadata["rdzv_backend"] for event in result.events if event.source == "AGENT"}
    assert endpoints == {"c10d"}


@pytest.mark.parametrize("backend", ["static", "local"])
def test_a_fixed_number_of_nodes_is_not_a_range(elastic_launch: ElasticLaunch, backend: str) -> None:
    with pytest.raises(ElasticError) as caught:
        elastic_launch(own_rank, nproc=1, nnodes="1:2", rdzv_backend=backend, timeout=DEADLINE)
    text = str(caught.value)
    assert "\n" not in text
    for word in ('nnodes="1:2"', f'"{backend}"', "fixed number of nodes", '"c10d"', '"etcd"', '"etcd-v2"'):
        assert word in text


@every_backend
def test_a_rank_that_fails_on_the_second_node_ends_both(elastic_launch: ElasticLaunch, backend: str) -> None:
    with pytest.raises(WorkerFailedError, match="the first attempt fails") as caught:
        elastic_launch(failing_at_first, 3, nproc=2, nnodes=2, rdzv_backend=backend, timeout=DEADLINE)
    assert caught.value.first.rank == 3
    assert caught.value.first.node_rank == 1
    assert not caught.value.first.collateral
    assert {f.rank for f in caught.value.result.failures if not f.collateral} == {3}
    assert len(caught.value.result.agents) == 2


# --- groups again and again ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    # Over etcd a restart takes 10 s, the life of a key in torch: it is done once.
    ("backend", "culprit"),
    [*((backend, 1) for backend in BACKENDS), ("local", 0), ("c10d", 0), ("static", 0)],
)
def test_a_restarted_group_works(elastic_launch: ElasticLaunch, backend: str, culprit: int) -> None:
    result = elastic_launch(failing_at_first, culprit, nproc=2, max_restarts=1, rdzv_backend=backend, timeout=DEADLINE)
    assert result == {0: (1, 1), 1: (1, 1)}
    assert result.restarts == 1
    assert tuple(result.worlds) == (2, 2)
    assert result.failures == ()
    assert result.agents[0].restarts == 1
    assert result.agents[0].rendezvous_rounds == 2


@pytest.mark.parametrize("backend", ["local", "c10d"])
def test_no_restart_is_left(elastic_launch: ElasticLaunch, backend: str) -> None:
    result = elastic_launch(
        fails_at_every_attempt, nproc=2, max_restarts=1, rdzv_backend=backend, check=False, timeout=DEADLINE
    )
    assert result.restarts == 1
    assert tuple(result.worlds) == (2, 2)
    assert result.first is not None
    assert result.first.rank == 1
    assert str(result.first.exception) == "attempt 1 fails"


def fails_at_every_attempt() -> None:
    if os.environ["RANK"] == "1":
        raise RuntimeError(f"attempt {os.environ['TORCHELASTIC_RESTART_COUNT']} fails")


@pytest.mark.parametrize("backend", ["local", "c10d", "static", "etcd-v2"])
def test_a_group_of_two_nodes_is_restarted(elastic_launch: ElasticLaunch, tmp_path: Path, backend: str) -> None:
    note = tmp_path / "has failed"
    result = elastic_launch(
        failing_once, note, nproc=2, nnodes=2, max_restarts=1, rdzv_backend=backend, timeout=DEADLINE
    )
    assert note.exists()
    assert result == dict.fromkeys(range(4), 6)
    assert result.restarts == 1
    assert tuple(result.worlds) == (4, 4)
    assert result.failures == ()


@every_backend
@every_world
def test_a_group_is_made_three_times(elastic_launch: ElasticLaunch, backend: str, nodes: int) -> None:
    size = 2 * nodes
    result = elastic_launch(three_groups, nproc=2, nnodes=nodes, rdzv_backend=backend, timeout=DEADLINE)
    assert result == dict.fromkeys(range(size), [sum(range(size))] * 3)


@every_backend
@every_world
def test_a_group_is_made_over_tcp(elastic_launch: ElasticLaunch, backend: str, nodes: int) -> None:
    size = 2 * nodes
    result = elastic_launch(over_tcp, nproc=2, nnodes=nodes, rdzv_backend=backend, timeout=DEADLINE)
    assert result == dict.fromkeys(range(size), sum(range(size)))


def test_the_backend_argument_makes_the_group(elastic_launch: ElasticLaunch) -> None:
    assert elastic_launch(group_is_there, nproc=2, backend="gloo", timeout=DEADLINE) == {0: (True, 1), 1: (True, 1)}


# --- the agent ----------------------------------------------------------------------------------------------


@every_backend
def test_the_agent_runs_inline(elastic_launch: ElasticLaunch, backend: str) -> None:
    result = elastic_launch(describe_world, nproc=2, rdzv_backend=backend, agent="inline", timeout=DEADLINE)
    assert [seen["total"] for seen in result.values()] == [1, 1]
    assert result.agents[0].exitcode is None
    assert result.agents[0].state == "SUCCEEDED"
    assert result.agents[0].rendezvous_shutdown
    assert final_states(result) == ["SUCCEEDED"]


def test_an_inline_agent_can_be_patched(elastic_launch: ElasticLaunch, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    original = LocalElasticAgent._start_workers

    def start_workers(self: LocalElasticAgent, worker_group: Any) -> Any:
        seen.append((os.getpid(), worker_group.spec.local_world_size))
        return original(self, worker_group)

    monkeypatch.setattr(LocalElasticAgent, "_start_workers", start_workers)
    assert elastic_launch(own_rank, nproc=2, agent="inline", timeout=DEADLINE) == {0: 0, 1: 1}
    assert seen == [(os.getpid(), 2)]


def test_a_patched_inline_agent_that_raises_has_failed(
    elastic_launch: ElasticLaunch, monkeypatch: pytest.MonkeyPatch
) -> None:
    def start_workers(self: LocalElasticAgent, worker_group: Any) -> Any:
        raise MemoryError("no worker is started")

    monkeypatch.setattr(LocalElasticAgent, "_start_workers", start_workers)
    with pytest.raises(AgentFailedError, match="no worker is started") as caught:
        elastic_launch(own_rank, nproc=2, agent="inline", timeout=DEADLINE)
    assert isinstance(caught.value.agent.exception, MemoryError)
    assert caught.value.agent.exitcode is None
    assert "start_workers" in caught.value.agent.traceback


def test_the_failure_of_a_worker_of_an_inline_agent_is_the_workers(elastic_launch: ElasticLaunch) -> None:
    with pytest.raises(WorkerFailedError, match="attempt 0 fails") as caught:
        elastic_launch(fails_at_every_attempt, nproc=2, agent="inline", timeout=DEADLINE)
    assert caught.value.first.rank == 1
    assert final_states(caught.value.result) == ["SUCCEEDED"]


class Stuck:
    """A patched agent that gets stuck, and can be woken up again."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, method: str) -> None:
        self.woken = threading.Event()
        self.seen: list[BaseException | None] = []
        self.thread: threading.Thread | None = None
        original = getattr(LocalElasticAgent, method)

        def wait(agent: LocalElasticAgent, *args: Any) -> Any:
            self.thread = threading.current_thread()
            self.woken.wait(120)
            try:
                return original(agent, *args)
            except BaseException as error:
                self.seen.append(error)
                raise

        monkeypatch.setattr(LocalElasticAgent, method, wait)


def changed_by_inline_agents() -> dict[str, Any]:
    spawn: Any = importlib.import_module("torch.multiprocessing.spawn")
    noisy = [
        logging.getLogger(f"torch.{name}")
        for name in ("distributed.elastic.multiprocessing.api", "multiprocessing.spawn")
    ]
    return {
        "temporary directory": tempfile.gettempdir(),
        "files of torch": spawn.tempfile,
        "hostname": agent_api._get_fq_hostname,
        "excepthook": threading.excepthook,
        "levels": [logger.level for logger in noisy],
        "filters": [list(logger.filters) for logger in noisy],
        "start methods": sorted(multiprocessing.context._concrete_contexts),  # type: ignore[attr-defined]
        "environment": sorted(os.environ.items()),
        "handlers of events": {name for name in event_handlers._log_handlers if "elastic" not in name},
    }


@pytest.mark.parametrize("method", ["_invoke_run", "_rendezvous", "_start_workers", "_monitor_workers"])
def test_an_inline_agent_that_is_stuck_is_given_up_at_the_deadline(
    elastic_launch: ElasticLaunch, monkeypatch: pytest.MonkeyPatch, method: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Its thread cannot be killed: when it wakes up, it changes nothing and starts nothing."""
    elastic_launch(own_rank, nproc=2, agent="inline", timeout=DEADLINE)
    before = changed_by_inline_agents()
    with monkeypatch.context() as patch:
        stuck = Stuck(patch, method)
        begin = time.monotonic()
        with pytest.raises(ElasticTimeoutError) as caught:
            elastic_launch(own_rank, nproc=2, agent="inline", timeout=1)
        assert time.monotonic() - begin < 1 + 2 + 1  # time-out, grace, and a second for a busy machine
    assert caught.value.result.agents[0].state == "KILLED"
    # What keeps the log records of that thread back is the one thing that goes only with it.
    assert changed_by_inline_agents() | {"filters": before["filters"]} == before
    # Another one runs meanwhile, and the first wakes up in the middle of it.
    original = LocalElasticAgent._start_workers

    def start_workers(agent: LocalElasticAgent, worker_group: Any) -> Any:
        stuck.woken.set()
        assert stuck.thread is not None
        stuck.thread.join(DEADLINE)
        return original(agent, worker_group)

    monkeypatch.setattr(LocalElasticAgent, "_start_workers", start_workers)
    assert elastic_launch(own_rank, nproc=2, agent="inline", timeout=DEADLINE) == {0: 0, 1: 1}
    assert stuck.thread is not None
    assert not stuck.thread.is_alive()
    assert len(stuck.seen) == (method != "_monitor_workers")
    assert changed_by_inline_agents() == before
    assert caplog.records == []


def test_an_inline_agent_that_restarts_for_ever_is_ended_at_the_deadline(elastic_launch: ElasticLaunch) -> None:
    begin = time.monotonic()
    with pytest.raises(ElasticError):
        elastic_launch(fails_at_every_attempt, nproc=2, max_restarts=10_000, agent="inline", timeout=2)
    assert time.monotonic() - begin < 2 + 2 + 1
    assert elastic_launch(own_rank, nproc=2, agent="inline", timeout=DEADLINE) == {0: 0, 1: 1}


def test_an_inline_agent_that_ends_before_it_can_speak_is_told(
    elastic_launch: ElasticLaunch, monkeypatch: pytest.MonkeyPatch
) -> None:
    elastic_launch(own_rank, nproc=1, agent="inline", timeout=DEADLINE)
    inline = importlib.import_module("pytest_elastic.agent.inline")

    def fail(*args: Any, **kwargs: Any) -> None:
        raise OSError("no channel today")

    with monkeypatch.context() as patch:
        patch.setattr(inline, "Outbox", fail)
        with pytest.raises(AgentFailedError, match="agent 0 ended before it could say how") as caught:
            elastic_launch(own_rank, nproc=1, agent="inline", timeout=DEADLINE)
    assert "no channel today" in str(caught.value)
    assert elastic_launch(own_rank, nproc=1, agent="inline", timeout=DEADLINE) == {0: 0}


def test_inline_launches_of_several_threads_take_turns(
    elastic_launch: ElasticLaunch, monkeypatch: pytest.MonkeyPatch
) -> None:
    elastic_launch(own_rank, nproc=1, agent="inline", timeout=DEADLINE)
    before = changed_by_inline_agents()
    running: list[int] = []
    most = []
    original = LocalElasticAgent._invoke_run

    def invoke_run(agent: LocalElasticAgent, role: str) -> Any:
        running.append(1)
        most.append(len(running))
        try:
            return original(agent, role)
        finally:
            running.pop()

    monkeypatch.setattr(LocalElasticAgent, "_invoke_run", invoke_run)
    with ThreadPoolExecutor(4) as pool:
        launches = [
            pool.submit(elastic_launch, own_rank, nproc=1 + number % 2, agent="inline", timeout=DEADLINE)
            for number in range(4)
        ]
    assert [len(launch.result()) for launch in launches] == [1, 2, 1, 2]
    assert most == [1, 1, 1, 1]
    assert changed_by_inline_agents() == before


def test_an_inline_launch_does_not_wait_for_its_turn_for_ever(
    elastic_launch: ElasticLaunch, monkeypatch: pytest.MonkeyPatch
) -> None:
    stuck = Stuck(monkeypatch, "_start_workers")
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(elastic_launch, own_rank, nproc=1, agent="inline", timeout=DEADLINE)
        while stuck.thread is None and not first.done():
            time.sleep(0.01)
        with pytest.raises(ElasticError, match=r"another one has run for 0\.2 s; one inline agent runs at a time"):
            elastic_launch(own_rank, nproc=1, agent="inline", timeout=0.2)
        stuck.woken.set()
        assert first.result() == {0: 0}


def test_an_inline_agent_without_a_rendezvous_keeps_no_descriptor(
    elastic_launch: ElasticLaunch, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise OSError("no rendezvous")

    monkeypatch.setattr("pytest_elastic.agent.rendezvous.LocalRendezvous.__init__", refuse)

    def fail() -> int:
        with pytest.raises(AgentFailedError, match="no rendezvous"):
            elastic_launch(own_rank, nproc=1, agent="inline", timeout=DEADLINE)
        return len(os.listdir("/proc/self/fd"))

    fail()
    numbers = [fail() for _ in range(4)]
    assert numbers[-1] <= numbers[0]


def test_an_inline_agent_asks_whether_the_server_is_fit(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        test_unsafe="""
        import threading

        LIVES = threading.Thread(target=threading.Event().wait, daemon=True)
        LIVES.start()

        def thread_is_there():
            return LIVES.is_alive()

        def test_inline(elastic_launch):
            # A fresh interpreter has imported this module: in a fork of the one that collected it no thread lives.
            assert elastic_launch(thread_is_there, nproc=1, agent="inline", timeout=60) == {0: True}
        """,
        test_broken="""
        import os
        import pytest
        from pytest_elastic import ElasticError, role

        @pytest.fixture(scope="session")
        def tried(elastic_launch):
            pass

        @pytest.mark.parametrize("again", [0, 1])
        def test_inline(elastic_launch, again):
            with pytest.raises(ElasticError, match="the preloaded server could not start: .*only once"):
                elastic_launch(os.getpid, nproc=1, agent="inline", timeout=60)
        """,
    )
    result = pytester.runpytest_subprocess("-p", "no:cacheprovider", "test_unsafe.py")
    result.assert_outcomes(passed=1)
    pytester.makeconftest(
        """
        import os
        if os.environ.get("PYTEST_ELASTIC_RUN"):
            raise SystemExit("only once")
        """
    )
    result = pytester.runpytest_subprocess("-p", "no:cacheprovider", "test_broken.py")
    result.assert_outcomes(passed=2)


def test_signal_handlers_are_the_tests_own_after_an_inline_agent(elastic_launch: ElasticLaunch) -> None:
    before = {signum: signal.getsignal(signum) for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}
    environ = dict(os.environ)
    elastic_launch(own_rank, nproc=1, agent="inline", timeout=DEADLINE)
    assert {signum: signal.getsignal(signum) for signum in before} == before
    assert dict(os.environ) == environ


@pytest.mark.parametrize("agent", ["process", "inline"])
@every_backend
def test_an_agent_that_raises_shuts_the_rendezvous_down(
    elastic_launch: ElasticLaunch, backend: str, agent: Any
) -> None:
    with pytest.raises(AgentFailedError, match="KeyError: 'the agent'") as caught:
        elastic_launch(
            own_rank,
            nproc=2,
            rdzv_backend=backend,
            agent=agent,
            agent_error=KeyError("the agent"),
            timeout=DEADLINE,
        )
    outcome = caught.value.agent
    assert outcome == caught.value.result.agents[0]
    assert type(outcome.exception) is KeyError
    assert outcome.exception.args == ("the agent",)
    assert (outcome.state, outcome.rendezvous_shutdown, outcome.rendezvous_rounds) == ("FAILED", True, 0)
    assert outcome.exitcode == (1 if agent == "process" else None)
    assert final_states(caught.value.result) == ["FAILED"]


@pytest.mark.parametrize("agent", ["process", "inline"])
@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_an_agent_that_got_a_signal_leaves_the_rendezvous_open(
    elastic_launch: ElasticLaunch, signum: signal.Signals, agent: Any
) -> None:
    with pytest.raises(AgentFailedError, match="the node goes down") as caught:
        elastic_launch(
            own_rank,
            nproc=2,
            rdzv_backend="c10d",
            agent=agent,
            agent_error=SignalException("the node goes down", signum),
            timeout=DEADLINE,
        )
    raised = caught.value.agent.exception
    assert isinstance(raised, SignalException)
    assert raised.sigval == signum
    assert not caught.value.agent.rendezvous_shutdown
    assert final_states(caught.value.result) == ["FAILED"]


def test_an_agents_error_is_returned_without_check(elastic_launch: ElasticLaunch) -> None:
    result = elastic_launch(own_rank, nproc=2, agent_error=OSError(28, "disk full"), check=False, timeout=DEADLINE)
    assert result == {}
    assert result.failures == ()
    assert isinstance(result.agents[0].exception, OSError)
    assert result.agents[0].exception.errno == 28


# --- torch's own configuration ------------------------------------------------------------------------------


def test_a_launch_config_is_honoured(elastic_launch: ElasticLaunch, temporary: Path) -> None:
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=3,
        run_id="a-run-of-its-own",
        role="trainer",
        rdzv_backend="c10d",
        max_restarts=1,
        start_method="forkserver",
    )
    result = elastic_launch(attempt_role_and_run, config=config, timeout=DEADLINE)
    assert result == dict.fromkeys(range(3), ("1", "trainer", "a-run-of-its-own"))
    assert result.restarts == 1
    events = [event.metadata for event in result.events if event.source == "AGENT"]
    assert {(event["run_id"], event["rdzv_backend"]) for event in events} == {("a-run-of-its-own", "c10d")}
    assert list(temporary.glob("torchelastic_*")) == []


def attempt_role_and_run() -> tuple[str, str, str]:
    attempt = os.environ["TORCHELASTIC_RESTART_COUNT"]
    if attempt == "0":
        raise RuntimeError("the first attempt fails")
    return attempt, os.environ["ROLE_NAME"], os.environ["TORCHELASTIC_RUN_ID"]


def test_a_launch_config_with_torchs_defaults(elastic_launch: ElasticLaunch, temporary: Path) -> None:
    """Among its defaults are etcd and the start method spawn; the endpoint is the run's own server."""
    config = LaunchConfig(min_nodes=1, max_nodes=1, nproc_per_node=1)
    result = elastic_launch(own_rank, config=config, timeout=DEADLINE)
    assert result == {0: 0}
    assert {event.metadata["rdzv_backend"] for event in result.events if event.source == "AGENT"} == {"etcd"}
    assert list(temporary.glob("torchelastic_*")) == []


@pytest.mark.parametrize(
    "beside", [{"nproc": 2}, {"nnodes": 1}, {"rdzv_backend": "c10d"}, {"max_restarts": 1}, {"rdzv_endpoint": "h:1"}]
)
def test_beside_a_launch_config_its_settings_are_refused(
    elastic_launch: ElasticLaunch, temporary: Path, beside: dict[str, Any]
) -> None:
    config = LaunchConfig(min_nodes=1, max_nodes=1, nproc_per_node=1, rdzv_backend="c10d")
    with pytest.raises(ElasticError, match=rf"config=.*{next(iter(beside))}") as caught:
        elastic_launch(own_rank, config=config, timeout=DEADLINE, **beside)
    assert "\n" not in str(caught.value)


def test_an_endpoint_of_the_users_own(elastic_launch: ElasticLaunch, etcd_server: EtcdServer) -> None:
    result = elastic_launch(
        own_rank, nproc=2, rdzv_backend="etcd-v2", rdzv_endpoint=etcd_server.endpoint, timeout=DEADLINE
    )
    assert result == {0: 0, 1: 1}


def test_settings_of_the_rendezvous_reach_it(elastic_launch: ElasticLaunch) -> None:
    with pytest.raises(AgentFailedError, match="The protocol must be HTTP or HTTPS"):
        elastic_launch(
            own_rank, nproc=1, rdzv_backend="etcd-v2", rdzv_configs={"protocol": "carrier pigeon"}, timeout=DEADLINE
        )


def test_torchs_own_store_can_be_the_endpoint(elastic_launch: ElasticLaunch, free_port: int) -> None:
    """With an endpoint nobody hosts the store for the agents: one of them does, as under torchrun."""
    endpoint = f"127.0.0.1:{free_port}"
    result = elastic_launch(
        describe_world, nproc=1, nnodes=2, rdzv_backend="c10d", rdzv_endpoint=endpoint, timeout=DEADLINE
    )
    assert [seen["total"] for seen in result.values()] == [1, 1]


def test_a_default_backend_is_for_marked_tests_and_leaves_launched_functions_alone(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        test_it="""
        import pytest
        import torch.distributed as dist

        def own_group():
            dist.init_process_group("gloo")
            dist.destroy_process_group()
            return dist.is_initialized()

        def test_function(elastic_launch):
            assert elastic_launch(own_group, nproc=2, timeout=30) == {0: False, 1: False}

        def test_asked_for(elastic_launch):
            assert elastic_launch(dist.is_initialized, nproc=2, timeout=30, backend="gloo") == {0: True, 1: True}

        @pytest.mark.elastic(nproc=2, timeout=30)
        def test_marked():
            assert dist.get_backend() == "gloo"
        """
    )
    pytester.runpytest_subprocess("--elastic-backend=gloo").assert_outcomes(passed=3)


def launch_config(**fields: Any) -> LaunchConfig:
    usual: dict[str, Any] = {
        "min_nodes": 1,
        "max_nodes": 1,
        "nproc_per_node": 2,
        "rdzv_backend": "c10d",
        "max_restarts": 0,
    }
    return LaunchConfig(**(usual | fields))


def parent_and_rank() -> tuple[int, int]:
    return os.getppid(), own_rank()


@pytest.mark.parametrize("agent", ["process", "inline"])
def test_a_config_may_have_the_agent_fork_its_ranks(elastic_launch: ElasticLaunch, agent: Any) -> None:
    result = elastic_launch(parent_and_rank, config=launch_config(start_method="fork"), agent=agent, timeout=DEADLINE)
    assert [rank for _, rank in result.values()] == [0, 1]
    assert len({parent for parent, _ in result.values()}) == 1
    assert (result[0][0] == os.getpid()) == (agent == "inline")


def test_a_config_names_the_signals_that_an_agent_handles(elastic_launch: ElasticLaunch, tmp_path: Path) -> None:
    """torch's agent takes its handlers from this; SIGUSR1 is none of the usual ones, and would kill it."""

    def signal_the_agent() -> None:
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)  # the agent passes on what it gets
        (tmp_path / str(own_rank())).touch()
        while len(list(tmp_path.iterdir())) < 2:
            time.sleep(0.01)
        if own_rank() == 0:
            os.kill(os.getppid(), signal.SIGUSR1)
        time.sleep(DEADLINE)

    config = launch_config(start_method="spawn", signals_to_handle="SIGUSR1")
    with pytest.raises(AgentFailedError) as caught:
        elastic_launch(signal_the_agent, config=config, timeout=DEADLINE)
    assert isinstance(caught.value.agent.exception, SignalException)
    assert caught.value.agent.exception.sigval is signal.SIGUSR1
