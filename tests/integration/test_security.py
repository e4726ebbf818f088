"""What others can reach: the network, and other users of this machine."""

from __future__ import annotations

import base64
import http.client
import ipaddress
import json
import os
import pickle
import shutil
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest
import torch
import torch.distributed as dist
from torch.distributed.elastic.rendezvous import RendezvousStateError
from torch.distributed.elastic.rendezvous.dynamic_rendezvous import RendezvousBackend, Token
from torch.distributed.launcher.api import LaunchConfig

from pytest_elastic import AgentFailedError
from pytest_elastic.agent.signed_state import SignedState

if TYPE_CHECKING:
    from pytest_elastic.controller.launcher import ElasticLaunch
    from pytest_elastic.messages import AgentOrder
    from pytest_elastic.services.etcd import EtcdServer

DEADLINE = 60
SECRET = "hunter2hunter2"


# --- the network --------------------------------------------------------------------------------------------


def listeners(pids: set[int]) -> set[tuple[int, str, int]]:
    """Return the TCP sockets on which processes listen: pid, address, port."""
    return {
        (pid, str(connection.laddr.ip), int(connection.laddr.port))
        for pid in pids
        for connection in psutil.Process(pid).net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    }


def meet_and_stay() -> None:
    dist.init_process_group("gloo")
    dist.all_reduce(torch.ones(1))
    print("met", flush=True)
    signal.pause()


@pytest.mark.parametrize("backend", ["local", "c10d", "static", "etcd", "etcd-v2"])
def test_nothing_listens_where_other_machines_can_reach_it(
    elastic_launch: ElasticLaunch, etcd_server: EtcdServer, backend: str
) -> None:
    before = listeners({os.getpid()})  # other plugins'
    with elastic_launch.start(meet_and_stay, nproc=1, nnodes=2, rdzv_backend=backend, timeout=DEADLINE) as run:
        for rank in range(2):
            run.wait_for_output("met", rank=rank)
        ours = {os.getpid(), etcd_server.pid, *(child.pid for child in psutil.Process().children(recursive=True))}
        found = listeners(ours) - before
        ranks = {rank.pid for rank in run.ranks.values()}
    # Each rank listens for gloo, and rank 0 for the store of MASTER_PORT too.
    assert len([pid for pid, _, _ in found if pid in ranks]) == 3
    assert [address for _, address, _ in found if not ipaddress.ip_address(address).is_loopback] == []


def test_a_page_of_the_web_cannot_use_the_browser_to_read_etcd(etcd_server: EtcdServer) -> None:
    for name, status in (("127.0.0.1", 200), (f"localhost:{etcd_server.port}", 200), ("a.page.example", 421)):
        connection = http.client.HTTPConnection("127.0.0.1", etcd_server.port, timeout=DEADLINE)
        connection.request("GET", "/v2/keys", headers={"Host": name, "Origin": "http://a.page.example"})
        answer = connection.getresponse()
        assert (answer.status, answer.headers.get("Access-Control-Allow-Origin")) == (status, None)
        connection.close()


# --- what agents unpickle -----------------------------------------------------------------------------------


