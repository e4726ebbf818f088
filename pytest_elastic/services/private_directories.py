"""Directories that processes of one user find by their names, and that no other user can have made or may write to."""

from __future__ import annotations

import os
import stat
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Final

_untold: Final[dict[str, None]] = {}
"""What :func:`machine_directory` found, a line each, in order."""


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


class SharedDirectoryError(PermissionError):
    """A directory in which somebody else can put something in the place of ours."""

    def __init__(self, directory: Path, found: os.stat_result, expected: str) -> None:
        super().__init__(f"{directory} is {stat.filemode(found.st_mode)} of user {found.st_uid}; {expected}")
        self.strerror = str(self)


def make_tree(directory: Path, top: Path) -> None:
    """Make a directory for this user alone, and those above it that do not exist: no other user can write to these.

    Args:
        directory: What is to be made.
        top: A directory above it. What is below that is this user's alone, also what is there already.

    Raises:
        SharedDirectoryError: Others can write to what is there, or have made it.
        OSError: A directory cannot be made.
    """
    for parent in reversed((directory, *directory.parents)):
        if top not in parent.parents and not parent.exists():
            parent.mkdir(mode=0o755, exist_ok=True)  # the umask may allow more than this
        elif top in parent.parents:
            with suppress(FileExistsError):
                parent.mkdir(mode=0o700 if parent == directory else 0o755)
            _refuse_others(parent)
        if parent == top:
            _refuse_replacing(top)


def _refuse_others(directory: Path) -> None:
    found = directory.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o022:
        expected = f"expected a directory of user {os.getuid()} that nobody else can write to: remove it"
        raise SharedDirectoryError(directory, found, expected)


def _refuse_replacing(directory: Path) -> None:
    """Refuse a directory in which whoever wants to can rename what this user makes there; those of a group may."""
    found = directory.stat()
    foreign = found.st_uid not in (0, os.getuid()) and found.st_mode & 0o022
    if foreign or (found.st_mode & 0o002 and not found.st_mode & stat.S_ISVTX):
        expected = f"others could replace what user {os.getuid()} makes there: name a directory below it"
        raise SharedDirectoryError(directory, found, expected)


def machine_directory(what: str) -> Path:
    """Return a directory that all runs of this user on this machine share; make it if it does not exist.

    Everybody can foresee its name in the directory for temporary files, and make it before this user does. Then it is
    one where nobody else can, the same for all runs, and :func:`take_notes` says so. If there is none of these either
    it is the first one, for :func:`make_private` to refuse when it is used.
    """
    first, *others = _places(what)
    try:
        make_private(first)
    except OSError as error:
        for place in others:
            with suppress(OSError):
                _refuse_shared(place.parent)
                make_private(place)
                _untold[f"cannot use {str(first)!r} for locks: {error}; using {str(place)!r} instead"] = None
                return place
    return first


def take_notes() -> list[str]:
    """Return what whoever runs the tests is to know of directories for locks, and forget it."""
    notes = list(_untold)
    _untold.clear()
    return notes


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
