"""From a checked spec and entry point to a complete plan."""

from __future__ import annotations

import math
import os
import pickle
import re
import secrets
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pytest_elastic import clock
from pytest_elastic.controller.devices import Choose, Devices, Placement
from pytest_elastic.controller.entrypoint import EntryPoint
from pytest_elastic.controller.environment import rank_environment
from pytest_elastic.controller.launch_config import fields_of
from pytest_elastic.controller.plan import LaunchPlan
from pytest_elastic.controller.site import HERE, Site
from pytest_elastic.errors import ElasticError
from pytest_elastic.faults import Fault
from pytest_elastic.messages import SessionOrder
from pytest_elastic.one_line import one_line
from pytest_elastic.services.private_directories import make_tree
from pytest_elastic.spec import ArgumentError, LaunchSpec

if TYPE_CHECKING:
    from torch.distributed.launcher.api import LaunchConfig

_DYNAMIC: Final = ("c10d", "etcd-v2")
_LAST_CALL_ACROSS: Final = 10
"""Seconds that agents on several machines wait for more nodes than they need."""
_TORCHS_OWN: Final = ("local", "static", "c10d", "etcd", "etcd-v2")
_OTHERWISE_GIVEN: Final = ("backend", "endpoint", "run_id", "min_nodes", "max_nodes", "local_addr")
_HOST: Final = r"(?:\[[0-9a-fA-F:.%\w]+\]|[\w.-]+)"
MOST_RANKS: Final = 4096
"""More than any machine runs; a number that has a digit too many is told, and not tried."""
HOST_AND_PORT: Final = re.compile(_HOST + r":(?P<port>\d{1,5})")
"""What ``rdzv_endpoint`` may be."""
_SECONDS: Final = re.compile(r"(^|_)timeout$|^keep_alive_(interval|max_attempt)$")
"""Names of settings that torch's own backends take for numbers."""
HOST_OR_BOTH: Final = re.compile(_HOST + r"(?::(?P<port>\d{1,5}))?")
"""What a ``LaunchConfig`` may have: torch knows a default port."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """What a launch is asked to do, beyond its spec.

    Attributes:
        source: Who asks, for errors.
        name: Name of the entry point.
        entry: The function or command; ``None`` for a test.
        session: How ranks make their pytest session; ``None`` for a function or command.
        kept: Ranks run more than one test.
        agents: How many of the possible agents are started; ``None`` for the most.
        config: torch's own settings, in place of ours.
        rdzv_configs: Settings of the rendezvous backend.
        rdzv_endpoint: Its endpoint, or an empty text.
        foreign: Endpoint and run id were given: others than this run may meet there too.
        inline: The agent runs inside pytest.
        agent_error: Pickled exception for the agents to raise, or ``None``.
        faults: What the launch is to suffer.
        modules: Name and file of the test modules that pytest has imported.
        temporary: Directory of a test's temporary ones.
    """

    source: str
    name: str
    entry: EntryPoint | None = None
    session: SessionOrder | None = None
    kept: bool = False
    agents: int | None = None
    config: LaunchConfig | None = None
    rdzv_configs: Mapping[str, Any]
    rdzv_endpoint: str = ""
    foreign: bool = False
    inline: bool = False
    agent_error: bytes | None = None
    faults: tuple[Fault, ...] = ()
    modules: Mapping[str, str]
    temporary: Path = field(default_factory=Path)


def make_plan(
    spec: LaunchSpec,
    request: Request,
    *,
    site: Site = HERE,
    devices: Devices,
    choose: Choose | None,
    run: str,
    launch: str,
    scratch: Path,
    directory: Path,
    grace: float,
) -> tuple[LaunchPlan, Placement]:
    """Complete a plan, but for the devices: read the environment, choose the rendezvous settings, make the directories.

    Raises:
        ArgumentError: Arguments contradict each other.
        TooFewDevicesError: This machine has fewer accelerators than the ranks need.
    """
    __tracebackhide__ = True
    if request.config is None:
        given, backend, form = request.rdzv_configs, spec.rdzv_backend, HOST_AND_PORT
    else:
        given, backend, form = request.config.rdzv_configs, request.config.rdzv_backend, HOST_OR_BOTH
    source = request.source if request.config is None else f"{request.source}(config=): LaunchConfig"
    check_rendezvous(source, backend, request.rdzv_endpoint, given, form=form)
    try:
        cwd = os.getcwd()
    except FileNotFoundError:
        raise ElasticError("the test's current directory no longer exists; ranks would start in it") from None
    torchs = request.config
    most = torchs.max_nodes if torchs is not None else spec.max_nodes
    placement = devices.place(
        spec,
        os.environ | dict(spec.env),
        # Each machine has devices of its own.
        nodes=most if not site.has_others else 1,
        nproc=torchs.nproc_per_node if torchs is not None else None,
        virtual=torchs is not None and getattr(torchs, "virtual_local_rank", False),
        choose=choose,
    )
    if (ranks := placement.nproc * most) > MOST_RANKS:
        raise ArgumentError(
            f"{request.source}(nproc=): got {placement.nproc}, which with nnodes {most} is {ranks} ranks; expected at "
            f"most {MOST_RANKS} on one machine"
        )
    config = torch_settings(spec, request, nproc=placement.nproc, launch=launch)
    if site.seats is not None:
        # Each agent has one rank, and all of them are needed.
        nodes = len(site.members)
        config |= {"nproc_per_node": 1, "min_nodes": nodes, "max_nodes": nodes, "rdzv_backend": "local"}
        most = nodes
    elif site.has_others:
        # No more come than are there: nobody waits for them. Those that are there may be slow to start, or far away.
        most = config["max_nodes"] = len(site.members)
        if spec.rdzv_backend in _DYNAMIC and "last_call_timeout" not in request.rdzv_configs:
            config["rdzv_configs"]["last_call_timeout"] = _LAST_CALL_ACROSS
    for name, value in config.items():
        refuse_unsendable(f"elastic_launch(config=): {name}", value)
    agents = request.agents if request.agents is not None else most
    if type(agents) is not int or not 1 <= agents <= most:
        raise ArgumentError(
            f"{request.source}(agents=): got {one_line(agents)}, expected an int from 1 to nnodes ({most})"
        )
    if request.inline and agents > 1:
        raise ArgumentError(f'{request.source}(agent="inline"): runs one agent, but nnodes asks for {agents}')
    try:
        scratch.mkdir(mode=0o700)
        make_tree(directory, scratch if scratch in directory.parents else directory.parents[1])
    except OSError as error:
        who = "--elastic-log-dir: " if scratch not in directory.parents else ""
        gone = "" if scratch.parent.is_dir() else f" ({scratch.parent}, the directory of this run, has been removed)"
        raise ElasticError(f"{who}cannot make {directory}: {error.strerror}{gone}") from error
    entry = request.entry
    plan = LaunchPlan(
        directory=directory,
        scratch=scratch,
        key=site.key or secrets.token_bytes(32),
        name=request.name,
        config=config,
        agents=agents,
        timeout=spec.timeout,
        grace=grace,
        environ=rank_environment(
            spec.env,
            run=run,
            launch=launch,
            nproc=config["nproc_per_node"],
            command=entry is not None and entry.command is not None,
            address=site.address,
        ),
        cwd=cwd,
        sys_path=[path or cwd for path in sys.path],
        seed=spec.seed,
        backend=spec.backend,
        function=entry.function if entry is not None else None,
        command=entry.command if entry is not None else None,
        script=entry is not None and entry.script,
        session=request.session,
        kept=request.kept,
        modules=dict(request.modules),
        inline=request.inline,
        agent_error=request.agent_error,
        faults=request.faults,
        host_store=not config["rdzv_endpoint"],
        site=site,
        temporary=request.temporary,
    )
    return plan, placement


def torch_settings(spec: LaunchSpec, request: Request, *, nproc: int, launch: str) -> dict[str, Any]:
    """Return the fields of torch's ``LaunchConfig`` that the agents use."""
    if request.config is not None:
        return _from_launch_config(request.config, spec, launch, request.rdzv_endpoint)
    return {
        "min_nodes": spec.min_nodes,
        "max_nodes": spec.max_nodes,
        "nproc_per_node": nproc,
        "run_id": launch,
        "role": "default",
        "rdzv_endpoint": request.rdzv_endpoint,
        "rdzv_backend": spec.rdzv_backend,
        "rdzv_configs": rendezvous_settings(spec, request.rdzv_configs, hosted=not request.rdzv_endpoint),
        "max_restarts": spec.max_restarts,
        "start_method": spec.start_method,
        "metrics_cfg": {},
        "local_addr": "127.0.0.1",
        "numa_options": None,
        "duplicate_stdout_filters": None,
        "duplicate_stderr_filters": None,
        "virtual_local_rank": False,
    }


