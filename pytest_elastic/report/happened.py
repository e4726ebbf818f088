"""From the record of a launch to its timeline."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from pytest_elastic import clock
from pytest_elastic.report.collectives import read_collectives
from pytest_elastic.report.culprit import Blame
from pytest_elastic.report.describe import shortened, what_happened
from pytest_elastic.report.judgement import Culprit, cause_of, describe_others, find_failures, phase_reached
from pytest_elastic.report.output import read_part
from pytest_elastic.report.rank_map import state_of
from pytest_elastic.report.records import AgentRecord, LaunchRecord, RankRecord
from pytest_elastic.report.stacks import read_stacks, shown
from pytest_elastic.report.text import name_of
from pytest_elastic.report.timeline import Doing, Lane, Mark, Span, Stack, State, Timeline

_PASSED_OUTPUT: Final = 2_000
_FAILED_OUTPUT: Final = 20_000
_ALL_OUTPUT: Final = 1_000_000
"""Bytes of all ranks of a launch: there may be thousands."""
_TRACEBACK: Final = 40_000
_STACK: Final = 8_000
_CONTROL: Final = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)|[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]"
)
"""Sequences by which programs colour a terminal, and characters that no page shows."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Told:
    """What is known of a launch beside its record.

    Attributes:
        verdict: What came of it, in one line, or an empty text.
        culprit: The rank that failed first, or ``None``.
        failed: Something went wrong.
        traceback: The culprit's traceback, where no report of the test has it.
        output: What ranks wrote is wanted too.
    """

    verdict: str = ""
    culprit: int | None = None
    failed: bool = False
    traceback: str = ""
    output: bool = True


def make_timeline(record: LaunchRecord, told: Told) -> Timeline:
    """Make the timeline of a launch that is over, while the files are still there that its ranks wrote."""
    return _Maker(record, told).make()


