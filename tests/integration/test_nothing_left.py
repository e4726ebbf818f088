"""After each launch nothing is there that was not there before."""

from __future__ import annotations

import os
import signal
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch.distributed as dist

from pytest_elastic import ElasticError, WorkerFailedError
from pytest_elastic.controller.launcher import ElasticLaunch
from pytest_elastic.warning import ElasticWarning

pytestmark = pytest.mark.own_server

HANDLED = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGCHLD, signal.SIGALRM]


def barrier() -> None:
    dist.init_process_group("gloo")
    dist.barrier()
    dist.destroy_process_group()


def one_fails() -> None:
    dist.init_process_group("gloo")
    if dist.get_rank() == 1:
        raise ValueError("on purpose")
    dist.barrier()


@pytest.fixture(autouse=True)
def own_temporary_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Others use the machine's meanwhile."""
    directory = tmp_path / "temporary"
    directory.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(directory))
    monkeypatch.setenv("TMPDIR", str(directory))


def state(run: str) -> dict[str, Any]:
    me = psutil.Process()
    shared = Path("/dev/shm")
    return {
        "processes": len(me.children(recursive=True)),
        "threads": sorted(thread.name for thread in threading.enumerate()),
        "os threads": me.num_threads(),
        "descriptors": me.num_fds(),
        "sockets": len(me.net_connections(kind="all")),
        "handlers": [signal.getsignal(number) for number in HANDLED],
        "environ": dict(os.environ),
        "temporary files": os.listdir(tempfile.gettempdir()),
        "semaphores": [file.name for file in shared.glob(f"sem.{run}*")] if shared.is_dir() else [],
        "working directory": os.getcwd(),
    }