def rendezvous_settings(spec: LaunchSpec, given: Mapping[str, Any], *, hosted: bool) -> dict[str, Any]:
    """Return the settings of the rendezvous backend: torch's waits are minutes, a test has its own deadline.

    The keep-alive settings are the shortest that do not split the world on a loaded machine.
    """
    bound = math.ceil(min(spec.timeout, clock.LONG)) if spec.timeout is not None else math.ceil(clock.LONG)
    settings: dict[str, Any] = {"timeout": bound}
    if spec.rdzv_backend in _DYNAMIC:
        settings |= {
            "join_timeout": bound,
            "read_timeout": bound,
            # A node that waits to join looks once a second: with 1 s it may come too late, into another round.
            "last_call_timeout": 2,
            "close_timeout": 5,
            "keep_alive_interval": 1,
            "keep_alive_max_attempt": 5,
        }
    if spec.rdzv_backend == "etcd":
        settings["last_call_timeout"] = 1
    if spec.rdzv_backend == "c10d" and hosted:
        settings["is_host"] = False
    return settings | dict(given)


def _from_launch_config(config: LaunchConfig, spec: LaunchSpec, launch: str, endpoint: str) -> dict[str, Any]:
    __tracebackhide__ = True
    settings = fields_of(config)
    settings["run_id"] = config.run_id or launch
    settings["local_addr"] = config.local_addr or "127.0.0.1"
    # Its own endpoint, or the one that was made for it.
    settings["rdzv_endpoint"] = endpoint
    hosted = not endpoint
    same = replace(spec, rdzv_backend=config.rdzv_backend)
    settings["rdzv_configs"] = rendezvous_settings(same, {}, hosted=hosted) | config.rdzv_configs
    return settings


