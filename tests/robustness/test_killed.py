"""Whoever of a session is killed, and however: nothing outlives pytest, and the next run notices nothing."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from .sessions import AS_EVER, TESTS, Session, run_session, start_session

EVERYTHING = """
import os, pathlib, signal, subprocess, threading
import pytest, torch.distributed as dist
HERE = pathlib.Path(__file__).parent
def note(name): (HERE / f"{name}.there").touch()
def one(): return 1
@pytest.mark.elastic(nproc=2, timeout=100, isolation="session")
def test_ranks_that_are_kept(rank): pass
def test_servers(etcd_server, elastic_launch):
    assert elastic_launch(one, nnodes=2, nproc=1, rdzv_backend="etcd-v2", timeout=100) == {0: 1, 1: 1}
@pytest.mark.elastic(nproc=5, nnodes=1, rdzv_backend="c10d", timeout=100, backend="gloo")
def test_blocks(rank):
    subprocess.Popen(["sleep", "1000"], start_new_session=rank == 1)
    if rank == 1:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP): signal.signal(number, signal.SIG_IGN)
    if rank == 2:
        threading.Timer(0.1, note, ["stopped"]).start()
        threading.Event().wait(0.2)
        os.kill(os.getpid(), signal.SIGSTOP)
    note(rank)
    if rank == 3:
        while True: pass
    if rank == 4:
        threading.Event().wait()
    dist.barrier()
@pytest.mark.elastic(nproc=2, timeout=100, isolation="session")
def test_after(rank): note("after")
"""
"""In the middle of it, there is every kind of process: kept ranks that wait, an etcd with its keeper, a host of a
store, an agent, and ranks in a collective, in Python, busy, deaf to signals and stopped, each with a child."""
READY = ("0", "1", "stopped", "3", "4")
NEXT = (
    TESTS
    + """
def test_etcd(etcd_server, elastic_launch):
    assert elastic_launch(one, nnodes=2, nproc=1, rdzv_backend="etcd-v2", timeout=60) == {0: 1, 1: 1}
"""
)


def wait_for(reached: Callable[[], bool], session: Session, timeout: float = 120.0) -> None:
    deadline = time.monotonic() + timeout
    while not reached():
        assert session.process.poll() is None, session.output.read_text()
        assert time.monotonic() < deadline, session.output.read_text()
        time.sleep(0.01)


@contextlib.contextmanager
def everything(directory: Path) -> Iterator[Session]:
    """Start a session, and have it be in the middle of everything."""
    with start_session(directory, tests=EVERYTHING) as session:
        wait_for(lambda: all((directory / f"{name}.there").exists() for name in READY), session)
        assert len(session.alive()) >= 20
        yield session


def kill(session: Session, *signals: signal.Signals, everybody: bool = False) -> int:
    """Send signals to pytest, or to its whole foreground group as a terminal does; return how it ended."""
    for number in signals:
        (os.killpg if everybody else os.kill)(session.process.pid, number)
        time.sleep(0.2)  # a person's second Ctrl-C
    return session.process.wait(60)


def assert_all_gone(session: Session, what: str) -> None:
    """See that no process is left soon after the end of pytest, and no file."""
    runs = {file.name for file in session.temporary.iterdir() if file.name.startswith("elastic-")}
    seconds = session.wait_until_gone()
    print(f"{what}: all gone {seconds:.2f} s after the end of pytest")
    assert not session.alive()
    deadline = time.monotonic() + 10
    while session.files() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert session.files() == []
    assert not [name for run in runs for name in os.listdir("/dev/shm") if name.startswith(f"sem.{run}")]


def assert_next_run_is_as_ever(directory: Path, session: Session) -> None:
    """Run another session with the same temporary directory."""
    outcome = run_session(directory, tests=NEXT, environ={"TMPDIR": str(session.temporary)})
    assert outcome.verdicts == {**AS_EVER, "test_etcd": "passed"}, outcome.output
    assert session.files() == []


@pytest.mark.parametrize(
    "number",
    [
        signal.SIGTERM,
        *(pytest.param(n, marks=pytest.mark.soak) for n in (signal.SIGKILL, signal.SIGHUP, signal.SIGABRT)),
    ],
)
def test_a_signal_ends_pytest_in_the_middle_of_everything(tmp_path: Path, number: signal.Signals) -> None:
    with everything(tmp_path / "first") as session:
        assert kill(session, number) == -number
        assert_all_gone(session, number.name)
        if number is not signal.SIGTERM:
            assert_next_run_is_as_ever(tmp_path / "second", session)
    assert not (tmp_path / "first" / "after.there").exists()


@pytest.mark.soak
@pytest.mark.parametrize("times", [1, 2, 3])
def test_ctrl_c(tmp_path: Path, times: int) -> None:
    """Once, or again by somebody who has no patience."""
    with everything(tmp_path / "first") as session:
        exitcode = kill(session, *[signal.SIGINT] * times, everybody=True)
        assert exitcode in (pytest.ExitCode.INTERRUPTED, -signal.SIGINT, 1), session.output.read_text()
        assert exitcode == pytest.ExitCode.INTERRUPTED or times > 1
        assert "KeyboardInterrupt" in session.output.read_text()
        assert_all_gone(session, f"Ctrl-C, {times} times: exit code {exitcode}")
        assert_next_run_is_as_ever(tmp_path / "second", session)
    assert not (tmp_path / "first" / "after.there").exists()


@pytest.mark.soak
def test_closed_terminal(tmp_path: Path) -> None:
    """The kernel sends SIGHUP to who runs in it."""
    master, slave = os.openpty()

    def take_terminal() -> None:
        os.setsid()
        fcntl.ioctl(slave, termios.TIOCSCTTY, 0)
        for stream in (0, 1, 2):
            os.dup2(slave, stream)

    directory = tmp_path / "first"
    with start_session(directory, tests=EVERYTHING, prepare=take_terminal) as session:
        os.close(slave)
        text = bytearray()

        def ready() -> bool:
            os.set_blocking(master, False)
            with contextlib.suppress(BlockingIOError):
                text.extend(os.read(master, 10_000))
            return all((directory / f"{name}.there").exists() for name in READY)

        wait_for(ready, session)
        assert b"test session starts" in text
        os.close(master)
        assert session.process.wait(60) == -signal.SIGHUP
        assert_all_gone(session, "closed terminal")
        assert_next_run_is_as_ever(tmp_path / "second", session)


WORKERS = """
import os, pathlib, signal, threading
import pytest
HERE = pathlib.Path(__file__).parent
@pytest.mark.elastic(nproc=2, timeout=100)
@pytest.mark.parametrize("number", range(2))
def test_blocks(rank, number, etcd_server):
    (HERE / f"{number}-{rank}.there").write_text("")
    threading.Event().wait()
