"""Launches as trace events, which Perfetto and ``chrome://tracing`` read: a process for each rank.

What the format has is described at https://docs.google.com/document/d/1CvAClvFfyA5R-PhYUmn5OOQtYMH4h6I0nSsKchNAySU;
used are complete events (``X``), asynchronous ones (``b``, ``e``), instants (``i``), counters (``C``) and names
(``M``), in microseconds.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

from pytest_elastic.report.seen import SeenTest
from pytest_elastic.report.timeline import Lane, Timeline, from_data

Event = dict[str, Any]
_SESSION: Final = 1
"""Process of what is about no single rank; ranks begin above."""
_WORDS: Final = {"setup": "set-up"}


def make_trace(tests: Sequence[SeenTest]) -> dict[str, Any]:
    """Return a trace of all launches of a session."""
    launches = sorted(
        ((test, from_data(data)) for test in tests for data in test.launches), key=lambda pair: pair[1].at
    )
    return {"displayTimeUnit": "ms", "traceEvents": list(_events(launches))}


def _events(launches: Sequence[tuple[SeenTest, Timeline]]) -> Iterator[Event]:
    tracks = _Tracks()
    zero = launches[0][1].at if launches else 0.0
    for test, timeline in launches:
        for event in _launch(test, timeline, timeline.at - zero, tracks):
            yield from tracks.names_of(event["pid"], event["tid"])
            yield event


class _Tracks:
    """The tracks of each process: what overlaps in time is not on the same one."""

    def __init__(self) -> None:
        self._until: dict[int, list[float]] = {}
        self._named: set[tuple[int, int]] = set()

    def take(self, pid: int, begin: float, end: float) -> int:
        """Return a track of a process that is free for a time."""
        until = self._until.setdefault(pid, [])
        index = next((index for index, last in enumerate(until) if last <= begin), len(until))
        until[index : index + 1] = [end]
        return index + 1

    def names_of(self, pid: int, tid: int) -> Iterator[Event]:
        """Return the names of a process and of its track, the first time."""
        if (pid, tid) not in self._named:
            self._named.add((pid, tid))
            yield from _names(pid, tid)


def _names(pid: int, tid: int) -> Iterator[Event]:
    name = "tests" if pid == _SESSION else f"rank {_rank(pid)}"
    yield {"ph": "M", "name": "process_name", "pid": pid, "tid": tid, "args": {"name": name}}
    yield {"ph": "M", "name": "process_sort_index", "pid": pid, "tid": tid, "args": {"sort_index": pid}}
    thread = "launches" if tid == 1 else f"launches at the same time ({tid})"
    yield {"ph": "M", "name": "thread_name", "pid": pid, "tid": tid, "args": {"name": thread}}


def _process(rank: int) -> int:
    return _SESSION + 1 + rank


def _rank(pid: int) -> int:
    return pid - _SESSION - 1


def _launch(test: SeenTest, timeline: Timeline, begin: float, tracks: _Tracks) -> Iterator[Event]:
    tid = tracks.take(_SESSION, begin, begin + timeline.seconds)
    what = {"outcome": test.outcome, "verdict": timeline.verdict, "worlds": " ".join(map(str, timeline.worlds))}
    if timeline.culprit is not None:
        what["culprit"] = f"rank {timeline.culprit}"
    name = test.nodeid if timeline.name in test.nodeid else f"{test.nodeid}: {timeline.name}"
    yield _slice(name, "test", begin, begin + timeline.seconds, _SESSION, tid, what)
    last: dict[int, int] = {}
    for lane in timeline.lanes:
        if lane.spans and lane.rank is not None:
            first, end = min(span.begin for span in lane.spans), max(span.end for span in lane.spans)
            last[lane.rank] = tracks.take(_process(lane.rank), begin + first, begin + end)
            yield from _rank_events(lane, lane.rank, name, begin, last[lane.rank])
        elif lane.spans:
            yield from _node_events(lane, begin, tid)
    for mark in timeline.marks:
        where = (_SESSION, tid) if mark.rank is None else (_process(mark.rank), last.get(mark.rank, 1))
        at = _us(begin + mark.at)
        yield {"ph": "i", "name": mark.text, "cat": mark.kind, "ts": at, "pid": where[0], "tid": where[1], "s": "p"}


def _rank_events(lane: Lane, rank: int, name: str, begin: float, tid: int) -> Iterator[Event]:
    pid = _process(rank)
    about: dict[str, Any] = {"node": lane.node, "host": lane.host, "pid": lane.pid, "what": lane.text}
    about = {key: value for key, value in about.items() if value not in (None, "")}
    first, end = min(span.begin for span in lane.spans), max(span.end for span in lane.spans)
    yield _slice(name, lane.state, begin + first, begin + end, pid, tid, about)
    for span in lane.spans:
        args = {"what": span.text} if span.text else {}
        title = _WORDS.get(span.doing, span.doing)
        yield _slice(title, "phase", begin + span.begin, begin + span.end, pid, tid, args)
    for at, text in lane.collectives:
        yield {"ph": "i", "name": text, "cat": "collective", "ts": _us(begin + at), "pid": pid, "tid": tid, "s": "t"}
    for at, size in lane.memory:
        counter = "memory" if tid == 1 else f"memory ({tid})"
        value = {"MB": round(size / 1e6, 3)}
        yield {"ph": "C", "name": counter, "ts": _us(begin + at), "pid": pid, "tid": tid, "args": value}


def _node_events(lane: Lane, begin: float, tid: int) -> Iterator[Event]:
    """Return what a node did that never had a rank: begin and end, since several nodes may do the same at once."""
    for number, span in enumerate(lane.spans):
        title = f"node {lane.node}: {span.doing}"
        about = {"cat": "node", "name": title, "id": f"{tid}-{lane.node}-{number}", "pid": _SESSION, "tid": tid}
        yield {"ph": "b", "ts": _us(begin + span.begin), **about}
        yield {"ph": "e", "ts": _us(begin + span.end), **about}


def _slice(name: str, category: str, begin: float, end: float, pid: int, tid: int, args: dict[str, Any]) -> Event:
    ts = _us(begin)
    return {
        "ph": "X",
        "name": name,
        "cat": category,
        "ts": ts,
        "dur": max(0, _us(end) - ts),
        "pid": pid,
        "tid": tid,
        "args": args,
    }


def _us(seconds: float) -> int:
    return round(seconds * 1e6)