def check_rendezvous(source: str, backend: str, endpoint: object, settings: object, *, form: re.Pattern[str]) -> None:
    """Refuse an endpoint or settings that no rendezvous can use.

    Raises:
        ArgumentError: It says what is allowed.
    """
    __tracebackhide__ = True
    if not isinstance(settings, Mapping):
        raise ArgumentError(f"{source}(rdzv_configs=): got {one_line(settings)}, expected a dict")
    if not isinstance(endpoint, str) or (endpoint and not _is_endpoint(endpoint, form)):
        # A URL may have a password in it.
        shown = re.sub(r"(?s)^.*@", "...@", endpoint) if isinstance(endpoint, str) else endpoint
        raise ArgumentError(f'{source}(rdzv_endpoint=): got {one_line(shown)}, expected "host:port"')
    if endpoint and backend == "local":
        raise ArgumentError(
            f'{source}(rdzv_endpoint=): got {one_line(endpoint)}, but rdzv_backend "local" has no endpoint; leave it '
            'out, or use "c10d", "static", "etcd" or "etcd-v2"'
        )
    for name, value in settings.items():
        if not isinstance(name, str) or name in _OTHERWISE_GIVEN:
            raise ArgumentError(
                f"{source}(rdzv_configs=): got the key {one_line(name)}, expected a str, and none of "
                f"{', '.join(_OTHERWISE_GIVEN)}, which are given otherwise"
            )
        if backend in _TORCHS_OWN and _SECONDS.search(name) and not _is_number(value):
            raise ArgumentError(
                f"{source}(rdzv_configs=): got {one_line(value)} for {name!r}, expected a number greater than 0"
            )
        refuse_unsendable(f"{source}(rdzv_configs=): the value of {name!r}", value)


def _is_number(value: object) -> bool:
    """Tell whether torch can make seconds, or a number of attempts, of a value: it takes texts as well."""
    if value is None:
        return True  # as if it were left out
    if isinstance(value, str):
        return value.strip().isdecimal() and int(value) > 0
    return type(value) in (int, float) and 0 < value < 2**31  # type: ignore[operator]


def refuse_unsendable(what: str, value: object) -> None:
    """Refuse a value that agents cannot be sent.

    Raises:
        ArgumentError: It says why.
    """
    __tracebackhide__ = True
    try:
        pickle.dumps(value)
    except Exception as error:  # noqa: BLE001 (whatever a foreign class does when it is pickled)
        reason = f"{type(error).__name__}: {error}"
        raise ArgumentError(f"{what} cannot be sent to the agents: {' '.join(reason.split())}") from None


def _is_endpoint(endpoint: str, form: re.Pattern[str]) -> bool:
    match = form.fullmatch(endpoint)
    return match is not None and int(match["port"] or 0) < 2**16
