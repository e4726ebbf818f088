"""What a record is made of: entries, files, and what follows from them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pytest_elastic.cluster.places import FilePlace, PlaceError
from pytest_elastic.cluster.record import Identity, Occurrence, Recorder
from pytest_elastic.cluster.sealing import Seal, plain, restored

FIRST, SECOND = Occurrence("test_it.py::test_a", 0), Occurrence("test_it.py::test_a", 1)
HERE = Identity(versions="pytest-elastic 1, pytest 9", rootdir="/project", arguments="of these")


class ListPlace:
    """A place that a test can look into."""

    name, source, remedy = "a list", "record", "take another one"

    def __init__(self) -> None:
        self.lines: list[bytes] = []
        self.full = False

    def append(self, data: bytes, *, durable: bool = True) -> None:
        if self.full:
            raise PlaceError("record: a list cannot be written: it is full")
        self.lines.append(data)

    def read(self) -> list[bytes]:
        return list(self.lines)

    def close(self) -> None:
        pass


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "record")


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        2**70,
        0.1,
        float("inf"),
        "half a character \udc80, a line\nbreak",
        (1, ("two", [3])),
        b"\0\xff",
        {"a": (1,), "b": {}},
        {1: "int", (2, 3): "tuple", "%tuple": "no tag"},
        {"$report_type": "TestReport"},
    ],
    ids=repr,
)
def test_json_gives_back_what_it_was_given(value: object) -> None:
    seal = Seal(None)
    opened = seal.open(seal.close({"value": plain(value)}))
    assert opened is not None
    assert restored(opened["value"]) == value
    assert type(restored(opened["value"])) is type(value)


def test_of_what_json_does_not_know_the_text_is_kept() -> None:
    class Odd(int):
        def __str__(self) -> str:
            return "odd"

    assert restored(plain([Path("a/b"), Odd(1)])) == ["a/b", "odd"]


def test_a_seal_of_another_key_or_run_or_a_changed_entry_is_wrong() -> None:
    line = Seal(b"key", "run").close({"kind": "begun"})
    assert b"\n" not in line
    assert Seal(b"key", "run").open(line) is not None
    for other in (Seal(b"other", "run"), Seal(b"key", "another"), Seal(None, "run"), Seal(b"", "run")):
        assert other.open(line) is None
    for wrong in (line[:-1], line.replace(b"begun", b"ended"), b"", b" ", line[1:], b"\xff" + line[1:]):
        assert Seal(b"key", "run").open(wrong) is None


def recorder(place: ListPlace, key: bytes | None = b"key") -> Recorder:
    return Recorder(place, key)


def test_a_recorder_finds_what_another_one_has_recorded() -> None:
    place = ListPlace()
    first = recorder(place)
    first.open_session(HERE, [FIRST, SECOND])
    first.begin(FIRST)
    first.finish(FIRST, [{"mark": "start"}])
    first.begin(SECOND)
    second = recorder(place)
    assert second.finished == {FIRST: [{"mark": "start"}]}
    assert second.unfinished == {SECOND: 1}
    assert second.exit_code is None
    assert second.damaged == 0
    assert second.refusal(HERE) is None
    assert second.refusal(HERE, [SECOND, FIRST]) is None


def test_beginnings_are_counted_but_not_those_that_were_left_or_copied() -> None:
    place = ListPlace()
    recorder(place).begin(FIRST)
    recorder(place).begin(FIRST)
    place.lines.append(place.lines[-1])
    left = recorder(place)
    assert left.unfinished == {FIRST: 2}
    left.begin(FIRST)
    left.leave(FIRST)
    assert recorder(place).unfinished == {FIRST: 2}


@pytest.mark.parametrize(("code", "known"), [(0, 0), (1, 1), (5, 5), (7, 7), (2, None), (3, None), (4, None)])
def test_a_session_that_was_not_interrupted_is_complete(code: int, known: int | None) -> None:
    place = ListPlace()
    first = recorder(place)
    first.open_session(HERE, [])
    first.close(code)
    assert recorder(place).exit_code == known


def test_entries_of_others_are_ignored_and_counted() -> None:
    place = ListPlace()
    recorder(place, b"other").finish(FIRST, [])
    recorder(place, None).begin(FIRST)
    place.lines += [b"", b"no seal at all", Seal(b"key").close({"kind": "finished"}), Seal(b"key").close({"kind": 1})]
    place.lines.append(Seal(b"key").close({"kind": "begun", "test": [1]}))
    found = recorder(place)
    assert (found.finished, found.unfinished, found.damaged) == ({}, {}, 7)


@pytest.mark.parametrize(
    ("changes", "tests", "said"),
    [
        (
            {"versions": "pytest-elastic 2, pytest 9"},
            2,
            "of pytest-elastic 1, pytest 9; here pytest-elastic 2, pytest 9",
        ),
        ({"rootdir": "/other"}, 2, "of /project; here /other"),
        ({"arguments": "of others"}, 2, "other arguments"),
        ({}, 1, "2 tests; here 1"),
        ({}, -2, "other tests"),
    ],
)
def test_a_record_of_another_session_is_refused(changes: dict[str, str], tests: int, said: str) -> None:
    place = ListPlace()
    recorder(place).open_session(HERE, [FIRST, SECOND])
    here = Identity(**{name: changes.get(name, getattr(HERE, name)) for name in ("versions", "rootdir", "arguments")})
    selected = [FIRST, SECOND][:tests] if tests > 0 else [FIRST, Occurrence("test_it.py::test_b", 0)]
    assert recorder(place).refusal(here, selected) == f"record: a list is of another session ({said}); take another one"


def test_after_a_place_has_failed_nothing_more_is_recorded() -> None:
    place = ListPlace()
    first = recorder(place)
    place.full = True
    first.begin(FIRST)
    place.full = False
    first.finish(FIRST, [])
    assert first.lost == "record: a list cannot be written: it is full"
    assert place.lines == []


def test_a_file_keeps_entries_and_is_private(path: str) -> None:
    place = FilePlace(path)
    assert place.read() == []
    place.append(b"one")
    place.append(b"x" * 10_000_000, durable=False)
    place.append(b"")
    with pytest.raises(ValueError, match="one line"):
        place.append(b"a\nb")
    place.close()
    place.close()
    again = FilePlace(path)
    assert again.read() == [b"one", b"x" * 10_000_000, b""]
    again.close()
    assert Path(path).stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("torn", [b"pytest-el", b"", b"\0half an en"])
def test_a_torn_end_is_taken_away_and_entries_follow(path: str, torn: bytes) -> None:
    place = FilePlace(path)
    if torn.startswith(b"\0"):
        place.append(b"whole")
    place.close()
    with open(path, "ab") as file:
        file.write(torn)
    place = FilePlace(path)
    before = place.read()
    place.append(b"next")
    assert place.read() == [*before, b"next"]
    assert before == ([b"whole"] if torn.startswith(b"\0") else [])
    place.close()


def test_what_is_no_record_is_refused_and_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = tmp_path / "test_mine.py"
    other.write_text("def test_mine(): pass\n")
    os.mkfifo(tmp_path / "fifo")
    theirs = os.open(tmp_path / "theirs", os.O_CREAT, 0o600)
    os.fchmod(theirs, 0o666)
    os.close(theirs)
    me = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: me + 1)
    for name, said in (
        ("test_mine.py", "is no record of a session; name another file"),
        (".", "cannot be opened: Is a directory; name another file"),
        ("fifo", "is no file; name another one"),
        ("theirs", "belongs to another user; name another file"),
        ("missing/record", "cannot be opened: No such file or directory; name another file"),
    ):
        path = str(tmp_path / name)
        with pytest.raises(PlaceError) as error:
            FilePlace(path).read()
        assert str(error.value) == f"--elastic-record: {path} {said}"
    assert other.read_text() == "def test_mine(): pass\n"


def test_a_disk_that_is_full_is_one_line() -> None:
    place = FilePlace.__new__(FilePlace)
    place.name, place.source = "/dev/full", "--elastic-record"
    place._descriptor = os.open("/dev/full", os.O_RDWR)
    with pytest.raises(PlaceError, match="/dev/full cannot be written: No space left on device; name another file"):
        place.append(b"x")
    place.close()
