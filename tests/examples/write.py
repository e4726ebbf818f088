"""Run the commands of the documentation again, and fill its pages: ``python -m tests.examples.write [RUN ...]``.

With names only these runs are run; ``--pages`` runs none. What was kept of a run stays where only that differs now
which is another text each time; ``--anew`` keeps what was printed now.
"""

from __future__ import annotations

import argparse
import sys

from .pages import fill
from .running import OUTPUT, keep, masked, run, stored
from .runs import RUNS, Run


def main() -> int:
    """Do as the command line says; return the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("runs", nargs="*", metavar="RUN", help="the name of a run; all without")
    parser.add_argument("--pages", action="store_true", help="run nothing, fill the pages only")
    parser.add_argument("--anew", action="store_true", help="keep what was printed now, where it tells the same too")
    given = parser.parse_args()
    if unknown := [name for name in given.runs if name not in RUNS]:
        parser.error(f"no such run: {', '.join(unknown)}; there are {', '.join(RUNS)}")
    for name in () if given.pages else given.runs or RUNS:
        _again(RUNS[name], given.anew)
    for path in OUTPUT.glob("*.txt"):
        if path.stem not in RUNS:
            path.unlink()
    wrong = fill()
    print(wrong, end="", file=sys.stderr)
    return 1 if wrong else 0


def _again(each: Run, anew: bool) -> None:
    told = run(each)
    same = (OUTPUT / f"{each.name}.txt").exists() and masked(each, told) == masked(each, stored(each))
    if anew or not same:
        keep(each, told)
    print(f"{each.name}: {'as before' if same else 'new'}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
