"""What happened in a launch, as plain data: for a page, a trace, and whoever else shows it.

It travels with pytest's reports, through pytest-xdist and the record of a session; so it has a form of lists, dicts,
strings and numbers as well.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, get_args

Doing = Literal["start", "rendezvous", "fork", "setup", "call", "teardown", "waiting", "killed"]
State = Literal["passed", "skipped", "xfailed", "failed", "collateral", "killed"]
Kind = Literal["world", "restart", "fault", "lost", "failure", "deadline"]
DOINGS: Final[tuple[Doing, ...]] = get_args(Doing)
STATES: Final[tuple[State, ...]] = get_args(State)
KINDS: Final[tuple[Kind, ...]] = get_args(Kind)


@dataclass(frozen=True, kw_only=True, slots=True)
class Span:
    """A time in which a rank did one thing.

    Attributes:
        doing: What; ``"waiting"`` may lie within another one: a rank of a test waits for the others.
        begin: Seconds from the beginning of the launch.
        end: The same.
        text: More about it, or an empty text.
    """

    doing: Doing
    begin: float
    end: float
    text: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Mark:
    """Something that happened at one moment.

    Attributes:
        kind: A world of another size or of other nodes, a restart, a fault on purpose, a node that was lost, the first
            failure, or the deadline.
        at: Seconds from the beginning of the launch.
        text: What it was, in a few words.
        rank: The rank that it happened to, or ``None``.
    """

    kind: Kind
    at: float
    text: str
    rank: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Lane:
    """One rank of one world; or a node whose agent never started one.

    Attributes:
        world: Index of the world.
        rank: Global rank, or ``None``.
        node: Index of its agent, in order of start.
        host: Its machine, where there are several; else an empty text.
        state: What became of it.
        text: The same in a few words.
        spans: What it did, in order of time; those within others after them.
        pid: Its process, or ``None``.
        stdout: What it wrote, shortened.
        stderr: The same.
        memory: Seconds from the beginning, and bytes in memory.
        collectives: Those that it began last, if it kept them: seconds from the beginning, and what each was.
    """

    world: int
    rank: int | None
    node: int
    state: State
    text: str
    spans: tuple[Span, ...]
    host: str = ""
    pid: int | None = None
    stdout: str = ""
    stderr: str = ""
    memory: tuple[tuple[float, int], ...] = ()
    collectives: tuple[tuple[float, str], ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Stack:
    """Where some ranks were when they were ended or died.

    Attributes:
        ranks: Those at one place.
        text: Their Python stacks.
    """

    ranks: tuple[int, ...]
    text: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Timeline:
    """One launch.

    Attributes:
        name: What was run.
        at: When it began, in seconds since the epoch.
        seconds: How long it took.
        worlds: Number of ranks of each world, in the order in which they formed.
        nodes: How many nodes a world needed.
        restarts: How often workers were restarted because some had failed.
        verdict: What came of it, in one line; an empty text if nothing went wrong.
        culprit: The rank that failed first, or ``None``.
        traceback: Its traceback, where no report of the test has it; else an empty text.
        lanes: The ranks, world by world.
        marks: What happened, in order of time.
        stacks: Where ranks were, those at one place together.
    """

    name: str
    at: float
    seconds: float
    worlds: tuple[int, ...]
    nodes: int
    lanes: tuple[Lane, ...]
    marks: tuple[Mark, ...] = ()
    restarts: int = 0
    verdict: str = ""
    culprit: int | None = None
    traceback: str = ""
    stacks: tuple[Stack, ...] = ()

    def last_world(self) -> tuple[Lane, ...]:
        """Return the ranks of the world that formed last."""
        last = len(self.worlds) - 1
        return tuple(lane for lane in self.lanes if lane.rank is not None and lane.world == last)


# --- the form that travels ---


def to_data(timeline: Timeline) -> dict[str, Any]:
    """Return a launch as what JSON can hold; times are in microseconds, but for the beginning."""
    return {
        "name": timeline.name,
        "at": round(timeline.at, 6),
        "us": _us(timeline.seconds),
        "worlds": list(timeline.worlds),
        "nodes": timeline.nodes,
        "restarts": timeline.restarts,
        "verdict": timeline.verdict,
        "culprit": timeline.culprit,
        "traceback": timeline.traceback,
        "lanes": [_lane_to_data(lane) for lane in timeline.lanes],
        "marks": [[KINDS.index(mark.kind), _us(mark.at), mark.text, mark.rank] for mark in timeline.marks],
        "stacks": [[list(stack.ranks), stack.text] for stack in timeline.stacks],
    }


def from_data(data: Mapping[str, Any]) -> Timeline:
    """Make a launch again from what :func:`to_data` returned."""
    return Timeline(
        name=data["name"],
        at=data["at"],
        seconds=data["us"] / 1e6,
        worlds=tuple(data["worlds"]),
        nodes=data["nodes"],
        restarts=data["restarts"],
        verdict=data["verdict"],
        culprit=data["culprit"],
        traceback=data["traceback"],
        lanes=tuple(_lane_from_data(lane) for lane in data["lanes"]),
        marks=tuple(
            Mark(kind=KINDS[kind], at=at / 1e6, text=text, rank=rank) for kind, at, text, rank in data["marks"]
        ),
        stacks=tuple(Stack(ranks=tuple(ranks), text=text) for ranks, text in data["stacks"]),
    )


def _us(seconds: float) -> int:
    return round(seconds * 1e6)


def _lane_to_data(lane: Lane) -> dict[str, Any]:
    data: dict[str, Any] = {
        "world": lane.world,
        "rank": lane.rank,
        "node": lane.node,
        "state": STATES.index(lane.state),
        "text": lane.text,
        # One list of numbers: a launch has many.
        "spans": [n for span in lane.spans for n in (DOINGS.index(span.doing), _us(span.begin), _us(span.end))],
    }
    texts = {str(index): span.text for index, span in enumerate(lane.spans) if span.text}
    rest = {
        "texts": texts,
        "host": lane.host,
        "pid": lane.pid,
        "stdout": lane.stdout,
        "stderr": lane.stderr,
        "memory": [n for at, size in lane.memory for n in (_us(at), size)],
        "collectives": [[_us(at), text] for at, text in lane.collectives],
    }
    return data | {name: value for name, value in rest.items() if value}


def _lane_from_data(data: Mapping[str, Any]) -> Lane:
    numbers, texts, memory = data["spans"], data.get("texts", {}), data.get("memory", [])
    spans = []
    for i in range(0, len(numbers), 3):
        doing, begin, end = DOINGS[numbers[i]], numbers[i + 1] / 1e6, numbers[i + 2] / 1e6
        spans.append(Span(doing=doing, begin=begin, end=end, text=texts.get(str(i // 3), "")))
    return Lane(
        world=data["world"],
        rank=data["rank"],
        node=data["node"],
        state=STATES[data["state"]],
        text=data["text"],
        spans=tuple(spans),
        host=data.get("host", ""),
        pid=data.get("pid"),
        stdout=data.get("stdout", ""),
        stderr=data.get("stderr", ""),
        memory=tuple((memory[i] / 1e6, memory[i + 1]) for i in range(0, len(memory), 2)),
        collectives=tuple((at / 1e6, text) for at, text in data.get("collectives", ())),
    )
