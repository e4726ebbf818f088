"""What one launch is to do, complete and checked, before anything is started."""

from __future__ import annotations

import socket
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_elastic import clock
from pytest_elastic.controller.measuring import without_coverage
from pytest_elastic.controller.site import HERE, Site
from pytest_elastic.faults import Fault
from pytest_elastic.messages import Address, AgentOrder, CoverageOrder, DeviceOrder, ItemOrder, RankOrder, SessionOrder
from pytest_elastic.report.records import Work

if TYPE_CHECKING:
    from pytest_elastic.controller.serving import Fixtures
    from pytest_elastic.controller.turns import Turn


@dataclass(frozen=True, kw_only=True, slots=True)
class TestPlan:
    """One test that the ranks of a launch run.

    Attributes:
        order: What ranks are told.
        fixtures: The controller's fixtures.
        timeout: Deadline in seconds from the beginning of the test, or ``None``.
        name: Its name.
        nodeid: Its node id.
        timeout_by: Who set the deadline, where that is another plugin.
    """

    __test__ = False

    order: ItemOrder
    fixtures: Fixtures
    timeout: float | None
    name: str
    nodeid: str
    timeout_by: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class LaunchPlan:
    """A launch.

    Attributes:
        directory: Where the output of the ranks goes.
        scratch: Private directory for everything else; its name is the launch's.
        key: Authentication key of the channel.
        state_key: Key by which agents sign the state of their rendezvous; ``None`` if others may take part in it.
        name: Name of the entry point, by torchrun's rule.
        config: Fields of torch's ``LaunchConfig`` by name.
        agents: How many agents are started.
        timeout: Deadline in seconds from the start, or ``None``.
        grace: Seconds between a failure and the end of those that it concerns.
        environ: Environment of the launching test, ready for agents and ranks.
        cwd: Its working directory.
        sys_path: Its ``sys.path``.
        seed: Seed of the ranks' random generators, or ``None``.
        backend: Process group made before the work, or ``None``.
        devices: Devices of the ranks.
        function: Cloudpickled function with its arguments, or ``None``.
        command: Command line, or ``None``.
        script: The command is a ``.py`` script, which tells how it ended.
        session: How ranks that run tests make their pytest session, or ``None``.
        kept: Ranks wait for another test when they have run one.
        modules: Name and file of the test modules that pytest has imported.
        inline: The agent runs in a thread of the pytest process.
        agent_error: Pickled exception that the agents raise instead of running, or ``None``.
        host_store: The rendezvous has no endpoint: its store is hosted here.
        faults: What the launch is to suffer.
        nodeid: The test that launches.
        failure_log: File to which failures are written the moment they are known, or ``None``.
        turn: The CPUs and devices that the launch has taken, or ``None``.
        coverage: How ranks are measured, or ``None``.
        site: Where the agents run.
        temporary: Directory of a test's temporary ones.
        watches_memory: It is looked at from time to time how much memory its ranks hold.
        keeps_collectives: Its ranks keep their last collectives in files.
    """

    directory: Path
    scratch: Path
    key: bytes = field(repr=False)
    name: str
    config: dict[str, Any]
    agents: int
    timeout: float | None
    grace: float
    environ: dict[str, str] = field(repr=False)
    cwd: str
    sys_path: list[str] = field(repr=False)
    state_key: bytes | None = field(default=None, repr=False)
    seed: int | None = None
    backend: str | None = None
    devices: DeviceOrder = field(default_factory=DeviceOrder)
    function: bytes | None = field(default=None, repr=False)
    command: tuple[str, ...] | None = None
    script: bool = False
    session: SessionOrder | None = None
    kept: bool = False
    modules: dict[str, str] = field(default_factory=dict, repr=False)
    inline: bool = False
    agent_error: bytes | None = field(default=None, repr=False)
    host_store: bool = False
    faults: tuple[Fault, ...] = ()
    nodeid: str = ""
    failure_log: Path | None = None
    turn: Turn | None = field(default=None, repr=False, compare=False)
    coverage: CoverageOrder | None = None
    site: Site = HERE
    temporary: Path = field(default_factory=Path)
    watches_memory: bool = False
    keeps_collectives: bool = False

    @property
    def nproc(self) -> int:
        """Ranks a node."""
        return int(self.config["nproc_per_node"])

    @property
    def work(self) -> Work:
        """What the ranks run."""
        if self.session is not None:
            return "test"
        if self.command is None:
            return "function"
        return "script" if self.script else "command"

    @property
    def needs_safe_server(self) -> bool:
        """Ranks are forked from the preloaded server."""
        return self.command is None and self.config["start_method"] == "forkserver"

    @property
    def hosts_store_outside(self) -> bool:
        """The store of the rendezvous gets a process of its own."""
        backend, members = self.config["rdzv_backend"], self.site.members
        # That of ``local`` is hosted by the agent of node 0, unless that one is on another machine.
        elsewhere = backend == "local" and bool(members) and members[0] is not None
        return self.host_store and (backend == "c10d" or elsewhere)

    @property
    def may_form_again(self) -> bool:
        """More than one world may form: after a restart, or when a node comes or goes."""
        config = self.config
        return bool(config["max_restarts"] or self.faults or config["min_nodes"] < config["max_nodes"])

    def open_store_socket(self) -> socket.socket | None:
        """Open a socket for the store of the rendezvous, on one address only; ``None`` if it needs none.

        It listens from the start, so that whoever knows the port can connect before the store is there. A static
        rendezvous opens its store by itself: its port is only held, by a socket that does not listen.
        """
        if not self.host_store:
            return None
        family = socket.AF_INET6 if ":" in self.site.address else socket.AF_INET
        store = socket.socket(family)
        store.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        store.bind((self.site.address, 0))
        if not self.holds_port:
            store.listen(4096)
        return store

    @property
    def holds_port(self) -> bool:
        """The port of the store is held until the end of the launch."""
        return bool(self.config["rdzv_backend"] == "static")

    def rank_order(self, channel: Address) -> RankOrder:
        """Return what the ranks are told."""
        return RankOrder(
            channel=channel,
            key=self.key,
            environ=self.environ,
            sys_path=self.sys_path,
            grace=self.grace,
            seed=self.seed,
            backend=self.backend,
            devices=self.devices,
            function=self.function,
            session=self.session,
            modules=self.modules,
            coverage=self.coverage,
            keeps_collectives=self.keeps_collectives,
        )

    def agent_order(self, node: int, channel: Address, *, store_port: int | None, store_fd: int | None) -> AgentOrder:
        """Return what an agent is told."""
        config = dict(self.config)
        if self.host_store and self.config["rdzv_backend"] in ("c10d", "static"):
            host = f"[{self.site.address}]" if ":" in self.site.address else self.site.address
            config["rdzv_endpoint"] = f"{host}:{store_port}"
        if self.site.has_others:
            config["local_addr"] = self.site.address
        return AgentOrder(
            launch=self.scratch.name,
            node=node,
            directory=str(self.directory),
            scratch=str(self.scratch),
            channel=channel,
            key=self.key,
            state_key=self.state_key,
            environ=without_coverage(self.environ),  # interpreters that become ranks are measured by what those do
            cwd=self.cwd,
            sys_path=self.sys_path,
            command=self.command,
            name=self.name,
            config=config,
            # A LaunchConfig may ask for a shorter time than ours, but not for torch's 30 s.
            grace=min(self.grace, config.get("shutdown_timeout", self.grace)),
            exit_barrier=clock.LONG if self.timeout is None or self.kept else min(self.timeout, clock.LONG),
            agent_error=self.agent_error,
            store_port=store_port,
            store_fd=store_fd,
            store_host=self.site.address,
            seats=self.site.seats,
        )
