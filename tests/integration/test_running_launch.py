"""The handle on a running launch: what it tells, waiting for things, signals to ranks, and its end."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest
import torch
import torch.distributed as dist

from pytest_elastic import (
    AgentFailedError,
    ArgumentError,
    ElasticError,
    ElasticTimeoutError,
    ElasticWarning,
    RunningLaunch,
    WorkerFailedError,
)

if TYPE_CHECKING:
    from pytest_elastic.controller.launcher import ElasticLaunch

DEADLINE = 30


def count(done: Path) -> int:
    """Reduce step by step until a file is there, and return the number of the attempt."""
    heard: list[int] = []
    signal.signal(signal.SIGUSR1, lambda *_: heard.append(1))
    dist.init_process_group("gloo")
    attempt = int(os.environ["TORCHELASTIC_RESTART_COUNT"])
    for step in range(1_000_000):
        over = torch.tensor(int(done.exists()))
        dist.all_reduce(over, dist.ReduceOp.MAX)
        print(f"attempt {attempt} step {step}", *["usr1"] * len(heard), flush=True)
        if over:
            break
        time.sleep(0.01)  # the work of a step
    return attempt


def say(*lines: str) -> None:
    for line in lines:
        print(line, flush=True)


def forever() -> None:
    print("ready", flush=True)
    while True:
        time.sleep(1)


@pytest.fixture
def done(tmp_path: Path) -> Path:
    """The file that ends the work."""
    return tmp_path / "done"


def gone(pid: int | None) -> bool:
    return pid is None or not psutil.pid_exists(pid)


# --- what it tells --------------------------------------------------------------------------------------------


def test_what_a_handle_tells(elastic_launch: ElasticLaunch, done: Path) -> None:
    with elastic_launch.start(count, done, nnodes=2, nproc=2, timeout=DEADLINE) as run:
        run.wait_for_world(4)
        assert (run.world_size, run.worlds, run.restarts) == (4, [4], 0)
        assert [agent.state for agent in run.agents] == ["RUNNING", "RUNNING"]
        assert [agent.worlds for agent in run.agents] == [[4], [4]]
        assert sorted(run.ranks) == [0, 1, 2, 3]
        assert [run.ranks[rank].node_rank for rank in range(4)] == [0, 0, 1, 1]
        assert {rank.state for rank in run.ranks.values()} == {"RUNNING"}
        pids = [rank.pid for rank in run.ranks.values()] + [agent.pid for agent in run.agents]
        assert len(set(pids)) == 6
        assert all(pid is not None and psutil.pid_exists(pid) for pid in pids)
        run.wait_for_output(r"step 1\b", rank=0)
        assert "RENDEZVOUS" in {event.metadata["state"] for event in run.events} or run.events
        assert "4 ranks" in repr(run)
        assert "agent 0, RUNNING" in repr(run.agents[0])
        done.touch()
        result = run.wait()
        assert {rank.state for rank in run.ranks.values()} == {"SUCCEEDED"}
        assert [agent.exitcode for agent in run.agents] == [0, 0]
    assert result == dict.fromkeys(range(4), 0)
    result.assert_ok()
    result.assert_no_orphans()


def test_a_launch_can_be_waited_for_twice(elastic_launch: ElasticLaunch) -> None:
    with elastic_launch.start(say, "once", nproc=1, timeout=DEADLINE) as run:
        assert run.wait().stdout[0] == run.wait().stdout[0] == "once\n"
        run.close()
        assert run.wait().worlds == [1]


# --- waiting --------------------------------------------------------------------------------------------------


def test_output_counts_from_the_start_in_every_round_and_stream(elastic_launch: ElasticLaunch, done: Path) -> None:
    with elastic_launch.start(count, done, nproc=2, max_restarts=1, timeout=DEADLINE) as run:
        match = run.wait_for_output(r"attempt (\d) step (\d+)", rank=1)
        assert match.groups() == ("0", "0")
        run.kill(rank=1)
        assert run.wait_for_output("attempt 1 step 0", rank=0)[0] == "attempt 1 step 0"
        assert run.restarts == 1
        assert run.wait_for_output("attempt 0 step 0", rank=0)  # of a round that is over
        done.touch()
        result = run.wait()
    assert result == {0: 1, 1: 1}
    result.assert_restarted(1)


def test_a_line_counts_when_it_is_whole(elastic_launch: ElasticLaunch, tmp_path: Path) -> None:
    """A number in one that has only begun may not be complete."""
    more = tmp_path / "more"

    def report() -> None:
        print("loss=12", end="", flush=True)
        while not more.exists():
            time.sleep(0.01)
        print("345", flush=True)
        print("no line break", end="", flush=True)

    with elastic_launch.start(report, nproc=1, timeout=DEADLINE) as run:
        with pytest.raises(ElasticTimeoutError, match=r"^waited 0\.3 s for rank 0 to write 'loss=.*'; 1 rank runs, "):
            run.wait_for_output(r"loss=(\d+)", rank=0, timeout=0.3)
        more.touch()
        assert run.wait_for_output(r"loss=(\d+)", rank=0)[1] == "12345"
        assert run.wait_for_output("no line break", rank=0)  # its rank has ended
        run.wait()


def test_scripts_and_commands_can_be_waited_for(elastic_launch: ElasticLaunch, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text("import time\nprint('from the script', flush=True)\ntime.sleep(1000)\n")
    for entry in ((str(script),), ("sh", "-c", "echo from the script; exec sleep 1000")):
        with elastic_launch.start(*entry, nproc=2, timeout=DEADLINE) as run:
            run.wait_for_world(2)
            run.wait_for_output("from the script", rank=1)
            pids = [rank.pid for rank in run.ranks.values()]
            run.kill(rank=1)
            with pytest.raises(WorkerFailedError, match=r"^\[rank 1\] killed by SIGKILL \(run\.kill\(rank=1\)\)"):
                run.wait()
        assert all(gone(pid) for pid in pids)


def test_waiting_in_vain_ends_with_the_launch(elastic_launch: ElasticLaunch) -> None:
    def fail() -> None:
        raise ValueError("no data")

    with (
        elastic_launch.start(fail, nproc=1, timeout=DEADLINE) as run,
        pytest.raises(WorkerFailedError, match="no data"),
    ):
        run.wait_for_output("never")
    with (
        elastic_launch.start(say, "one", nproc=1, timeout=DEADLINE) as run,
        pytest.raises(ElasticError, match=r"^the launch ended well, but had been waited for a rank to write 'two'$"),
    ):
        run.wait_for_output("two")
    with (
        elastic_launch.start(say, "one", nproc=1, timeout=DEADLINE) as run,
        pytest.raises(ElasticError, match=r"^the launch ended well, but had been waited for a world of 3 ranks$"),
    ):
        run.wait_for_world(3)


def test_a_wait_that_times_out_leaves_the_launch_alone(elastic_launch: ElasticLaunch, done: Path) -> None:
    with elastic_launch.start(count, done, nproc=2, timeout=DEADLINE) as run:
        with pytest.raises(ElasticTimeoutError, match=r"^waited 0\.1 s for a world of 3 ranks; .* goes on$") as caught:
            run.wait_for_world(3, timeout=0.1)
        assert caught.value.timeout == 0.1
        with pytest.raises(ElasticTimeoutError, match=r"^waited 0\.1 s for agent 0 to end; .* goes on$"):
            run.agents[0].join(timeout=0.1)
        done.touch()
        assert run.wait() == {0: 0, 1: 0}


def test_the_wait_for_the_end_is_a_deadline(elastic_launch: ElasticLaunch) -> None:
    with elastic_launch.start(forever, nproc=2, timeout=DEADLINE) as run:
        run.wait_for_output("ready", rank=0)
        run.wait_for_output("ready", rank=1)
        with pytest.raises(
            ElasticTimeoutError, match=r"^timed out after 0\.5 s: forever\nranks 0-1: in forever at"
        ) as e:
            run.wait(timeout=0.5)
        assert e.value.timeout == 0.5
        assert "forever" in e.value.stacks[1]


# --- signals --------------------------------------------------------------------------------------------------


def test_a_rank_is_stopped_and_goes_on(elastic_launch: ElasticLaunch, done: Path) -> None:
    with elastic_launch.start(count, done, nproc=2, timeout=DEADLINE) as run:
        run.wait_for_output(r"step 3\b", rank=0)
        run.stop(rank=1)
        assert [run.ranks[rank].state for rank in (0, 1)] == ["RUNNING", "STOPPED"]
        run.resume(rank=1)
        done.touch()
        assert run.wait() == {0: 0, 1: 0}


def test_a_straggler_that_never_goes_on_is_named(elastic_launch: ElasticLaunch, done: Path) -> None:
    with elastic_launch.start(count, done, nproc=2, timeout=DEADLINE) as run:
        run.wait_for_output(r"step 3\b", rank=0)
        run.stop(rank=1)
        with pytest.raises(ElasticTimeoutError, match=r"rank 1: stopped by a signal \(SIGSTOP\)"):
            run.wait(timeout=1)


def test_any_signal_can_be_sent(elastic_launch: ElasticLaunch, done: Path) -> None:
    with elastic_launch.start(count, done, nproc=2, timeout=DEADLINE) as run:
        run.wait_for_output(r"step 3\b", rank=1)
        run.signal(rank=1, sig=signal.SIGUSR1)
        run.wait_for_output("usr1$", rank=1)
        run.signal(rank=0, sig=signal.SIGTERM)
        result = run.wait(check=False)
    result.assert_failed(rank=0, match=r"run\.signal\(rank=0, sig=SIGTERM\)|stopped by SIGTERM|SIGTERM")


# --- the end --------------------------------------------------------------------------------------------------


def test_leaving_the_block_ends_everything(elastic_launch: ElasticLaunch) -> None:
    pids: list[int | None] = []

    def fail_in_the_block() -> None:
        with elastic_launch.start(forever, nnodes=2, nproc=2, timeout=DEADLINE) as run:
            run.wait_for_world(4)
            pids.extend([rank.pid for rank in run.ranks.values()] + [agent.pid for agent in run.agents])
            raise KeyError("the test itself")

    with pytest.raises(KeyError, match="the test itself"):
        fail_in_the_block()
    assert len(pids) == 6
    assert all(gone(pid) for pid in pids)


def test_what_was_closed_has_not_succeeded(elastic_launch: ElasticLaunch) -> None:
    with elastic_launch.start(forever, nnodes=2, nproc=1, timeout=DEADLINE) as run:
        run.wait_for_output("ready", rank=1)
    for wait in (run.wait, lambda: run.wait_for_output("never"), lambda: run.wait_for_world(3)):
        with pytest.raises(ElasticError, match=r"^forever was ended before it was done: it was closed$"):
            wait()
    assert run.wait_for_output("ready", rank=1)[0] == "ready"
    run.wait(check=False).assert_failed(match="it was closed")


def test_without_a_block_the_test_ends_it(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import time, psutil
        PIDS = []
        def forever():
            print("ready", flush=True)
            time.sleep(1000)
        def test_forgets(elastic_launch):
            run = elastic_launch.start(forever, nproc=2, timeout=60)
            run.wait_for_world(2)
            PIDS.extend(rank.pid for rank in run.ranks.values())
        def test_nothing_is_left():
            assert len(PIDS) == 2 and not any(map(psutil.pid_exists, PIDS))
        def test_fails_with_a_launch(elastic_launch):
            with elastic_launch.start(forever, nproc=1, timeout=60) as run:
                run.wait_for_output("ready")
                run.kill(rank=0)
                run.wait(check=False)
                assert 0
        """
    )
    result = pytester.runpytest_subprocess("-p", "no:randomly")
    result.assert_outcomes(passed=2, failed=1)
    result.stdout.fnmatch_lines(["*Captured stdout call (rank 0)*", "ready"])


