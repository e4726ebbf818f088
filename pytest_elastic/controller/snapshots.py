"""syrupy in the controller: snapshots that ranks have asserted count, and are written, as if the test had run here."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import pytest

from pytest_elastic.report.judgement import sent_along
from pytest_elastic.report.stacks import fold
from pytest_elastic.snapshot_results import ATTRIBUTE, AssertedSnapshot, SnapshotsOfRank, WrittenSnapshot

if TYPE_CHECKING:
    from pytest_elastic.report.records import RankRecord

_Key = tuple[str, str]
"""Location and name of a snapshot."""
_COMPLETE: Final = pytest.StashKey[bool]()


def take_snapshots(item: pytest.Item, ranks: Sequence[RankRecord]) -> str:
    """Tell syrupy of the snapshots that the ranks of a test have asserted, once each.

    Returns:
        A line for each one that was to be written, but differs from rank to rank, and therefore was not; or what went
        wrong otherwise.
    """
    session: Any = getattr(item.config, "_syrupy", None)
    if session is None or "snapshot" not in getattr(item, "fixturenames", ()):
        return ""
    try:
        return _take(item, session, ranks)
    except Exception as error:  # noqa: BLE001 (an extension may be anybody's, and a file may not be there to write)
        return f"syrupy was not told of the snapshots of ranks: {type(error).__name__}: {error}"


def spare_snapshots(item: pytest.Item) -> None:
    """Have syrupy take a test for a skipped one if not all of its ranks could assert: it deletes no snapshot of these.

    Called when pytest has reported the test, which syrupy listens to. Nothing less would do under pytest-xdist: for
    another worker, which tells its part too, the test is one that has not run.
    """
    session: Any = getattr(item.config, "_syrupy", None)
    if session is None or item.stash.get(_COMPLETE, False) or "snapshot" not in getattr(item, "fixturenames", ()):
        return
    from syrupy.session import ItemStatus

    if item.nodeid in session._selected_items:
        session._selected_items[item.nodeid] = ItemStatus.SKIPPED


def _take(item: pytest.Item, session: Any, ranks: Sequence[RankRecord]) -> str:
    told: dict[int, SnapshotsOfRank] = {
        rank.id.rank: found for rank in ranks if (found := sent_along(rank, ATTRIBUTE)) is not None
    }
    # A rank may be gone, or stopped, before it could assert: what it would have used is not unused.
    item.stash[_COMPLETE] = bool(ranks) and len(told) == len(ranks)
    to_write: dict[_Key, dict[int, WrittenSnapshot]] = {}
    for rank, snapshots in told.items():
        for each in snapshots.written:
            to_write.setdefault((each.location, each.name), {})[rank] = each
    differing = {key: by_rank for key, by_rank in to_write.items() if len({w.data for w in by_rank.values()}) > 1}
    counted: dict[bytes, dict[_Key, AssertedSnapshot]] = {}
    for snapshots in told.values():
        for kind, asserted in snapshots.asserted:
            key = (asserted.location, asserted.name)
            known = counted.setdefault(kind, {}).get(key)
            if key in differing:
                asserted = replace(asserted, success=False, created=False, updated=False)
            if known is None or (known.success and not asserted.success):
                counted[kind][key] = asserted
    for kind, by_name in counted.items():
        _count(_assertion(item, session, kind), list(by_name.values()))
    for key, by_rank in to_write.items():
        if key not in differing:
            _write(item, session, next(iter(by_rank.values())))
    return "\n".join(_differences(name, by_rank) for (_, name), by_rank in differing.items())


def _differences(name: str, by_rank: dict[int, WrittenSnapshot]) -> str:
    groups: dict[object, list[int]] = {}
    for rank, snapshot in by_rank.items():
        groups.setdefault(snapshot.data, []).append(rank)
    values = "; ".join(f"{fold(numbers)}: {_short(value)}" for value, numbers in groups.items())
    return (
        f"snapshot {name!r} was not written, since the ranks differ in it: {values} "
        '(compare the same on all ranks, or give each rank its own by snapshot(name=f"rank {rank}"))'
    )


def _short(value: object) -> str:
    text = value if isinstance(value, str) else repr(value)
    text = text.replace("\n", "\\n")
    return text if len(text) <= 100 else f"{text[:100]}..."


def _write(item: pytest.Item, session: Any, snapshot: WrittenSnapshot) -> None:
    from syrupy.location import PyTestLocation

    session.queue_snapshot_write(
        extension=pickle.loads(snapshot.extension)(),
        test_location=PyTestLocation(item),
        data=snapshot.data,
        index=snapshot.index,
    )


def _assertion(item: pytest.Item, session: Any, extension: bytes) -> Any:
    """Return an assertion of syrupy's own for the test, which makes itself known to the session."""
    from syrupy.assertion import SnapshotAssertion
    from syrupy.location import PyTestLocation

    return SnapshotAssertion(
        session=session,
        extension_class=pickle.loads(extension),
        test_location=PyTestLocation(item),
        update_snapshots=session.update_snapshots,
    )


def _count(assertion: Any, snapshots: list[AssertedSnapshot]) -> None:
    """Put results into an assertion, from which syrupy makes its report."""
    from syrupy.assertion import AssertionResult

    for number, snapshot in enumerate(snapshots):
        assertion.executions[number] = AssertionResult(
            snapshot_location=snapshot.location,
            snapshot_name=snapshot.name,
            asserted_data=snapshot.asserted,
            recalled_data=snapshot.recalled,
            created=snapshot.created,
            updated=snapshot.updated,
            success=snapshot.success,
            exception=None,
            test_location=assertion.test_location,
        )
