"""What one of many pytest processes that make one session knows of its place."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Membership:
    """Which member of a session over many pytest processes this one is.

    Attributes:
        launcher: Who started it: ``"torchrun"``, ``"mpirun"``, ``"srun"``, ``"Kubernetes"`` or ``"options"``.
        rank: Which of the members it is; 0 is the first controller.
        size: How many members there are.
        local_rank: Which of the members of its node it is.
        local_size: How many members each node has.
        node: Which of the nodes it is on.
        nodes: How many nodes there are.
        host: Where the first listens, or the launcher's store is; ``None`` where all are on one machine and have
            neither, and meet by a file.
        port: The port there; 0 without a host.
        store: At ``host`` and ``port`` is the ``TCPStore`` of torchrun's agents: there the first says where it listens.
        attempt: How often the launcher has started this member again. Not the same for all members.
        run_id: What the launcher calls the run; the same for all members, and where there is a store or a file no other
            run at that time has the same.
    """

    launcher: str
    rank: int
    size: int
    local_rank: int
    local_size: int
    node: int
    nodes: int
    host: str | None
    port: int
    store: bool
    attempt: int
    run_id: str

    @property
    def in_place(self) -> bool:
        """Whether each member gives room for one rank only, as the launcher has started one for each rank."""
        return self.local_size > 1 or self.launcher == "mpirun"

    @property
    def identity(self) -> str:
        """What tells this run from others with the same key: nobody passes a proof on from one to the other."""
        # By options the place has a name, which may be another one on each machine.
        names_runs = self.launcher in ("torchrun", "mpirun", "srun")
        return f"{self.run_id if names_runs else ''} {self.port}"

    def __str__(self) -> str:
        return f"rank {self.rank}" if self.in_place else f"node {self.rank}"