def test_what_is_over_cannot_be_acted_on(elastic_launch: ElasticLaunch) -> None:
    with elastic_launch.start(say, "one", nnodes="1:2", agents=1, nproc=1, timeout=DEADLINE) as run:
        run.wait()
        acts: list[tuple[Callable[[], object], str]] = [
            (run.add_agent, "the launch is over"),
            (run.agents[0].kill, "has ended already|the launch is over"),
            (lambda: run.kill(rank=0), r"run\.kill\(rank=0\): rank 0 has ended already \(SUCCEEDED\)"),
        ]
        for act, words in acts:
            with pytest.raises(ElasticError, match=words):
                act()
        run.agents[0].join(timeout=1)


# --- bad input is one line ------------------------------------------------------------------------------------


def bad_calls() -> list[Any]:
    calls: list[tuple[Callable[[RunningLaunch], object], str]] = [
        (lambda run: run.kill(rank=7), "run.kill(rank=): got 7, but the launch has at most 2 ranks (0 to 1)"),
        (lambda run: run.kill(rank=-1), "run.kill(rank=): got -1, expected an int >= 0"),
        (lambda run: run.stop(rank="0"), "run.stop(rank=): got '0', expected an int >= 0"),  # type: ignore[arg-type]
        (
            lambda run: run.signal(rank=0, sig=0.5),  # type: ignore[arg-type]
            "run.signal(sig=): got 0.5, expected a signal such as signal.SIGTERM",
        ),
        (lambda run: run.wait(timeout=0), "run.wait(timeout=): got 0, expected seconds > 0, or None"),
        (
            lambda run: run.wait_for_world(0),
            "run.wait_for_world(): got 0, expected an int >= 1",
        ),
        (
            lambda run: run.wait_for_output("("),
            "run.wait_for_output(): got '(', expected a regular expression "
            "(missing ), unterminated subpattern at position 0)",
        ),
        (
            lambda run: run.wait_for_output(b"x"),  # type: ignore[arg-type]
            "run.wait_for_output(): got b'x', expected a regular expression (not a str)",
        ),
        (
            lambda run: run.wait_for_output("x", rank=2),
            "run.wait_for_output(rank=): got 2, but the launch has at most 2 ranks (0 to 1)",
        ),
        (
            lambda run: run.add_agent(),
            'add_agent(): rdzv_backend "local" knows a fixed number of nodes only; use "c10d", "etcd" or "etcd-v2"',
        ),
        (lambda run: run.agents[0].join(timeout="1"), "agent.join(timeout=): got '1', expected seconds > 0, or None"),  # type: ignore[arg-type]
    ]
    return calls


