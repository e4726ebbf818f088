"""``--elastic-spawn=forkserver``: suites that spawn run as before, only faster."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from multiprocessing import context
from pathlib import Path

import psutil
import pytest

EXISTING = Path(__file__).parent / "existing"
OPTION = "--elastic-spawn=forkserver"
STRICT = "error::pytest_elastic.warning.ElasticWarning"
PROCESSES = 18
"""Tests in ``processes.py``; all of them pass."""
PASSED = {
    "test_all_reduce",
    "test_broadcast",
    "test_all_gather",
    "test_threads_of_torch",
    "test_1_all_reduce",
}
SKIPPED = {
    "test_skips_by_exception",
    "test_skips_by_exit_code",
    "test_skips_for_want_of_devices",
    "test_2_skips",
    "test_4_comes_after_a_failure",
}
FAILED = {
    "test_fails_on_one_rank": "RuntimeError: Process 1 exited with error code 10 and exception:",
    "test_first_rank_is_killed": "Expected exit code 0 but got -9",
    "test_first_rank_exits": "Expected exit code 0 but got 3",
    "test_3_fails": "RuntimeError: Exception in worker process:",
}


# A process that is not forked from a server that is well is an error.
FORKED_ONLY = """
import pytest
from multiprocessing import popen_spawn_posix

@pytest.fixture(autouse=True)
def nothing_is_spawned(request, monkeypatch):
    if "more_descriptors" not in request.node.name:
        monkeypatch.delattr(popen_spawn_posix, "Popen")
"""


@pytest.mark.soak  # what is really spawned takes long
def test_existing_suites(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EXISTING_RANKS", "2")
    for name in ("multi_process", "continuous", "processes"):
        pytester.makepyfile(**{f"test_{name}": (EXISTING / f"{name}.py").read_text()})
    pytester.makeconftest(FORKED_ONLY)
    result = pytester.runpytest_subprocess(OPTION, "-rA", "-W", STRICT)
    result.assert_outcomes(passed=len(PASSED) + PROCESSES, skipped=len(SKIPPED), failed=len(FAILED))
    passed = {line.rpartition("::")[2] for line in result.outlines if line.startswith("PASSED") and "Test" in line}
    assert passed == PASSED
    text = result.stdout.str()
    for test, message in FAILED.items():
        assert f"::{test} - " in text
        assert message in text
    assert "resource_tracker" not in text + result.stderr.str()


STATE = """
import faulthandler, gc, json, logging, multiprocessing, os, random, resource, signal, sys, tempfile
import threading, time, warnings
from multiprocessing import popen_spawn_posix
import numpy
import torch

SPAWN = multiprocessing.get_context("spawn")


class Spawned(SPAWN.Process):
    _Popen = staticmethod(popen_spawn_posix.Popen)


def main_module():
    main = sys.modules["__main__"]
    return main.__name__, getattr(main, "__file__", None)


def streams():
    found = []
    for fd, stream in enumerate((sys.stdin, sys.stdout, sys.stderr)):
        status = os.fstat(fd)
        how = (stream.encoding, stream.errors, stream.line_buffering, stream.write_through)
        found.append((status.st_dev, status.st_ino, *how))
    return found


def state():
    umask = os.umask(0)
    os.umask(umask)
    me, parent = multiprocessing.current_process(), multiprocessing.parent_process()
    root = logging.getLogger()
    return {
        "environ": {name: value for name, value in os.environ.items() if name != "PYTEST_ELASTIC_RUN"},
        "cwd": os.getcwd(),
        "path": sys.path,
        "argv": sys.argv,
        "main": main_module(),
        "flags": [str(sys.flags), sys._xoptions, sys.warnoptions],
        "streams": streams(),
        "stdin": sys.stdin.read(),
        "umask": umask,
        "limits": [resource.getrlimit(what) for what in range(10)],
        "cpus": sorted(os.sched_getaffinity(0)),
        "handlers": {int(sig): repr(signal.getsignal(sig)) for sig in signal.valid_signals()},
        "blocked": sorted(signal.pthread_sigmask(signal.SIG_BLOCK, ())),
        "faulthandler": faulthandler.is_enabled(),
        "filters": [repr(entry) for entry in warnings.filters],
        "process": [me.name, me.daemon, bytes(me.authkey).hex(), me._config["semprefix"]],
        "parent": [parent.pid, parent.name, parent.is_alive()],
        "method": multiprocessing.get_start_method(),
        "threads": [thread.name for thread in threading.enumerate()],
        "native": threading.main_thread().native_id == os.getpid(),
        "temporary": [tempfile.gettempdir(), time.timezone],
        "of torch": [torch.get_num_threads(), torch.get_num_interop_threads(), torch.is_grad_enabled()],
        "gc": [gc.isenabled(), gc.get_threshold()],
        "logging": [root.level, repr(root.handlers), logging.getLogger("torch").level],
    }


def child(queue):
    random_values = [random.random(), torch.rand(1).item(), float(numpy.random.rand())]
    queue.put((state(), random_values, os.getppid()))


def run(cls):
    queue = SPAWN.SimpleQueue()
    process = cls(target=child, args=(queue,), name="the child")
    process.start()
    answer = queue.get()
    process.join()
    assert process.exitcode == 0
    return answer


def test_a_forked_process_finds_what_a_spawned_one_finds(monkeypatch, tmp_path):
    monkeypatch.setenv("HERE_ONLY", "1")
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "argv", [*sys.argv, "one more"])
    os.umask(0o027)
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:1])
    signal.signal(signal.SIGUSR1, lambda *_: None)
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGHUP])
    spawned, _, parent = run(Spawned)
    assert parent == os.getpid()
    forked, values, parent = run(SPAWN.Process)
    assert parent != os.getpid()
    differences = {what: (spawned[what], forked[what]) for what in spawned if spawned[what] != forked[what]}
    for what, (there, here) in differences.items():
        print(what, set(there.items()) ^ set(here.items()) if what == "environ" else (there, here), sep=": ")
    assert not differences
    _, others, _ = run(SPAWN.Process)
    assert not set(values) & set(others)