def settled(run: str, expected: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return the state once it is as expected, or the same for a while: the system takes a moment to end a thread."""
    deadline = time.monotonic() + 2
    now, since = state(run), time.monotonic()
    while time.monotonic() < deadline and now != expected and (expected or time.monotonic() - since < 0.1):
        last, now = now, state(run)
        since = since if now == last else time.monotonic()
    return now


def run_name(result: Any) -> str:
    return Path(result.log_dir).parent.name.rpartition("-")[0]


def test_fifty_launches_leave_nothing(elastic_launch: ElasticLaunch) -> None:
    # The first launch starts what the whole session shares: the server and the reaper.
    run = run_name(elastic_launch(barrier, nproc=2, timeout=30))
    with pytest.raises(WorkerFailedError):
        elastic_launch(one_fails, nproc=2, timeout=30)
    before = settled(run)
    kept = []
    for number in range(50):
        if number % 2:
            elastic_launch(barrier, nproc=2, timeout=30)
        else:
            with pytest.raises(WorkerFailedError) as error:
                elastic_launch(one_fails, nproc=2, timeout=30)
            kept.append(error.value)  # an exception that is kept must keep nothing open
    after = settled(run, before)
    assert len(kept) == 25
    for what, was in before.items():
        assert after[what] == was, what


@pytest.mark.parametrize(
    "setting",
    [pytest.param({"start_method": "spawn"}, marks=pytest.mark.soak), {"agent": "inline"}, {"rdzv_backend": "c10d"}],
    ids=str,
)
def test_other_ways_to_launch_leave_nothing(elastic_launch: ElasticLaunch, setting: dict[str, Any]) -> None:
    run = run_name(elastic_launch(barrier, nproc=2, timeout=60, **setting))
    before = settled(run)
    elastic_launch(barrier, nproc=2, timeout=60, **setting)
    with pytest.raises(WorkerFailedError):
        elastic_launch(one_fails, nproc=2, timeout=60, **setting)
    assert settled(run, before) == before


def leave_child() -> int:
    import subprocess

    return subprocess.Popen(["sleep", "1000"]).pid


def leave_daemon() -> int:
    """A child that has left its parent and session, as daemons do."""
    read, write = os.pipe()
    if os.fork() == 0:
        os.setsid()
        pid = os.fork()
        if pid == 0:
            os.execvp("sleep", ["sleep", "1000"])
        os.write(write, str(pid).encode())
        os._exit(0)
    os.close(write)
    pid = int(os.read(read, 100))
    assert os.read(read, 1) == b""  # closed by exec: it is "sleep" from now on
    return pid


@pytest.mark.parametrize("function", [leave_child, leave_daemon])
def test_processes_that_ranks_leave_behind_are_ended_and_named(elastic_launch: ElasticLaunch, function: Any) -> None:
    with pytest.warns(ElasticWarning, match=r"left process \d+ \(sleep 1000\) behind; it was ended") as warned:
        result = elastic_launch(function, nproc=2, timeout=30)
    assert len(result) == len(warned) == 2
    assert not [pid for pid in result.values() if psutil.pid_exists(pid)]


def leave_thread() -> str:
    threading.Thread(target=threading.Event().wait, name="forgotten").start()
    return "done"


def test_a_thread_that_never_ends_holds_a_launch_no_longer_than_the_grace_time(elastic_launch: ElasticLaunch) -> None:
    with pytest.warns(ElasticWarning, match=r"rank [01] left thread 'forgotten' behind; it was ended"):
        result = elastic_launch(leave_thread, nproc=2, timeout=60)
    assert result == {0: "done", 1: "done"}
    assert result.agents[0].state == "SUCCEEDED"


def ignore_sigterm() -> None:
    if os.environ["RANK"] == "0":
        raise ValueError("on purpose")
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    threading.Event().wait()


def test_a_rank_that_ignores_sigterm_is_killed_within_the_grace_time(elastic_launch: ElasticLaunch) -> None:
    result = elastic_launch(ignore_sigterm, nproc=2, timeout=60, check=False)
    assert [(failure.rank, failure.collateral) for failure in result.failures] == [(0, False), (1, True)]
    assert result.exitcodes[1] == -signal.SIGKILL or result.exitcodes[1] == -signal.SIGTERM


def test_a_thread_that_a_script_forgets_is_ended_and_named(elastic_launch: ElasticLaunch, tmp_path: Path) -> None:
    script = tmp_path / "forgets.py"
    script.write_text(
        "import os, sys, threading\n"
        "if sys.argv[1] == '0' or os.environ['RANK'] == '1':\n"
        "    threading.Thread(target=threading.Event().wait, name='forgotten').start()\n"
        "print('done')\n"
        "sys.exit(int(sys.argv[1]) * int(os.environ['RANK']))\n"
    )
    begin = time.monotonic()
    with pytest.warns(ElasticWarning, match=r"rank [01] left thread 'forgotten' behind; it was ended"):
        result = elastic_launch(script, 0, nproc=2, timeout=60)
    assert result.stdout == {0: "done\n", 1: "done\n"}
    assert result.exitcodes == {0: 0, 1: 0}
    with pytest.raises(WorkerFailedError, match=r"^\[rank 1\] exited with code 3 before the script ended\n"):
        elastic_launch(script, 3, nproc=2, timeout=60)
    assert time.monotonic() - begin < 30


def test_a_thread_of_a_script_that_ends_in_time_is_waited_for(elastic_launch: ElasticLaunch, tmp_path: Path) -> None:
    script = tmp_path / "waits.py"
    script.write_text(
        "import atexit, threading, time\n"
        "def work():\n"
        "    time.sleep(0.3)\n"
        "    print('worked')\n"
        "atexit.register(print, 'left')\n"
        "threading.Thread(target=work).start()\n"
    )
    result = elastic_launch(script, nproc=1, timeout=60)
    assert result.stdout[0] == "worked\nleft\n"
    assert result.leftovers == ()


def server_pid() -> int:
    return os.getppid()


def kill_server() -> None:
    os.kill(os.getppid(), signal.SIGKILL)


def test_a_server_that_a_thread_has_started_outlives_it(elastic_launch: ElasticLaunch) -> None:
    """The kernel ends it with the thread that forked it; so that is another one."""
    with pytest.raises(ElasticError):
        elastic_launch(kill_server, nproc=1, timeout=60)
    with ThreadPoolExecutor(1) as pool:
        [pid] = pool.submit(elastic_launch, server_pid, nproc=1, timeout=60).result().values()
    assert elastic_launch(server_pid, nproc=2, timeout=60) == {0: pid, 1: pid}


def test_several_threads_launch_while_the_server_dies_and_is_replaced(elastic_launch: ElasticLaunch) -> None:
    """Each launch ends, with its values or with the news that its server died; one server is there in the end."""

    def launch(number: int) -> str:
        try:
            return str(len(elastic_launch(kill_server if number == 1 else server_pid, nproc=2, timeout=60)))
        except ElasticError as error:
            return str(error).partition("\n")[0]

    with ThreadPoolExecutor(4) as pool:
        ends = list(pool.map(launch, range(8)))
    assert all(end == "2" or end.startswith("the preloaded server died while") for end in ends), ends
    assert ends[1] != "2"
    with ThreadPoolExecutor(4) as pool:
        pids = {
            pid
            for result in pool.map(lambda _: elastic_launch(server_pid, nproc=1, timeout=60), range(4))
            for pid in result.values()
        }
    assert len(pids) == 1
