"""What takes part: this plugin, and what else there is to run a test on many ranks."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
WORK: Final = Path(__file__).parent / "work"
PEERS: Final = ROOT / ".venv-peers" / "bin"


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """How long things may take, in seconds.

    Attributes:
        own: A test, by a harness's own setting, where it has one; that is usually minutes.
        session: A session, which is killed then.
    """

    own: int
    session: int

    @classmethod
    def at(cls, pace: float) -> Limits:
        """Return the limits of a machine on which it takes ``pace`` seconds to import torch.

        A session has time for two of its harness's own limits: ``MultiProcContinuousTest`` waits for rank after rank.
        """
        own = min(max(20, round(8 * pace)), 60)
        return cls(own=own, session=2 * own + 20)


@dataclass(frozen=True, kw_only=True, slots=True)
class Harness:
    """One that takes part.

    Attributes:
        name: Its name.
        file: Its test, in ``work/``.
        python: The interpreter of its environment.
        arguments: Arguments of pytest.
        variables: Environment variables that are its settings; ``{own}`` stands for its limit, in seconds.
        packages: Those whose versions matter.
        setting: How its time limit is set.
    """

    name: str
    file: str
    python: Path = PEERS / "python"
    arguments: tuple[str, ...] = ()
    variables: dict[str, str] = field(default_factory=dict)
    packages: tuple[str, ...] = ("torch",)
    setting: str


_TORCHS = {"DISTRIBUTED_TESTS_DEFAULT_TIMEOUT": "{own}"}

HARNESSES: Final = (
    Harness(
        name="pytest-elastic",
        file="test_marker.py",
        python=Path(sys.executable),
        arguments=("-p", "elastic"),
        variables={"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        packages=("torch", "pytest"),
        setting="`timeout=`",
    ),
    Harness(
        name="`elastic_launch`",
        file="test_elastic_launch.py",
        setting="none for a test; that of its group, `init_process_group(timeout=)`",
    ),
    Harness(
        name="`MultiProcessTestCase`",
        file="test_multi_process.py",
        variables=_TORCHS,
        setting="`DISTRIBUTED_TESTS_DEFAULT_TIMEOUT`, and that of its group",
    ),
    Harness(
        name="`MultiProcContinuousTest`",
        file="test_continuous.py",
        variables=_TORCHS,
        setting="`DISTRIBUTED_TESTS_DEFAULT_TIMEOUT`, and `timeout` of the class",
    ),
    Harness(
        name="mpi-pytest",
        file="test_mpi.py",
        variables={"MPIEXEC_TIMEOUT": "{own}"},
        packages=("mpi-pytest", "mpi4py", "mpich"),
        setting="none; MPICH's `MPIEXEC_TIMEOUT`",
    ),
)
