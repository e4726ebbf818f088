"""The floor: each behaviour of torch's own launcher test, expressed through the plugin's fixtures."""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest
import torch
import torch.distributed as dist
from torch.distributed.elastic.multiprocessing import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

from pytest_elastic import AgentFailedError, EtcdServer, LaunchResult, WorkerFailedError

if TYPE_CHECKING:
    from pytest_elastic.controller.launcher import ElasticLaunch

DEADLINE = 30

# Touches a file named by its rank, in a directory that must exist, and writes there what it was told.
TOUCH = """
import os, pathlib, sys
folder = pathlib.Path(sys.argv[1])
told = " ".join([*sys.argv[2:], os.environ["LOCAL_RANK"], os.environ.get("FLOOR_SENTINEL", "-")])
(folder / os.environ["RANK"]).write_text(told)
"""


@pytest.fixture
def touched(tmp_path: Path) -> Path:
    folder = tmp_path / "touched"
    folder.mkdir()
    return folder


@pytest.fixture
def script(tmp_path: Path) -> Path:
    path = tmp_path / "bin.py"
    path.write_text(TOUCH)
    return path


def check_works_ran(folder: Path, ranks: set[int]) -> None:
    assert {path.name for path in folder.iterdir()} == {str(rank) for rank in ranks}


def agent_states(result: LaunchResult) -> list[str]:
    """The agents' own events that say how they ended."""
    return [
        event.metadata["state"]
        for event in result.events
        if event.source == "AGENT" and event.metadata["state"] in ("SUCCEEDED", "FAILED")
    ]


def scaled(by: int) -> int:
    return by + int(os.environ["RANK"])


def world() -> tuple[int, int]:
    return int(os.environ["WORLD_SIZE"]), int(os.environ["GROUP_WORLD_SIZE"])


def dist_sum(add: int = 0) -> int:
    dist.init_process_group("gloo")
    total = torch.tensor(dist.get_rank() + add)
    dist.all_reduce(total)
    dist.destroy_process_group()
    return int(total)


def failing_on_rank_one() -> None:
    if os.environ["RANK"] == "1":
        raise RuntimeError("a bug of the function")


def environment(*names: str) -> dict[str, str | None]:
    return {name: os.environ.get(name) for name in names}


def pet_variables() -> list[str]:
    return [name for name in os.environ if name.startswith("PET_")]


