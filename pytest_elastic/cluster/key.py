"""The key by which the pytest processes of one session know each other."""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import stat
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final, NoReturn

import pytest

from pytest_elastic.one_line import one_line
from pytest_elastic.options import Given

VARIABLE: Final = "PYTEST_ELASTIC_KEY"
_FEWEST: Final = 16
_MOST: Final = 4096
_ADVICE: Final = f"set {VARIABLE} to the same secret on every node"


class Key(bytes):
    """A key: bytes that nothing prints.

    Attributes:
        source: Where it is from, as an error may name it.
    """

    source: str = ""

    def __repr__(self) -> str:
        return "<key>"

    __str__ = __repr__


def cluster_key(environ: Mapping[str, str], given: Mapping[str, Given]) -> Key:
    """Return the key of this session.

    It is what the option ``--elastic-key-file`` names, the environment variable ``PYTEST_ELASTIC_KEY``, what the ini
    key names, or a file of this user that is made the first time.

    Args:
        environ: The environment.
        given: The settings that are given.

    Returns:
        32 bytes: a digest of the text, without white space around it.

    Raises:
        pytest.UsageError: It cannot be read, others can read it, or it is too short.
    """
    file = given.get("key_file")
    if file is not None and (file.source.startswith("--") or VARIABLE not in environ):
        return _from_file(Path(os.path.expanduser(file.value)), file.source)
    if VARIABLE in environ:
        return _made(os.fsencode(environ[VARIABLE]), VARIABLE, VARIABLE)
    return _own()


def derive(key: bytes, purpose: str) -> Key:
    """Return a key for one purpose, from which neither the first nor that of another purpose can be found."""
    derived = Key(hmac.digest(key, b"pytest_elastic " + purpose.encode(), "sha256"))
    derived.source = getattr(key, "source", "")
    return derived


def _made(text: bytes, who: str, source: str) -> Key:
    text = text.strip()
    if not _FEWEST <= len(text) <= _MOST:
        size = f"{len(text)}" if len(text) <= _MOST else f"more than {_MOST}"
        raise pytest.UsageError(
            f"{who}: got a key of {size} bytes, expected {_FEWEST} to {_MOST}: make one with openssl rand -hex 32"
        )
    key = Key(hashlib.sha256(b"pytest_elastic key " + text).digest())
    key.source = source
    return key


def _from_file(path: Path, source: str) -> Key:
    try:
        # Not a pipe or a terminal that one would wait for.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError as error:
        _refuse(source, path, (error.strerror or str(error)).lower())
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            _refuse(source, path, f"it is {stat.filemode(found.st_mode)}")
        # One of root may be for a group: so does Kubernetes mount a secret for a container's user.
        foreign = 0o077 if found.st_uid == os.getuid() else 0o037
        if found.st_uid not in (0, os.getuid()) or found.st_mode & foreign:
            mode = stat.filemode(found.st_mode)
            _refuse(source, path, f"it is {mode} of user {found.st_uid}, and somebody else knows or chose the key")
        text = os.read(descriptor, _MOST + 64)
    except OSError as error:
        _refuse(source, path, (error.strerror or str(error)).lower())
    finally:
        os.close(descriptor)
    return _made(text, f"{source}: {one_line(str(path))}", str(path))


def _refuse(source: str, path: Path, why: str) -> NoReturn:
    raise pytest.UsageError(
        f"{source}: got {one_line(str(path))}, expected a file that only user {os.getuid()} can read (chmod 600): {why}"
    )


def _own() -> Key:
    """Return this user's key, on this machine or on all that share the home directory; make it if there is none."""
    who = "the key of this session"
    try:
        path = Path.home() / ".cache" / "pytest-elastic" / "key"
        if not path.exists():
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            _make(path)
    except (OSError, RuntimeError) as error:  # this user has no home
        raise pytest.UsageError(
            f"{who}: got no {VARIABLE} and no --elastic-key-file, and cannot make one in ~/.cache ({error}), expected "
            f"one of these: {_ADVICE}"
        ) from None
    return _from_file(path, who)


def _make(path: Path) -> None:
    """Make the file, whole: another process that does so at the same time has the same one then."""
    fresh = path.with_name(f".{path.name}-{secrets.token_hex(8)}")
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with open(descriptor, "w") as file:
            file.write(secrets.token_hex(32) + "\n")
            file.flush()
            os.fsync(file.fileno())
        with suppress(FileExistsError):  # the other one was faster
            os.link(fresh, path)
    finally:
        fresh.unlink()
