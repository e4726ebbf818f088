"""The plot of a run: what a test costs under each contestant, and how that grows with its ranks.

``python benchmarks/plot.py DIR`` draws it again, from the ``results.json`` of an earlier run.
"""

from __future__ import annotations

import json
import statistics
import sys
import textwrap
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from report import Report, Times, seconds

OURS = "#c2410c"
FLOOR = "#15803d"
OTHERS = "#64748b"


def draw(report: Report, path: Path) -> None:
    """Draw what the report has of peers and sizes into a PNG file."""
    sizes = {int(key.split("/")[1]): times for key, times in report.raw.items() if key.startswith("sizes/")}
    peers = report.raw.get("peers")
    panels: list[Callable[[Any], None]] = []
    if peers:
        panels.append(partial(_peers, times=peers))
    if sizes:
        panels.append(partial(_sizes, sizes=sizes))
    if not panels:
        return
    try:
        import matplotlib as mpl
    except ImportError:
        print(f"No {path.name}: matplotlib is not installed (dependency group bench)", file=sys.stderr)
        return
    mpl.use("agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(panels), figsize=(7 * len(panels), 5.2), squeeze=False)
    for axis, panel in zip(axes[0], panels, strict=True):
        panel(axis)
        axis.spines[["top", "right"]].set_visible(False)
    caption = textwrap.fill(f"{report.machine}. Medians; whoever is compared took turns.", 110 * len(panels))
    figure.text(0.01, 0.01, caption, fontsize=7, color="#475569", va="bottom")
    figure.tight_layout(rect=(0, 0.06, 1, 1))
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def _color(name: str) -> str:
    if name.startswith("the floor"):
        return FLOOR
    return OURS if name.startswith("this plugin") else OTHERS


def _peers(axis: Any, times: Times) -> None:
    medians = sorted(((statistics.median(values), name) for name, values in times.items()), reverse=True)
    values, names = [value for value, _ in medians], [name for _, name in medians]
    colors = [_color(name) for name in names]
    # Dots, not bars: a logarithmic axis has no zero for a bar to stand on.
    axis.scatter(values, names, color=colors, s=60, zorder=2)
    axis.grid(visible=True, axis="both", color="#e2e8f0", zorder=0)
    for value, name in medians:
        axis.annotate(seconds(value), (value, name), xytext=(8, 0), textcoords="offset points", va="center", fontsize=8)
    axis.set_xscale("log")
    axis.set_xlim(right=max(values) * 4)
    axis.set_xlabel("seconds")
    axis.set_title("A test of 4 ranks that reduce one tensor over gloo")


def _sizes(axis: Any, sizes: Mapping[int, Times]) -> None:
    names = dict.fromkeys(name for times in sizes.values() for name in times if "once a file" not in name)
    styles: dict[str, int] = {}
    for name in names:
        points = [(ranks, statistics.median(times[name])) for ranks, times in sizes.items() if name in times]
        color = _color(name)
        style = ("-", "--", ":")[styles.setdefault(color, -1) + 1]
        styles[color] += 1
        axis.plot(*zip(*points, strict=True), marker="o", markersize=4, color=color, linestyle=style, label=name)
    axis.set_xscale("log", base=2)
    axis.set_yscale("log")
    axis.set_xticks(list(sizes), [str(ranks) for ranks in sizes])
    axis.set_xlabel("ranks")
    axis.set_ylabel("seconds a test")
    axis.grid(visible=True, which="major", color="#e2e8f0")
    axis.legend(fontsize=8, frameon=False)
    axis.set_title("The same test at other sizes")


if __name__ == "__main__":
    directory = Path(sys.argv[1])
    draw(Report(**json.loads((directory / "results.json").read_text())), directory / "plot.png")
