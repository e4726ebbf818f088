"""From a checked spec and entry point to a complete plan."""

from __future__ import annotations

import contextlib
import math
import os
import secrets
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_elastic.controller.devices import Devices
from pytest_elastic.controller.entrypoint import EntryPoint
from pytest_elastic.controller.environment import rank_environment
from pytest_elastic.controller.plan import LaunchPlan
from pytest_elastic.errors import ElasticError
from pytest_elastic.messages import ItemOrder
from pytest_elastic.spec import ArgumentError, LaunchSpec

if TYPE_CHECKING:
    from torch.distributed.launcher.api import LaunchConfig

_DAY = 86_400
_DYNAMIC = ("c10d", "etcd-v2")


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """What a launch is asked to do, beyond its spec.

    Attributes:
        name: Name of the entry point.
        entry: The function or command; ``None`` for a test.
        item: The test; ``None`` for a function or command.
        agents: How many of the possible agents are started; ``None`` for the most.
        config: torch's own settings, in place of ours.
        rdzv_configs: Settings of the rendezvous backend.
        rdzv_endpoint: Its endpoint, or an empty text.
        inline: The agent runs inside pytest.
        agent_error: Pickled exception for the agents to raise, or ``None``.
        modules: Name and file of the test modules that pytest has imported.
    """

    name: str
    entry: EntryPoint | None = None
    item: ItemOrder | None = None
    agents: int | None = None
    config: LaunchConfig | None = None
    rdzv_configs: Mapping[str, Any]
    rdzv_endpoint: str = ""
    inline: bool = False
    agent_error: bytes | None = None
    modules: Mapping[str, str]


def make_plan(
    spec: LaunchSpec,
    request: Request,
    *,
    devices: Devices,
    run: str,
    launch: str,
    scratch: Path,
    directory: Path,
    grace: float,
) -> LaunchPlan:
    """Complete a plan: read the environment, choose the rendezvous settings, make the directories.

    Raises:
        ArgumentError: Arguments contradict each other.
        TooFewDevicesError: This machine has fewer accelerators than the ranks need.
    """
    if not isinstance(request.rdzv_configs, Mapping):
        raise ArgumentError(f"elastic_launch(rdzv_configs=): got {request.rdzv_configs!r}, expected a dict")
    if not isinstance(request.rdzv_endpoint, str):
        raise ArgumentError(f'elastic_launch(rdzv_endpoint=): got {request.rdzv_endpoint!r}, expected "host:port"')
    __tracebackhide__ = True
    try:
        cwd = os.getcwd()
    except FileNotFoundError:
        raise ElasticError("the test's current directory no longer exists; ranks would start in it") from None
    given = request.config
    most = given.max_nodes if given is not None else spec.max_nodes
    placement = devices.place(
        spec,
        os.environ | dict(spec.env),
        nodes=most,
        nproc=given.nproc_per_node if given is not None else None,
        virtual=given is not None and given.virtual_local_rank,
    )
    config = torch_settings(spec, request, nproc=placement.nproc, launch=launch)
    agents = request.agents if request.agents is not None else most
    if type(agents) is not int or not 1 <= agents <= most:
        raise ArgumentError(f"elastic_launch(agents=): got {agents!r}, expected an int from 1 to nnodes ({most})")
    if request.inline and agents > 1:
        raise ArgumentError(f'elastic_launch(agent="inline"): runs one agent, but nnodes asks for {agents}')
    try:
        scratch.mkdir(mode=0o700)
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        who = "--elastic-log-dir: " if scratch not in directory.parents else ""
        raise ElasticError(f"{who}cannot make {directory}: {error.strerror}") from error
    entry = request.entry
    return LaunchPlan(
        directory=directory,
        scratch=scratch,
        key=secrets.token_bytes(32),
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
        ),
        cwd=cwd,
        sys_path=[path or cwd for path in sys.path],
        seed=spec.seed,
        backend=spec.backend,
        devices=placement.devices,
        function=entry.function if entry is not None else None,
        command=entry.command if entry is not None else None,
        script=entry is not None and entry.script,
        item=request.item,
        modules=dict(request.modules),
        inline=request.inline,
        agent_error=request.agent_error,
        host_store=not config["rdzv_endpoint"],
    )


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
    bound = math.ceil(spec.timeout) if spec.timeout is not None else _DAY
    settings: dict[str, Any] = {"timeout": bound}
    if spec.rdzv_backend in _DYNAMIC:
        settings |= {
            "join_timeout": bound,
            "read_timeout": bound,
            "last_call_timeout": 1,
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
    fields = (
        "min_nodes",
        "max_nodes",
        "nproc_per_node",
        "role",
        "rdzv_backend",
        "max_restarts",
        "start_method",
        "metrics_cfg",
        "numa_options",
        "duplicate_stdout_filters",
        "duplicate_stderr_filters",
        "virtual_local_rank",
    )
    settings = {name: getattr(config, name) for name in fields}
    settings["run_id"] = config.run_id or launch
    settings["local_addr"] = config.local_addr or "127.0.0.1"
    # Its own endpoint, or the one that was made for it.
    settings["rdzv_endpoint"] = endpoint
    hosted = not endpoint
    same = replace(spec, rdzv_backend=config.rdzv_backend)
    settings["rdzv_configs"] = rendezvous_settings(same, {}, hosted=hosted) | config.rdzv_configs
    _drop_empty_log_directory(config)
    return settings


def _drop_empty_log_directory(config: LaunchConfig) -> None:
    """Remove the directory that a ``LaunchConfig`` makes and that nothing is written to: logs are ours."""
    directory = Path(config.logs_specs.root_log_dir) if config.logs_specs is not None else None
    if directory is not None and directory.name.startswith("torchelastic_") and directory.is_dir():
        with contextlib.suppress(OSError):  # something is in it: not ours to remove
            directory.rmdir()
