"""A launch as a picture: a lane for each rank, in SVG, for reports of other plugins."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from typing import Final

from pytest_elastic.report.timeline import Doing, Lane, Timeline

_COLOURS: Final[dict[Doing, str]] = {
    "start": "#c5cdd6",
    "rendezvous": "#b8a1e3",
    "fork": "#93b7e8",
    "setup": "#4a90d9",
    "call": "#2e8b57",
    "teardown": "#c7993a",
    "waiting": "#e3e8ee",
    "killed": "#b3261e",
}
_WIDTH, _LEFT, _RIGHT, _LANE = 900, 90, 130, 18
_MOST: Final = 64
"""Lanes that are drawn."""


def picture(timeline: Timeline) -> str:
    """Return a launch as an ``<svg>`` element, with what it shows in words."""
    lanes = timeline.lanes[:_MOST]
    left_out = len(timeline.lanes) - len(lanes)
    said = timeline.verdict or f"{timeline.name}: {', then '.join(f'{size} ranks' for size in timeline.worlds)}"
    height = (len(lanes) + 2 + bool(left_out)) * _LANE
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" role="img" viewBox="0 0 {_WIDTH} {height}" width="100%" '
        f'style="max-width:{_WIDTH}px;background:#fff" font-family="sans-serif" font-size="11" fill="#1b1f24">',
        f"<title>{escape(said)}</title>",
    ]
    for index, lane in enumerate(lanes):
        parts += _lane(lane, index * _LANE + 2, timeline)
    bottom = len(lanes) * _LANE
    if left_out:
        parts.append(_text(0, bottom + 13, f"... {left_out} ranks more"))
        bottom += _LANE
    parts += _marks(timeline, bottom)
    parts += _legend(bottom + _LANE)
    return "".join([*parts, "</svg>"])


def _x(at: float, timeline: Timeline) -> float:
    share = min(1.0, max(0.0, at / timeline.seconds)) if timeline.seconds else 0.0
    return round(_LEFT + share * (_WIDTH - _LEFT - _RIGHT), 1)


def _lane(lane: Lane, top: int, timeline: Timeline) -> Iterator[str]:
    who = f"node {lane.node}" if lane.rank is None else f"rank {lane.rank}"
    world = f" ({lane.world + 1})" if len(timeline.worlds) > 1 else ""
    yield _text(0, top + 11, who + world)
    until = 0.0
    for span in lane.spans:
        begin, end = _x(span.begin, timeline), _x(span.end, timeline)
        within = span.doing == "waiting" and span.begin < until
        until = max(until, span.end)
        box = f'x="{begin}" y="{top + 8 if within else top}" height="{6 if within else 14}"'
        told = escape(f"{span.doing} {span.text} {span.end - span.begin:.3f} s")
        width = max(2.0 if span.doing == "killed" else 0.5, round(end - begin, 1))
        yield f'<rect {box} width="{width}" fill="{_COLOURS[span.doing]}"><title>{told}</title></rect>'
    yield _text(_WIDTH - _RIGHT + 8, top + 11, lane.state if lane.state != "collateral" else "lost a peer")


def _marks(timeline: Timeline, bottom: int) -> Iterator[str]:
    for mark in timeline.marks:
        x = _x(mark.at, timeline)
        line = f'<line x1="{x}" x2="{x}" y1="0" y2="{bottom}" stroke="#1b1f24" stroke-dasharray="3 2">'
        yield f"{line}<title>{escape(f'{mark.at:.3f} s: {mark.text}')}</title></line>"
    yield _text(_LEFT, bottom + 12, "0 s")
    yield _text(_WIDTH - _RIGHT - 40, bottom + 12, f"{timeline.seconds:.2f} s")


def _legend(top: int) -> Iterator[str]:
    x = _LEFT
    for doing, colour in _COLOURS.items():
        yield f'<rect x="{x}" y="{top + 4}" width="10" height="10" fill="{colour}"/>'
        yield _text(x + 14, top + 13, doing)
        x += 85


def _text(x: float, y: float, text: str) -> str:
    return f'<text x="{x}" y="{y}">{escape(text)}</text>'
