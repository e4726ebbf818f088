"""What a launch gives back."""

from __future__ import annotations

import pickle
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch.distributed.elastic.events import Event


class _Sendable:
    """A dataclass with an ``exception`` that pickles whatever the exception is."""

    __slots__ = ()

    def __reduce__(self) -> tuple[Any, ...]:
        from pytest_elastic.pickling import pickle_exception

        values = {each.name: getattr(self, each.name) for each in fields(self)}  # type: ignore[arg-type]
        error = values.pop("exception")
        return _restore, (type(self), values, None if error is None else pickle_exception(error))


def _restore(cls: type[Any], values: dict[str, Any], exception: bytes | None) -> Any:
    return cls(**values, exception=None if exception is None else pickle.loads(exception))


@dataclass(frozen=True, kw_only=True, slots=True)
class RankFailure(_Sendable):
    """How one rank failed.

    Attributes:
        rank: Global rank.
        node_rank: Rank of its node, as the rendezvous gave it.
        message: What happened, in one line, without the rank.
        exception: The exception it raised; a stand-in if that could not be sent; ``None`` if it raised none.
        traceback: Text of its traceback, or an empty text.
        exitcode: Exit code of the process, ``-n`` for signal ``n``; ``None`` if nobody saw it end.
        signal: Name of the signal that ended it, such as ``"SIGSEGV"``, or ``None``.
        stack: Python stacks that it wrote when it was ended, or an empty text.
        time: Seconds from the start of the launch to the failure.
        collateral: It only failed, or was only ended, because another rank had failed.
    """

    rank: int
    node_rank: int
    message: str
    exception: BaseException | None = None
    traceback: str = ""
    exitcode: int | None = None
    signal: str | None = None
    stack: str = ""
    time: float = 0.0
    collateral: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class AgentResult(_Sendable):
    """How one agent ended.

    Attributes:
        node_rank: Rank of the node in the last round, as the rendezvous gave it; ``None`` if there was no round.
        state: ``"SUCCEEDED"``, ``"FAILED"`` (its workers failed, or it raised), or ``"KILLED"`` (it could not say).
            ``"RUNNING"`` in a result that was taken before the end.
        exitcode: Exit code of the agent's process; ``None`` for an agent that ran inside pytest.
        exception: What the agent itself raised, or ``None``.
        traceback: Text of its traceback, or an empty text.
        rendezvous_shutdown: The rendezvous handler was shut down, exactly once.
        rendezvous_rounds: How many rounds of the rendezvous the agent took part in.
        restarts: How often it restarted its workers because some failed.
        worlds: Number of ranks of each round that it started workers for, in order: ``[4, 2]``.
    """

    node_rank: int | None
    state: str
    exitcode: int | None
    exception: BaseException | None = None
    traceback: str = ""
    rendezvous_shutdown: bool = False
    rendezvous_rounds: int = 0
    restarts: int = 0
    worlds: list[int] = field(default_factory=list)


class Output(Mapping[int, str]):
    """Rank to the text that it wrote to one of its streams. Read from disk when it is asked for.

    Bytes that are not UTF-8 become replacement characters. A rank that ended before it could write has an empty text.
    """

    def __init__(self, files: Mapping[int, Path]) -> None:
        self._files = dict(files)

    def __getitem__(self, rank: int) -> str:
        try:
            return self._files[rank].read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            return ""

    def __iter__(self) -> Iterator[int]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)

    def file(self, rank: int) -> Path:
        """Return the file that has a rank's text."""
        return self._files[rank]

    def __repr__(self) -> str:
        return f"<output of ranks {sorted(self._files)}>"


@dataclass(frozen=True, kw_only=True, eq=False)
class LaunchResult(Mapping[int, Any]):
    """The outcome of a launch: a mapping from rank to the value that the function returned there.

    It equals any mapping with the same items. A script's or command's value is ``None``. With ``check=False`` the ranks
    that failed are missing from it.

    Attributes:
        name: Name of the entry point, by torchrun's rule: the function's name, or the script's.
        values_by_rank: The values, as a plain dict.
        stdout: Rank to what it wrote to standard output, in the last round.
        stderr: Rank to what it wrote to standard error, in the last round.
        exitcodes: Rank to the exit code of its process.
        durations: Rank to the seconds that its work took.
        failures: The ranks that failed, the one that failed first in front.
        restarts: The highest of the agents' counts of restarts; membership changes do not count, as in torch.
        worlds: Number of ranks of each round, in order: ``[4, 2]``.
        agents: The agents, in order of start.
        log_dir: Directory with a folder a round and rank; removed after the test unless ``--elastic-log-dir`` is set.
        problem: What is wrong with the launch, as its error says; an empty text if nothing is.
        leftovers: Processes and threads that ranks left behind and that were ended.
        raw_events: torch's events as JSON.
    """

    name: str
    values_by_rank: dict[int, Any]
    stdout: Output
    stderr: Output
    exitcodes: dict[int, int | None]
    durations: dict[int, float]
    failures: tuple[RankFailure, ...]
    restarts: int
    worlds: list[int]
    agents: tuple[AgentResult, ...]
    log_dir: Path
    problem: str = field(default="", repr=False)
    leftovers: tuple[str, ...] = ()
    raw_events: tuple[str, ...] = field(default=(), repr=False)

    def __getitem__(self, rank: int) -> Any:
        return self.values_by_rank[rank]

    def __iter__(self) -> Iterator[int]:
        return iter(self.values_by_rank)

    def __len__(self) -> int:
        return len(self.values_by_rank)

    @property
    def first(self) -> RankFailure | None:
        """The rank that failed first, or ``None``."""
        return self.failures[0] if self.failures else None

    @property
    def world_size(self) -> int:
        """Number of ranks of the last round; 0 if there was none."""
        return self.worlds[-1] if self.worlds else 0

    @property
    def events(self) -> tuple[Event, ...]:
        """The events that torch recorded, in the order in which they arrived (``torch.distributed.elastic.events``)."""
        from torch.distributed.elastic.events import Event

        return tuple(Event.deserialize(event) for event in self.raw_events)

    # --- assertions in one line ---

    def assert_ok(self) -> None:
        """Assert that every rank of the last round returned, and that nothing else went wrong."""
        __tracebackhide__ = True
        if self.problem:
            raise AssertionError(f"the launch failed: {self.problem}")

    def assert_failed(self, *, rank: int | None = None, match: str | None = None) -> None:
        """Assert that the launch failed, and of what.

        Args:
            rank: The rank that failed first; ``None`` leaves open whether it was a rank.
            match: Regular expression that is found (``re.search``) in what happened.
        """
        __tracebackhide__ = True
        if not self.problem:
            raise AssertionError(f"the launch did not fail: ranks {sorted(self)} returned")
        if rank is not None and (self.first is None or self.first.collateral or self.first.rank != rank):
            raise AssertionError(f"rank {rank} did not fail first: {self.problem}")
        if match is not None and re.search(match, self.problem) is None:
            raise AssertionError(f"the launch failed, but not of {match!r}: {self.problem}")

    def assert_restarted(self, n: int) -> None:
        """Assert how often workers were restarted because some failed; membership changes do not count."""
        __tracebackhide__ = True
        if self.restarts != n:
            times = "once" if self.restarts == 1 else f"{self.restarts} times"
            raise AssertionError(f"the workers were restarted {times}, not {n}; the worlds had {self.worlds} ranks")

    def assert_no_orphans(self) -> None:
        """Assert that no rank left a process or thread behind."""
        __tracebackhide__ = True
        if self.leftovers:
            raise AssertionError(f"the launch left behind: {'; '.join(self.leftovers)}")
