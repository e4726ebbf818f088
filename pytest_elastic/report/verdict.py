"""From the record of a launch to its result, and to the error that says what went wrong."""

from __future__ import annotations

import pickle
from dataclasses import dataclass, replace
from typing import Any

from pytest_elastic.errors import AgentFailedError, ElasticError, ElasticTimeoutError, FaultsLeftError
from pytest_elastic.messages import RankFailed
from pytest_elastic.pickling import UnpicklableError
from pytest_elastic.report import text
from pytest_elastic.report.culprit import Blame, blame, blame_of, ended_by_us, is_collateral
from pytest_elastic.report.describe import exitcode_of, signal_name, what_happened
from pytest_elastic.report.lost import agent_at_fault, lost_agents
from pytest_elastic.report.records import AgentRecord, LaunchRecord, RankRecord
from pytest_elastic.report.stacks import read_stacks
from pytest_elastic.result import AgentResult, LaunchResult, Output, RankFailure
from pytest_elastic.scarcity import remedy_in


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """What a launch came to.

    Attributes:
        result: All that is known.
        error: What is wrong, or ``None``.
    """

    result: LaunchResult
    error: ElasticError | None


def load_exception(data: bytes | None, type_name: str, message: str) -> BaseException | None:
    """Unpickle an exception of a rank or agent; a stand-in where that is not possible."""
    if data is None:
        return UnpicklableError(type_name, message)
    try:
        error = pickle.loads(data)
    except (Exception, SystemExit):  # noqa: BLE001 (its class may not be importable, its __setstate__ may raise)
        return UnpicklableError(type_name, message)
    return error if isinstance(error, BaseException) else UnpicklableError(type_name, message)


def failure_of(rank: RankRecord, culprit: RankRecord | None, record: LaunchRecord) -> RankFailure:
    """Describe how one rank failed."""
    exitcode = exitcode_of(rank)
    raised = rank.failed if rank.failed is not None and rank.failed.how != "exited" else None
    when = rank.failed.time_ns if rank.failed else rank.exited.time_ns if rank.exited else record.ended_ns
    return RankFailure(
        rank=rank.id.rank,
        node_rank=rank.id.group_rank,
        message=what_happened(rank, work=record.work),
        exception=load_exception(raised.exception, raised.type, raised.message) if raised else None,
        traceback=raised.traceback if raised else "",
        exitcode=exitcode,
        signal=signal_name(exitcode),
        stack=read_stacks(rank.directory),
        time=max(0.0, (when - record.started_ns) / 1e9),
        collateral=is_collateral(rank, culprit),
    )


def not_preloaded(traceback: str) -> str:
    """Say why no rank could be started, the reason in the first line, its traceback below."""
    reason = next((line for line in reversed(traceback.splitlines()) if line.strip() and not line.startswith(" ")), "")
    return f"the preloaded server could not start: {reason}\n{traceback}"


def judge(record: LaunchRecord) -> Verdict:
    """Judge a launch."""
    ranks, values = _read_values(record)
    failed = blame(ranks, silent_success=record.work == "command")
    # An agent that says that the server has ended in the middle of a request is not what went wrong.
    lost = _agent_at_fault(failed[0], record) if failed and record.server_lost is None else None
    # Where a lost agent comes first, all that failed on ranks is its doing; and one that was ended is no cause.
    cause = failed[0] if failed and lost is None and blame_of(failed[0]) is not Blame.ENDED else None
    result = _make_result(record, ranks, failed, values, cause)
    error = _error_of(record, ranks, failed, result, lost)
    if error is not None:
        # The error holds this result, which was made first: its text makes it complete.
        object.__setattr__(result, "problem", str(error))
    return Verdict(result=result, error=error)


def _read_values(record: LaunchRecord) -> tuple[tuple[RankRecord, ...], dict[int, Any]]:
    """Unpickle what ranks returned. A rank whose value cannot be made again here has failed by it."""
    read: list[RankRecord] = []
    values: dict[int, Any] = {}
    for rank in record.last_world():
        done = rank.finished
        values[rank.id.rank] = None
        if done is not None and done.value is not None:
            try:
                values[rank.id.rank] = pickle.loads(done.value)
            except (Exception, SystemExit) as error:  # noqa: BLE001 (what a foreign class does when it is made again)
                message = f"returned a value that cannot be read here: {type(error).__name__}: {error}"
                failed = RankFailed(
                    id=rank.id,
                    time_ns=record.ended_ns,
                    how="result",
                    type="ElasticError",
                    message=message,
                    traceback="",
                )
                rank = replace(rank, failed=failed, finished=None)
        read.append(rank)
    return tuple(read), values


def _make_result(
    record: LaunchRecord,
    ranks: tuple[RankRecord, ...],
    failed: list[RankRecord],
    values: dict[int, Any],
    cause: RankRecord | None,
) -> LaunchResult:
    bad = {rank.id.rank for rank in failed}
    values = {rank: value for rank, value in values.items() if rank not in bad}
    sizes = {rank.id.world: rank.id.world_size for rank in record.ranks}
    agents = tuple(_agent_result(agent) for agent in record.agents)
    return LaunchResult(
        name=record.name,
        values_by_rank=values,
        stdout=Output({rank.id.rank: rank.directory / "stdout.log" for rank in ranks}),
        stderr=Output({rank.id.rank: rank.directory / "stderr.log" for rank in ranks}),
        exitcodes={rank.id.rank: exitcode_of(rank) for rank in ranks},
        durations={rank.id.rank: _duration(rank, record) for rank in ranks},
        failures=tuple(failure_of(rank, cause, record) for rank in failed),
        restarts=max((outcome.restarts for outcome in agents), default=0),
        worlds=[sizes[world] for world in record.worlds],
        agents=agents,
        log_dir=record.directory,
        leftovers=record.leftovers,
        raw_events=record.events,
    )


