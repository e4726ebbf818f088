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
_EXAMPLES: Final = "tests/examples"
_PROJECT: Final = "examples/project"


def _files(folder: str, *names: str) -> dict[str, str]:
    """Have files of a folder under their own names."""
    return {name: f"{_EXAMPLES}/{folder}/{name}" for name in names}


RUNS: Final = {
    run.name: run
    for run in (
        Run(
            name="project",
            files={
                path: f"{_PROJECT}/{path}"
                for path in (
                    "pyproject.toml",
                    "src/evenly/__init__.py",
                    "src/evenly/__main__.py",
                    "src/evenly/data.py",
                    "src/evenly/training.py",
                    "tests/conftest.py",
                    "tests/test_data.py",
                    "tests/test_training.py",
                )
            },
            commands=(
                # The command of its continuous integration.
                "pytest --junitxml=build/junit.xml --elastic-report=build/elastic.html --elastic-log-dir=build/logs",
            ),
            quick=True,
        ),
        Run(
            name="apart",
            files=_files("hang/failing", "test_loss.py"),
            commands=("pytest test_loss.py --elastic-debug=collectives",),
            exits=(1,),
        ),
        Run(
            name="gpus",
            files=_files("gpus", "test_on_what_is_there.py"),
            commands=("pytest -v test_on_what_is_there.py -rs",),
        ),
        Run(
            name="pipeline",
            files=_files("pipeline", "test_pipeline.py"),
            commands=("pytest -v test_pipeline.py",),
        ),
        Run(
            name="sums",
            files=_files("tutorial", "test_sums.py"),
            commands=("pytest test_sums.py",),
        ),
        Run(
            name="maximum",
            varies=(_COLLATERAL,),
            files=_files("tutorial/failing", "test_sums.py"),
            commands=("pytest test_sums.py",),
            exits=(1,),
        ),
        Run(
            name="maximum-all",
            varies=(_COLLATERAL, r"^-+ Captured log call .*\n(DEBUG .*\n)*"),
            files=_files("tutorial/failing", "test_sums.py"),
            commands=("pytest --elastic-show-output=all -k maximum test_sums.py",),
            exits=(1,),
        ),
        Run(
            name="maximum-pdb",
            varies=(_COLLATERAL,),
            files=_files("tutorial/failing", "test_sums.py"),
            commands=("pytest --pdb -k maximum test_sums.py",),
            answers=("p rank, largest", "quit"),
            exits=(2,),
        ),
        Run(
            name="average",
            files=_files("tutorial/failing", "test_average.py"),
            commands=("pytest test_average.py",),
            exits=(1,),
        ),
        Run(
            name="average-mended",
            files=_files("tutorial", "test_average.py"),
            commands=("pytest -v test_average.py",),
        ),
        Run(
            name="squares",
            files=_files("tutorial", "test_launch.py"),
            commands=("pytest test_launch.py",),
        ),
        Run(
            name="sizes",
            files=_files("sizes", "test_sizes.py"),
            commands=("pytest --collect-only -q test_sizes.py",),
        ),
        Run(
            name="cuda",
            files=_files("sizes", "test_cuda.py"),
            commands=("pytest -rs test_cuda.py",),
        ),
        Run(
            name="never",
            files=_files("elastic_training/failing", "test_never.py"),
            commands=("pytest test_never.py",),
            exits=(1,),
        ),
        Run(
            name="log-dir",
            files=_files("see", "test_train.py"),
            commands=("pytest test_train.py --elastic-log-dir=logs", "find logs -type f | sort -t / -k 5"),
            exits=(0, 0),
            varies=(r"elastic-[\w-]+/([0-9a-f]{12}/)?",),
        ),
        Run(
            name="shown",
            files={
                "test_rank_2_fails.py": "examples/failing/test_rank_2_fails.py",
                "test_sums.py": f"{_EXAMPLES}/tutorial/test_sums.py",
            },
            commands=("pytest --elastic-report=report.html --elastic-trace=trace.json --elastic-durations=3",),
            exits=(1,),
            varies=(_COLLATERAL, r"^ +\d+\.\d+ .*", r"\[rank 2\].*"),
        ),
        Run(
            name="covered",
            files=_files("coverage/alone", "shards.py", "test_shards.py"),
            commands=("pytest --cov=shards --cov-branch test_shards.py",),
            plugins=("pytest_cov",),
        ),
        Run(
            name="breakpoint",
            files=_files("debug/failing", "test_shard.py"),
            commands=("pytest test_shard.py --elastic-pdb-rank=2",),
            answers=("p shard", "n", "n", "p mean", "c"),
        ),
        Run(
            name="post-mortem",
            files=_files("debug/failing", "test_fails.py"),
            commands=("pytest test_fails.py --pdb",),
            answers=("p shard", "quit"),
            exits=(2,),
            varies=(_COLLATERAL,),
        ),
        Run(
            name="go-on",
            files=_files("go_on/failing", "test_steps.py"),
            commands=("pytest -v --tb=line --elastic-record=record",) * 3,
            exits=(137, 1, 1),
            varies=(r"(?<=in )\d+\.\d+s",),
        ),
        Run(
            name="hooks",
            files=_files("configure/alone", "conftest.py", "test_hooks.py"),
            commands=("pytest test_hooks.py",),
            quick=True,
        ),
        Run(
            name="database",
            files=_files("configure/alone/database", "conftest.py", "test_database.py"),
            commands=("pytest test_database.py",),
        ),
        Run(
            name="epoch",
            files=_files("hang/failing", "test_epoch.py"),
            commands=("pytest test_epoch.py",),
            exits=(1,),
        ),
        Run(
            name="cluster",
            files={"test_cluster.py": "examples/cluster/test_cluster.py"},
            commands=("pytest -v test_cluster.py",),
        ),
        Run(
            name="dist-sum",
            files={"examples/test_dist_sum.py": "examples/test_dist_sum.py"},
            commands=("pytest -v examples/test_dist_sum.py",),
        ),
        Run(
            name="tagged",
            files=_files("readme/alone", "test_tagged.py"),
            commands=("PYTEST_DISABLE_PLUGIN_AUTOLOAD=1 pytest -p elastic --elastic-nproc=3 test_tagged.py",),
        ),
        Run(
            name="rank-2",
            files={"examples/failing/test_rank_2_fails.py": "examples/failing/test_rank_2_fails.py"},
            commands=("pytest examples/failing/test_rank_2_fails.py",),
            exits=(1,),
            varies=(_COLLATERAL,),
        ),
    )
}
