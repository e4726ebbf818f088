"""The commands whose output pages show."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """Commands that are run one after the other in a directory, as a reader would run them."""

    name: str
    files: Mapping[str, str]
    """What is in the directory: a path in it, and the file of this repository, from its root, that is there."""
    commands: tuple[str, ...]
    """Each for a shell; ``pytest`` and other programs of the environment are found."""
    exits: tuple[int, ...] = (0,)
    """The exit code of each command."""
    answers: tuple[str, ...] = ()
    """What is typed at the prompts of pdb, in a terminal."""
    varies: tuple[str, ...] = ()
    """Regular expressions of what is another text each time, beside seconds, addresses and numbers of processes."""
    quick: bool = False
    """Whether ``make test`` runs it too, and not ``make soak`` alone."""
    plugins: tuple[str, ...] = ()
    """Entry points of other plugins that are loaded, of those that this suite is tested with."""
    env: Mapping[str, str] = field(default_factory=dict)


_COLLATERAL: Final = r"\(ranks? [-,0-9]+ .*\)$"
"""What became of the others: on a busy machine they may be ended before they know that a peer is lost."""
_TUTORIAL: Final = "tests/examples/tutorial"

RUNS: Final = {
    run.name: run
    for run in (
        Run(
            name="sums",
            files={"test_sums.py": f"{_TUTORIAL}/test_sums.py"},
            commands=("pytest test_sums.py",),
            quick=True,
        ),
        Run(
            name="maximum",
            varies=(_COLLATERAL,),
            files={"test_sums.py": f"{_TUTORIAL}/failing/test_sums.py"},
            commands=("pytest test_sums.py",),
            exits=(1,),
            quick=True,
        ),
        Run(
            name="maximum-all",
            varies=(_COLLATERAL, r"^-+ Captured log call .*\n(DEBUG .*\n)*"),
            files={"test_sums.py": f"{_TUTORIAL}/failing/test_sums.py"},
            commands=("pytest --elastic-show-output=all -k maximum test_sums.py",),
            exits=(1,),
        ),
        Run(
            name="maximum-pdb",
            varies=(_COLLATERAL,),
            files={"test_sums.py": f"{_TUTORIAL}/failing/test_sums.py"},
            commands=("pytest --pdb -k maximum test_sums.py",),
            answers=("p rank, largest", "quit"),
            exits=(2,),
        ),
        Run(
            name="average",
            files={"test_average.py": f"{_TUTORIAL}/failing/test_average.py"},
            commands=("pytest test_average.py",),
            exits=(1,),
        ),
        Run(
            name="average-mended",
            files={"test_average.py": f"{_TUTORIAL}/test_average.py"},
            commands=("pytest -v test_average.py",),
        ),
        Run(
            name="squares",
            files={"test_launch.py": f"{_TUTORIAL}/test_launch.py"},
            commands=("pytest test_launch.py",),
        ),
    )
}
