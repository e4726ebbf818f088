"""Another user of this machine, who knows every path: what can they do with each?

Run as root by its path, with the standard library only, and told the paths on standard input. It becomes user 65534 and
prints each path with what it could do: ``list``, ``make`` (a file in it), ``read``, ``write``, ``connect``.
"""

from __future__ import annotations

import os
import socket
import stat
import sys
from collections.abc import Callable

NOBODY = 65534


def can(attempt: Callable[[], object]) -> bool:
    try:
        attempt()
    except OSError:
        return False
    return True


def make_in(directory: str) -> None:
    path = os.path.join(directory, "planted")
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    os.unlink(path)


def connect(path: str) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(path)


def attempts(path: str, kind: int) -> dict[str, Callable[[], object]]:
    if stat.S_ISDIR(kind):
        return {"list": lambda: os.listdir(path), "make": lambda: make_in(path)}
    if stat.S_ISSOCK(kind):
        return {"connect": lambda: connect(path)}
    return {"read": lambda: open(path, "rb").close(), "write": lambda: open(path, "ab").close()}


def main() -> None:
    found = [(path, os.lstat(path).st_mode) for path in sys.stdin.read().split("\0") if path]
    os.setgroups([])
    os.setgid(NOBODY)
    os.setuid(NOBODY)
    for path, kind in found:
        for what, attempt in attempts(path, kind).items():
            if can(attempt):
                print(what, path)


if __name__ == "__main__":
    main()