class _Maker:
    def __init__(self, record: LaunchRecord, told: Told) -> None:
        self._record = record
        self._told = told
        # In the world of a launcher each agent has one rank, and some of them together are a node.
        self._wall_ns = clock.wall_ns() - (clock.monotonic_ns() - record.started_ns)
        self._in_place = record.nproc == 1 and any(rank.id.local_rank for rank in record.ranks)

    def make(self) -> Timeline:
        record, told = self._record, self._told
        seconds = self._at(record.ended_ns)
        return Timeline(
            name=clean(record.name),
            at=self._wall_ns / 1e9,
            seconds=seconds,
            worlds=tuple(self._size(world) for world in record.worlds),
            nodes=record.nodes,
            restarts=max((rank.id.restart for rank in record.ranks), default=0),
            verdict=clean(told.verdict),
            culprit=told.culprit,
            traceback=clean(shortened(told.traceback, _TRACEBACK)),
            lanes=(*self._lanes(), *self._nodes_without_ranks()),
            marks=tuple(sorted(self._marks(), key=lambda mark: mark.at)),
            stacks=self._stacks(),
        )

    def _at(self, time_ns: int) -> float:
        """Return a time in seconds from the beginning of the launch."""
        return max(0.0, (time_ns - self._record.started_ns) / 1e9)

    def _size(self, world: str) -> int:
        return self._record.of_world(world)[0].id.world_size

    # --- ranks ---

    def _lanes(self) -> Iterator[Lane]:
        for index, world in enumerate(self._record.worlds):
            ranks = self._record.of_world(world)
            culprit = self._culprit_of(index, ranks)
            texts = _texts_of(ranks, culprit)
            number = culprit.rank.id.rank if culprit is not None else None
            for rank in ranks:
                state = state_of(rank, number, silent_success=self._record.work == "command")
                yield self._lane(index, rank, state, "passed" if state == "passed" else texts[rank.id.rank])

    def _culprit_of(self, index: int, ranks: Sequence[RankRecord]) -> Culprit | None:
        """Return who failed first in a world; in the last one the verdict has said so."""
        failures = find_failures(ranks)
        if index < len(self._record.worlds) - 1:
            return failures[0] if failures and failures[0].blame <= Blame.OWN else None
        return next((failure for failure in failures if failure.rank.id.rank == self._told.culprit), None)

    def _lane(self, index: int, rank: RankRecord, state: State, text: str) -> Lane:
        spans = sorted(self._spans(rank, state), key=lambda span: span.begin)
        stdout, stderr = self._output(rank, state)
        return Lane(
            world=index,
            rank=rank.id.rank,
            node=rank.id.group_rank if self._in_place else rank.id.node,
            host=rank.host,
            state=state,
            text=clean(text),
            spans=(*spans, *self._waits(rank, spans)),
            pid=rank.pid,
            stdout=stdout,
            stderr=stderr,
            memory=tuple((self._at(at), size) for at, size in rank.memory if at >= self._record.started_ns),
            collectives=tuple(self._collectives(rank)),
        )

    def _collectives(self, rank: RankRecord) -> Iterator[tuple[float, str]]:
        for each in read_collectives(rank.directory):
            # Another machine's clock may be another.
            at = min(max(0.0, (each.time_ns - self._wall_ns) / 1e9), self._at(self._record.ended_ns))
            yield (
                at,
                clean(f"{each}{'' if each.ended else ' (end not seen)' if each.ended is None else ' (not ended)'}"),
            )

    def _spans(self, rank: RankRecord, state: State) -> Iterator[Span]:
        # Where its agent is gone too, nobody saw it end.
        end = rank.exited.time_ns if rank.exited is not None else rank.closed_ns or self._record.ended_ns
        killed = rank.closed_ns if rank.closed_ns is not None and rank.closed_ns < end and state != "passed" else None
        last = self._record.started_ns
        if rank.id.world != self._record.worlds[0]:
            last = self._round_of(rank)[0] or rank.hello_ns or last
        for doing, until in self._steps(rank, state, end if killed is None else killed):
            if until > last:
                yield Span(doing=doing, begin=self._at(last), end=self._at(until))
                last = until
        if state == "killed" or (rank.exited is not None and rank.exited.exitcode < 0 and state != "passed"):
            how = what_happened(rank, work=self._record.work) if rank.exited is not None else "killed"
            yield Span(doing="killed", begin=self._at(killed or end), end=self._at(end), text=clean(how))

    def _steps(self, rank: RankRecord, state: State, end: int) -> Iterator[tuple[Doing, int]]:
        """Return what a rank did, one thing after the other, each with its end."""
        sought, met, started = self._round_of(rank)
        if sought:
            yield "start", min(sought, end)
            yield "rendezvous", min(met, end)
            yield "fork", min(rank.hello_ns or started, end)
        elif rank.hello_ns is not None:
            yield "start", min(rank.hello_ns, end)
        if self._record.work == "test":
            yield from self._phases(rank, end)
        else:
            yield from self._work(rank, end)
        if state != "killed":
            yield "waiting", end

    def _round_of(self, rank: RankRecord) -> tuple[int, int, int]:
        for each in self._record.rounds:
            if (each.node, each.world) == (rank.id.node, rank.id.world):
                return each.sought_ns, each.met_ns, each.started_ns
        return 0, 0, 0

    def _phases(self, rank: RankRecord, end: int) -> Iterator[tuple[Doing, int]]:
        done = {each.when: each.time_ns for each in rank.reports if not each.subtest and not each.stopped}
        phases: tuple[Doing, ...] = ("setup", "call", "teardown")
        for phase in phases:
            if phase in done:
                yield phase, min(done[phase], end)
        if rank.finished is None and "teardown" not in done and rank.hello_ns is not None:
            reached = phase_reached(rank)
            if rank.caught is not None and rank.caught.when not in done:
                # Its report, which takes a while to make, never came.
                yield reached, min(rank.caught.time_ns, end)
                reached = "teardown"
            yield reached, end

    def _work(self, rank: RankRecord, end: int) -> Iterator[tuple[Doing, int]]:
        if rank.finished is not None:
            yield "setup", min(rank.finished.started_ns, end)
            yield "call", min(rank.finished.time_ns, end)
        elif rank.failed is not None:
            yield "call", min(rank.failed.time_ns, end)
        elif rank.hello_ns is not None or self._record.work == "command":
            yield "call", end

    def _waits(self, rank: RankRecord, spans: Sequence[Span]) -> Iterator[Span]:
        """Return where a rank waited for others, each time within the span that it was in."""
        for wait in self._record.waits:
            if (wait.world, wait.rank) == (rank.id.world, rank.id.rank):
                begin = self._at(wait.begin_ns)
                within = next((span for span in spans if span.begin <= begin < span.end), None)
                if within is not None:
                    end = within.end if wait.end_ns is None else min(self._at(wait.end_ns), within.end)
                    yield Span(doing="waiting", begin=begin, end=end, text=wait.what)

    def _output(self, rank: RankRecord, state: State) -> tuple[str, str]:
        if not self._told.output:
            return "", ""
        most = _FAILED_OUTPUT if self._told.failed or state not in ("passed", "skipped") else _PASSED_OUTPUT
        most = min(most, _ALL_OUTPUT // len(self._record.ranks))
        ends: tuple[int | None, int | None] = (None, None)
        if self._record.goes_on and rank.reports:
            ends = rank.reports[-1].written
        texts = [
            clean(read_part(rank.directory / f"{stream}.log", rank.begun[number], ends[number], most).rstrip())
            for number, stream in enumerate(("stdout", "stderr"))
        ]
        return texts[0], texts[1]

    # --- nodes, and what happened ---

    def _nodes_without_ranks(self) -> Iterator[Lane]:
        """Return what agents did that never started a rank: they waited in the rendezvous, say."""
        for agent in self._record.agents:
            if agent.rounds:
                continue
            end = agent.lost_ns or self._record.ended_ns
            said = agent.hello_ns or end
            spans = [Span(doing="start", begin=0.0, end=self._at(min(said, end)))]
            if agent.hello_ns is not None:
                spans.append(Span(doing="rendezvous", begin=self._at(said), end=self._at(max(said, end))))
            lost = _how_lost(agent)
            state: State = "killed" if agent.killed or agent.lost_ns else "failed"
            yield Lane(
                world=max(0, len(self._record.worlds) - 1),
                rank=None,
                node=agent.node,
                host=agent.host,
                state=state,
                text=clean(lost or "started no rank"),
                spans=tuple(spans),
            )

    def _marks(self) -> Iterator[Mark]:
        yield from self._changes()
        for rank in self._record.ranks:
            if rank.fault and rank.fault_ns:
                yield Mark(kind="fault", at=self._at(rank.fault_ns), text=clean(rank.fault), rank=rank.id.rank)
        for agent in self._record.agents:
            if agent.fault and agent.fault_ns:
                text = f"{name_of(agent)}: {agent.fault}"
                yield Mark(kind="fault", at=self._at(agent.fault_ns), text=clean(text))
            if agent.lost_ns is not None:
                yield Mark(kind="lost", at=self._at(agent.lost_ns), text=clean(f"{name_of(agent)} {_how_lost(agent)}"))
        culprit = self._culprit_of(len(self._record.worlds) - 1, self._record.last_world())
        if culprit is not None and culprit.time_ns:
            number = culprit.rank.id.rank
            text = shortened(f"rank {number} failed first: {cause_of(culprit)}", 300)
            yield Mark(kind="failure", at=self._at(culprit.time_ns), text=clean(text), rank=number)
        if self._record.timed_out and self._record.timeout is not None:
            text = f"deadline of {self._record.timeout:g} s"
            yield Mark(kind="deadline", at=min(self._record.timeout, self._at(self._record.ended_ns)), text=text)

    def _changes(self) -> Iterator[Mark]:
        """Return when other worlds than the first formed."""
        restarts = 0
        for index, world in enumerate(self._record.worlds):
            ranks = self._record.of_world(world)
            met = [times[1] for times in map(self._round_of, ranks) if times[1]]
            met = met or [rank.hello_ns for rank in ranks if rank.hello_ns is not None]
            restart = ranks[0].id.restart
            if index and met:
                kind, text = ("restart", f"restart {restart}, ") if restart > restarts else ("world", "")
                size = ranks[0].id.world_size
                text += f"world of {size} rank{'' if size == 1 else 's'}"
                yield Mark(kind="restart" if kind == "restart" else "world", at=self._at(min(met)), text=text)
            restarts = max(restarts, restart)

    def _stacks(self) -> tuple[Stack, ...]:
        places: dict[str, list[int]] = {}
        if not self._told.failed:
            return ()
        silent = self._record.work == "command"
        for rank in self._record.last_world():
            # Where one that had passed waited to be let go tells nothing.
            passed = state_of(rank, self._told.culprit, silent_success=silent) == "passed"
            text = "" if passed else shown(read_stacks(rank.directory))
            if text:
                places.setdefault(text, []).append(rank.id.rank)
        return tuple(Stack(ranks=tuple(ranks), text=clean(shortened(text, _STACK))) for text, ranks in places.items())


def _texts_of(ranks: Sequence[RankRecord], culprit: Culprit | None) -> dict[int, str]:
    texts = {number: what for numbers, what, _ in describe_others(ranks, culprit) for number in numbers}
    if culprit is not None:
        texts[culprit.rank.id.rank] = f"failed first: {cause_of(culprit)}"
    return texts


def _how_lost(agent: AgentRecord) -> str:
    if agent.cut:
        return f"was lost: {agent.cut}"
    if agent.lost_ns is not None:
        return f"was lost{f' ({agent.fault})' if agent.fault else ''}"
    return "was killed" if agent.killed else ""


def clean(text: str) -> str:
    """Return a text without what terminals take for orders, and without halves of characters."""
    return _CONTROL.sub("", text).encode("utf-8", "replace").decode()
