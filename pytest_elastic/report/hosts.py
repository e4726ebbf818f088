"""How ranks are named where they are on several machines."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from pytest_elastic.report.records import RankRecord
from pytest_elastic.report.stacks import fold


def named(numbers: Collection[int], ranks: Iterable[RankRecord]) -> str:
    """Write some ranks shortly: ``rank 2``, ``ranks 0-1,3``; those of each machine apart, where there are several.

    Args:
        numbers: The ranks.
        ranks: All that is known of the ranks of their world.
    """
    hosts: dict[str, list[int]] = {}
    for rank in ranks:
        if rank.id.rank in numbers:
            hosts.setdefault(rank.host, []).append(rank.id.rank)
    if not any(hosts):
        return fold(numbers)
    return " and ".join(f"{fold(own)}{on(host)}" for host, own in hosts.items())


def on(host: str) -> str:
    """Return the name of a machine as the end of a rank's; an empty text where there is only one."""
    return f" on {host}" if host else ""