"""


@pytest.mark.soak
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_main_process_of_workers(tmp_path: Path, number: signal.Signals) -> None:
    """Its workers end by themselves, and what is theirs with them."""
    directory = tmp_path / "first"
    with start_session(directory, "-n", "2", "--elastic-cpu-slots=4", tests=WORKERS, xdist=True) as session:
        names = [f"{number}-{rank}.there" for number in (0, 1) for rank in (0, 1)]
        wait_for(lambda: all((directory / name).exists() for name in names), session)
        kill(session, number, everybody=number is signal.SIGINT)
        assert_all_gone(session, f"main process of workers, {number.name}")
        assert_next_run_is_as_ever(tmp_path / "second", session)


# --- the server and agents ---

SERVER = """
import os, signal, threading, time
import psutil, pytest
def blocks(): threading.Event().wait()
def one(): return 1
def pid(): return os.getppid()
def kill_server(number):
    if os.environ["RANK"] == "0": os.kill(os.getppid(), number)
    threading.Event().wait()
SIGNALS = [signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV]
@pytest.mark.elastic(nproc=2, timeout=60)
@pytest.mark.parametrize("number", SIGNALS)
def test_in_a_test(rank, number, elastic_gather):
    elastic_gather(rank)  # the set-up is over on both
    kill_server(number)
@pytest.mark.elastic(nproc=2, timeout=60)
def test_marked(rank): pass
@pytest.mark.parametrize("number", SIGNALS)
def test_in_a_launch(elastic_launch, number): elastic_launch(kill_server, number, nproc=2, timeout=60)
def test_launch(elastic_launch): assert elastic_launch(one, nproc=2, timeout=60) == {0: 1, 1: 1}
def test_between_tests(elastic_launch):
    [server] = elastic_launch(pid, nproc=1, timeout=60).values()
    os.kill(server, signal.SIGKILL)
    while psutil.Process(server).status() != psutil.STATUS_ZOMBIE: time.sleep(0.001)
    assert elastic_launch(one, nproc=2, timeout=60) == {0: 1, 1: 1}
@pytest.mark.elastic(nproc=2, timeout=60, isolation="session")
def test_kept(rank, elastic_gather): pass
def test_while_ranks_wait(elastic_launch):
    [server] = elastic_launch(pid, nproc=1, timeout=60).values()
    os.kill(server, signal.SIGKILL)
@pytest.mark.elastic(nproc=2, timeout=60, isolation="session")
def test_kept_again(rank, elastic_gather): pass
@pytest.mark.elastic(nproc=2, timeout=60)
def test_last(rank): pass
def test_stopped_server(elastic_launch): elastic_launch(kill_server, signal.SIGSTOP, nproc=2, timeout=3)
def test_after_it(elastic_launch): assert elastic_launch(one, nproc=2, timeout=60) == {0: 1, 1: 1}
def test_stopped_agent(elastic_launch):
    with elastic_launch.start(blocks, nproc=2, timeout=3) as run:
        os.kill(run.agents[0].pid, signal.SIGSTOP)
        run.wait(timeout=60)
