"""Run pytest tests on many ranks through real torch elastic agents. PYTEST_DONT_REWRITE."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pytest_elastic.controller.launcher import ElasticLaunch
    from pytest_elastic.controller.running import RunningAgent, RunningLaunch, RunningRank
    from pytest_elastic.controller_fixtures import controller_fixture
    from pytest_elastic.errors import (
        AgentFailedError,
        ElasticError,
        ElasticTimeoutError,
        EtcdServerError,
        FaultsLeftError,
        PortError,
        RanksDivergedError,
    )
    from pytest_elastic.faults import (
        AddNode,
        Fault,
        InterruptAgent,
        KillNode,
        KillRank,
        SignalRank,
        StopRank,
        TerminateAgent,
    )
    from pytest_elastic.result import AgentResult, LaunchResult, RankFailure
    from pytest_elastic.roles import Role, role
    from pytest_elastic.services.etcd import EtcdServer
    from pytest_elastic.spec import ArgumentError
    from pytest_elastic.warning import ElasticWarning
    from pytest_elastic.worker_failed import WorkerFailedError

__all__ = [
    "AddNode",
    "AgentFailedError",
    "AgentResult",
    "ArgumentError",
    "ElasticError",
    "ElasticLaunch",
    "ElasticTimeoutError",
    "ElasticWarning",
    "EtcdServer",
    "EtcdServerError",
    "Fault",
    "FaultsLeftError",
    "InterruptAgent",
    "KillNode",
    "KillRank",
    "LaunchResult",
    "PortError",
    "RankFailure",
    "RanksDivergedError",
    "Role",
    "RunningAgent",
    "RunningLaunch",
    "RunningRank",
    "SignalRank",
    "StopRank",
    "TerminateAgent",
    "WorkerFailedError",
    "controller_fixture",
    "role",
]

# Imported when somebody asks (PEP 562): this package is imported in every pytest session of its environment, and one
# of the names needs torch.
_HOMES = {
    "controller.launcher": ("ElasticLaunch",),
    "controller.running": ("RunningAgent", "RunningLaunch", "RunningRank"),
    "controller_fixtures": ("controller_fixture",),
    "errors": (
        "AgentFailedError",
        "ElasticError",
        "ElasticTimeoutError",
        "EtcdServerError",
        "FaultsLeftError",
        "PortError",
        "RanksDivergedError",
    ),
    "faults": (
        "AddNode",
        "Fault",
        "FaultsLeftError",
        "InterruptAgent",
        "KillNode",
        "KillRank",
        "SignalRank",
        "StopRank",
        "TerminateAgent",
    ),
    "result": ("AgentResult", "LaunchResult", "RankFailure"),
    "roles": ("Role", "role"),
    "services.etcd": ("EtcdServer",),
    "spec": ("ArgumentError",),
    "warning": ("ElasticWarning",),
    "worker_failed": ("WorkerFailedError",),
}


def __getattr__(name: str) -> Any:
    from importlib import import_module, metadata

    if name == "__version__":
        return metadata.version("pytest-elastic")
    for home, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f"pytest_elastic.{home}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