def _duration(rank: RankRecord, record: LaunchRecord) -> float:
    if rank.finished is not None:
        return (rank.finished.time_ns - rank.finished.started_ns) / 1e9
    begin = rank.hello_ns or record.started_ns
    end = rank.failed.time_ns if rank.failed else rank.exited.time_ns if rank.exited else record.ended_ns
    return max(0.0, (end - begin) / 1e9)


def _agent_result(agent: AgentRecord) -> AgentResult:
    finished = agent.finished
    worlds = [first.world_size for first in agent.rounds]
    if finished is None:
        last = agent.rounds[-1] if agent.rounds else None
        return AgentResult(
            node_rank=None if last is None else last.group_rank,
            state="KILLED" if agent.ended else "RUNNING",
            exitcode=agent.exitcode,
            rendezvous_rounds=len(worlds),
            restarts=0 if last is None else last.restart,
            worlds=worlds,
        )
    exception = None
    if finished.exception is not None:
        exception = load_exception(finished.exception, "Exception", finished.traceback.strip().rpartition("\n")[2])
    return AgentResult(
        node_rank=finished.group_rank,
        state=finished.state,
        exitcode=agent.exitcode,
        exception=exception,
        traceback=finished.traceback,
        rendezvous_shutdown=finished.shutdowns == 1,
        rendezvous_rounds=finished.rounds,
        restarts=finished.restarts,
        worlds=worlds,
    )


def _error_of(
    record: LaunchRecord,
    ranks: tuple[RankRecord, ...],
    failed: list[RankRecord],
    result: LaunchResult,
    lost: AgentRecord | None,
) -> ElasticError | None:
    if record.split:
        return ElasticError(text.split_text(record))
    if lost is not None:
        return agent_error(lost, record, result)
    # A rank that failed on its own says more than a deadline, an agent or a server that ended after it.
    own_fault = bool(failed) and not _ended_from_outside(failed[0], record)
    if own_fault:
        from pytest_elastic.worker_failed import WorkerFailedError

        return WorkerFailedError(text.failure_text(record, result), result=result)
    if record.server_lost is not None:
        how, _, words = record.server_lost.partition("\n")
        advice = remedy_in(record.server_lost)
        why = f" ({advice})" if advice else ""
        return ElasticError(f"the preloaded server died while {record.name or 'a launch'} ran: {how}{why}\n{words}")
    if record.cut_short:
        return ElasticError(f"{record.name or 'the launch'} was ended before it was done: it was closed")
    if record.timed_out:
        assert record.timeout is not None
        stacks = {rank.id.rank: read_stacks(rank.directory) for rank in ranks}
        return ElasticTimeoutError(
            text.timeout_text(record, stacks), timeout=record.timeout, stacks=stacks, result=result
        )
    complete = bool(ranks) and not failed
    # Those that were ended with a launch are not what it failed of.
    for agent in [*lost_agents(record), *sorted(record.agents, key=lambda agent: agent.killed)]:
        outcome = result.agents[agent.node]
        failed_itself = outcome.exception is not None or outcome.state == "KILLED"
        if failed_itself and not (complete and _dispensable(agent, record)):
            return agent_error(agent, record, result)
    if failed:
        from pytest_elastic.worker_failed import WorkerFailedError

        return WorkerFailedError(text.failure_text(record, result), result=result)
    missing = [rank for rank in range(ranks[0].id.world_size) if rank not in result] if ranks else [0]
    if missing:
        return ElasticError(f"{record.name or 'the launch'} ended without an outcome of ranks {missing}")
    if record.faults_left:
        name = record.name or "the launch"
        left = record.faults_left
        return FaultsLeftError(f"{name} ended well, but without the faults on purpose: {', '.join(left)}", faults=left)
    return None


def agent_error(agent: AgentRecord, record: LaunchRecord, result: LaunchResult, others: str = "") -> AgentFailedError:
    """Return the error that says that a launch failed of an agent.

    Args:
        agent: The agent.
        record: The launch.
        result: What is known of it.
        others: What the ranks of other nodes were doing, where the caller knows better.
    """
    outcome = result.agents[agent.node]
    others = others or text.others_of(agent, record, result)
    return AgentFailedError(text.agent_text(agent, outcome, record, others), agent=outcome, result=result)


def _agent_at_fault(first: RankRecord, record: LaunchRecord) -> AgentRecord | None:
    place = blame_of(first)
    if record.timed_out and place is Blame.ENDED:
        return None
    time_ns = first.failed.time_ns if first.failed else first.exited.time_ns if first.exited else record.ended_ns
    return agent_at_fault(record, place, time_ns)


def _dispensable(agent: AgentRecord, record: LaunchRecord) -> bool:
    """Tell whether a launch whose ranks have all returned is complete without an agent that failed.

    It took no part in the last world, or was lost, or was ended because it still waited for a lost one.
    """
    if agent.lost_ns is not None or all(rank.id.node != agent.node for rank in record.last_world()):
        return True
    return agent.killed and bool(lost_agents(record))


def _ended_from_outside(rank: RankRecord, record: LaunchRecord) -> bool:
    """Tell whether the first of the failed ranks is not the cause: it was ended, or died with the server."""
    if record.server_lost is not None and rank.failed is None:
        return True  # multiprocessing reports an exit code of 255 for every child of a server that is gone
    return ended_by_us(rank)
