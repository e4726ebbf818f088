"""The person's terminal in a rank: asked for when a debugger begins, and given back when it is done."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Callable
from typing import Final, Literal, TextIO

from pytest_elastic import kernel
from pytest_elastic.channel import Outbox
from pytest_elastic.errors import ElasticError
from pytest_elastic.messages import Address, RankId, TerminalAnswer, TerminalDone, TerminalUsed, TerminalWanted

Why = Literal["breakpoint", "trace", "failure"]


class RankTerminal:
    """The terminal, as far as this rank has it.

    While it does, descriptors 0, 1 and 2 are the person's; ``sys.stdout`` and ``sys.stderr`` write to them as ever.

    Args:
        channel: Address of the controller.
        key: Authentication key of the channel.
        me: Which rank this is.

    Attributes:
        suspend: Called before the descriptors change: whoever has put something in their place takes that away.
        resume: Called when they are what they were.
    """

    def __init__(self, channel: Address, key: bytes, me: RankId) -> None:
        self.me: Final = me
        self.suspend: Callable[[], object] = lambda: None
        self.resume: Callable[[], object] = lambda: None
        self._channel, self._key = channel, key
        self._owner = kernel.own_pid()
        self._outbox: Outbox | None = None
        self._saved: list[int | None] = []
        self._stdin: TextIO | None = None
        self._handler: object = None

    @property
    def held(self) -> bool:
        """This rank has the terminal."""
        return self._outbox is not None and kernel.own_pid() == self._owner

    def take(self, why: Why, place: str) -> bool:
        """Ask for the terminal, unless this rank has it, and wait for the answer; return whether it is there.

        Raises:
            ElasticError: There is none that anybody could have, or the controller is gone.
        """
        __tracebackhide__ = True
        if kernel.own_pid() != self._owner:
            return True  # a fork of the rank: its debugger finds no terminal, as one of a plain test's fork
        wanted = TerminalWanted(id=self.me, why=why, place=place, has_it=self.held)
        try:
            if self._outbox is not None:
                self._outbox.send(wanted)
                return True
            return self._ask(wanted)
        except (OSError, EOFError) as error:
            raise ElasticError(f"{self._who(wanted)}: the controller is gone ({error})") from None

    def _ask(self, wanted: TerminalWanted) -> bool:
        __tracebackhide__ = True
        outbox = Outbox(self._channel, self._key)
        granted = False
        try:
            outbox.send(wanted)
            answer = outbox.receive()
            assert isinstance(answer, TerminalAnswer)
            if answer.refusal:
                raise ElasticError(f"{self._who(wanted)}: {answer.refusal}")
            if answer.granted:
                self._attach(outbox.receive_descriptors(3))
                self._outbox, granted = outbox, True
        finally:
            if not granted:
                outbox.close()
        return granted

    def _who(self, wanted: TerminalWanted) -> str:
        what = {"breakpoint": f"breakpoint at {wanted.place}", "trace": "--trace", "failure": "--pdb"}[wanted.why]
        return f"{what} on rank {self.me.rank}"

    def use(self, *, prompting: bool) -> None:
        """Tell whether the debugger waits for a command."""
        if self._outbox is not None and self.held:
            with contextlib.suppress(OSError):
                self._outbox.send(TerminalUsed(id=self.me, prompting=prompting))

    def give_back(self, *, quits: bool = False) -> None:
        """Give the terminal back, if this rank has it.

        Args:
            quits: The person has left the debugger by ``quit``.
        """
        outbox = self._outbox
        if outbox is None or not self.held:
            return
        self._detach()
        self._outbox = None
        with contextlib.suppress(OSError):  # the launch is over
            outbox.send(TerminalDone(id=self.me, quits=quits))
        outbox.close()

    def _attach(self, fds: list[int]) -> None:
        self.suspend()
        _flush()
        self._saved = [_duplicate(fd) for fd in range(3)]
        for number, fd in enumerate(fds):
            os.dup2(fd, number)
            os.close(fd)
        self._stdin, sys.stdin = sys.stdin, _unbuffered_input()
        with contextlib.suppress(ValueError):  # not the main thread
            self._handler = signal.getsignal(signal.SIGINT)

    def _detach(self) -> None:
        self.suspend()
        _flush()
        for number, fd in enumerate(self._saved):
            if fd is None:
                os.close(number)
            else:
                os.dup2(fd, number)
                os.close(fd)
        assert self._stdin is not None
        sys.stdin = self._stdin
        with contextlib.suppress(ValueError, TypeError):
            # pdb takes Ctrl-C for itself when it goes on.
            signal.signal(signal.SIGINT, self._handler)  # type: ignore[arg-type]
        self.resume()


def _unbuffered_input() -> TextIO:
    """Return standard input, read no further than it is used: what follows may be for another rank."""
    stdin = open(0, encoding="utf-8", errors="surrogateescape", closefd=False)  # noqa: SIM115
    stdin._CHUNK_SIZE = 1  # type: ignore[attr-defined]
    return stdin


def _duplicate(fd: int) -> int | None:
    try:
        return os.dup(fd)
    except OSError:  # closed
        return None


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):  # whatever the test has put or left there
            stream.flush()
    kernel.flush_c_streams()
