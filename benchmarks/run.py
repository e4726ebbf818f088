"""Measure launches against each other, in one run, by ratio: ``python benchmarks/run.py``.

What is compared is run in turn, A B A B, so that a machine whose speed drifts slows both. Medians are printed, and the
ratio of each pair's. Nothing here is compared with a time in seconds.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path

HERE = Path(__file__).parent


def machine() -> str:
    """Describe the machine in a line."""
    import torch

    return (
        f"{platform.machine()}, {len(os.sched_getaffinity(0))} cores, {platform.system()} {platform.release()}, "
        f"Python {platform.python_version()}, torch {torch.__version__}"
    )


def run_pytest(*args: str, cwd: Path) -> str:
    """Run pytest and return what it printed; stop if it failed."""
    command = [sys.executable, "-m", "pytest", "-q", "-s", "-p", "no:cacheprovider", *args]
    # Without a cache pytest parses each of the plugin's modules anew, in each session.
    environ = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False, env=environ)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)} failed:\n{done.stdout}{done.stderr}")
    return done.stdout


def table(title: str, rows: list[tuple[str, list[float]]], *, base: str) -> None:
    """Print medians and ratios to one of the rows."""
    times = dict(rows)
    print(f"\n{title}")
    print(f"  {'':44}{'median':>10}{'least':>10}{'most':>10}{'ratio':>8}")
    for name, values in rows:
        ratio = statistics.median(a / b for a, b in zip(values, times[base], strict=True))
        print(f"  {name:44}{statistics.median(values):>9.3f}s{min(values):>9.3f}s{max(values):>9.3f}s{ratio:>8.3f}")


def launches(runs: int) -> None:
    """A 4-rank all-reduce by this plugin, and by torch's own ``elastic_launch`` with ``spawn``."""
    output = run_pytest(str(HERE / "measure_launch.py"), "--elastic-timeout=300", f"--runs={runs}", cwd=HERE)
    rows: dict[str, list[float]] = {}
    for line in output.splitlines():
        if line.startswith("MEASURED "):
            _, name, seconds = line.split("\t")
            rows.setdefault(name, []).append(float(seconds))
    table("A 4-rank gloo all-reduce, warm (seconds a launch)", list(rows.items()), base="torch elastic_launch, spawn")


def existing(runs: int) -> None:
    """A suite of torch's ``MultiProcessTestCase``, as it is and with ``--elastic-spawn=forkserver``."""
    command = [sys.executable, str(HERE / "measure_existing.py"), f"--runs={runs}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)} failed:\n{done.stdout}{done.stderr}")
    rows: dict[str, list[float]] = {}
    for line in done.stdout.splitlines():
        if line.startswith("MEASURED\t"):
            _, name, seconds = line.split("\t")
            rows.setdefault(name, []).append(float(seconds))
    title = "Ten tests of torch's MultiProcessTestCase, 4 ranks each, the same outcomes (seconds a session)"
    table(title, list(rows.items()), base="as they are")


def nodes(runs: int) -> None:
    """Two nodes that become one, and one that becomes two: how the time divides."""
    output = run_pytest(str(HERE / "measure_nodes.py"), f"--runs={runs}", cwd=HERE)
    rows: dict[str, list[float]] = {}
    for line in output.splitlines():
        if line.startswith("MEASURED\t"):
            _, name, seconds = line.split("\t")
            rows.setdefault(name, []).append(float(seconds))
    print("\nTwo nodes of two ranks each, one of which is lost; one node that another joins")
    for name, values in sorted(rows.items()):
        print(f"  {name:44}{statistics.median(values):>9.3f}s{min(values):>9.3f}s{max(values):>9.3f}s")


def plain_sessions(runs: int) -> None:
    """A session without elastic tests, with and without the plugin."""
    import time

    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        (directory / "test_plain.py").write_text(
            textwrap.dedent(
                """
                import pytest
                @pytest.mark.parametrize("n", range(20))
                def test_plain(n):
                    pass
                """
            )
        )
        rows: dict[str, list[float]] = {"-p no:elastic": [], "plugin loaded": []}
        for _ in range(runs + 1):
            for row, args in (("-p no:elastic", ["-p", "no:elastic"]), ("plugin loaded", [])):
                begin = time.perf_counter()
                run_pytest(*args, cwd=directory)
                rows[row].append(time.perf_counter() - begin)
    rows = {row: times[1:] for row, times in rows.items()}
    table("A session of 20 plain tests (seconds a session)", list(rows.items()), base="-p no:elastic")
    differences = [b - a for a, b in zip(*rows.values(), strict=True)]
    print(f"  difference of a pair: median {statistics.median(differences) * 1000:.1f} ms")


def main() -> None:
    """Run all measurements."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5, help="pairs of launches (default 5)")
    options = parser.parse_args()
    print(machine())
    launches(options.runs)
    nodes(3)
    existing(2)
    plain_sessions(options.runs * 4)


if __name__ == "__main__":
    main()
