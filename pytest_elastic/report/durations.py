"""Where the time of a launch went."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from pytest_elastic.report.timeline import Doing, Timeline

PARTS: Final = ("start", "attempts", "rendezvous", "fork", "set-up", "call", "teardown", "stop")
"""What a launch takes time for; ``attempts`` is all that came before the world that formed last."""
_BY_DOING: Final[tuple[tuple[str, Doing], ...]] = (
    ("rendezvous", "rendezvous"),
    ("fork", "fork"),
    ("set-up", "setup"),
    ("call", "call"),
    ("teardown", "teardown"),
)


def parts_of(timeline: Timeline) -> dict[str, float]:
    """Return the seconds of each part, which are those of the launch in all.

    A part lasts from the end of the one before on all ranks of the last world to its own: ranks wait for each other.
    """
    lanes = timeline.last_world() or timeline.lanes
    last = lanes[0].world if lanes else 0
    first = [span for lane in timeline.lanes if lane.world == 0 for span in lane.spans]
    parts = dict.fromkeys(PARTS, 0.0)
    at = max((span.end for span in first if span.doing == "start"), default=0.0)
    parts["start"] = at
    if last > 0:
        begin = min((span.begin for lane in lanes for span in lane.spans if span.doing == "rendezvous"), default=at)
        parts["attempts"] = max(0.0, begin - at)
        at = max(at, begin)
    for part, doing in _BY_DOING:
        end = max((span.end for lane in lanes for span in lane.spans if span.doing == doing), default=at)
        parts[part] = max(0.0, end - at)
        at = max(at, end)
    parts["stop"] = max(0.0, timeline.seconds - at)
    return parts


def table_of(launches: Sequence[tuple[str, Timeline]], most: int) -> list[str]:
    """Return the lines of a table of the slowest launches, with a title.

    Args:
        launches: Name and timeline of each.
        most: How many are wanted; 0 for all.
    """
    slowest = sorted(launches, key=lambda launch: launch[1].seconds, reverse=True)
    slowest = slowest[:most] if most else slowest
    all_parts = [parts_of(timeline) for _, timeline in slowest]
    shown = [part for part in PARTS if part != "attempts" or any(parts[part] for parts in all_parts)]
    lines = ["".join(f"{title:>11}" for title in ("seconds", *shown)) + "  test"]
    for (name, timeline), parts in zip(slowest, all_parts, strict=True):
        numbers = (timeline.seconds, *(parts[part] for part in shown))
        lines.append("".join(f"{number:11.3f}" for number in numbers) + f"  {name}")
    return lines