def test_bad_calls_are_one_line_and_change_nothing(elastic_launch: ElasticLaunch, done: Path) -> None:
    with elastic_launch.start(count, done, nproc=2, timeout=DEADLINE) as run:
        run.wait_for_world(2)
        for call, words in bad_calls():
            with pytest.raises(ArgumentError, match=f"^{re.escape(words)}$"):
                call(run)
        done.touch()
        run.wait().assert_ok()


def test_a_rank_that_the_world_has_not(elastic_launch: ElasticLaunch) -> None:
    """Known only once a world has formed, which is waited for."""
    with (
        elastic_launch.start(forever, nnodes="1:2", agents=1, nproc=2, timeout=DEADLINE) as run,
        pytest.raises(ArgumentError, match=r"^run\.kill\(rank=\): got 3, but the world has 2 ranks \(0 to 1\)$"),
    ):
        run.kill(rank=3)


def test_a_failure_that_nobody_asked_for_is_a_warning(elastic_launch: ElasticLaunch) -> None:
    def fail() -> None:
        raise ValueError("no data")

    with (
        pytest.warns(ElasticWarning, match=r"^a launch failed, and nobody waited for its end: \[rank 0\] Value"),
        elastic_launch.start(fail, nproc=1, timeout=DEADLINE) as run,
    ):
        run.agents[0].join()


