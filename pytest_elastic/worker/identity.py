"""Who this rank is: what the agent puts into its environment, read once and taken out again."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from pytest_elastic.messages import RankId

VARIABLE: Final = "PYTEST_ELASTIC_RANK"


@dataclass(frozen=True, kw_only=True, slots=True)
class Identity:
    """What a rank learns from its agent.

    Attributes:
        id: Which rank of which world it is.
        directory: Where its output and stacks are kept.
        order: File with the :class:`~pytest_elastic.messages.RankOrder`.
        agent: Process id of the agent.
        keys: Environment variables that torch's agent set for this rank.
    """

    id: RankId
    directory: Path
    order: Path
    agent: int
    keys: tuple[str, ...]

    def encode(self) -> str:
        """Return the value of the environment variable."""
        return json.dumps(
            {
                "id": asdict(self.id),
                "directory": str(self.directory),
                "order": str(self.order),
                "agent": self.agent,
                "keys": self.keys,
            }
        )


def take_identity() -> Identity:
    """Read and remove this process's identity from its environment."""
    data = json.loads(os.environ.pop(VARIABLE))
    return Identity(
        id=RankId(**data["id"]),
        directory=Path(data["directory"]),
        order=Path(data["order"]),
        agent=data["agent"],
        keys=tuple(data["keys"]),
    )
