from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from pytest_elastic.cluster.key import Key, cluster_key, derive
from pytest_elastic.options import Given

SECRET = "correct horse battery staple"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    return tmp_path / "home"


def from_file(path: Path, *, source: str = "--elastic-key-file", environ: dict[str, str] | None = None) -> Key:
    return cluster_key(environ or {}, {"key_file": Given(str(path), source)})


def key_file(path: Path, text: str = SECRET, mode: int = 0o600) -> Path:
    path.write_text(text)
    path.chmod(mode)
    return path


def refusal(path: Path) -> str:
    with pytest.raises(pytest.UsageError) as error:
        from_file(path)
    text = str(error.value)
    assert text.isprintable()
    assert "got " in text
    assert "expected " in text
    assert SECRET not in text
    return text


def test_a_key_from_the_environment_is_that_of_a_file_with_the_same_text(tmp_path: Path) -> None:
    key = cluster_key({"PYTEST_ELASTIC_KEY": SECRET}, {})
    assert len(key) == 32
    assert key == from_file(key_file(tmp_path / "key", f" {SECRET}\n"))
    assert key != cluster_key({"PYTEST_ELASTIC_KEY": SECRET + "r"}, {})
    assert key.source == "PYTEST_ELASTIC_KEY"


def test_the_option_wins_over_the_environment_and_that_over_the_ini_file(tmp_path: Path) -> None:
    path = key_file(tmp_path / "key", "another secret that is long")
    environ = {"PYTEST_ELASTIC_KEY": SECRET}
    assert from_file(path, environ=environ) == from_file(path)
    assert from_file(path, environ=environ, source="ini elastic_key_file") == cluster_key(environ, {})
    assert from_file(path, source="ini elastic_key_file") == from_file(path)


def test_a_path_may_be_in_the_home_directory(home: Path) -> None:
    key_file(home / "key")
    assert from_file(Path("~/key")).source == str(home / "key")


@pytest.mark.parametrize("text", ["", "short", " " * 40, "x" * 5000])
def test_a_key_that_is_too_short_or_too_long_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(pytest.UsageError, match=r"^PYTEST_ELASTIC_KEY: got a key of .* bytes, expected 16 to 4096: "):
        cluster_key({"PYTEST_ELASTIC_KEY": text}, {})
    assert "got a key of " in refusal(key_file(tmp_path / "key", text))


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o602, 0o666])
def test_a_file_that_others_can_read_or_write_is_refused(tmp_path: Path, mode: int) -> None:
    text = refusal(key_file(tmp_path / "key", mode=mode))
    assert "expected a file that only user" in text
    assert stat.filemode(stat.S_IFREG | mode) in text


def test_what_is_no_file_is_refused_without_waiting_for_it(tmp_path: Path) -> None:
    assert "no such file" in refusal(tmp_path / "none")
    assert "it is drwx" in refusal(tmp_path)
    os.mkfifo(tmp_path / "pipe", 0o600)
    assert "it is prw" in refusal(tmp_path / "pipe")
    assert "expected a file" in refusal(Path("/dev/zero"))


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a file away")
def test_a_file_of_another_user_is_refused(tmp_path: Path) -> None:
    path = key_file(tmp_path / "key")
    os.chown(path, 12345, 12345)
    assert "of user 12345" in refusal(path)


def test_the_key_of_a_user_is_made_once(home: Path) -> None:
    key = cluster_key({}, {})
    path = home / ".cache" / "pytest-elastic" / "key"
    assert cluster_key({}, {}) == key
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert [file.name for file in path.parent.iterdir()] == ["key"]
    path.unlink()
    assert cluster_key({}, {}) != key


def test_the_key_of_a_user_is_refused_if_others_can_read_it(home: Path) -> None:
    cluster_key({}, {})
    (home / ".cache" / "pytest-elastic" / "key").chmod(0o644)
    with pytest.raises(pytest.UsageError, match=r"^the key of this session: got .* expected a file that only user"):
        cluster_key({}, {})


def test_without_a_place_for_it_the_error_says_what_to_do(home: Path) -> None:
    (home / ".cache").write_text("a file")
    with pytest.raises(
        pytest.UsageError, match=r"^the key of this session: got no PYTEST_ELASTIC_KEY .*: set "
    ) as error:
        cluster_key({}, {})
    assert str(error.value).isprintable()


def test_a_key_is_never_shown() -> None:
    key = cluster_key({"PYTEST_ELASTIC_KEY": SECRET}, {})
    for one in (key, derive(key, "a purpose")):
        assert repr(one) == str(one) == f"{one}" == "<key>"
        assert repr({"key": [one]}) == "{'key': [<key>]}"
        assert one.source == "PYTEST_ELASTIC_KEY"


def test_keys_for_purposes_differ() -> None:
    key = cluster_key({"PYTEST_ELASTIC_KEY": SECRET}, {})
    assert derive(key, "a") == derive(key, "a")
    assert len({key, derive(key, "a"), derive(key, "b"), derive(derive(key, "a"), "a")}) == 4
    assert derive(bytes(key), "a") == derive(key, "a")
