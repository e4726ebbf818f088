"""``WorkerFailedError``, which needs torch: it is torch's ``ChildFailedError`` too."""

from __future__ import annotations

from typing import Any, Final

from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure

from pytest_elastic.errors import ElasticError, rebuild
from pytest_elastic.result import LaunchResult, RankFailure


class WorkerFailedError(ElasticError, ChildFailedError):
    """Ranks of a launch failed.

    Code that expects torch's error finds ``name`` and ``failures`` as torch has them, with the culprit as the first
    failure.

    Attributes:
        result: All that is known of the launch, with every :class:`~pytest_elastic.RankFailure`.
        first: The rank that failed first.
        name: Name of the entry point.
        failures: Rank to torch's ``ProcessFailure``, the culprit first.
    """

    def __init__(self, message: str, *, result: LaunchResult) -> None:
        assert result.first is not None
        self.result: Final = result
        self.first: Final[RankFailure] = result.first
        self.name = result.name
        self.failures = {failure.rank: _process_failure(failure, i) for i, failure in enumerate(result.failures)}
        Exception.__init__(self, message)

    def __reduce__(self) -> tuple[Any, ...]:
        return rebuild, (type(self), self.args, dict(self.__dict__))


def _process_failure(failure: RankFailure, place: int) -> ProcessFailure:
    process = ProcessFailure(
        local_rank=failure.rank,
        pid=0,
        exitcode=failure.exitcode if failure.exitcode is not None else 1,
        error_file="",
    )
    process.message = failure.traceback or failure.message
    # torch takes the least time for the root cause.
    process.timestamp += place
    return process
