"""Run the comparison and write its page: ``make compare``.

``python -m tests.compare --only hangs,sigkill --harness mpi --show`` runs some of it, prints what they printed, and
writes nothing.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import date

from .classify import Session, word_for
from .harnesses import HARNESSES, PEERS, ROOT, Harness, Limits
from .modes import MODES, Mode
from .page import render
from .running import run

AT_A_TIME = 3
"""Sessions that run side by side; many of them only wait for the end of their time."""


def main() -> None:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(prog="python -m tests.compare", description="Compare with peers.")
    parser.add_argument("--only", help="names of modes, with commas between")
    parser.add_argument("--harness", help="a part of the name of a harness")
    parser.add_argument("--show", action="store_true", help="print what the sessions printed")
    options = parser.parse_args()
    if not (PEERS / "python").exists():
        sys.exit(f"the comparison needs the environment of the peers in {PEERS.parent}: run `make compare`")
    modes = [mode for mode in MODES if options.only is None or mode.name in options.only.split(",")]
    harnesses = [each for each in HARNESSES if options.harness is None or options.harness in each.name]
    results, limits = run_all(modes, harnesses, show=options.show)
    late = [harness for (mode, harness), session in results.items() if mode == "passes" and session.outcome != "passed"]
    if late:
        sys.exit(f"no fair comparison: the test that passes does not under {', '.join(late)}; is the machine too busy?")
    if options.only is None and options.harness is None:
        page = ROOT / "docs" / "comparison.md"
        page.write_text(render(results, {each.name: versions_of(each) for each in HARNESSES}, machine(), limits))
        print(f"written: {page.relative_to(ROOT)}")
    wrong = [name for name, session in results.items() if is_wrong_here(*name, session)]
    if wrong:
        sys.exit(f"not right under this plugin: {', '.join(mode for mode, _ in wrong)}")


def run_all(
    modes: list[Mode], harnesses: list[Harness], *, show: bool
) -> tuple[dict[tuple[str, str], Session], list[Limits]]:
    """Run modes under harnesses, some at a time, and print each result as it comes."""
    results: dict[tuple[str, str], Session] = {}
    given = []
    with ThreadPoolExecutor(AT_A_TIME) as pool:
        for mode in modes:
            limits = Limits.at(measure_pace())
            given.append(limits)
            print(f"{mode.name}: {limits.own} s for a test, {limits.session} s for a session", flush=True)

            def one(harness: Harness, mode: Mode = mode, limits: Limits = limits) -> Session:
                session = run(mode, harness, limits)
                left = f", left {', '.join(session.left)}" if session.left else ""
                text = f"{session.text}\n" if show else ""
                print(f"  {harness.name}: {word_for(mode, session)}, {session.seconds:.1f} s{left}\n{text}", end="")
                sys.stdout.flush()
                return session

            for harness, session in zip(harnesses, pool.map(one, harnesses), strict=True):
                results[mode.name, harness.name] = session
    return results, given


def measure_pace() -> float:
    """Return how many seconds importing torch takes now in the environment of the peers."""
    begin = time.monotonic()
    subprocess.run([PEERS / "python", "-c", "import torch"], check=True, timeout=300)
    return time.monotonic() - begin


def is_wrong_here(mode: str, harness: str, session: Session) -> bool:
    """Tell whether a result is one of this plugin's, and is not right."""
    (known,) = [each for each in MODES if each.name == mode]
    return harness == HARNESSES[0].name and (word_for(known, session) != "right" or bool(session.left))


def versions_of(harness: Harness) -> str:
    """Return the versions of what matters in the environment of a harness."""
    code = "import sys, importlib.metadata as m; print(', '.join(f'{p} {m.version(p)}' for p in sys.argv[1:]))"
    names = dict.fromkeys([*harness.packages, "pytest"])
    command = [str(harness.python), "-c", code, *names]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout.strip()


def machine() -> str:
    """Describe the machine."""
    cores = len(os.sched_getaffinity(0))
    return f"{platform.system()}, {cores} cores, Python {platform.python_version()}, {date.today():%Y-%m-%d}"


if __name__ == "__main__":
    main()
