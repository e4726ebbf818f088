"""Faults on purpose: each happens, once, when it should; one that does not is a failure."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
import torch.distributed as dist
from torch.distributed.elastic.multiprocessing import SignalException

from pytest_elastic import (
    AddNode,
    AgentFailedError,
    ElasticError,
    FaultsLeftError,
    InterruptAgent,
    KillNode,
    KillRank,
    SignalRank,
    StopRank,
    TerminateAgent,
    WorkerFailedError,
)
from pytest_elastic.faults import Fault

if TYPE_CHECKING:
    from pytest_elastic.controller.launcher import ElasticLaunch

DEADLINE = 30


def train(steps: int = 1_000_000, *, until: Path | None = None) -> list[float]:
    """Reduce step by step; return how long each step took."""
    heard: list[int] = []
    signal.signal(signal.SIGUSR1, lambda *_: heard.append(1))
    dist.init_process_group("gloo")
    times = []
    for step in range(steps):
        begin = time.monotonic()
        over = torch.tensor(int(until is not None and until.exists()))
        dist.all_reduce(over, dist.ReduceOp.MAX)
        new = heard[:]
        del heard[: len(new)]  # a signal may come at any moment: none is lost
        print(f"step {step} of {dist.get_world_size()}", *new, flush=True)
        if over:
            break
        time.sleep(0.01)  # the work of a step
        times.append(time.monotonic() - begin)
    return times


def test_a_rank_is_killed(elastic_launch: ElasticLaunch) -> None:
    with pytest.raises(
        WorkerFailedError, match=r"^\[rank 2\] killed by SIGKILL \(KillRank\(2, when_output='step 3'\)\)"
    ):
        elastic_launch(train, nproc=3, timeout=DEADLINE, faults=[KillRank(2, when_output="step 3")])


def test_it_happens_once(elastic_launch: ElasticLaunch) -> None:
    fault = KillRank(1, when_output="step 3")
    result = elastic_launch(train, 10, nproc=2, max_restarts=3, timeout=DEADLINE, faults=[fault])
    result.assert_restarted(1)
    result.assert_ok()
    assert result.worlds == [2, 2]


def test_two_on_one_rank_meet_two_processes(elastic_launch: ElasticLaunch) -> None:
    faults = [KillRank(1, when_output="step 3"), KillRank(1, when_output="step 3")]
    result = elastic_launch(train, 10, nproc=2, max_restarts=3, timeout=DEADLINE, faults=faults)
    result.assert_restarted(2)
    with pytest.raises(FaultsLeftError) as caught:
        elastic_launch(train, 10, nproc=2, max_restarts=3, timeout=DEADLINE, faults=[*faults, KillRank(7)])
    assert caught.value.faults == ("KillRank(7)",)


def test_a_fault_that_did_not_end_a_rank_is_not_named(elastic_launch: ElasticLaunch) -> None:
    fault = SignalRank(1, signal.SIGUSR1, when_output="step 3")
    with elastic_launch.start(train, nproc=2, timeout=DEADLINE, faults=[fault]) as run:
        run.wait_for_output(r"step \d+ of 2 1", rank=1)
        os.kill(run.ranks[1].pid or 0, signal.SIGKILL)
        with pytest.raises(WorkerFailedError, match=r"^\[rank 1\] killed by SIGKILL\n"):
            run.wait()


def test_a_straggler(elastic_launch: ElasticLaunch) -> None:
    fault = StopRank(1, when_output="step 3", for_=0.5)
    result = elastic_launch(train, 20, nproc=2, timeout=DEADLINE, faults=[fault])
    assert max(result[0]) > 0.4  # rank 0 waited for it, a little less long than it was stopped


def test_a_signal(elastic_launch: ElasticLaunch) -> None:
    faults = [SignalRank(1, signal.SIGUSR1, when_output="step 3"), SignalRank(0, signal.SIGUSR1, after=0.05)]
    result = elastic_launch(train, 50, nproc=2, timeout=DEADLINE, faults=faults)
    assert [result.stdout[rank].count(" 1\n") for rank in (0, 1)] == [1, 1]


@pytest.mark.parametrize(("kind", "signum"), [(TerminateAgent, signal.SIGTERM), (InterruptAgent, signal.SIGINT)])
def test_an_agent_is_told_to_end(
    elastic_launch: ElasticLaunch, kind: type[TerminateAgent | InterruptAgent], signum: signal.Signals
) -> None:
    with pytest.raises(AgentFailedError, match=rf"^agent 0 left: SignalException: .* \({kind.__name__}\(0, ") as caught:
        elastic_launch(train, nproc=2, timeout=DEADLINE, faults=[kind(0, when_output="step 3")])
    assert isinstance(caught.value.agent.exception, SignalException)
    assert caught.value.agent.exception.sigval == signum


def test_a_node_is_lost_and_another_comes(elastic_launch: ElasticLaunch, tmp_path: Path) -> None:
    until = tmp_path / "until"
    faults: list[Fault] = [KillNode(1, when_output="step 3 of 2"), AddNode(when_output="step 3 of 1")]
    with elastic_launch.start(
        train, kwargs={"until": until}, nnodes="1:2", nproc=1, max_restarts=2, timeout=DEADLINE, faults=faults
    ) as run:
        run.wait_for_output("step 3 of 1")
        run.wait_for_world(2)
        until.touch()
        result = run.wait()
    assert result.worlds == [2, 1, 2]
    assert [agent.worlds for agent in result.agents] == [[2, 1, 2], [2], [2]]


def test_one_that_does_not_happen_is_a_failure(elastic_launch: ElasticLaunch) -> None:
    faults: list[Fault] = [KillRank(1, when_output="step 99"), KillRank(5), StopRank(0, after=60)]
    with pytest.raises(ElasticError) as caught:
        elastic_launch(train, 3, nproc=2, timeout=DEADLINE, faults=faults)
    assert str(caught.value) == (
        "train ended well, but without the faults on purpose: KillRank(1, when_output='step 99'), KillRank(5), "
        "StopRank(0, after=60)"
    )
    result = elastic_launch(train, 3, nproc=2, timeout=DEADLINE, faults=faults, check=False)
    result.assert_failed(match="without the faults on purpose")


def echo() -> None:
    print(os.environ["RANK"], flush=True)
    signal.pause()


def test_another_rank_gives_the_sign(elastic_launch: ElasticLaunch) -> None:
    with pytest.raises(WorkerFailedError) as caught:
        elastic_launch(echo, nproc=3, timeout=DEADLINE, faults=[KillRank(0, when_output="^2$", of_rank=2, after=0.1)])
    assert caught.value.first.rank == 0
    assert caught.value.first.signal == "SIGKILL"


def test_commands_suffer_too(elastic_launch: ElasticLaunch) -> None:
    with pytest.raises(WorkerFailedError) as caught:
        elastic_launch(
            "sh",
            "-c",
            "echo ready; exec sleep 1000",
            nproc=2,
            timeout=DEADLINE,
            faults=[KillRank(1, when_output="ready")],
        )
    assert caught.value.first.rank == 1


def test_faults_and_settings_of_the_rendezvous_in_the_marker(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "250")
    pytester.makepyfile(
        test_it="""
        import os, time, pytest, torch, torch.distributed as dist
        from pytest_elastic import AddNode, KillNode, KillRank, StopRank

        def work(steps):
            for step in range(steps):
                dist.all_reduce(torch.tensor(step))
                print("step", step, "of", dist.get_world_size(), flush=True)
                time.sleep(0.01)

        elastic = pytest.mark.elastic(nproc=2, backend="gloo", timeout=60)

        @elastic
        @pytest.mark.elastic(max_restarts=1, faults=[KillRank(1, when_output="step 3")])
        def test_survives():
            work(10)
            assert os.environ["TORCHELASTIC_RESTART_COUNT"] == "1"

        @elastic
        @pytest.mark.elastic(faults=[KillRank(1, when_output="step 3")])
        def test_does_not_survive():
            work(1000)

        @elastic
        @pytest.mark.elastic(faults=[KillRank(1, when_output="step 99")])
        def test_never_happens():
            work(5)

        @elastic
        @pytest.mark.elastic(nnodes=2, faults=[KillNode(1, when_output="step 3")])
        def test_loses_a_node():
            work(1000)

        @elastic
        @pytest.mark.xfail(strict=True)
        @pytest.mark.elastic(faults=[KillRank(1, when_output="step 99")])
        def test_never_happens_to_the_known_bug():
            work(5)

        @elastic
        @pytest.mark.elastic(nnodes=3, nproc=1, faults=[KillNode(node, when_output="step 3") for node in (1, 2)])
        def test_loses_two_nodes():
            work(1000)

        @elastic
        @pytest.mark.elastic(nnodes="1:2", max_restarts=1, faults=[KillNode(1, when_output="step 3 of 4")])
        def test_goes_on_with_fewer(world_size):
            work(1000 if world_size == 4 else 5)

        @elastic
        @pytest.mark.elastic(faults=[KillRank(2.5)])
        def test_bad_fault(): pass

        @elastic
        @pytest.mark.elastic(faults=[AddNode()])
        def test_bad_place(): pass

        @elastic
        @pytest.mark.elastic(nnodes=2, rdzv_backend="c10d", rdzv_configs={"last_call_timeout": 2})
        def test_setting(): pass

        @elastic
        @pytest.mark.elastic(rdzv_configs=3)
        def test_bad_setting(): pass

        def test_plain(): pass
        """
    )
    result = pytester.runpytest_subprocess("-p", "no:randomly", "-v")
    result.assert_outcomes(passed=4, failed=5, errors=3, xfailed=0)
    result.stdout.fnmatch_lines_random(
        [
            "*::test_survives PASSED [[]2 ranks[]] *",
            "*::test_goes_on_with_fewer PASSED [[]2 ranks[]] *",
            "FAILED *::test_does_not_survive - [[]rank 1[]] killed by SIGKILL (KillRank(1, when_output='step 3'))",
            "FAILED *::test_never_happens - *test_never_happens ended well, but without the faults on purpose: "
            "KillRank(1, when_output='step 99')",
            "FAILED *::test_loses_a_node - *agent 1 was killed by SIGKILL after * s "
            "(KillNode(1, when_output='step 3')), "
            "with ranks 2-3; "
            "ranks 0-1 lost a peer in all_reduce at test_it.py:*",
            "ERROR *::test_bad_fault - *marker elastic(faults=): KillRank(2.5) has rank=2.5, expected an int >= 0",
            "ERROR *::test_bad_place - *marker elastic(faults=): AddNode() needs a rendezvous that takes late nodes: *",
            "ERROR *::test_bad_setting - *marker elastic(rdzv_configs=): got 3, expected a dict",
            "FAILED *::test_never_happens_to_the_known_bug - * ended well, but without the faults on purpose: *",
            "FAILED *::test_loses_two_nodes - *agent [12] was killed by SIGKILL after * s (KillNode(*",
            "*::test_plain PASSED*",
        ]
    )