class Mark:
    """Unpickled, it leaves a file: code of whoever made the pickle has run."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[[Path], None], tuple[Path]]:
        return Path.touch, (self.path,)


def test_state_of_a_rendezvous_that_somebody_else_has_written_is_not_unpickled(
    elastic_launch: ElasticLaunch, tmp_path: Path
) -> None:
    bomb = base64.b64encode(pickle.dumps(Mark(tmp_path / "code of another user ran"))).decode()
    with elastic_launch.start(int, nproc=1, nnodes=2, agents=1, rdzv_backend="c10d", timeout=DEADLINE) as run:
        # Any user can connect to a port of this machine, and the name of the launch is no secret.
        config = run._launch.roster.agents[0].order.config
        store = dist.TCPStore("127.0.0.1", int(config["rdzv_endpoint"].rpartition(":")[2]))
        store.set(f"torch.rendezvous.{config['run_id']}", bomb)
        with pytest.raises(AgentFailedError, match="state of the c10d rendezvous was not written by an agent of this"):
            run.wait()
    assert not list(tmp_path.iterdir())


@pytest.mark.soak
@pytest.mark.parametrize("run_id", ["", "given"])
def test_state_on_an_endpoint_that_is_given_is_signed_unless_its_run_id_is_given_too(
    elastic_launch: ElasticLaunch, etcd_server: EtcdServer, run_id: str
) -> None:
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=1,
        rdzv_backend="etcd-v2",
        rdzv_endpoint=etcd_server.endpoint,
        run_id=run_id,
    )
    own = {"rdzv_backend": "etcd-v2", "rdzv_endpoint": etcd_server.endpoint, "nproc": 1}
    ways: list[dict[str, Any]] = [{"config": config}] if run_id else [{"config": config}, own]
    for arguments in ways:
        with elastic_launch.start(int, timeout=DEADLINE, **arguments) as run:
            assert run.wait() == {0: 0}
            name = run_id or run._launch.plan.config["run_id"]
        state = base64.b64decode(etcd_server.client.read(f"/torch/elastic/rendezvous/{name}").value)
        unsigned = state.startswith(b"\x80") and b"_RendezvousState" in state[:100]  # a pickle
        assert unsigned is bool(run_id)


class Kept(RendezvousBackend):
    """A backend that keeps its state here."""

    def __init__(self) -> None:
        self.state: bytes | None = None

    @property
    def name(self) -> str:
        return "kept"

    def get_state(self) -> tuple[bytes, Token] | None:
        return None if self.state is None else (self.state, 1)

    def set_state(self, state: bytes, token: Token | None = None) -> tuple[bytes, Token, bool] | None:
        before, self.state = self.state, state if token is not None or self.state is None else self.state
        return self.state, 1, before is None or token is not None


def test_signed_state_is_that_of_the_backend() -> None:
    kept = Kept()
    signed, other = SignedState(kept, b"key"), SignedState(kept, b"another key")
    assert (signed.name, signed.get_state()) == ("kept", None)
    assert signed.set_state(b"one") == (b"one", 1, True)
    assert signed.set_state(b"two") == (b"one", 1, False)
    assert signed.get_state() == (b"one", 1)
    for use in (other.get_state, lambda: other.set_state(b"two")):
        with pytest.raises(RendezvousStateError, match="not written by an agent of this run"):
            use()
    for text in (b"", b"short", b"one", kept.state[:-1] if kept.state else b""):
        kept.state = text
        with pytest.raises(RendezvousStateError, match="not written by an agent of this run"):
            signed.get_state()


@pytest.mark.soak
@pytest.mark.parametrize("backend", ["local", "c10d"])
def test_where_ranks_write_is_not_read_from_a_store_to_which_others_write(
    elastic_launch: ElasticLaunch, tmp_path: Path, backend: str
) -> None:
    over, wrote = threading.Event(), threading.Event()

    def attack(order: AgentOrder) -> None:
        store = dist.TCPStore("127.0.0.1", int(order.store_port or 0))
        run_id = order.config["run_id"]
        key = {
            "local": "round/1/pytest_elastic/master",
            "c10d": f"torch.rendezvous.{run_id}.0/pytest_elastic/master",
        }[backend]
        with suppress(dist.DistError):  # the store has ended
            while not over.is_set():
                store.set(key, f"1 {tmp_path / 'elsewhere'}")
                wrote.set()

    with elastic_launch.start(int, nproc=1, nnodes=2, rdzv_backend=backend, timeout=DEADLINE) as run:
        threading.Thread(target=attack, args=[run._launch.roster.agents[0].order], daemon=True).start()
        try:
            result = run.wait(check=False)
        finally:
            over.set()
    assert wrote.is_set()
    assert list(tmp_path.iterdir()) == []
    if result.values_by_rank != {0: 0, 1: 0}:
        assert "was not written by an agent of this run" in result.problem


# --- other users of this machine ----------------------------------------------------------------------------


def test_a_file_that_is_in_the_way_disturbs_no_launch(elastic_launch: ElasticLaunch) -> None:
    if not Path("/dev/shm").is_dir():
        pytest.skip("semaphores have no files here")
    with elastic_launch.start(int, nproc=1, timeout=DEADLINE) as run:
        # It is named like a semaphore of the launch, and cannot be removed like one: another user's could not either.
        in_the_way = Path(f"/dev/shm/sem.{run._launch.plan.scratch.name}-planted")
        in_the_way.mkdir()
        try:
            assert run.wait() == {0: 0}
        finally:
            in_the_way.rmdir()


FAILING = """
import os, signal, subprocess, sys, time
from pathlib import Path
import pytest
elastic = pytest.mark.elastic
SECRET = os.environ["SECRET_TOKEN"]

def sleep():
    time.sleep(60)

@elastic(nproc=2, timeout=60, backend="gloo")
def test_assert(rank):
    print("spoken")
    assert rank == 0

@elastic(nproc=2, timeout=60, env={"ALSO": SECRET, "WRONG": 1})
def test_environment(rank): pass

def test_endpoint(elastic_launch):
    elastic_launch(int, rdzv_backend="etcd", rdzv_endpoint=f"user:{SECRET}@host:2379")

def test_reached(elastic_launch, free_port):
    with elastic_launch.start(sleep, nproc=1, nnodes=2, rdzv_backend="c10d", timeout=60) as run:
        run.wait_for_world(2)
        top = os.environ["TMPDIR"]
        found = [os.path.join(folder, name) for folder, *names in os.walk(top) for name in sum(names, [])]
        command = [sys.executable, "-I", "-S", os.environ["ATTACKER"]]
        done = subprocess.run(command, input="\\0".join([top, *found]), capture_output=True, text=True, check=True)
        shown = []
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                shown += [str(path)] * (SECRET.encode() in path.read_bytes())
            except OSError:  # it has ended
                pass
        Path(os.environ["NOTES"]).write_text(json.dumps([found, done.stdout.splitlines(), shown]))
