"""A real etcd: it is ready when a test gets it, one per run, and gone when its run is."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

from pytest_elastic.errors import EtcdServerError
from pytest_elastic.services import keeper
from pytest_elastic.services.etcd import EtcdServer, shared_etcd, stop_shared
from pytest_elastic.services.ports import PortReservations
from pytest_elastic.services.process import KeeperState, ProcessId

if TYPE_CHECKING:
    MakeEtcd = Callable[..., EtcdServer]

# Seconds after the end of pytest in which everything must be gone.
PROMPTLY = 2.0

# What the runs inside these tests use: each test notes the pids of etcd and of its keeper.
NOTES = """
import os, pathlib, time
import psutil

NOTES = pathlib.Path({notes!r})

def note(name, *servers):
    path = NOTES / name
    pids = [pid for server in servers for pid in (server.pid, psutil.Process(server.pid).ppid())]
    path.with_suffix(".new").write_text(" ".join(map(str, [os.getpid(), *pids])))
    os.replace(path.with_suffix(".new"), path)

def wait_until(holds):
    deadline = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)

def wait_for(name):
    wait_until((NOTES / name).exists)
    return [int(pid) for pid in (NOTES / name).read_text().split()]
"""


@pytest.fixture
def notes(pytester: pytest.Pytester) -> Path:
    folder = pytester.mkdir("notes")
    pytester.makepyfile(notes=NOTES.format(notes=str(folder)))
    return folder


def read(note: Path) -> list[int]:
    """The pid of the test's process, then the pids of etcd and its keeper, for each server."""
    return [int(pid) for pid in note.read_text().split()]


