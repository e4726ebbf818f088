"""Faults on purpose: what a launch is to suffer, and when.

They are given to ``elastic_launch``, ``elastic_launch.start`` or the marker as ``faults=[...]``. Each happens once: as
soon as the first world has formed (all of its ranks have started), its target lives, and what it waits for has come. A
launch that ends well without one of its faults has failed, because the test did not test what it says.
"""

from __future__ import annotations

import dataclasses
import re
import signal
from dataclasses import dataclass
from typing import Final

from pytest_elastic.one_line import one_line
from pytest_elastic.options import MOST, is_seconds
from pytest_elastic.spec import ArgumentError


@dataclass(frozen=True, kw_only=True, repr=False)
class Fault:
    """What all faults have: when they happen. Use one of the classes below.

    Attributes:
        when_output: Regular expression that is to be found (``re.search``) in a whole line which the target writes: the
            rank, or any rank of the node. ``None`` waits for no line.
        of_rank: Global rank that is to write it in place of the target.
        after: Seconds to wait then.
    """

    when_output: str | None = None
    of_rank: int | None = None
    after: float = 0.0

    def __repr__(self) -> str:
        """Return it as one writes it."""
        fields = dataclasses.fields(self)
        own = [_text(getattr(self, field.name)) for field in fields if field.default is dataclasses.MISSING]
        others = [(f.name, getattr(self, f.name), f.default) for f in fields if f.default is not dataclasses.MISSING]
        own += [f"{name}={_text(value)}" for name, value, default in others if _differs(value, default)]
        return f"{type(self).__name__}({', '.join(own)})"


@dataclass(frozen=True, repr=False)
class KillRank(Fault):
    """End a rank with SIGKILL.

    Attributes:
        rank: Global rank.
    """

    rank: int


@dataclass(frozen=True, repr=False)
class SignalRank(Fault):
    """Send a signal to a rank.

    Attributes:
        rank: Global rank.
        sig: The signal.
    """

    rank: int
    sig: int


@dataclass(frozen=True, repr=False)
class StopRank(Fault):
    """Stop a rank with SIGSTOP: a straggler.

    Attributes:
        rank: Global rank.
        for_: Seconds until it goes on (SIGCONT); ``None`` for never.
    """

    rank: int
    for_: float | None = None


@dataclass(frozen=True, repr=False)
class KillNode(Fault):
    """Lose a node: its agent and its ranks end with SIGKILL.

    Attributes:
        node: Index of its agent, in order of start.
    """

    node: int


@dataclass(frozen=True, repr=False)
class TerminateAgent(Fault):
    """Send SIGTERM to an agent, which stops its ranks and leaves.

    Attributes:
        node: Index of the agent, in order of start.
    """

    node: int


@dataclass(frozen=True, repr=False)
class InterruptAgent(Fault):
    """Send SIGINT to an agent, which stops its ranks and leaves.

    Attributes:
        node: Index of the agent, in order of start.
    """

    node: int


@dataclass(frozen=True, repr=False)
class AddNode(Fault):
    """Start one more agent: a node that comes late, or comes back. Its line of output may be any rank's.

    Without a line to wait for it counts from the moment at which the agents have come, since the first world may need
    this node.
    """


OnRank = (KillRank, SignalRank, StopRank)
OnAgent = (KillNode, TerminateAgent, InterruptAgent)
KINDS: Final[tuple[type[Fault], ...]] = (*OnRank, *OnAgent, AddNode)
SIGNAL_OF_AGENT: Final[dict[type[Fault], signal.Signals]] = {
    KillNode: signal.SIGKILL,
    TerminateAgent: signal.SIGTERM,
    InterruptAgent: signal.SIGINT,
}


def check_faults(source: str, faults: object, *, may_add: bool, agents_are_processes: bool) -> tuple[Fault, ...]:
    """Check a list of faults.

    Args:
        source: Who gives it, for errors.
        faults: The list.
        may_add: The rendezvous takes nodes that come late.
        agents_are_processes: Agents can be sent signals.

    Raises:
        ArgumentError: Something in it is not allowed.
    """
    __tracebackhide__ = True
    names = ", ".join(kind.__name__ for kind in KINDS)
    if not isinstance(faults, (list, tuple)):
        raise ArgumentError(f"{source}(faults=): got {one_line(faults)}, expected a list of {names}")
    for fault in faults:
        if not isinstance(fault, KINDS):
            raise ArgumentError(f"{source}(faults=): got {one_line(fault)} in the list, expected one of {names}")
        complaint = _complain(fault)
        if complaint is None and isinstance(fault, AddNode) and not may_add:
            complaint = 'needs a rendezvous that takes late nodes: rdzv_backend "c10d", "etcd" or "etcd-v2"'
        if complaint is None and type(fault) in SIGNAL_OF_AGENT and not agents_are_processes:
            complaint = 'needs an agent in a process of its own, which agent="inline" has not'
        if complaint is not None:
            raise ArgumentError(f"{source}(faults=): {one_line(fault)} {complaint}")
    return tuple(faults)


def _complain(fault: Fault) -> str | None:
    """Say what is wrong with a fault's own values."""
    for name in ("rank", "node", "of_rank"):
        value = getattr(fault, name, None)
        if (value is not None or name != "of_rank") and hasattr(fault, name) and not _is_index(value):
            return f"has {name}={one_line(value)}, expected an int >= 0"
    if not _is_seconds(fault.after):
        return f"has after={one_line(fault.after)}, expected seconds >= 0"
    if isinstance(fault, StopRank) and fault.for_ is not None and not _is_seconds(fault.for_):
        return f"has for_={one_line(fault.for_)}, expected seconds >= 0, or None"
    if isinstance(fault, SignalRank) and not is_signal(fault.sig):
        return f"has sig={one_line(fault.sig)}, expected a signal such as signal.SIGTERM"
    if fault.when_output is None:
        return None if fault.of_rank is None else "has of_rank= without when_output="
    pattern: object = fault.when_output
    got = f"has when_output={one_line(pattern)}, expected"
    if not isinstance(pattern, str):
        return f"{got} a str"
    try:
        re.compile(pattern)
    except re.error as error:
        return f"{got} a regular expression ({error})"
    return None


def _text(value: object) -> str:
    return f"signal.{value.name}" if isinstance(value, signal.Signals) else one_line(value)


def _differs(value: object, default: object) -> bool:
    # What is no value that is allowed may not be comparable.
    return type(value) is not type(default) or value != default


def _is_index(value: object) -> bool:
    return type(value) is int and 0 <= value <= MOST


def _is_seconds(value: object) -> bool:
    return is_seconds(value) or (type(value) in (int, float) and value == 0)


def is_signal(value: object) -> bool:
    """Tell whether a value is the number of a signal."""
    return isinstance(value, int) and not isinstance(value, bool) and value in signal.valid_signals()
