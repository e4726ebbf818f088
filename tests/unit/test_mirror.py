"""What ranks of another machine write, sent as it is written."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from pytest_elastic.cluster.messages import Written
from pytest_elastic.cluster.mirror import Mirror


class Copy:
    """What the messages make of the files."""

    def __init__(self, logs: Path, coverage: Path | None = None) -> None:
        self.files: dict[tuple[str, str], bytes] = {}
        self.messages: list[Written] = []
        self.room = True
        self.mirror = Mirror("launch", logs, coverage, self._take, lambda: self.room)

    def _take(self, message: Written) -> None:
        assert message.launch == "launch"
        self.messages.append(message)
        name = (message.root, message.path)
        before = self.files.get(name, b"")
        assert len(before) == message.offset, "bytes are missing, or come twice"
        self.files[name] = before + message.data


@pytest.fixture
def logs(tmp_path: Path) -> Path:
    logs = tmp_path / "logs"
    logs.mkdir()
    return logs


def test_what_grows_is_sent_once(logs: Path) -> None:
    copy = Copy(logs)
    copy.mirror.look()
    assert copy.messages == []

    (logs / "world").mkdir()
    with (logs / "world" / "stdout").open("ab", buffering=0) as file:
        for text in (b"one ", b"", b"two"):
            file.write(text)
            copy.mirror.look()
            copy.mirror.look()
    assert copy.files == {("logs", "world/stdout"): b"one two"}
    assert [message.data for message in copy.messages] == [b"one ", b"two"]


def test_a_file_that_is_empty_is_there_too(logs: Path) -> None:
    copy = Copy(logs)
    (logs / "stderr").touch()
    copy.mirror.look()
    copy.mirror.look()
    assert copy.files == {("logs", "stderr"): b""}
    assert len(copy.messages) == 1


def test_what_is_large_is_sent_in_parts_one_at_each_look(logs: Path) -> None:
    copy = Copy(logs)
    data = random.Random(1).randbytes(3 * (1 << 18) + 5)
    (logs / "stdout").write_bytes(data)
    assert [copy.mirror.look() for _ in range(4)] == [False, False, False, True]
    assert copy.files == {("logs", "stdout"): data}
    assert len(copy.messages) == 4


def test_nothing_is_sent_where_there_is_no_room(logs: Path) -> None:
    copy = Copy(logs)
    (logs / "stdout").write_bytes(b"word")
    copy.room = False
    assert not copy.mirror.look()
    copy.mirror.catch_up(0.0)
    assert copy.messages == []
    copy.room = True
    copy.mirror.catch_up(60.0)
    assert copy.files == {("logs", "stdout"): b"word"}


def test_of_very_much_the_beginning_and_the_end_are_sent(logs: Path) -> None:
    messages: list[Written] = []
    mirror = Mirror("launch", logs, None, messages.append, lambda: True)
    (logs / "stdout").write_bytes(b"beginning")
    mirror.look()
    with (logs / "stdout").open("r+b") as file:
        file.truncate(1 << 30)
        file.seek(0, os.SEEK_END)
        file.write(b"the end")
    mirror.catch_up(60.0)
    assert sum(len(message.data) for message in messages) < 1 << 21
    assert b"bytes are on the machine of the rank only" in messages[1].data
    last = messages[-1]
    assert last.data.endswith(b"the end")
    assert last.offset + len(last.data) == (logs / "stdout").stat().st_size


def test_of_exactly_one_part_nothing_is_sent_twice(logs: Path) -> None:
    copy = Copy(logs)
    (logs / "stdout").write_bytes(b"x" * (1 << 18))
    copy.mirror.look()
    copy.mirror.look()
    assert [len(message.data) for message in copy.messages] == [1 << 18]


def test_links_devices_and_what_is_gone_are_passed_over(logs: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("not of this launch")
    (logs / "link").symlink_to(secret)
    (logs / "directory").symlink_to(tmp_path)
    os.mkfifo(logs / "pipe")
    (logs / "own").write_text("own")
    copy = Copy(logs)
    copy.mirror.finish()
    assert copy.files == {("logs", "own"): b"own"}

    Copy(tmp_path / "nothing").mirror.finish()


def test_a_file_that_was_shortened_does_no_harm(logs: Path) -> None:
    copy = Copy(logs)
    (logs / "stdout").write_text("a long line")
    copy.mirror.look()
    (logs / "stdout").write_text("short")
    copy.mirror.look()
    (logs / "stdout").write_text("a long line, and more")
    copy.mirror.look()
    assert copy.files == {("logs", "stdout"): b"a long line, and more"}


def test_what_was_measured_comes_when_all_have_ended(logs: Path, tmp_path: Path) -> None:
    coverage = tmp_path / "coverage"
    coverage.mkdir()
    copy = Copy(logs, coverage)
    (coverage / "data.1").write_bytes(b"half")
    copy.mirror.look()
    assert copy.files == {}
    (coverage / "data.1").write_bytes(b"whole")
    copy.mirror.finish()
    assert copy.files == {("coverage", "data.1"): b"whole"}
