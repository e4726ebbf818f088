"""torch's own ``LaunchConfig`` as a source of settings: checked, then reduced to what the agents use.

Left out on purpose: ``logs_specs``, ``log_line_prefix_template`` and ``event_log_handler``, because logs and events are
this package's; ``monitor_interval``, because agents wait for events instead of looking at intervals.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pytest_elastic.one_line import one_line
from pytest_elastic.spec import ArgumentError, takes_late_nodes

if TYPE_CHECKING:
    from torch.distributed.launcher.api import LaunchConfig

_FIELDS: Final = (
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
    "signals_to_handle",
    "shutdown_timeout",
)
_NEWER: Final = {
    "duplicate_stdout_filters",
    "duplicate_stderr_filters",
    "virtual_local_rank",
    "signals_to_handle",
    "shutdown_timeout",
}
"""Fields that not every supported torch has."""
_LEAST: Final = {"min_nodes": 1, "max_nodes": 1, "nproc_per_node": 1, "max_restarts": 0}
_START_METHODS: Final = ("forkserver", "spawn", "fork")


def fields_of(config: LaunchConfig) -> dict[str, Any]:
    """Check a ``LaunchConfig`` and return the fields that agents use, except for those of the rendezvous' settings.

    Raises:
        ArgumentError: One of them is not allowed.
    """
    __tracebackhide__ = True
    fields = {name: getattr(config, name) for name in _FIELDS if hasattr(config, name) or name not in _NEWER}
    for name, least in _LEAST.items():
        if type(fields[name]) is not int or fields[name] < least:
            _refuse(name, fields[name], f"an int >= {least}")
    if fields["min_nodes"] > fields["max_nodes"]:
        _refuse("min_nodes", fields["min_nodes"], f"an int up to max_nodes ({fields['max_nodes']})")
    if fields["start_method"] not in _START_METHODS:
        _refuse("start_method", fields["start_method"], '"forkserver", "spawn" or "fork"')
    if not takes_late_nodes(fields["rdzv_backend"]) and fields["min_nodes"] < fields["max_nodes"]:
        _refuse("rdzv_backend", fields["rdzv_backend"], '"c10d", "etcd" or "etcd-v2", as min_nodes is below max_nodes')
    return fields


def _refuse(name: str, value: object, allowed: str) -> None:
    __tracebackhide__ = True
    raise ArgumentError(f"elastic_launch(config=): {name} is {one_line(value)}, expected {allowed}")


def drop_empty_log_directory(config: object) -> None:
    """Remove the directory that a ``LaunchConfig`` makes and that nothing is written to: logs are ours."""
    specs = getattr(config, "logs_specs", None)
    directory = Path(specs.root_log_dir) if specs is not None and specs.root_log_dir else None
    if directory is not None and directory.name.startswith("torchelastic_") and directory.is_dir():
        with contextlib.suppress(OSError):  # something is in it: not ours to remove
            directory.rmdir()
