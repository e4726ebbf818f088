"""Where the workers of an agent write, and what else they find in their environment: torch's extension point for it."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from torch.distributed.elastic.multiprocessing.api import LogsDest, LogsSpecs, Std

from pytest_elastic import kernel
from pytest_elastic.messages import RankId, Seats
from pytest_elastic.one_line import one_line
from pytest_elastic.rank_directory import rank_directory
from pytest_elastic.worker.identity import VARIABLE, Identity

_SHARED = ("RANK", "ROLE_RANK", "WORLD_SIZE", "ROLE_WORLD_SIZE")
"""Variables of ranks that torch's agents tell each other through their store, to which others can write."""


class RankLogs(LogsSpecs):
    """One directory a world and rank: ``<directory>/<world>/<rank>/{stdout,stderr}.log``.

    Attributes:
        ranks: The ranks of the last round, in order of local rank.
    """

    def __init__(
        self, *, directory: Path, order: Path, node: int, world: Callable[[], str], seats: Seats | None = None
    ) -> None:
        super().__init__(str(directory), redirects=Std.ALL)
        self._directory = directory
        self._order = order
        self._node = node
        self._world = world
        self._seats = seats
        self.ranks: tuple[RankId, ...] = ()

    @property
    def root_log_dir(self) -> str:
        """Return the directory of the launch."""
        return str(self._directory)

    def reify(self, envs: dict[int, dict[str, str]]) -> LogsDest:
        """Make the directories, and tell each worker who it is."""
        logs = LogsDest()
        ranks = []
        for local_rank, env in sorted(envs.items()):
            for name in _SHARED:
                if not re.fullmatch("[0-9]{1,9}", env[name]):
                    raise ValueError(
                        f"{name} of local rank {local_rank} would be {one_line(env[name])}, no number: somebody else "
                        "has written to the agents' store"
                    )
            if self._seats is not None:
                _take_seat(env, self._seats)
            id = RankId(  # noqa: A001 (what it is)
                world=self._world(),
                rank=int(env["RANK"]),
                local_rank=local_rank if self._seats is None else int(env["LOCAL_RANK"]),
                node=self._node,
                group_rank=int(env["GROUP_RANK"]),
                world_size=int(env["WORLD_SIZE"]),
                restart=int(env["TORCHELASTIC_RESTART_COUNT"]),
            )
            directory = rank_directory(self._directory, id)
            directory.mkdir(parents=True)
            logs.stdouts[local_rank] = str(directory / "stdout.log")
            logs.stderrs[local_rank] = str(directory / "stderr.log")
            logs.error_files[local_rank] = env["TORCHELASTIC_ERROR_FILE"] = str(directory / "error.json")
            env[VARIABLE] = Identity(
                id=id, directory=directory, order=self._order, agent=kernel.own_pid(), keys=tuple(env)
            ).encode()
            ranks.append(id)
        self.ranks = tuple(ranks)
        return logs


def _take_seat(env: dict[str, str], seats: Seats) -> None:
    """Number a rank, the only one of its agent, as if some such agents were one node."""
    rank = int(env["RANK"])
    env["LOCAL_RANK"] = str(rank % seats.nproc)
    env["LOCAL_WORLD_SIZE"] = str(seats.nproc)
    env["GROUP_RANK"] = str(rank // seats.nproc)
    env["GROUP_WORLD_SIZE"] = str(seats.nodes)
