"""What a launch was asked to be: the one place where marker, call, option and ini meet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pytest_elastic.errors import ElasticError
from pytest_elastic.options import LAUNCH_ARGUMENTS, SETTINGS, Given


class ArgumentError(ElasticError, ValueError):
    """An argument of the marker or of ``elastic_launch`` is not allowed. Its text is one line."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LaunchSpec:
    """The settings of one launch, checked. The fields are the arguments of the marker.

    Attributes:
        nproc: Ranks a node, or torchrun's word for a number that depends on the machine.
        min_nodes: Fewest nodes.
        max_nodes: Most nodes.
        backend: Process group to initialise, or ``None``.
        device: Device of the ranks.
        timeout: Deadline in seconds, or ``None``.
        max_restarts: How often agents may restart failed workers.
        rdzv_backend: Rendezvous backend.
        isolation: How long ranks live.
        start_method: How ranks are started.
        env: Extra environment variables of the ranks.
        seed: Seed of the ranks' random generators, or ``None``.
    """

    nproc: int | str
    min_nodes: int
    max_nodes: int
    backend: str | None
    device: str
    timeout: float | None
    max_restarts: int
    rdzv_backend: str
    isolation: str
    start_method: str
    env: Mapping[str, str] = field(repr=False)
    seed: int | None

    @property
    def world_size(self) -> int | None:
        """Number of ranks with all nodes, or ``None`` if it depends on the machine."""
        return self.nproc * self.max_nodes if isinstance(self.nproc, int) else None


def takes_late_nodes(rdzv_backend: str) -> bool:
    """Tell whether nodes may come late or be lost: the rendezvous is not built in or static."""
    return rdzv_backend not in ("local", "static")


def check_names(source: str, names: Sequence[str], allowed: Sequence[str] = LAUNCH_ARGUMENTS) -> None:
    """Refuse a name that is no argument.

    Raises:
        ArgumentError: It names the nearest argument and all of them.
    """
    __tracebackhide__ = True
    for name in names:
        if name not in allowed:
            import difflib

            near = difflib.get_close_matches(name, allowed, n=1)
            hint = f" (did you mean {near[0]}?)" if near else ""
            raise ArgumentError(f"{source} has no argument {name!r}{hint}; allowed are {', '.join(allowed)}")


def make_spec(source: str, arguments: Mapping[str, Any], given: Mapping[str, Given]) -> LaunchSpec:
    """Merge the arguments of a marker or call with options, ini keys and defaults.

    Args:
        source: Who gives the arguments, for errors: ``marker elastic`` or ``elastic_launch``.
        arguments: The arguments; they win.
        given: What options and ini keys set.

    Raises:
        ArgumentError: An argument is unknown or not allowed, or two contradict each other.
    """
    __tracebackhide__ = True
    check_names(source, list(arguments))
    values: dict[str, Any] = {}
    for name in LAUNCH_ARGUMENTS:
        setting = SETTINGS[name]
        if name in arguments:
            value = arguments[name]
            if not setting.check(value):
                raise ArgumentError(setting.refuse(f"{source}({name}=)", value))
            values[name] = value
        else:
            values[name] = given[name].value if name in given else setting.default
    least, _, most = str(values.pop("nnodes")).partition(":")
    min_nodes, max_nodes = int(least), int(most or least)
    backend = values.pop("rdzv_backend") or ("c10d" if min_nodes < max_nodes else "local")
    if not takes_late_nodes(backend) and min_nodes < max_nodes:
        raise ArgumentError(
            f'{source}(nnodes="{least}:{most}"): rdzv_backend "{backend}" knows a fixed number of nodes only; '
            'use "c10d", "etcd" or "etcd-v2", or an int'
        )
    return LaunchSpec(min_nodes=min_nodes, max_nodes=max_nodes, rdzv_backend=backend, **values)
