"""A real etcd server as a test sees it, and how the processes of a run come to share one.

Each etcd is the child of a small process of its own, its keeper (:mod:`pytest_elastic.services.keeper`),
which also removes the data. The keeper waits for the end of one process, the owner: of a private server that
is the process which started it; of the shared one it is the run's main process, since the xdist worker that
came first may end, or crash, while others use the server.
"""

from __future__ import annotations

import json
import signal
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

from pytest_elastic.errors import EtcdServerError
from pytest_elastic.one_line import one_line
from pytest_elastic.options import MOST
from pytest_elastic.services import keeper
from pytest_elastic.services.etcd_binary import find_etcd
from pytest_elastic.services.etcd_start import (
    HOST,
    OUTPUT_LINES,
    STOP_TIMEOUT,
    check_timeout,
    etcd_command,
    in_url,
    launch,
    stop_home,
    tail,
    wait_ready,
)
from pytest_elastic.services.process import POLL, KeeperState, ProcessId, wait_until

if TYPE_CHECKING:
    import etcd

    from pytest_elastic.services.ports import PortReservations

# Seconds from the start of etcd until it must answer; a loaded machine needs some tenths.
START_TIMEOUT: Final = 10.0

# Starts with new ports, where another program took one of ours.
TRIES: Final = 3

RECORD: Final = "etcd.json"

