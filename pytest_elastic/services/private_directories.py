"""Directories that processes of one user find by their names, and that no other user can have made or may write to."""

from __future__ import annotations

import os
import stat
import tempfile
import warnings
from contextlib import suppress
from pathlib import Path

from pytest_elastic.warning import ElasticWarning


def make_private(directory: Path) -> None:
    """Make a directory that nobody else can write to, or see to it that it is one.

    Raises:
        OSError: It cannot be made, or it is somebody else's, or a link.
    """
    with suppress(FileExistsError):
        directory.mkdir(mode=0o700)
    found = directory.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise PermissionError(
            f"it must be a directory of user {os.getuid()} with mode 0700,"
            f" but is {stat.filemode(found.st_mode)} of user {found.st_uid}"
        )


def make_tree(directory: Path) -> None:
    """Make a directory for this user alone, and those above it that do not exist: no other user can write to these.

    Raises:
        OSError: One of them cannot be made.
    """
    for parent in reversed(directory.parents):
        if not parent.exists():
            parent.mkdir(mode=0o755, exist_ok=True)  # the umask may allow more than this
    directory.mkdir(mode=0o700, exist_ok=True)


def machine_directory(what: str) -> Path:
    """Return a directory that all runs of this user on this machine share; make it if it does not exist.

    Everybody can foresee its name in the directory for temporary files, and make it before this user does. Then it is
    one where nobody else can, the same for all runs, and a warning says so. If there is none of these either it is the
    first one, for :func:`make_private` to refuse when it is used.
    """
    first, *others = _places(what)
    try:
        make_private(first)
    except OSError as error:
        for place in others:
            with suppress(OSError):
                _refuse_shared(place.parent)
                make_private(place)
                warnings.warn(
                    ElasticWarning(f"cannot use {str(first)!r} for locks: {error}; using {str(place)!r} instead"),
                    stacklevel=2,
                )
                return place
    return first


def _places(what: str) -> list[Path]:
    user = os.getuid()
    places = [
        Path(tempfile.gettempdir()) / f"pytest-elastic-{what}-{user}",
        Path(f"/run/user/{user}/pytest-elastic-{what}"),
    ]
    with suppress(RuntimeError):  # this user has no home
        places.append(Path.home() / f".pytest-elastic-{what}")
    return places


def _refuse_shared(parent: Path) -> None:
    """Refuse a directory in which others may make something, or put something in the place of what is there.

    Raises:
        OSError: It is one, or there is none.
    """
    found = parent.stat()
    if found.st_uid != os.getuid() or found.st_mode & 0o022:
        raise PermissionError(f"{str(parent)!r} can be written to by others")