def test_start_takes_no_check(elastic_launch: ElasticLaunch) -> None:
    with pytest.raises(ArgumentError, match=r"^elastic_launch\.start has no argument 'check'; allowed are nproc, "):
        elastic_launch.start(say, "x", check=False)


def test_an_inline_agent_cannot_be_signalled(elastic_launch: ElasticLaunch, done: Path) -> None:
    with elastic_launch.start(count, done, nproc=1, agent="inline", timeout=DEADLINE) as run:
        run.wait_for_output(r"step 3\b")
        with pytest.raises(ArgumentError, match=r'^agents\[0\]\.kill\(\): agent="inline" runs inside pytest'):
            run.agents[0].kill()
        assert run.agents[0].pid == os.getpid()
        done.touch()
        run.wait().assert_ok()


def test_a_server_that_cannot_start_is_told(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(
        """
        from pytest_elastic import role
        def pytest_configure(config):
            if role(config) == "server":
                raise RuntimeError("not here")
        """
    )
    pytester.makepyfile("def test_it(elastic_launch): elastic_launch.start(print, nproc=1, timeout=60).wait()")
    result = pytester.runpytest_subprocess()
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["*the preloaded server could not start: RuntimeError: not here*"])


def test_agent_errors_reach_the_handle(elastic_launch: ElasticLaunch) -> None:
    with elastic_launch.start(say, "x", nproc=1, agent_error=RuntimeError("no node"), timeout=DEADLINE) as run:
        with pytest.raises(AgentFailedError, match=r"^agent 0 failed: RuntimeError: no node"):
            run.wait_for_world(1)
        assert run.wait(check=False).problem.startswith("agent 0 failed: RuntimeError: no node")
