"""Where a rank's output is kept."""

from __future__ import annotations

from pathlib import Path

from pytest_elastic.messages import RankId


def check_world(world: str) -> None:
    """Refuse a name of a world that would lead out of the directory of its launch.

    Raises:
        ValueError: It is one.
    """
    if world in ("", ".", "..") or "/" in world or "\0" in world:
        raise ValueError(f"a world is named {world[:80]!r}, which is no name of a directory; nothing was written there")


def rank_directory(directory: Path, id: RankId) -> Path:  # noqa: A002 (the field's name)
    """Return where a rank writes.

    Args:
        directory: Directory of the launch's output.
        id: The rank.

    Raises:
        ValueError: The name of its world leads elsewhere.
    """
    check_world(id.world)
    return directory / id.world / str(id.rank)