def wait(holds: Callable[[], bool], *, within: float) -> bool:
    deadline = time.monotonic() + within
    while not holds():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def is_gone(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


def gone(*pids: int, within: float = PROMPTLY) -> bool:
    return wait(lambda: all(map(is_gone, pids)), within=within)


def homes(below: Path) -> list[Path]:
    return list(below.rglob("etcd-*"))


def script(path: Path, body: str, version: str = "3.5.1") -> Path:
    """Write a program that has etcd's version, and then does something else."""
    path.write_text(f'#!/bin/sh\nif [ "$1" = --version ]; then echo "etcd Version: {version}"; exit; fi\n{body}\n')
    path.chmod(0o755)
    return path


def test_it_is_ready_and_can_be_used(etcd_server: EtcdServer) -> None:
    etcd_server.client.write("/ready/key", "value")
    assert etcd_server.client.read("/ready/key").value == "value"
    assert etcd_server.endpoint == f"127.0.0.1:{etcd_server.port}"
    assert etcd_server.host == "127.0.0.1"
    assert etcd_server.client.version == etcd_server.version
    assert psutil.Process(etcd_server.pid).name() == "etcd"
    assert str(etcd_server.port) in etcd_server.output()
    assert len(etcd_server.output(lines=3).splitlines()) == 3


def test_it_listens_on_loopback_only(etcd_server: EtcdServer) -> None:
    process = psutil.Process(etcd_server.pid)
    addresses = [c.laddr for c in process.net_connections() if c.status == psutil.CONN_LISTEN]
    assert etcd_server.port in {address.port for address in addresses}
    assert {address.ip for address in addresses} == {"127.0.0.1"}


def test_a_copy_is_the_same_server(etcd_server: EtcdServer) -> None:
    copy = pickle.loads(pickle.dumps(etcd_server))
    assert (copy.endpoint, copy.pid, copy.version) == (
        etcd_server.endpoint,
        etcd_server.pid,
        etcd_server.version,
    )
    copy.client.write("/copied/key", "value")
    assert etcd_server.client.read("/copied/key").value == "value"
    copy.close_client()


@pytest.mark.parametrize("what", ["kill", "restart", "stop"])
def test_the_shared_one_cannot_be_taken_away(etcd_server: EtcdServer, what: str) -> None:
    with pytest.raises(EtcdServerError, match=rf"^etcd_server\.{what}\(\): this server is shared by the whole run"):
        getattr(etcd_server, what)()
    assert etcd_server.alive


def test_a_client_without_python_etcd_says_what_to_install(
    etcd_server: EtcdServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "etcd", None)
    etcd_server.close_client()
    with pytest.raises(EtcdServerError, match=r"pip install 'pytest-elastic\[etcd\]'"):
        _ = etcd_server.client


def test_killed_and_restarted_it_has_its_data_and_port(etcd_server_factory: MakeEtcd) -> None:
    server = etcd_server_factory()
    server.client.write("/kept", "value")
    port, pid = server.port, server.pid
    server.kill()
    assert is_gone(pid)
    assert not server.alive
    server.restart()
    assert server.port == port
    assert server.pid != pid
    assert server.client.read("/kept").value == "value"
    server.restart()
    assert server.client.read("/kept").value == "value"


def test_private_ones_are_separate(etcd_server: EtcdServer, etcd_server_factory: MakeEtcd) -> None:
    one, two = etcd_server_factory(), etcd_server_factory()
    assert len({server.pid for server in (one, two, etcd_server)}) == 3
    one.client.write("/mine", "one")
    assert "/mine" not in [child.key for child in two.client.read("/").children]


def test_stopped_it_leaves_nothing_and_keeps_its_output(
    etcd_server_factory: MakeEtcd, tmp_path_factory: pytest.TempPathFactory
) -> None:
    server = etcd_server_factory()
    keeper = psutil.Process(server.pid).ppid()
    output = server.output()
    server.stop()
    assert is_gone(server.pid)
    assert is_gone(keeper)
    assert output.splitlines()[-1] in server.output()
    server.stop()
    with pytest.raises(EtcdServerError, match="was stopped; ask etcd_server_factory"):
        server.restart()


def test_settings_of_the_users_etcd_do_not_matter(
    etcd_server_factory: MakeEtcd, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("ETCD_DATA_DIR", str(tmp_path / "mine"))
    monkeypatch.setenv("ETCD_LISTEN_CLIENT_URLS", "http://0.0.0.0:2379")
    monkeypatch.setenv("ETCD_ENABLE_V2", "false")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    assert etcd_server_factory().client.write("/key", "value")
    assert not (tmp_path / "mine").exists()


def test_the_keeper_holds_nothing_of_pytest(etcd_server_factory: MakeEtcd) -> None:
    readable, writable = os.pipe()
    os.set_inheritable(writable, True)
    server = etcd_server_factory()
    os.close(writable)
    os.set_blocking(readable, False)
    assert os.read(readable, 1) == b""  # nobody else holds the other end
    os.close(readable)
    keeper = psutil.Process(psutil.Process(server.pid).ppid())
    assert os.getsid(keeper.pid) == keeper.pid
    keeper.send_signal(signal.SIGINT)
    server.restart()
    assert psutil.Process(server.pid).ppid() == keeper.pid
    assert psutil.Process().pid not in [parent.pid for parent in keeper.parents()]


def test_etcd_does_not_outlive_its_keeper(etcd_server_factory: MakeEtcd) -> None:
    server = etcd_server_factory()
    os.kill(psutil.Process(server.pid).ppid(), signal.SIGKILL)
    assert gone(server.pid)
    server.kill()
    with pytest.raises(EtcdServerError, match=r"the process that kept it, pid .*, was killed"):
        server.restart()


def test_one_that_ends_at_once_is_an_error_with_its_last_lines(
    etcd_server_factory: MakeEtcd, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TORCHELASTIC_ETCD_BINARY_PATH", str(script(tmp_path / "etcd", "echo no disk; exit 3")))
    with pytest.raises(EtcdServerError, match=r"ended with exit code 3 .*last lines:\nno disk$") as caught:
        etcd_server_factory()
    assert caught.value.output == "no disk"


def test_one_that_never_answers_is_an_error_and_is_killed(
    etcd_server_factory: MakeEtcd, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    body = f"echo $$ > {tmp_path}/pid; echo here; sleep 600; :"
    monkeypatch.setenv("TORCHELASTIC_ETCD_BINARY_PATH", str(script(tmp_path / "etcd", body)))
    with pytest.raises(EtcdServerError, match=r"did not answer /version on 127\.0\.0\.1:\d+ within 1 s.*\nhere$"):
        etcd_server_factory(timeout=1)
    assert gone(int((tmp_path / "pid").read_text()))


def test_a_clash_of_addresses_is_tried_three_times(
    etcd_server_factory: MakeEtcd, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    body = f"echo $* >> {tmp_path}/starts; echo listen tcp: bind: address already in use; exit 1"
    monkeypatch.setenv("TORCHELASTIC_ETCD_BINARY_PATH", str(script(tmp_path / "etcd", body)))
    with pytest.raises(EtcdServerError, match="address already in use"):
        etcd_server_factory()
    assert len(set((tmp_path / "starts").read_text().splitlines())) == 3


def test_a_missing_or_new_binary_fails_only_the_test_that_asks(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pytester.makepyfile("def test_one(etcd_server): pass\ndef test_two(): pass")
    for path, words in [
        (tmp_path / "none", "*No such file*"),
        (script(tmp_path / "etcd", "", "3.6.1"), "*no v2 API*"),
    ]:
        monkeypatch.setenv("TORCHELASTIC_ETCD_BINARY_PATH", str(path))
        result = pytester.runpytest_inprocess()
        result.assert_outcomes(passed=1, errors=1)
        result.stdout.fnmatch_lines(
            [f"E *EtcdServerError: no etcd to use; {words}pip install 'pytest-elastic[[]etcd]'*"]
        )


def test_a_failed_test_shows_what_etcd_wrote(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(
        """
        import pytest
        from pytest_elastic.services.etcd import add_etcd_section

        @pytest.hookimpl(wrapper=True)
        def pytest_runtest_makereport(item, call):
            report = yield
            add_etcd_section(item, report)
            return report
        """
    )
    pytester.makepyfile(
        """
        def test_shared(etcd_server): assert not etcd_server.port
        def test_private(etcd_server_factory): assert not etcd_server_factory().port
        def test_other(): assert False
        def test_good(etcd_server): pass
        """
    )
    result = pytester.runpytest_inprocess("--tb=short")
    result.assert_outcomes(failed=3, passed=1)
    result.stdout.fnmatch_lines(["*- etcd server -*", "*serving*127.0.0.1*", "*- etcd server -*", "*serving*"])
    other = result.stdout.str().partition("_ test_other _")[2]
    assert other
    assert "etcd server" not in other


def test_two_sessions_of_a_process_have_each_their_own(pytester: pytest.Pytester, notes: Path) -> None:
    pytester.makepyfile(
        """
        from notes import note

        def test_one(etcd_server, request):
            note(request.config.getoption("-k"), etcd_server)
        """
    )
    for name in ("test", "one"):
        pytester.runpytest_inprocess("-k", name, "-Werror").assert_outcomes(passed=1)
        assert gone(*read(notes / name)[1:], within=0)
        assert not homes(pytester.path)
    assert read(notes / "test")[1:] != read(notes / "one")[1:]


def test_killed_pytest_leaves_nothing(pytester: pytest.Pytester, notes: Path) -> None:
    pytester.makepyfile(
        """
        from notes import note, wait_until

        def test_one(etcd_server, etcd_server_factory):
            note("pids", etcd_server, etcd_server_factory())
            wait_until(lambda: False)
        """
    )
    base = pytester.path / "base"
    quiet = subprocess.DEVNULL
    command = [sys.executable, "-m", "pytest", f"--basetemp={base}"]
    run = pytester.popen(command, stdin=quiet, stdout=quiet, stderr=quiet)
    try:
        assert wait((notes / "pids").exists, within=60)
        assert len(homes(base)) == 2
    finally:
        run.kill()
        killed = time.monotonic()
        run.wait(timeout=60)
    assert gone(*read(notes / "pids"))
    assert wait(lambda: not homes(base), within=PROMPTLY)
    assert time.monotonic() - killed < PROMPTLY


def test_killed_main_process_of_workers_leaves_no_shared_one(pytester: pytest.Pytester, notes: Path) -> None:
    pytest.importorskip("xdist")
    pytester.makepyfile(
        """
        from notes import note, wait_until

        def test_one(etcd_server):
            note("pids", etcd_server)
            wait_until(lambda: False)
        """
    )
    base, quiet = pytester.path / "base", subprocess.DEVNULL
    command = [sys.executable, "-m", "pytest", "-n1", f"--basetemp={base}"]
    run = pytester.popen(command, stdin=quiet, stdout=quiet, stderr=quiet)
    try:
        assert wait((notes / "pids").exists, within=60)
    finally:
        run.kill()
        run.wait(timeout=60)
    worker, *pids = read(notes / "pids")
    try:
        assert gone(*pids)
        assert wait(lambda: not homes(base), within=PROMPTLY)
    finally:
        os.kill(worker, signal.SIGKILL)  # execnet gives a busy worker some seconds


@pytest.mark.parametrize("prepare", ["pass", "del os.pidfd_open"], ids=["pidfd", "polling"])
def test_a_keeper_ends_with_its_owner(tmp_path: Path, prepare: str) -> None:
    home = tmp_path / "home"
    home.mkdir()
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as owner:
        started = ProcessId.of(owner.pid).started
        code = f"import os, runpy; {prepare}; runpy.run_path({keeper.__file__!r}, run_name='__main__')"
        command = [sys.executable, "-c", code, str(home), str(owner.pid), str(started), "/bin/sleep", "600"]
        subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
        assert wait((home / keeper.STATE).exists, within=60)
        state = KeeperState.read(home)
        assert state is not None
        assert state.etcd.alive
        owner.kill()
        assert gone(state.etcd.pid, state.keeper.pid)  # the owner is not even waited for yet
        assert not home.exists()


def test_a_keeper_does_not_start_for_an_owner_that_is_gone(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    command = [sys.executable, keeper.__file__, str(home), str(os.getpid()), "1", "/bin/sleep", "600"]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
    assert wait(lambda: not home.exists(), within=60)


@pytest.mark.parametrize("timeout", [0, -1, "2", None, True, float("nan")])
def test_a_timeout_that_is_none_is_refused(etcd_server_factory: MakeEtcd, timeout: object) -> None:
    with pytest.raises(EtcdServerError, match=r"^etcd_server_factory\(\): got timeout=.*a number above 0$"):
        etcd_server_factory(timeout=timeout)


def test_importing_the_fixtures_is_cheap() -> None:
    code = "import pytest, sys; import pytest_elastic.fixtures; print(*sys.modules, sep='\\n')"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert not {"torch", "etcd", "filelock", "psutil", "ctypes"}.intersection(done.stdout.split())


def test_workers_share_one(pytester: pytest.Pytester, notes: Path) -> None:
    pytest.importorskip("xdist")
    pytester.makepyfile(
        """
        import pytest
        from notes import note, wait_for

        @pytest.mark.parametrize(("mine", "other"), ["ab", "ba"])
        def test_shared(etcd_server, mine, other):
            note(mine, etcd_server)
            assert wait_for(other)[1] == etcd_server.pid
        """
    )
    pytester.runpytest_subprocess("-n2", "-Werror").assert_outcomes(passed=2)
    one, two = read(notes / "a"), read(notes / "b")
    assert one[0] != two[0]
    assert one[1:] == two[1:]
    assert gone(*one, *two)
    assert wait(lambda: not homes(pytester.path), within=PROMPTLY)


def test_it_stays_when_the_worker_that_started_it_is_killed(pytester: pytest.Pytester, notes: Path) -> None:
    pytest.importorskip("xdist")
    pytester.makepyfile(
        test_first="""
        import os, signal
        from notes import note, wait_for

        def test_first(etcd_server):
            note("first", etcd_server)
            wait_for("second")
            os.kill(os.getpid(), signal.SIGKILL)
        """,
        test_second="""
        import psutil
        from notes import note, wait_for, wait_until

        def test_second(request):
            starter, pid, _ = wait_for("first")
            server = request.getfixturevalue("etcd_server")
            note("second", server)
            wait_until(lambda: not psutil.pid_exists(starter) or psutil.Process(starter).status() == "zombie")
            server.client.write("/still", "here")
            assert server.client.read("/still").value == "here"
            assert server.pid == pid
        """,
    )
    result = pytester.runpytest_subprocess("-n2", "--dist=loadfile", "--max-worker-restart=0")
    result.stdout.fnmatch_lines(["*worker 'gw?' crashed while running 'test_first.py::test_first'*"])
    assert result.parseoutcomes()["passed"] == 1
    assert gone(*read(notes / "first"))
    assert wait(lambda: not homes(pytester.path), within=PROMPTLY)


def test_a_worker_that_finds_it_dead_starts_another(tmp_path: Path) -> None:
    ports = PortReservations(lock_dir=tmp_path / "locks", claim_dir=None)
    owner = ProcessId.of(os.getpid())
    try:
        one = shared_etcd(directory=tmp_path, ports=ports, owner=owner)
        assert shared_etcd(directory=tmp_path, ports=ports, owner=owner).pid == one.pid
        os.kill(one.pid, signal.SIGKILL)
        assert gone(one.pid)
        two = shared_etcd(directory=tmp_path, ports=ports, owner=owner)
        assert two.pid != one.pid
        assert two.client.write("/key", "value")
        two.close_client()
    finally:
        stop_shared(tmp_path)
        ports.release()
    assert is_gone(two.pid)
    assert not homes(tmp_path)


def test_a_record_cut_short_is_no_server(tmp_path: Path) -> None:
    (tmp_path / "etcd.json").write_text('{"home": "/nowh')
    ports = PortReservations(lock_dir=tmp_path / "locks", claim_dir=None)
    try:
        server = shared_etcd(directory=tmp_path, ports=ports, owner=ProcessId.of(os.getpid()))
        assert server.alive
    finally:
        stop_shared(tmp_path)
        ports.release()