def test_after_that(elastic_launch): assert elastic_launch(one, nproc=2, timeout=60) == {0: 1, 1: 1}
"""


@pytest.mark.soak
def test_the_server_dies_in_mid_session(tmp_path: Path) -> None:
    """The test that runs fails of that, and the next one has a new server."""
    outcome = run_session(tmp_path, "-p", "no:randomly", tests=SERVER)
    dies = {test: verdict for test, verdict in outcome.verdicts.items() if "[" in test}
    assert len(dies) == 6
    assert set(dies.values()) == {"failed"}, outcome.output
    for test in dies:
        assert "the preloaded server died while" in outcome.texts[test]
    others = {test: verdict for test, verdict in outcome.verdicts.items() if test not in dies}
    for test in ("test_stopped_server", "test_stopped_agent"):
        assert others.pop(test) == "failed"
        assert "timed out after 3 s" in outcome.texts[test]
    lost = others.pop("test_kept_again")
    assert set(others.values()) == {"passed"}, outcome.output
    # Its ranks were lost just before or in the moment in which they got it.
    assert lost == "passed" or "the preloaded server died" in outcome.texts["test_kept_again"], outcome.output
    outcome.assert_nothing_is_left()
    assert "timed out after 60" not in outcome.output


# --- no memory left ---

MEMORY = """
import os, pathlib, threading, time
import pytest
def offer(pid): pathlib.Path(f"/proc/{pid}/oom_score_adj").write_text("1000")
def take(): return b"x" * (4 << 30)
def take_for(pid):
    offer(pid)
    take()
def one(): return 1
@pytest.mark.elastic(nproc=2, timeout=100)
def test_rank(rank):
    if rank == 1: take_for(os.getpid())
    threading.Event().wait()
@pytest.mark.elastic(nproc=2, timeout=100)
def test_after_rank(rank): pass
def test_agent(elastic_launch, tmp_path):
    def work(file):
        while not file.exists(): time.sleep(0.01)
        take()
    with elastic_launch.start(work, tmp_path / "go", nproc=1, timeout=100) as run:
        offer(run.agents[0].pid)
        (tmp_path / "go").touch()
        run.wait(timeout=100)
def test_after_agent(elastic_launch): assert elastic_launch(one, nproc=2, timeout=60) == {0: 1, 1: 1}
@pytest.mark.elastic(nproc=2, timeout=100)
def test_server(rank):
    if rank == 1: take_for(os.getppid())
    threading.Event().wait()
@pytest.mark.elastic(nproc=2, timeout=100, isolation="module")
def test_after_server(rank): pass
def test_pytest(): take_for(os.getpid())
@pytest.mark.elastic(nproc=2, timeout=100, isolation="module")
def test_never(rank): pass
"""


@pytest.fixture
def small_memory() -> Iterator[Path]:
    """A memory cgroup of 1.5 GB, by either version of them."""
    own = dict(line.split(":", 2)[1:] for line in Path("/proc/self/cgroup").read_text().splitlines())
    first, limit = (f"memory{own['memory']}", "memory.limit_in_bytes") if "memory" in own else (own[""], "memory.max")
    group = Path("/sys/fs/cgroup", first.lstrip("/"), f"robustness-{os.getpid()}")
    try:
        group.mkdir()
        (group / limit).write_text(str(3 << 29))
    except OSError as error:
        pytest.skip(f"a limit of memory: no cgroup can be made: {error}")
    yield group
    deadline = time.monotonic() + 10
    while (group / "cgroup.procs").read_text() and time.monotonic() < deadline:
        time.sleep(0.01)
    group.rmdir()


@pytest.mark.soak
def test_no_memory_left(tmp_path: Path, small_memory: Path) -> None:
    """The kernel kills a rank, an agent, the server, and in the end pytest itself."""
    within = ("sh", "-c", f'echo $$ > {small_memory}/cgroup.procs && exec "$@"', "sh")
    with start_session(tmp_path / "first", tests=MEMORY, within=within) as session:
        outcome = session.finish()
        assert outcome.exitcode == -signal.SIGKILL, outcome.output
        assert outcome.verdicts == {
            "test_rank": "failed",
            "test_after_rank": "passed",
            "test_agent": "failed",
            "test_after_agent": "passed",
            "test_server": "failed",
            "test_after_server": "passed",
        }
        assert "rank 1 of 2 failed first" in outcome.texts["test_rank"]
        assert "killed by SIGKILL" in outcome.texts["test_rank"]
        assert "agent 0 was killed by SIGKILL" in outcome.texts["test_agent"]
        assert "the preloaded server died while test_server ran" in outcome.texts["test_server"]
        outcome.assert_nothing_is_left()
        assert_next_run_is_as_ever(tmp_path / "second", session)
