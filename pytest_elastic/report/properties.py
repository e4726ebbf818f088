"""What tests recorded on ranks (``record_property``), merged: once where all ranks say the same, else by rank."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pytest_elastic.report.judgement import load
from pytest_elastic.report.records import RankRecord

Properties = list[tuple[str, Any]]


def merge_properties(ranks: Sequence[RankRecord]) -> Properties:
    """Merge the properties that ranks recorded.

    Returns:
        Those in which all ranks that recorded anything under a name agree, as one of them wrote them; of the others
        one for each rank, with a name such as ``"loss[rank 2]"``.
    """
    recorded = {rank.id.rank: _properties_of(rank) for rank in ranks}
    merged: Properties = []
    for name in dict.fromkeys(name for properties in recorded.values() for name, _ in properties):
        values = {rank: [value for key, value in found if key == name] for rank, found in recorded.items()}
        values = {rank: found for rank, found in values.items() if found}
        first = next(iter(values.values()))
        if all(_same(found, first) for found in values.values()):
            merged += [(name, value) for value in first]
        else:
            merged += [(f"{name}[rank {rank}]", value) for rank, found in values.items() for value in found]
    return merged


def _properties_of(rank: RankRecord) -> Properties:
    return load(rank.reports[-1]).user_properties if rank.reports else []


def _same(one: list[Any], other: list[Any]) -> bool:
    try:
        return bool(one == other)
    except Exception:  # noqa: BLE001 (arrays that do not say whether they are equal, and the like)
        return False
