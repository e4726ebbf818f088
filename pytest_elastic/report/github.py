"""What GitHub Actions shows of a session: annotations of failures, and a summary of the step."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from pytest_elastic.report.seen import SeenTest

_MOST: Final = 50
_TEXT: Final = 4_000


def annotation(test: SeenTest, environ: Mapping[str, str], root: Path) -> str:
    """Return the line by which GitHub shows a failure at its place in the code.

    Args:
        test: A test that failed.
        environ: The environment of the step.
        root: pytest's root directory.
    """
    file = os.path.relpath(root / test.file, environ.get("GITHUB_WORKSPACE") or root)
    title = _property(f"{test.nodeid} [{test.rank_map}]" if test.rank_map else test.nodeid)
    message = _message("\n".join(_verdicts(test))[:_TEXT])
    return f"::error file={_property(file)},line={test.line},title={title}::{message}"


def summary(tests: Sequence[SeenTest], counts: Mapping[str, int]) -> str:
    """Return the summary of the step, in Markdown: tests on ranks that failed, and where each rank ended."""
    on_ranks = [test for test in tests if test.launches]
    bad = [test for test in on_ranks if test.bad]
    lines = [f"### Tests on ranks: {', '.join(f'{count} {outcome}' for outcome, count in counts.items())}", ""]
    if bad:
        lines += ["| test | ranks | verdict |", "|---|---|---|"]
        lines += [
            f"| {_cell(test.nodeid)} | {_cell(test.rank_map)} | {_cell(_verdicts(test)[0])} |" for test in bad[:_MOST]
        ]
        if len(bad) > _MOST:
            lines += ["", f"{len(bad) - _MOST} more failed."]
    else:
        lines += [f"{len(on_ranks)} test{'' if len(on_ranks) == 1 else 's'} ran on ranks; none failed."]
    return "\n".join(lines) + "\n\n"


def _verdicts(test: SeenTest) -> list[str]:
    return [launch["verdict"] for launch in test.launches if launch["verdict"]] or [test.verdict or test.outcome]


def _cell(text: str) -> str:
    text = " ".join(text.split())
    for special in "\\`*_[]<>|#~":
        text = text.replace(special, f"\\{special}")
    return text[:1_000]


def _message(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _message(text).replace(":", "%3A").replace(",", "%2C")
