"""syrupy in ranks: snapshots are compared here, and what was asserted goes along with the report of the test.

What syrupy knows of a session it tells and does at the end of it, which is the controller's. Without word of them
there, snapshots of tests on ranks would be unused ones, and ``--snapshot-update`` deletes these.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from typing import Any

import cloudpickle
import pytest

from pytest_elastic.snapshot_results import ATTRIBUTE, AssertedSnapshot, SnapshotsOfRank, WrittenSnapshot


class Snapshots:
    """The plugin by which a rank tells of the snapshots that its test has asserted."""

    def __init__(self) -> None:
        self._written: list[WrittenSnapshot] = []

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        """Keep the rank from writing snapshots: all ranks would write the same files."""
        session = _session_of(item)
        if session is None:
            return
        session._assertions = []
        self._written.clear()
        vars(session).pop("queue_snapshot_write", None)
        queue = session.queue_snapshot_write

        def queue_snapshot_write(*, extension: Any, test_location: Any, data: Any, index: Any) -> None:
            queue(extension=extension, test_location=test_location, data=data, index=index)
            written = WrittenSnapshot(
                location=extension.get_location(test_location=test_location, index=index),
                name=extension.get_snapshot_name(test_location=test_location, index=index),
                index=index,
                extension=_class_of(extension),
                data=data,
            )
            self._written.append(written)

        session.queue_snapshot_write = queue_snapshot_write
        session._flush_snapshot_write_queue_key = lambda _key: None

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Send along what was asserted."""
        report = yield
        session = _session_of(item)
        if call.when == "call" and session is not None and session._assertions:
            asserted = tuple(_asserted(session._assertions))
            vars(report)[ATTRIBUTE] = SnapshotsOfRank(asserted=asserted, written=tuple(self._written))
        return report


def _session_of(item: pytest.Item) -> Any:
    """Return syrupy's view of the session, if a test uses snapshots."""
    return getattr(item.config, "_syrupy", None) if "snapshot" in getattr(item, "fixturenames", ()) else None


def _class_of(extension: Any) -> bytes:
    return bytes(cloudpickle.dumps(type(extension)))


def _asserted(assertions: list[Any]) -> Iterator[tuple[bytes, AssertedSnapshot]]:
    for assertion in assertions:
        for result in assertion.executions.values():
            snapshot = AssertedSnapshot(
                location=result.snapshot_location,
                name=result.snapshot_name,
                asserted=result.asserted_data,
                recalled=result.recalled_data,
                created=result.created,
                updated=result.updated,
                success=result.success,
            )
            yield _class_of(assertion.extension), snapshot
