"""For minutes: sessions of random tests with random faults. Each gets its verdict, and nothing is left behind.

Every fourth session is itself ended by a signal at a random moment; then all that counts is that nothing is left, and
that the next session is none the worse for it.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from .cases import Case, draw
from .sessions import GONE_WITHIN, Ended, start_session

MINUTES = float(os.environ.get("SOAK_MINUTES", "10"))
TESTS = 25
"""Tests of a session."""
OPTIONS: tuple[list[str], ...] = (
    [],
    [],
    ["-n2"],
    ["-n3", "--dist=worksteal"],
    ["--elastic-isolation=module"],
    ["--elastic-group"],
)
ENDINGS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
EXECNETS = 8.0
"""Seconds that workers of pytest-xdist may take longer, whose main process was ended: execnet gives them five."""
PATIENCE = float(os.environ.get("SOAK_PATIENCE", GONE_WITHIN))


def wrong_verdicts(cases: list[Case], ended: Ended) -> Iterator[str]:
    """Yield a line for each test that did not come out as it must."""
    for case in cases:
        reports = [
            told for told in ended.told if told["kind"] == "report" and told["nodeid"].endswith(f"::{case.name}")
        ]
        word, message = "passed", ""
        for report in reports:
            if report["outcome"] != "passed":
                word = "error" if (report["when"], report["outcome"]) == ("setup", "failed") else report["outcome"]
                message = report["message"]
                break
        if not reports:
            word = "not run"
        if word not in case.outcome.split(" or ") or case.told not in message:
            yield f"{case.name}: {word}: {message}\nexpected {case.outcome}: {case.told}\n{case.source}"


def held_more(ended: Ended) -> Iterator[str]:
    """Yield a line for each thing of which a process of the session's had more in the end than in the beginning."""
    for told in ended.told:
        if told["kind"] == "held":
            for what, number in told["after"].items():
                if number > told["before"][what]:
                    yield f"{what}: {told['before'][what]} before, {number} after"


def test_minutes_of_random_tests(tmp_path: Path) -> None:
    seed = int(os.environ.get("SOAK_SEED", "0"))
    until = time.monotonic() + 60 * MINUTES
    count, longest, wrong = Counter[str](), 0.0, []
    number = 0
    while time.monotonic() < until:
        dice = random.Random(f"{seed}-{number}")
        cases = [draw(dice, each) for each in range(TESTS)]
        options, broken_off = dice.choice(OPTIONS), number % 4 == 3
        directory = tmp_path / f"session-{number}"
        directory.mkdir()
        with start_session(directory, cases, *options) as session:
            if broken_off:
                session.wait_for_start(dice.randrange(1, TESTS), 120)
                ending, again = dice.choice(ENDINGS), dice.random() < 0.3
                time.sleep(dice.uniform(0, 0.3))
                if session.process.poll() is None:
                    session.process.send_signal(ending)
                    if again:
                        time.sleep(dice.uniform(0, 0.3))
                        session.process.send_signal(ending)
                    count["sessions broken off"] += 1
            ended = session.finish()
        complaints = [] if broken_off else [*wrong_verdicts(cases, ended), *held_more(ended)]
        complaints += ended.left
        if ended.gone_after > PATIENCE + (EXECNETS if broken_off and options[:1] in (["-n2"], ["-n3"]) else 0):
            complaints.append(f"gone only {ended.gone_after:.1f} s after the end")
        longest = max(longest, ended.gone_after)
        started = {told["nodeid"].rpartition("::")[2] for told in ended.told if told["kind"] == "start"}
        ran = [case for case in cases if case.name in started]
        count["sessions"] += 1
        count["tests"] += len(ran)
        count["launches"] += sum(case.launches for case in ran)
        count["faults"] += sum(case.faults for case in ran)
        count["etcd killed"] += sum("etcd.kill" in case.source for case in ran)
        if complaints:
            wrong.append("\n".join([f"--- session {number} {options}, exit code {ended.exitcode}", *complaints]))
            print(wrong[-1], ended.output[-4000:], sep="\n", flush=True)
        else:
            shutil.rmtree(directory)
        number += 1
    told = ", ".join(f"{value} {name}" for name, value in sorted(count.items()))
    print(f"{MINUTES:g} minutes, seed {seed}: {told}; everything gone {longest:.2f} s after the end at the latest")
    assert not wrong, "\n\n".join(wrong)
    if MINUTES >= 1:
        assert count["sessions broken off"] > 0
        assert count["faults"] > 0