"""
MORE = """
@elastic(nproc=2, timeout=60, rdzv_backend="etcd-v2")
def test_dies(rank, etcd_server):
    if rank == 1:
        os.kill(os.getpid(), signal.SIGSEGV)
    sleep()

def test_agent(elastic_launch):
    elastic_launch(int, nproc=1, agent_error=RuntimeError("no node"), timeout=60)

def test_late(elastic_launch):
    elastic_launch(sleep, nproc=1, timeout=1)

def test_stored(elastic_launch, etcd_server):
    elastic_launch(int, nproc=1, rdzv_backend="etcd", timeout=60)
    files = [path for path in Path(etcd_server._record.home).rglob("*") if path.is_file()]
    assert any(b"torchelastic" in path.read_bytes() for path in files)
    assert [path for path in files if SECRET.encode() in path.read_bytes()] == []
"""


@pytest.fixture
def public_directory(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A directory for temporary files as ``/tmp`` is one; that of the tests themselves others cannot enter."""
    directory = Path(tempfile.mkdtemp(dir="/tmp"))
    directory.chmod(0o1777)
    monkeypatch.setenv("TMPDIR", str(directory))
    yield directory
    shutil.rmtree(directory)


@pytest.mark.parametrize(
    ("source", "outcomes"),
    [
        (FAILING, {"failed": 2, "passed": 1, "errors": 1}),
        pytest.param(FAILING + MORE, {"failed": 5, "passed": 2, "errors": 1}, marks=pytest.mark.soak),
    ],
    ids=["few", "many"],
)
def test_other_users_reach_nothing_and_no_secret_of_the_environment_is_written(
    pytester: pytest.Pytester,
    monkeypatch: pytest.MonkeyPatch,
    public_directory: Path,
    source: str,
    outcomes: dict[str, int],
) -> None:
    if os.getuid() != 0:
        pytest.skip("needs root, to be another user")
    notes = pytester.path / "notes"
    variables = {
        "NOTES": str(notes),
        "ATTACKER": str(Path(__file__).with_name("attacker.py")),
        "SECRET_TOKEN": SECRET,
        "ETCD_ROOT_PASSWORD": SECRET,
        "LOGLEVEL": "DEBUG",
        "TORCH_DISTRIBUTED_DEBUG": "DETAIL",
        "TORCH_CPP_LOG_LEVEL": "INFO",
    }
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    # Whatever others may do with the user's own files.
    pytester.makeconftest("import os\nos.umask(0)\n")
    pytester.makepyfile(test_it="import json\n" + source)
    logs = public_directory / "logs"
    reports = ["--junitxml=junit.xml", "-p", "pytest_jsonreport", "--json-report"]
    result = pytester.runpytest_subprocess(
        "-vv", "-rA", f"--elastic-log-dir={logs}", "--elastic-show-output=all", *reports
    )
    result.assert_outcomes(**outcomes)
    found, reached, shown = json.loads(notes.read_text())
    assert {Path(path).suffix for path in found} >= {".sock", ".order", ".log", ".lock"}
    # They may see which tests have logs, and make files of their own where everybody may.
    allowed = (f"list {public_directory}", f"make {public_directory}", f"list {logs}")
    assert [line for line in reached if line not in allowed and Path(line.partition(" ")[2]).parent != logs] == []
    assert shown == []
    texts = {"terminal": (result.stdout.str() + result.stderr.str()).encode()}
    for top in (pytester.path, public_directory):
        texts |= {str(path): path.read_bytes() for path in top.rglob("*") if path.is_file()}
    assert {Path(name).name for name in texts} >= {"junit.xml", ".report.json", "failures.log", "stdout.log"}
    assert [name for name, text in texts.items() if SECRET.encode() in text] == []


def test_what_others_have_planted_is_told_and_blamed_on_no_test(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    top = pytester.path / "tmp"
    for place in (top / f"pytest-elastic-ports-{os.getuid()}", pytester.path / "logs" / "test_it.py-test_ranks"):
        place.mkdir(parents=True)
        place.chmod(0o777)
    (pytester.path / "home").mkdir(mode=0o700)
    monkeypatch.setenv("HOME", str(pytester.path / "home"))
    monkeypatch.setenv("TMPDIR", str(top))
    pytester.makepyfile(
        test_it="""
        import pytest

        def test_port(free_port): assert free_port

        @pytest.mark.elastic(nproc=1, timeout=60)
        def test_ranks(rank): pass
        """
    )
    result = pytester.runpytest_subprocess("-W", "error", "--elastic-log-dir=logs")
    result.assert_outcomes(passed=1, errors=1, warnings=1)
    result.stdout.fnmatch_lines(
        [
            "--elastic-log-dir: cannot make *: */logs/test_it.py-test_ranks is drwxrwxrwx of user "
            f"{os.getuid()}; expected a directory of user {os.getuid()} that nobody else can write to: remove it",
            f"*ElasticWarning: cannot use '*pytest-elastic-ports-{os.getuid()}' for locks: it must be a directory of *",
        ]
    )
