"""Launches as trace events, which Perfetto and ``chrome://tracing`` read: a process for each rank.

What the format has is described at https://docs.google.com/document/d/1CvAClvFfyA5R-PhYUmn5OOQtYMH4h6I0nSsKchNAySU;
used are complete events (``X``), instants (``i``), counters (``C``) and names (``M``), in microseconds.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
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
    tracks = _tracks([(timeline.at, timeline.at + timeline.seconds) for _, timeline in launches])
    zero = launches[0][1].at if launches else 0.0
    named: set[tuple[int, int]] = set()
    for (test, timeline), track in zip(launches, tracks, strict=True):
        begin = timeline.at - zero
        events = list(_launch(test, timeline, begin, track))
        for pid, tid in dict.fromkeys((event["pid"], event["tid"]) for event in events):
            if (pid, tid) not in named:
                named.add((pid, tid))
                yield from _names(pid, tid)
        yield from events


def _tracks(times: Iterable[tuple[float, float]]) -> list[int]:
    """Give those launches different tracks that run at the same time."""
    free: list[float] = []
    tracks = []
    for begin, end in times:
        track = next((number for number, until in enumerate(free) if until <= begin), len(free))
        free[track : track + 1] = [end]
        tracks.append(track)
    return tracks


def _names(pid: int, tid: int) -> Iterator[Event]:
    name = "tests" if pid == _SESSION else f"rank {_rank(pid)}"
    yield {"ph": "M", "name": "process_name", "pid": pid, "tid": tid, "args": {"name": name}}
    yield {"ph": "M", "name": "process_sort_index", "pid": pid, "tid": tid, "args": {"sort_index": pid}}
    thread = "launches" if tid == 1 else f"launches beside others ({tid})"
    yield {"ph": "M", "name": "thread_name", "pid": pid, "tid": tid, "args": {"name": thread}}


def _process(rank: int) -> int:
    return _SESSION + 1 + rank


def _rank(pid: int) -> int:
    return pid - _SESSION - 1


def _launch(test: SeenTest, timeline: Timeline, begin: float, track: int) -> Iterator[Event]:
    tid = track + 1
    what = {"outcome": test.outcome, "verdict": timeline.verdict, "worlds": " ".join(map(str, timeline.worlds))}
    if timeline.culprit is not None:
        what["culprit"] = f"rank {timeline.culprit}"
    name = test.nodeid if timeline.name in test.nodeid else f"{test.nodeid}: {timeline.name}"
    yield _slice(name, "test", begin, begin + timeline.seconds, _SESSION, tid, what)
    for lane in timeline.lanes:
        yield from _lane(lane, name, begin, tid)
    for mark in timeline.marks:
        pid = _SESSION if mark.rank is None else _process(mark.rank)
        at = _us(begin + mark.at)
        yield {"ph": "i", "name": mark.text, "cat": mark.kind, "ts": at, "pid": pid, "tid": tid, "s": "p"}


def _lane(lane: Lane, name: str, begin: float, tid: int) -> Iterator[Event]:
    pid = _SESSION if lane.rank is None else _process(lane.rank)
    if not lane.spans:
        return
    about: dict[str, Any] = {"node": lane.node, "host": lane.host, "pid": lane.pid, "what": lane.text}
    about = {key: value for key, value in about.items() if value not in (None, "")}
    if lane.rank is not None:
        first, last = min(span.begin for span in lane.spans), max(span.end for span in lane.spans)
        yield _slice(name, lane.state, begin + first, begin + last, pid, tid, about)
    for span in lane.spans:
        args = {"what": span.text} if span.text else {}
        title = _WORDS.get(span.doing, span.doing)
        if lane.rank is None:
            title = f"node {lane.node}: {title}"
        yield _slice(title, "phase", begin + span.begin, begin + span.end, pid, tid, args)
    for at, size in lane.memory:
        counter = "memory" if tid == 1 else f"memory ({tid})"
        value = {"MB": round(size / 1e6, 3)}
        yield {"ph": "C", "name": counter, "ts": _us(begin + at), "pid": pid, "tid": tid, "args": value}


def _slice(name: str, category: str, begin: float, end: float, pid: int, tid: int, args: dict[str, Any]) -> Event:
    ts = _us(begin)
    # What lies within another slice must not end after it, by a rounded microsecond either.
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