def test_variables_that_only_a_fresh_interpreter_reads_get_one(monkeypatch):
    monkeypatch.setenv("PYTHONHASHSEED", "1")
    queue = SPAWN.SimpleQueue()
    process = SPAWN.Process(target=hashes, args=(queue,))
    process.start()
    assert queue.get() == (os.getpid(), 1)
    process.join()


def hashes(queue):
    queue.put((os.getppid(), sys.flags.hash_randomization))
"""


def test_a_forked_process_finds_what_a_spawned_one_finds(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(test_state=STATE)
    result = pytester.runpytest_subprocess(OPTION, "-W", STRICT)
    result.assert_outcomes(passed=2)


PARENTS = """
import multiprocessing, os, signal
import pytest

SPAWN = multiprocessing.get_context("spawn")


def answers(queue):
    queue.put(os.getppid())


def run():
    queue = SPAWN.SimpleQueue()
    process = SPAWN.Process(target=answers, args=(queue,))
    process.start()
    parent = queue.get()
    process.join()
    return parent
"""


def test_a_module_that_starts_threads_makes_processes_be_spawned(pytester: pytest.Pytester) -> None:
    pytester.makeini("[pytest]\nelastic_spawn = forkserver\nelastic_preload = auto starts_a_thread\n")
    pytester.makepyfile(
        starts_a_thread="import threading\nthreading.Thread(target=threading.Event().wait, daemon=True).start()\n",
        test_it=PARENTS + "def test_1(): assert run() == os.getpid()\ndef test_2(): assert run() == os.getpid()\n",
    )
    result = pytester.runpytest_subprocess()
    result.assert_outcomes(passed=2, warnings=1)
    result.stdout.fnmatch_lines("*--elastic-spawn=forkserver: starts_a_thread: importing it started 1 thread, *")


def test_a_server_that_is_lost_is_done_without(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        PARENTS
        + """
def test_it():
    server = run()
    assert server != os.getpid()
    os.kill(server, signal.SIGKILL)
    with pytest.warns(UserWarning, match="--elastic-spawn=forkserver: the preloaded server is lost"):
        assert run() == os.getpid()
    assert run() == os.getpid()
"""
    )
    pytester.runpytest_subprocess(OPTION).assert_outcomes(passed=1)


@pytest.mark.parametrize("ending", ["pass", "raise KeyboardInterrupt", "import pytest; pytest.exit('enough')"])
def test_the_start_method_is_as_before_when_the_session_is_over(pytester: pytest.Pytester, ending: str) -> None:
    before = vars(context.SpawnProcess)["_Popen"]
    pytester.makepyfile(
        f"""
        from multiprocessing import context
        def test_it():
            assert "Spawning" in context.SpawnProcess._Popen.__qualname__
            {ending}
        """
    )
    pytester.runpytest_inprocess(OPTION, no_reraise_ctrlc=True)
    assert vars(context.SpawnProcess)["_Popen"] is before


BLOCKS = """
import multiprocessing, os, pathlib, signal, subprocess, threading
import torch.multiprocessing as mp

DIRECTORY = pathlib.Path(__file__).parent


def blocks(rank):
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    child = subprocess.Popen(["sleep", "1000"])
    part = DIRECTORY / f"{rank}.part"
    part.write_text(f"{os.getpid()} {child.pid}")
    part.rename(DIRECTORY / str(rank))
    threading.Event().wait()


def test_it():
    multiprocessing.get_context("spawn").Process(target=blocks, args=(2,)).start()
    mp.spawn(blocks, nprocs=2, join=JOIN)
    while not all((DIRECTORY / str(rank)).exists() for rank in range(3)):
        threading.Event().wait(0.01)
"""


@pytest.mark.parametrize("how", ["killed", "ended"])
def test_nothing_outlives_pytest(tmp_path: Path, how: str) -> None:
    (tmp_path / "test_it.py").write_text(BLOCKS.replace("JOIN", str(how == "killed")))
    temporary = tmp_path / "t"
    temporary.mkdir()
    ours = ("PYTEST_CURRENT_TEST", "PYTEST_XDIST", "PYTEST_VERSION", "PYTEST_ELASTIC")
    environ = {key: value for key, value in os.environ.items() if not key.startswith(ours)} | {"TMPDIR": str(temporary)}
    pytest_process = subprocess.Popen(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "no:tmpdir", OPTION, "test_it.py"],
        cwd=tmp_path,
        env=environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    files = [tmp_path / str(rank) for rank in range(3)]
    wait_for(lambda: all(file.exists() for file in files), 60)
    pids = {int(word) for file in files for word in file.read_text().split()}
    pids |= {child.pid for child in psutil.Process(pytest_process.pid).children(recursive=True)}
    if how == "killed":
        pytest_process.send_signal(signal.SIGKILL)
    output, _ = pytest_process.communicate(timeout=60)
    assert pytest_process.returncode == (-signal.SIGKILL if how == "killed" else 0), output
    wait_for(lambda: not any(running(pid) for pid in pids), 10)
    wait_for(lambda: not list(temporary.glob("elastic-*")), 10)


def running(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def wait_for(reached: object, timeout: float) -> None:
    assert callable(reached)
    deadline = time.monotonic() + timeout
    while not reached():
        assert time.monotonic() < deadline
        time.sleep(0.005)