def test_launch_script_python(
    elastic_launch: ElasticLaunch, script: Path, touched: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLOOR_SENTINEL", "set by the parent")
    result = elastic_launch(script, touched, nproc=4, timeout=DEADLINE)
    check_works_ran(touched, {0, 1, 2, 3})
    for rank in range(4):
        assert (touched / str(rank)).read_text() == f"{rank} set by the parent"
    assert result == dict.fromkeys(range(4))
    assert result.exitcodes == dict.fromkeys(range(4), 0)


def test_launch_script_python_local_rank_transfer(elastic_launch: ElasticLaunch, script: Path, touched: Path) -> None:
    elastic_launch(script, touched, "--local-rank=${local_rank}", nproc=4, timeout=DEADLINE)
    check_works_ran(touched, {0, 1, 2, 3})
    for rank in range(4):
        assert (touched / str(rank)).read_text() == f"--local-rank={rank} {rank} -"


def test_launch_script_bash(elastic_launch: ElasticLaunch, tmp_path: Path, touched: Path) -> None:
    shell = tmp_path / "bin.sh"
    shell.write_text('#!/bin/sh\necho "$2 $LOCAL_RANK" > "$1/$RANK"\n')
    shell.chmod(0o755)
    result = elastic_launch(shell, touched, "--local-rank=${local_rank}", nproc=4, timeout=DEADLINE)
    check_works_ran(touched, {0, 1, 2, 3})
    for rank in range(4):
        assert (touched / str(rank)).read_text() == f"--local-rank={rank} {rank}\n"
    assert result.exitcodes == dict.fromkeys(range(4), 0)


def test_launch_function(elastic_launch: ElasticLaunch) -> None:
    result = elastic_launch(scaled, 10, nproc=4, timeout=DEADLINE)
    assert sorted(result.values()) == [10, 11, 12, 13]
    assert result == {0: 10, 1: 11, 2: 12, 3: 13}


@pytest.mark.parametrize("add", [0, 1])
def test_launch_dist_sum_with_static_rdzv(elastic_launch: ElasticLaunch, free_port: int, add: int) -> None:
    result = elastic_launch(
        dist_sum,
        add,
        nproc=4,
        rdzv_backend="static",
        rdzv_endpoint=f"127.0.0.1:{free_port}",
        rdzv_configs={"rank": 0},
        timeout=DEADLINE,
    )
    assert result == dict.fromkeys(range(4), 6 + 4 * add)


@pytest.mark.elastic(nproc=4, rdzv_backend="static", backend="gloo", timeout=DEADLINE)
def test_launch_dist_sum_with_static_rdzv_by_marker(rank: int, world_size: int) -> None:
    total = torch.tensor(rank)
    dist.all_reduce(total)
    assert world_size == 4
    assert total == 6


def test_launch_elastic(elastic_launch: ElasticLaunch, etcd_server: EtcdServer) -> None:
    result = elastic_launch(world, nproc=4, nnodes="1:2", agents=1, rdzv_backend="etcd", timeout=DEADLINE)
    assert result == dict.fromkeys(range(4), (4, 1))
    assert tuple(result.worlds) == (4,)
    assert len(result.agents) == 1
    # It did meet over this server, and was not given another rendezvous.
    run = {event.metadata["run_id"] for event in result.events if event.source == "AGENT"}
    keys = {node.key for node in etcd_server.client.read("/torchelastic/p2p").children}
    assert len(run) == 1
    assert f"/torchelastic/p2p/run_{run.pop()}" in keys


def test_launch_elastic_worker_raise_exception(elastic_launch: ElasticLaunch, tmp_path: Path) -> None:
    script = tmp_path / "raises.py"
    script.write_text("raise RuntimeError('a bug of the script')\n")
    with pytest.raises(ChildFailedError, match="a bug of the script") as caught:
        elastic_launch(script, nproc=4, nnodes="1:2", agents=1, rdzv_backend="etcd", timeout=DEADLINE)
    error = caught.value
    assert isinstance(error, WorkerFailedError)
    assert isinstance(error.first.exception, RuntimeError)
    # The agent ran, which is what its state says, whatever became of the workers.
    assert agent_states(error.result) == ["SUCCEEDED"]
    assert error.result.agents[0].rendezvous_shutdown


def test_launch_elastic_worker_raise_exception_of_a_function(elastic_launch: ElasticLaunch) -> None:
    with pytest.raises(WorkerFailedError, match="a bug of the function") as caught:
        elastic_launch(failing_on_rank_one, nproc=2, nnodes="1:2", agents=1, rdzv_backend="etcd", timeout=DEADLINE)
    assert caught.value.first.rank == 1
    assert isinstance(caught.value.first.exception, RuntimeError)
    assert agent_states(caught.value.result) == ["SUCCEEDED"]


def test_launch_elastic_agent_raise_exception(elastic_launch: ElasticLaunch) -> None:
    with pytest.raises(AgentFailedError, match="a bug of the agent") as caught:
        elastic_launch(
            scaled,
            10,
            nproc=4,
            nnodes="1:2",
            agents=1,
            rdzv_backend="etcd",
            agent_error=MemoryError("a bug of the agent"),
            timeout=DEADLINE,
        )
    assert type(caught.value.agent.exception) is MemoryError
    assert caught.value.agent.state == "FAILED"
    assert agent_states(caught.value.result) == ["FAILED"]
    assert len(caught.value.result) == 0


def test_launch_elastic_multiple_agents(elastic_launch: ElasticLaunch, script: Path, touched: Path) -> None:
    result = elastic_launch(script, touched, nproc=4, nnodes=2, rdzv_backend="etcd", timeout=DEADLINE)
    check_works_ran(touched, set(range(8)))
    assert set(result) == set(range(8))
    assert {agent.node_rank for agent in result.agents} == {0, 1}
    assert tuple(result.worlds) == (8,)
    assert agent_states(result) == ["SUCCEEDED", "SUCCEEDED"]


def test_launch_elastic_multiple_agents_reduce(elastic_launch: ElasticLaunch) -> None:
    result = elastic_launch(dist_sum, nproc=4, nnodes=2, rdzv_backend="etcd", timeout=DEADLINE)
    assert result == dict.fromkeys(range(8), sum(range(8)))


def test_launch_shutdown(elastic_launch: ElasticLaunch) -> None:
    result = elastic_launch(scaled, 10, nproc=4, nnodes="1:2", agents=1, rdzv_backend="etcd", timeout=DEADLINE)
    assert result == {0: 10, 1: 11, 2: 12, 3: 13}
    assert result.agents[0].rendezvous_shutdown
    assert result.agents[0].state == "SUCCEEDED"
    assert agent_states(result) == ["SUCCEEDED"]


def test_rdzv_handler_shutdown_on_agent_error(elastic_launch: ElasticLaunch) -> None:
    with pytest.raises(AgentFailedError, match="a bug of the agent") as caught:
        elastic_launch(
            scaled,
            10,
            nproc=4,
            nnodes="1:2",
            agents=1,
            rdzv_backend="etcd",
            agent_error=RuntimeError("a bug of the agent"),
            timeout=DEADLINE,
        )
    assert caught.value.agent.rendezvous_shutdown
    assert agent_states(caught.value.result) == ["FAILED"]


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_rdzv_handler_shutdown_on_agent_signal(elastic_launch: ElasticLaunch, signum: signal.Signals) -> None:
    with pytest.raises(AgentFailedError, match="a signal came") as caught:
        elastic_launch(
            scaled,
            10,
            nproc=4,
            nnodes="1:2",
            agents=1,
            rdzv_backend="etcd",
            agent_error=SignalException("a signal came", signum),
            timeout=DEADLINE,
        )
    raised = caught.value.agent.exception
    assert isinstance(raised, SignalException)
    assert raised.sigval == signum
    assert not caught.value.agent.rendezvous_shutdown
    assert agent_states(caught.value.result) == ["FAILED"]


def ready() -> None:
    print("ready", flush=True)
    signal.pause()


@pytest.mark.parametrize(("how", "signum"), [("terminate", signal.SIGTERM), ("interrupt", signal.SIGINT)])
def test_rdzv_handler_shutdown_on_agent_signal_that_is_sent(
    elastic_launch: ElasticLaunch, how: str, signum: signal.Signals
) -> None:
    with elastic_launch.start(ready, nproc=4, nnodes="1:2", agents=1, rdzv_backend="etcd", timeout=DEADLINE) as run:
        for rank in range(4):
            run.wait_for_output("ready", rank=rank)
        pids = [rank.pid for rank in run.ranks.values()]
        getattr(run.agents[0], how)()
        with pytest.raises(AgentFailedError) as caught:
            run.wait()
        assert not any(pid is not None and psutil.pid_exists(pid) for pid in pids)
    raised = caught.value.agent.exception
    assert isinstance(raised, SignalException)
    assert raised.sigval == signum
    assert not caught.value.agent.rendezvous_shutdown
    assert agent_states(caught.value.result) == ["FAILED"]


def test_rdzv_handler_shutdown_on_agent_error_of_its_etcd(
    elastic_launch: ElasticLaunch, etcd_server_factory: Callable[..., EtcdServer]
) -> None:
    """The error is the agent's own: its rendezvous lost the server, which comes back too late."""
    etcd = etcd_server_factory()
    with elastic_launch.start(
        ready, nproc=2, nnodes="1:2", agents=1, rdzv_backend="etcd", rdzv_endpoint=etcd.endpoint, timeout=DEADLINE
    ) as run:
        run.wait_for_output("ready", rank=1)
        etcd.kill()
        with pytest.raises(AgentFailedError, match=r"^agent 0 failed: EtcdConnectionFailed") as caught:
            run.wait()
        etcd.restart()
    assert type(caught.value.agent.exception).__module__.startswith("etcd")
    assert caught.value.agent.state == "FAILED"
    assert agent_states(caught.value.result) == ["FAILED"]


def test_get_entrypoint_name(elastic_launch: ElasticLaunch, script: Path, touched: Path) -> None:
    assert elastic_launch(scaled, 10, nproc=1, timeout=DEADLINE).name == "scaled"
    behind_python = elastic_launch(sys.executable, "-u", script, touched, nproc=1, timeout=DEADLINE)
    assert behind_python.name == str(script)
    assert elastic_launch(script, touched, nproc=1, timeout=DEADLINE).name == str(script)
    assert elastic_launch(sys.executable, "--version", nproc=1, timeout=DEADLINE).name == ""


@pytest.fixture(scope="class")
def etcd_of_the_class(etcd_server: EtcdServer) -> EtcdServer:
    return etcd_server


@pytest.mark.usefixtures("etcd_of_the_class")
class TestSetUpClass:
    """One server for the whole class, ready before its first test."""

    pids: set[int] = set()  # noqa: RUF012 (shared by the tests on purpose)

    @pytest.mark.parametrize("backend", ["etcd", "etcd-v2"])
    def test_etcd_serves_the_class(
        self, elastic_launch: ElasticLaunch, etcd_of_the_class: EtcdServer, backend: str
    ) -> None:
        self.pids.add(etcd_of_the_class.pid)
        assert len(self.pids) == 1
        result = elastic_launch(
            scaled,
            1,
            nproc=2,
            rdzv_backend=backend,
            rdzv_endpoint=etcd_of_the_class.endpoint,
            timeout=DEADLINE,
        )
        assert result == {0: 1, 1: 2}


def test_set_up(elastic_launch: ElasticLaunch, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PET_NPROC_PER_NODE", "7")
    monkeypatch.setenv("FLOOR_SENTINEL", "set by the parent")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    result = elastic_launch(environment, "OMP_NUM_THREADS", "FLOOR_SENTINEL", nproc=2, timeout=DEADLINE)
    seen = {"OMP_NUM_THREADS": "1", "FLOOR_SENTINEL": "set by the parent"}
    assert result == {0: seen, 1: seen}
    assert elastic_launch(pet_variables, nproc=2, timeout=DEADLINE) == {0: [], 1: []}


def test_get_socket_with_port(
    elastic_launch: ElasticLaunch, free_socket_factory: Callable[[], socket.socket], free_socket: socket.socket
) -> None:
    with closing(free_socket_factory()) as sock:
        port = sock.getsockname()[1]
        # It is bound and listens: nobody else can have the port.
        with socket.create_connection(("127.0.0.1", port), timeout=DEADLINE):
            pass
        assert port != free_socket.getsockname()[1]
    with pytest.raises(OSError, match=r"."):
        sock.getsockname()
    result = elastic_launch(
        dist_sum, nproc=2, rdzv_backend="static", rdzv_endpoint=f"127.0.0.1:{port}", timeout=DEADLINE
    )
    assert result == {0: 1, 1: 1}


def test_check_works_ran(elastic_launch: ElasticLaunch) -> None:
    result = elastic_launch(failing_on_rank_one, nproc=4, check=False, timeout=DEADLINE)
    assert 1 not in result
    assert {failure.rank for failure in result.failures} | set(result) == {0, 1, 2, 3}
    assert set(elastic_launch(scaled, 0, nproc=4, timeout=DEADLINE)) == {0, 1, 2, 3}
