"""The fixtures that users ask for; what they need is imported when they are."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pytest_elastic.controller.holding import RUN
from pytest_elastic.controller_fixtures import SETTING_UP, moved
from pytest_elastic.loopback_store import LOOPBACK
from pytest_elastic.pid import own_pid
from pytest_elastic.roles import RANK

if TYPE_CHECKING:
    from pytest_elastic.controller.launcher import ElasticLaunch
    from pytest_elastic.messages import RankId
    from pytest_elastic.services.etcd import EtcdServer
    from pytest_elastic.services.ports import PortReservations


@pytest.fixture(scope="session")
@moved("own")
def etcd_server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, _elastic_ports: PortReservations
) -> Iterator[EtcdServer]:
    """A real etcd on loopback, one per run, shared by all xdist workers; other nodes of a session reach it too.

    Its ``endpoint`` is what torch calls ``rdzv_endpoint``; ``host``, ``port``, ``client`` (python-etcd),
    ``pid``, ``version`` and ``output()`` tell the rest. Keys of other tests may be in it: use your own names.

    Raises:
        EtcdServerError: No etcd with the v2 API (3.4 or 3.5) was found, or it did not start.
    """
    from pytest_elastic.services.etcd import SHARED_SERVER, shared_etcd, stop_shared
    from pytest_elastic.services.process import ProcessId

    directory = run_directory(request.config, tmp_path_factory)
    worker = is_xdist_worker(request.config)
    owner = ProcessId.of(os.getppid() if worker else own_pid())
    server = shared_etcd(
        directory=directory, ports=_elastic_ports, owner=owner, host=address_for_others(request.config)
    )
    request.config.stash[SHARED_SERVER] = server
    yield server
    server.close_client()
    if not worker:  # other workers may use it until the run's main process ends
        stop_shared(directory)


@pytest.fixture
@moved("factory")
def etcd_server_factory(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, _elastic_ports: PortReservations
) -> Iterator[Callable[..., EtcdServer]]:
    """Start etcd servers that belong to this test: ``etcd_server_factory(timeout=10.0)``.

    The ranks of a test all get the same ones, if they make the same calls.

    Each is an ``etcd_server`` with ``kill()``, ``restart()`` (same data, same ports) and ``stop()``. They are
    stopped after the test.

    Raises:
        EtcdServerError: No etcd with the v2 API (3.4 or 3.5) was found, or it did not start.
    """
    from pytest_elastic.services.etcd import PRIVATE_SERVERS, START_TIMEOUT, start_etcd
    from pytest_elastic.services.process import ProcessId

    servers: list[EtcdServer] = request.node.stash.setdefault(PRIVATE_SERVERS, [])

    def start(*, timeout: float = START_TIMEOUT) -> EtcdServer:
        server = start_etcd(
            directory=run_directory(request.config, tmp_path_factory),
            ports=_elastic_ports,
            owner=ProcessId.of(own_pid()),
            shared=False,
            timeout=timeout,
            host=address_for_others(request.config),
        )
        servers.append(server)
        return server

    yield start
    for server in servers:
        server.stop()


@pytest.fixture
@moved("own")
def free_port(_elastic_ports: PortReservations) -> int:
    """A TCP port of this machine that is free and that no other test, worker or run of pytest gets.

    The ranks of a test all get the same one.

    Raises:
        PortError: None could be reserved.
    """
    return _elastic_ports.reserve(1, who="free_port")[0]


@pytest.fixture
@moved("factory")
def free_port_factory(_elastic_ports: PortReservations) -> Callable[[int], list[int]]:
    """Reserve several ports as ``free_port`` does: ``free_port_factory(n)`` returns a list of ``n``.

    The ranks of a test all get the same ones, if they make the same calls.

    Raises:
        PortError: ``n`` is not an int from 1 on, or so many could not be reserved.
    """
    return lambda n: _elastic_ports.reserve(n, who="free_port_factory(n)")


@pytest.fixture
def free_socket(free_socket_factory: Callable[[], socket.socket]) -> socket.socket:
    """A TCP socket that listens on a free port of 127.0.0.1; closed after the test.

    Raises:
        PortError: No port could be reserved.
    """
    return free_socket_factory()


@pytest.fixture
def free_socket_factory(_elastic_ports: PortReservations) -> Iterator[Callable[[], socket.socket]]:
    """Make several sockets as ``free_socket`` is one: ``free_socket_factory()``; closed after the test.

    Raises:
        PortError: No port could be reserved.
    """
    sockets: list[socket.socket] = []

    def listen() -> socket.socket:
        sockets.append(_elastic_ports.listen())
        return sockets[-1]

    yield listen
    for sock in sockets:
        sock.close()


@pytest.fixture(scope="session")
def _elastic_ports(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[PortReservations]:
    """The ports of this process, reserved until its session ends."""
    from pytest_elastic.services.ports import PortReservations, default_lock_dir

    # A rank's directories are its own; the machine-wide locks hold for it as for everybody.
    in_rank = RANK in request.config.stash
    claim_dir = None if in_rank else run_directory(request.config, tmp_path_factory) / "ports"
    ports = PortReservations(lock_dir=default_lock_dir(), claim_dir=claim_dir)
    yield ports
    ports.release()


def is_xdist_worker(config: pytest.Config) -> bool:
    """Tell whether this process is a worker of pytest-xdist."""
    return hasattr(config, "workerinput")


def address_for_others(config: pytest.Config) -> str:
    """Return the address of this machine for the other nodes of the session; loopback if there are none."""
    cluster = config.stash[RUN].cluster if RUN in config.stash else None
    return LOOPBACK if cluster is None else cluster.address


def run_directory(config: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the directory that all processes of this run share."""
    base = tmp_path_factory.getbasetemp()
    directory = (base.parent if is_xdist_worker(config) else base) / "elastic"
    directory.mkdir(mode=0o700, exist_ok=True)
    return directory


@pytest.fixture
def elastic_launch(request: pytest.FixtureRequest) -> Iterator[ElasticLaunch]:
    """Run a function, a script or a command on many ranks: ``elastic_launch(train, 1, nproc=4)``.

    Positional arguments go to the function or command, keywords to the launch.
    """
    from pytest_elastic.controller.launcher import ElasticLaunch

    launcher = ElasticLaunch(request)
    yield launcher
    launcher.close()


@pytest.fixture(scope="session")
def rank(request: pytest.FixtureRequest) -> int:
    """The global rank of this process, 0 to ``world_size - 1``; in tests with the marker ``elastic`` only."""
    return this_rank(request).rank


@pytest.fixture(scope="session")
def local_rank(request: pytest.FixtureRequest) -> int:
    """The rank of this process on its node; in tests with the marker ``elastic`` only."""
    return this_rank(request).local_rank


@pytest.fixture(scope="session")
def world_size(request: pytest.FixtureRequest) -> int:
    """The number of ranks that run this test; in tests with the marker ``elastic`` only."""
    return this_rank(request).world_size


def this_rank(request: pytest.FixtureRequest) -> RankId:
    """Return which rank this is; fail where it is none."""
    moved_one = request.config.stash.get(SETTING_UP, None)
    if moved_one is not None:
        pytest.fail(
            f"controller fixture {moved_one!r} requests {request.fixturename!r}, which exists on ranks only: it is set "
            "up once, in the pytest process, before there are ranks",
            pytrace=False,
        )
    if RANK not in request.config.stash:
        pytest.fail(
            f"fixture {request.fixturename!r} is for tests that run on ranks: mark the test with "
            "@pytest.mark.elastic(nproc=...)",
            pytrace=False,
        )
    return request.config.stash[RANK]
