"""The exceptions of this package that need no torch.

``WorkerFailedError`` is also torch's ``ChildFailedError`` and lives in :mod:`pytest_elastic.worker_failed`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from pytest_elastic.result import AgentResult, LaunchResult, RankFailure


def rebuild(cls: type[BaseException], args: tuple[Any, ...], state: dict[str, Any]) -> BaseException:
    """Make an exception from what it holds, without calling its ``__init__``."""
    error = cls.__new__(cls)
    error.args = args
    error.__dict__.update(state)
    return error


class ElasticError(Exception):
    """Base of everything that this package raises on purpose."""

    def __reduce__(self) -> tuple[Any, ...]:
        return rebuild, (type(self), self.args, dict(self.__dict__))


class AgentFailedError(ElasticError):
    """An agent ended in another way than torch's agents do when workers end.

    Attributes:
        agent: The agent, with its ``exception``, ``exitcode`` and ``state``.
        result: All that is known of the launch.
    """

    def __init__(self, message: str, *, agent: AgentResult, result: LaunchResult) -> None:
        super().__init__(message)
        self.agent: Final = agent
        self.result: Final = result


class ElasticTimeoutError(ElasticError, TimeoutError):
    """A launch was not finished at its deadline and was killed.

    Attributes:
        timeout: The deadline, in seconds.
        stacks: Rank to the Python stacks of its threads when the deadline came; empty text where a rank could
            write none.
        result: All that is known of the launch.
    """

    def __init__(self, message: str, *, timeout: float, stacks: dict[int, str], result: LaunchResult) -> None:
        super().__init__(message)
        self.timeout: Final = timeout
        self.stacks: Final = stacks
        self.result: Final = result

    @property
    def first(self) -> RankFailure | None:
        """The rank that failed first, if one failed before the deadline."""
        return self.result.first


class FaultsLeftError(ElasticError):
    """A launch ended well, but without all of the faults that it was to suffer.

    Attributes:
        faults: Those that did not happen, as one writes them.
    """

    def __init__(self, message: str, *, faults: tuple[str, ...]) -> None:
        super().__init__(message)
        self.faults: Final = faults


class RanksDivergedError(ElasticError):
    """Ranks of a test did not all make the same call (``elastic_gather``, ``elastic_barrier``).

    Attributes:
        what: Name of the call.
        ranks: Rank to what it did instead of making this call with the others, in a few words.
    """

    def __init__(self, message: str, *, what: str, ranks: dict[int, str]) -> None:
        super().__init__(message)
        self.what: Final = what
        self.ranks: Final = ranks


class EtcdServerError(ElasticError):
    """A real etcd server could not be had or did not become ready.

    Attributes:
        tried: Each binary that was looked at, and what was wrong with it.
        output: The last lines that etcd wrote.
    """

    def __init__(self, message: str, *, tried: tuple[str, ...] = (), output: str = "") -> None:
        super().__init__(message)
        self.tried: Final = tried
        self.output: Final = output


class PortError(ElasticError):
    """No free port could be reserved.

    Attributes:
        wanted: How many were asked for.
    """

    def __init__(self, message: str, *, wanted: int) -> None:
        super().__init__(message)
        self.wanted: Final = wanted
