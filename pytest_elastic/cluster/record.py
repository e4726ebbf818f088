"""The record of a session: which of its tests are over, and with which reports, for the session that comes after it."""

from __future__ import annotations

import signal
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from pytest_elastic.cluster.places import Place, PlaceError
from pytest_elastic.cluster.sealing import Seal, digest

if TYPE_CHECKING:
    import pytest

MOST_BEGINNINGS: Final = 2
"""How often a test is begun that takes its session along each time."""
_INTERRUPTED: Final = (2, 3, 4, 128 + signal.SIGTERM)
"""Exit codes of sessions that were interrupted, or did not get to their tests: another one goes on."""

Event = dict[str, Any]
"""Something that happened while a test ran, as JSON can hold it."""


class Occurrence(NamedTuple):
    """A test of a session.

    Attributes:
        nodeid: Its id.
        nth: Which of the tests with this id it is, from 0: ``--keep-duplicates`` runs one twice.
    """

    nodeid: str
    nth: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Identity:
    """What two sessions must have in common for one to go on where the other was ended.

    Attributes:
        versions: Those of pytest-elastic and of pytest, whose reports are kept.
        rootdir: pytest's root directory.
        arguments: A digest of the arguments; they may be secret.
    """

    versions: str
    rootdir: str
    arguments: str

    @classmethod
    def of(cls, config: pytest.Config) -> Identity:
        """Return that of a session that has not collected its tests yet."""
        import os

        import pytest

        from pytest_elastic import __version__

        given = config.invocation_params
        return cls(
            versions=f"pytest-elastic {__version__}, pytest {pytest.__version__}",
            rootdir=str(config.rootpath),
            arguments=digest(str(given.dir), os.environ.get("PYTEST_ADDOPTS", ""), *map(str, given.args)),
        )

    def difference(self, other: Mapping[str, Any]) -> str | None:
        """Say in a few words what another session has that this one has not, or return ``None``."""
        for name in ("versions", "rootdir"):
            if other.get(name) != getattr(self, name):
                return f"of {other.get(name)}; here {getattr(self, name)}"
        return "other arguments" if other.get("arguments") != self.arguments else None


class Recorder:
    """Reads what is in a place, and adds to it what happens in this session.

    It knows nothing of pytest's hooks; see ``replaying.py`` for those.

    Args:
        place: Where the record is.
        key: The secret of those who may write it. ``None`` where there is no cluster.
        run_id: Names the run, where the place may be shared by several.

    Attributes:
        finished: The tests that are over, each with what happened while it ran.
        unfinished: The tests that were begun and never finished, with how often.
        exit_code: That of the session if it is complete, or ``None``.
        damaged: How many entries are not what somebody with the key has written.
        lost: Why nothing is recorded any more, or ``None``.

    Raises:
        PlaceError: The place cannot be read.
    """

    def __init__(self, place: Place, key: bytes | None = None, *, run_id: str = "") -> None:
        self.place = place
        self.finished: dict[Occurrence, list[Event]] = {}
        self.unfinished: dict[Occurrence, int] = {}
        self.exit_code: int | None = None
        self.damaged = 0
        self.lost: str | None = None
        self._seal = Seal(key, run_id)
        self._session: dict[str, Any] | None = None
        self._read()

    def _read(self) -> None:
        seen = set()
        for line in self.place.read():
            entry = self._seal.open(line)
            if entry is not None and entry.get("id") in seen:
                continue  # one that was copied is no second beginning
            try:
                if entry is None:
                    raise ValueError("the seal is wrong")
                self._take(entry)
                seen.add(entry["id"])
            except (ValueError, TypeError, KeyError):  # without a key, anybody can seal anything
                self.damaged += 1

    def _take(self, entry: dict[str, Any]) -> None:
        kind = entry["kind"]
        if kind == "session":
            self._session = self._session or entry
        elif kind == "complete":
            self.exit_code = int(entry["code"])
        else:
            nodeid, nth = entry["test"]
            test = Occurrence(str(nodeid), int(nth))
            if kind == "finished":
                self.finished[test] = entry["events"]
                self.unfinished.pop(test, None)
            else:
                count = self.unfinished.get(test, 0) + (1 if kind == "begun" else -1)
                self.unfinished[test] = max(count, 0)

    def refusal(self, identity: Identity, tests: Iterable[Occurrence] | None = None) -> str | None:
        """Say in one line why a session cannot go on with this record, or return ``None``.

        Args:
            identity: What is known of the session before it collects.
            tests: Its tests, in any order, once they are known.
        """
        if self._session is None:
            return None
        difference = identity.difference(self._session)
        if difference is None and tests is not None:
            here = _digest_of(tests := list(tests))
            there, count = self._session["tests"], self._session["count"]
            if here != there:
                difference = f"{count} tests; here {len(tests)}" if count != len(tests) else "other tests"
        if difference is None:
            return None
        place = self.place
        return f"{place.source}: {place.name} is of another session ({difference}); {place.remedy}"

    def open_session(self, identity: Identity, tests: Iterable[Occurrence]) -> None:
        """Take note of whose record it is, where it is new."""
        if self._session is None:
            tests = list(tests)
            session = {
                "versions": identity.versions,
                "rootdir": identity.rootdir,
                "arguments": identity.arguments,
                "tests": _digest_of(tests),
                "count": len(tests),
            }
            self._session = session
            self._add("session", session)

    def begin(self, test: Occurrence) -> None:
        """Take note that a test begins."""
        self._add("begun", {"test": test})

    def leave(self, test: Occurrence) -> None:
        """Take note that a test that was begun is left without an outcome, and not because of what it did."""
        self._add("left", {"test": test})

    def finish(self, test: Occurrence, events: list[Event]) -> None:
        """Take note that a test is over, and of what happened while it ran.

        The disk is waited for once a test, when the next one begins: that is right after it, and to run a test again
        does no harm.
        """
        self._add("finished", {"test": test, "events": events}, durable=False)

    def close(self, exit_code: int) -> None:
        """Take note that the session has done and told everything, and let go of the place.

        A session that was interrupted, or that found no tests to run because of an error, is not complete.
        """
        if exit_code not in _INTERRUPTED and self._session is not None:
            self._add("complete", {"code": exit_code})
        self.place.close()

    def _add(self, kind: str, entry: Mapping[str, Any], *, durable: bool = True) -> None:
        if self.lost is not None:
            return  # a record with a gap would be worse than one that ends
        try:
            self.place.append(self._seal.close({"kind": kind, **entry}), durable=durable)
        except PlaceError as error:
            self.lost = str(error)


def _digest_of(tests: Iterable[Occurrence]) -> str:
    return digest(*(f"{test.nodeid} {test.nth}" for test in sorted(tests)))
