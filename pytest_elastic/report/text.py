"""The texts of the errors that ``elastic_launch`` raises: the cause first, then what the others were doing."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Final

from pytest_elastic.report.collectives import COLLECTIVES, came_apart_text, collectives_text
from pytest_elastic.report.describe import shortened, signal_name
from pytest_elastic.report.hosts import named, on
from pytest_elastic.report.lost import lost_agents
from pytest_elastic.report.records import AgentRecord, LaunchRecord
from pytest_elastic.report.stacks import fold, shown, where
from pytest_elastic.result import AgentResult, LaunchResult, RankFailure

_SHOWN_LINES: Final = 20
_SHOWN_LINE: Final = 2_000
_SHOWN_TRACEBACK: Final = 40_000


def failure_text(record: LaunchRecord, result: LaunchResult) -> str:
    """Say which rank failed first, how, and what became of the others; then show its traceback and output."""
    first = result.failures[0]
    others = others_text(result)
    lines = [f"[rank {first.rank}] {first.message}"]
    lines += [f"{record.name or 'the launch'} failed on rank {first.rank} after {first.time:.1f} s{others}"]
    lines += _came_apart(record)
    if first.traceback:
        lines += ["", shortened(first.traceback.rstrip(), _SHOWN_TRACEBACK)]
    elif first.stack and first.signal not in (None, "SIGTERM", "SIGKILL"):
        lines += ["", shown(first.stack)]
    for failure in result.failures[1:]:
        if not failure.collateral and failure.traceback:
            trace = shortened(failure.traceback.rstrip(), _SHOWN_TRACEBACK // 4)
            lines += ["", f"[rank {failure.rank}] failed too: {failure.message}", trace]
    lines += _collectives(record)
    lines += tail_of(f"stderr of rank {first.rank}", _output(result, first, "stderr"), skip=first.traceback)
    return "\n".join(lines)


def _came_apart(record: LaunchRecord) -> list[str]:
    apart = came_apart_text(record.last_world())
    return [apart] if apart else []


def _collectives(record: LaunchRecord) -> list[str]:
    said = collectives_text(record.last_world())
    return ["", f"--- {COLLECTIVES} ---", said] if said else []


def others_text(result: LaunchResult) -> str:
    """Return what the ranks beside the culprit were doing, as the end of a sentence."""
    groups: dict[str, list[int]] = defaultdict(list)
    for failure in result.failures[1:]:
        groups[_state_of(failure)].append(failure.rank)
    if result.values_by_rank:
        groups["finished"] += list(result.values_by_rank)
    return "".join(f"; {fold(ranks)} {state}" for state, ranks in groups.items())


def _state_of(failure: RankFailure) -> str:
    if not failure.collateral:
        return f"failed too: {failure.message}"
    place = where(failure.stack)
    if failure.exception is not None:
        return "lost a peer"
    return f"blocked in {place}, killed" if place else "killed"


def timeout_text(record: LaunchRecord, stacks: Mapping[int, str]) -> str:
    """Say that the deadline came, and where each rank was, ranks at the same place together."""
    finished = {r.id.rank for r in record.last_world() if r.finished is not None}
    # One that has finished waits for the others; where there is none, it hangs in its own end.
    at_end = len(finished) == len(record.last_world())
    by = f" ({record.timeout_by})" if record.timeout_by else ""
    lines = [f"timed out after {record.timeout:g} s{by}: {record.name or 'the launch'}"]
    lines += _came_apart(record)
    lost = lost_agents(record)
    lines += [f"{name_of(agent)} had been lost{_when_lost(agent, record)}" for agent in lost]
    if not record.worlds and any(agent.said_hello for agent in record.agents):
        gone = f"; nothing takes connections at its endpoint {record.unreachable}" if record.unreachable else ""
        lines.append(f"the rendezvous never completed: {nodes_text(record)}{gone}")
    elif not record.worlds:
        lines.append("the preloaded server did not come to start an agent: it was still importing torch or collecting")
        lines += tail_of("log of the preloaded server", record.server_words)
    groups: dict[tuple[str, str], list[int]] = defaultdict(list)
    for rank in record.last_world():
        stack = stacks.get(rank.id.rank, "") if at_end or rank.id.rank not in finished else ""
        doing = _doing(rank.id.rank in finished, rank.was_stopped, stack)
        groups[(doing, shown(stack))].append(rank.id.rank)
    for (doing, stack), ranks in groups.items():
        lines += [f"{named(ranks, record.last_world())}: {doing}"]
        if stack:
            lines += ["", *(f"  {line}" for line in stack.splitlines()), ""]
    return "\n".join([*lines, *_collectives(record)]).rstrip()


def _doing(finished: bool, stopped: bool, stack: str) -> str:
    place = where(stack)
    if stopped:  # what it did after it was woken for its stacks does not count
        return "stopped by a signal (SIGSTOP)" + (f" in {place}" if place else "")
    if finished:
        return "finished, but its process did not end" if stack else "finished"
    return f"in {place}" if place else "no stack could be had"


def nodes_text(record: LaunchRecord) -> str:
    """Say which agents were there, and which were not."""
    came = [agent.node for agent in record.agents if agent.said_hello]
    missing = [node for node in range(record.nodes) if node not in came]
    text = f"{len(came)} agent{'' if len(came) == 1 else 's'} came (node {', '.join(map(str, came))})"
    return f"{text}, {len(missing)} did not (node {', '.join(map(str, missing))})" if missing else text


def agent_text(agent: AgentRecord, outcome: AgentResult, record: LaunchRecord, others: str) -> str:
    """Say how an agent ended and what became of others, with its own traceback and the end of its log."""
    if agent.cut:
        return f"{name_of(agent)} was lost{_when_lost(agent, record)}: {agent.cut}{others}"
    if outcome.exception is not None:
        kind = type(outcome.exception).__name__
        how = f"{'failed' if agent.lost_ns is None else 'left'}: {kind}: {_text_of(outcome.exception)}"
        if agent.finished is not None and agent.finished.advice:
            how += f" ({agent.finished.advice})"
    elif (name := signal_name(outcome.exitcode)) is not None:
        how = f"was killed by {name}"
    else:
        code = "" if outcome.exitcode is None else f" with exit code {outcome.exitcode}"
        how = f"ended{code} before it could say how"
    lines = [f"agent {agent.node}{on(agent.host)} {how}{_when_lost(agent, record)}{others}"]
    if outcome.exception is not None and agent.lost_ns is None:  # where a signal met it says nothing
        lines += ["", outcome.traceback.rstrip()]
    lines += tail_of(f"log of agent {agent.node}", agent.log, skip=outcome.traceback)
    return "\n".join([*lines, *tail_of("log of the preloaded server", record.server_words)])


def name_of(agent: AgentRecord) -> str:
    """Return how an agent is called: by its machine, if that was lost."""
    if not agent.cut:
        return f"agent {agent.node}{on(agent.host)}"
    # A test need not run on the first nodes of the session, and in place all machines may be this one.
    number = agent.node if agent.controller is None else agent.controller
    return f"node {number} ({agent.host})" if agent.host else f"pytest process {number}"


def _when_lost(agent: AgentRecord, record: LaunchRecord) -> str:
    if agent.lost_ns is None:
        return ""
    why = f" ({agent.fault})" if agent.fault else ""
    return f" after {(agent.lost_ns - record.started_ns) / 1e9:.1f} s{why}"


def others_of(agent: AgentRecord, record: LaunchRecord, result: LaunchResult) -> str:
    """Return which ranks an agent took along when it was lost, and what became of others, as the end of a sentence."""
    if agent.lost_ns is None:
        return ""
    own = [rank.id.rank for rank in record.last_world() if rank.id.node == agent.node]
    groups: dict[str, list[int]] = defaultdict(list)
    for failure in result.failures:
        if failure.rank not in own:
            groups[_state_of(failure)].append(failure.rank)
    ranks = record.last_world()
    return taken_along(agent, record) + "".join(f"; {named(own, ranks)} {state}" for state, own in groups.items())


def taken_along(agent: AgentRecord, record: LaunchRecord) -> str:
    """Return which ranks, still at work, went with their agent, as a part of a sentence."""
    own = [rank for rank in record.last_world() if rank.id.node == agent.node and rank.finished is None]
    return f", with {fold([rank.id.rank for rank in own])}" if own and agent.lost_ns is not None else ""


def split_text(record: LaunchRecord) -> str:
    """Say which worlds ran at the same time."""
    worlds = []
    for name in record.split:
        ranks = record.of_world(name)
        nodes = sorted({rank.id.node for rank in ranks})
        where_at = f"agent{'' if len(nodes) == 1 else 's'} {', '.join(map(str, nodes))}"
        worlds.append(f"{fold([rank.id.rank for rank in ranks])} of {ranks[0].id.world_size} under {where_at} ({name})")
    return f"{record.name or 'the launch'} ran in two worlds at the same time: {'; '.join(worlds)}"


def _text_of(error: BaseException) -> str:
    try:
        return str(error)
    except Exception as nested:  # noqa: BLE001 (a user's __str__ may raise anything)
        return f"<its __str__ raised {type(nested).__name__}>"


def tail_of(title: str, text: str, *, skip: str = "") -> list[str]:
    """Return the last lines of an output under a title; nothing if it is empty or only repeats ``skip``."""
    text = text.rstrip()
    if not text.strip() or (skip and text in skip):
        return []
    lines = text.splitlines()
    cut = [f"... ({len(lines) - _SHOWN_LINES} lines more)"] if len(lines) > _SHOWN_LINES else []
    return ["", f"--- {title} ---", *cut, *(shortened(line, _SHOWN_LINE) for line in lines[-_SHOWN_LINES:])]


def _output(result: LaunchResult, failure: RankFailure, stream: str) -> str:
    output = result.stderr if stream == "stderr" else result.stdout
    try:
        return output[failure.rank]
    except (KeyError, OSError):
        return ""
