"""The line that shows how a launch goes on, on terminals of several widths."""

from __future__ import annotations

import fcntl
import io
import os
import pty
import struct
import termios
from collections.abc import Iterator
from contextlib import closing, contextmanager
from types import SimpleNamespace
from typing import Any

import pyte
import pytest
from _pytest._io import TerminalWriter

from pytest_elastic.controller.progress import StatusLine, cut

ROWS = 8
LINE = "test_slow: rank 2 running, ranks 0-1 waiting; 4 s of 60 s"


class Screen(io.StringIO):
    """A terminal to which pytest writes; its descriptor is another file's while tests are captured.

    Args:
        columns: Its width.
    """

    def __init__(self, columns: int) -> None:
        super().__init__()
        self._columns = columns
        self._captured = os.open(os.devnull, os.O_WRONLY)
        self._fds = pty.openpty()
        self._fd = self._fds[1]
        fcntl.ioctl(self._fd, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, columns, 0, 0))
        self.writer = TerminalWriter(self)
        capture = SimpleNamespace(global_and_fixture_disabled=self._given_back)
        plugins = {"terminalreporter": SimpleNamespace(_tw=self.writer), "capturemanager": capture}
        config: Any = SimpleNamespace(pluginmanager=SimpleNamespace(getplugin=plugins.get), getoption=lambda *_: "fd")
        self.line = StatusLine(config)
        self._fd = self._captured

    def fileno(self) -> int:
        return self._fd

    @contextmanager
    def _given_back(self) -> Iterator[None]:
        self._fd = self._fds[1]
        yield
        self._fd = self._captured

    def shown(self) -> list[str]:
        """Return the lines on the screen."""
        screen = pyte.Screen(self._columns, ROWS)
        pyte.Stream(screen).feed(self.getvalue().replace("\n", "\r\n"))
        return [line.rstrip() for line in screen.display if line.strip()]

    def close(self) -> None:
        super().close()
        for fd in (*self._fds, self._captured):
            os.close(fd)


@pytest.mark.parametrize(
    ("columns", "before", "after"),
    [
        (20, "test_it.py ", ["test_it.py PASSED"]),
        (20, "test_it.py::test_ab ", ["test_it.py::test_ab", "PASSED"]),  # just as wide as the screen
        (20, "test_it.py::test_with_a_long_name ", ["test_it.py::test_wit", "h_a_long_name PASSED"]),
        (130, f"test_it.py::test_{'x' * 90} ", [f"test_it.py::test_{'x' * 90} PASSED"]),
        (20, "", ["PASSED"]),
    ],
)
def test_it_is_one_line_and_pytest_goes_on_where_it_was(
    monkeypatch: pytest.MonkeyPatch, columns: int, before: str, after: list[str]
) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    with closing(Screen(columns)) as screen:
        screen.writer.write(before)
        for _ in range(2):
            screen.line.show(LINE)
        assert screen.shown()[-1] == cut(LINE, columns - 1)
        screen.line.wipe()
        screen.writer.write("PASSED")
        assert screen.shown() == after


@pytest.mark.parametrize(
    ("line", "width", "expected"),
    [
        ("abcdef", 6, "abcdef"),
        ("abcdef", 5, "ab..."),
        ("\u6e2c\u8a66\u6e2c\u8a66", 7, "\u6e2c\u8a66..."),
        ("a\u0301b\u0301c\u0301d\u0301e", 4, "a\u0301..."),
        ("abcdef", 2, ".."),
        ("abcdef", 0, ""),
    ],
)
def test_as_much_of_it_as_fits(line: str, width: int, expected: str) -> None:
    assert cut(line, width) == expected