SHARED_SERVER: Final = pytest.StashKey["EtcdServer"]()
PRIVATE_SERVERS: Final = pytest.StashKey["list[EtcdServer]"]()
USES_SHARED: Final = pytest.StashKey[bool]()
"""A launch of the test uses the run's server without having named it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EtcdRecord:
    """What another process must know of a running server to use it.

    Attributes:
        home: The directory of its data and its log.
        port: Its client port.
        version: The version of etcd.
        pid: The process id of etcd.
        started: Its start in clock ticks since boot.
        shared: Whether it is the run's, and not of one test.
        host: The address by which it is reached.
    """

    home: str
    port: int
    version: str
    pid: int
    started: int
    shared: bool
    host: str = HOST


class EtcdServer:
    """A running etcd with the v2 API, on loopback; where a session has several nodes others reach it too.

    Made by the fixtures ``etcd_server`` and ``etcd_server_factory``. It pickles: the copy is the same server.
    """

    def __init__(self, record: EtcdRecord) -> None:
        self._record = record
        self._client: etcd.Client | None = None
        self._last_output = ""

    def __repr__(self) -> str:
        return f"<EtcdServer {self.endpoint} version {self.version} pid {self.pid}>"

    def __reduce__(self) -> tuple[type[EtcdServer], tuple[EtcdRecord]]:
        return type(self), (self._record,)

    @property
    def host(self) -> str:
        """The address by which it is reached; 127.0.0.1, unless other nodes take part."""
        return self._record.host

    @property
    def port(self) -> int:
        """The port of its clients."""
        return self._record.port

    @property
    def endpoint(self) -> str:
        """Host and port as in ``rdzv_endpoint``, for example ``"127.0.0.1:20000"``."""
        return f"{in_url(self.host)}:{self.port}"

    @property
    def pid(self) -> int:
        """The process id of etcd; another one after :meth:`restart`."""
        return self._record.pid

    @property
    def version(self) -> str:
        """The version of etcd, for example ``"3.5.1"``."""
        return self._record.version

    @property
    def alive(self) -> bool:
        """Whether the process of etcd runs."""
        return ProcessId(pid=self._record.pid, started=self._record.started).alive

    @property
    def client(self) -> etcd.Client:
        """A python-etcd client of this server, made at the first use and closed with the server.

        Raises:
            EtcdServerError: python-etcd is not installed.
        """
        if self._client is None:
            try:
                import etcd
            except ImportError as error:
                raise EtcdServerError(
                    "EtcdServer.client: python-etcd cannot be imported"
                    f" ({error}); install it: pip install 'pytest-elastic[etcd]'"
                ) from error
            self._client = etcd.Client(host=self.host, port=self.port, version_prefix="/v2", read_timeout=10)
        return self._client

    def output(self, lines: int = OUTPUT_LINES) -> str:
        """Return the last lines that etcd wrote; after its end those that were the last.

        Args:
            lines: How many, from 1 on.

        Raises:
            EtcdServerError: It is no such number.
        """
        if type(lines) is not int or not 1 <= lines <= MOST:
            raise EtcdServerError(f"EtcdServer.output(): got {one_line(lines)}; it is a number of lines, an int >= 1")
        text = tail(self._home / keeper.LOG, lines)
        return self._last_output if text is None else text

    def kill(self) -> None:
        """Kill etcd with SIGKILL and wait until it is gone; data and ports stay for :meth:`restart`.

        Raises:
            EtcdServerError: The server is the run's, or is still there after 5 s.
        """
        self._private("kill")
        self.close_client()
        ProcessId(pid=self._record.pid, started=self._record.started).signal(signal.SIGKILL, group=True)
        if not wait_until(lambda: self._state().ended, timeout=STOP_TIMEOUT):
            raise EtcdServerError(
                f"etcd, pid {self.pid}, is still there {STOP_TIMEOUT:g} s after SIGKILL; end it by hand",
                output=self.output(),
            )

    def restart(self, *, timeout: float = START_TIMEOUT) -> None:
        """Start etcd again, on the same data and ports, and wait until it answers; kills it first if it runs.

        Args:
            timeout: Seconds until it must answer.

        Raises:
            EtcdServerError: The server is the run's, or does not start.
        """
        self._private("restart")
        check_timeout("EtcdServer.restart()", timeout)
        if not self._state().ended:
            self.kill()
        before = self._state()
        if not before.keeper.alive:
            raise EtcdServerError(f"{self!r}: the process that kept it, pid {before.keeper.pid}, was killed")
        before.keeper.signal(signal.SIGHUP)
        state = wait_ready(self._home, self.port, run=before.run + 1, timeout=timeout)
        self._record = record_of(self._home, self.port, self.version, state, shared=False, host=self.host)

    def stop(self) -> None:
        """Kill etcd and remove its data, for good; nothing if that was done before.

        Raises:
            EtcdServerError: The server is the run's.
        """
        self._private("stop")
        self.close_client()
        self._last_output = self.output()
        stop_home(self._home)

    @property
    def _home(self) -> Path:
        return Path(self._record.home)

    def close_client(self) -> None:
        """Close the connections of :attr:`client`; the next use makes new ones."""
        if self._client is not None:
            self._client.http.clear()
            self._client = None

    def _state(self) -> KeeperState:
        if state := KeeperState.read(self._home):
            return state
        raise EtcdServerError(f"{self!r} was stopped; ask etcd_server_factory() for another one")

    def _private(self, what: str) -> None:
        if self._record.shared:
            raise EtcdServerError(
                f"etcd_server.{what}(): this server is shared by the whole run;"
                f" ask etcd_server_factory() for one to {what}"
            )


def start_etcd(
    *,
    directory: Path,
    ports: PortReservations,
    owner: ProcessId,
    shared: bool,
    timeout: float = START_TIMEOUT,
    host: str = HOST,
) -> EtcdServer:
    """Start an etcd and wait until it answers.

    Args:
        directory: Where its home is made; must be writable by this user only.
        ports: Gives it its two ports.
        owner: The process that it must not outlive.
        shared: Whether it is the run's.
        timeout: Seconds until it must answer.
        host: Address of this machine by which others reach it.

    Raises:
        EtcdServerError: There is no etcd to use, or it does not start.
        PortError: There are no ports.
    """
    check_timeout("etcd_server_factory()", timeout)
    binary = find_etcd()
    attempt = 1
    while True:
        client_port, peer_port = ports.reserve(2, who="etcd_server")
        home = Path(tempfile.mkdtemp(prefix="etcd-", dir=directory))
        try:
            launch(home, owner, etcd_command(binary, home, client_port, peer_port, host))
            state = wait_ready(home, client_port, run=1, timeout=timeout)
        except BaseException as error:
            stop_home(home)
            clash = isinstance(error, EtcdServerError) and "address already in use" in error.output
            if clash and attempt < TRIES:
                attempt += 1
                continue
            raise
        return EtcdServer(record_of(home, client_port, binary.version, state, shared=shared, host=host))


def shared_etcd(*, directory: Path, ports: PortReservations, owner: ProcessId, host: str = HOST) -> EtcdServer:
    """Return the run's etcd; start it if no other process of the run has, or if that one is dead.

    Args:
        directory: The directory that all processes of the run share.
        ports: Gives the server its ports.
        owner: The run's main process.
        host: Address of this machine by which others reach it.

    Raises:
        EtcdServerError: As :func:`start_etcd`, or another process takes too long.
    """
    from filelock import FileLock, Timeout

    patience = TRIES * START_TIMEOUT + STOP_TIMEOUT
    try:
        with FileLock(directory / "etcd.lock").acquire(timeout=patience, poll_interval=POLL):
            server = read_record(directory)
            if server is None or not server.alive:
                server = start_etcd(directory=directory, ports=ports, owner=owner, shared=True, host=host)
                write_record(directory, server)
            return server
    except Timeout as error:
        raise EtcdServerError(
            f"etcd_server: another worker of this run holds {error.lock_file!r} for more than {patience:g} s"
        ) from error


def stop_shared(directory: Path) -> None:
    """Stop every etcd that was started in the directory of a run, and wait until it is gone."""
    (directory / RECORD).unlink(missing_ok=True)
    for home in directory.glob("etcd-*"):
        stop_home(home)


def add_etcd_section(item: pytest.Item, report: pytest.TestReport) -> None:
    """Show what etcd wrote with a test that failed and used ``etcd_server`` or ``etcd_server_factory``."""
    if not report.failed:
        return
    servers = list(item.stash.get(PRIVATE_SERVERS, ()))
    uses_shared = "etcd_server" in getattr(item, "fixturenames", ()) or USES_SHARED in item.stash
    if uses_shared and SHARED_SERVER in item.config.stash:
        servers.append(item.config.stash[SHARED_SERVER])
    for server in servers:
        report.sections.append(("etcd server", server.output()))


def record_of(home: Path, port: int, version: str, state: KeeperState, *, shared: bool, host: str) -> EtcdRecord:
    """Note a server that is ready."""
    pid, started = state.etcd.pid, state.etcd.started
    return EtcdRecord(home=str(home), port=port, version=version, pid=pid, started=started, shared=shared, host=host)


def write_record(directory: Path, server: EtcdServer) -> None:
    """Note the run's server for its other processes; only under the lock."""
    record: dict[str, Any] = asdict(server._record)
    (directory / RECORD).write_text(json.dumps(record))


def read_record(directory: Path) -> EtcdServer | None:
    """Read which server is the run's; only under the lock."""
    try:
        return EtcdServer(EtcdRecord(**json.loads((directory / RECORD).read_text())))
    except (FileNotFoundError, ValueError):  # ValueError: its writer was killed in the middle
        return None
