"""Debuggers in a rank: pytest's own where it runs a test, pdb where it runs a function or a script."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any, Final

from pytest_elastic.worker.prime import when_imported
from pytest_elastic.worker.terminal import RankTerminal, Why

_PACKAGE: Final = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep
_BY_PDB: Final = ("", "pdb.set_trace")
"""Values of PYTHONBREAKPOINT by which ``breakpoint()`` is pdb's."""


def place_of(frame: FrameType | None) -> str:
    """Return the file and line of a frame."""
    return "?" if frame is None else f"{os.path.basename(frame.f_code.co_filename)}:{frame.f_lineno}"


def attach(debugger: type[Any], terminal: RankTerminal) -> type[Any]:
    """Make a class of debuggers that use the person's terminal, from one that uses the standard streams.

    It asks for the terminal before it stops anywhere, and gives it back when it goes on.
    """

    class RankPdb(debugger):  # type: ignore[misc]
        def interaction(self, frame: FrameType | None, *args: Any, **kwargs: Any) -> None:
            # A breakpoint that was set in the debugger is reached after it has gone on.
            if not terminal.held:
                if not terminal.take("breakpoint", place_of(frame)):
                    self.set_continue()
                    return
                _rule(header(terminal, "PDB"))
            terminal.use(prompting=True)
            goes_on = False
            try:
                super().interaction(frame, *args, **kwargs)
                goes_on = not self.quitting
            finally:
                if goes_on:
                    terminal.use(prompting=False)
                else:
                    # The end of the input is no wish to end the session, unless there is nothing to go on with.
                    terminal.give_back(quits=self._left or (frame is None and self.quitting))

        _left = False

        def do_quit(self, arg: str) -> Any:
            self._left = True
            return super().do_quit(arg)

        do_quit.__doc__ = debugger.do_quit.__doc__
        do_q = do_exit = do_quit

        def do_continue(self, arg: str) -> Any:
            stops = super().do_continue(arg)
            terminal.give_back()
            return stops

        do_continue.__doc__ = debugger.do_continue.__doc__
        do_c = do_cont = do_continue

        def runcall(self, *args: Any, **kwargs: Any) -> Any:
            try:
                return super().runcall(*args, **kwargs)
            finally:
                terminal.give_back()

    RankPdb.__name__ = debugger.__name__
    return RankPdb


class NoDebugger:
    """Stands for the debugger of a rank that is not debugged."""

    def set_trace(self, *args: Any, **kwargs: Any) -> None:
        """Go on."""

    def runcall(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call the function."""
        return function(*args, **kwargs)


def header(terminal: RankTerminal, what: str) -> str:
    """Return what stands above the prompt."""
    return f"{what} [rank {terminal.me.rank}]"


def stop_tracing(terminal: RankTerminal) -> None:
    """End a debugger that is still stepping when the rank's work is over."""
    if terminal.held:
        sys.settrace(None)
        terminal.give_back()


def use_in_function(terminal: RankTerminal) -> None:
    """Have ``breakpoint()`` and ``pdb.set_trace()`` of a function or script open a debugger on the terminal."""

    def hook(*args: Any, **kwargs: Any) -> Any:
        if os.environ.get("PYTHONBREAKPOINT", "") not in _BY_PDB:
            return sys.__breakpointhook__(*args, **kwargs)
        return _set_trace(terminal, sys._getframe().f_back, *args, **kwargs)

    def set_trace(**kwargs: Any) -> None:
        _set_trace(terminal, sys._getframe().f_back, **kwargs)

    class BeginsHere:
        """Takes the place of pytest's debugger, whose ``set_trace`` a test file may have had from pdb by that name."""

        def __init__(self, *args: Any, **kwargs: Any) -> None:  # noqa: ARG002 (called as pytest's)
            self._kwargs = kwargs

        def set_trace(self, frame: FrameType | None) -> None:
            _set_trace(terminal, frame, **self._kwargs)

    def prepare(pdb: Any) -> None:
        pdb.set_trace = set_trace
        lend_to_post_mortem(terminal, pdb)

    sys.breakpointhook = hook
    when_imported("pdb", prepare)
    when_imported("_pytest.debugging", lambda module: setattr(module.pytestPDB, "_init_pdb", BeginsHere))


def lend_to_post_mortem(terminal: RankTerminal, pdb: Any) -> None:
    """Have ``pdb.post_mortem()`` use the person's terminal.

    Args:
        terminal: The terminal.
        pdb: The module.
    """
    begin = pdb.post_mortem

    def post_mortem(*args: Any, **kwargs: Any) -> None:
        if terminal.take("breakpoint", place_of(sys._getframe().f_back)):
            _rule(header(terminal, "PDB post_mortem"))
            try:
                begin(*args, **kwargs)
            finally:
                terminal.give_back()

    pdb.post_mortem = post_mortem


def _set_trace(terminal: RankTerminal, frame: FrameType | None, **kwargs: Any) -> None:
    if not terminal.take("breakpoint", place_of(frame)):
        return
    import pdb

    class FunctionPdb(pdb.Pdb):
        def do_continue(self, arg: str) -> Any:
            stops = super().do_continue(arg)
            _rule("PDB continue")
            return stops

    _rule(header(terminal, str(kwargs.pop("header", None) or "PDB set_trace")))
    attach(FunctionPdb, terminal)().set_trace(frame, **kwargs)


def _rule(text: str) -> None:
    width = max(shutil.get_terminal_size().columns - 1, len(text) + 4)
    print("\n" + f" {text} ".center(width, ">"), flush=True)


def place_of_call() -> str:
    """Return where a debugger was called, in the user's code."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_code.co_filename.startswith((_PACKAGE, _debugging_file())):
        frame = frame.f_back
    return place_of(frame)


def _debugging_file() -> str:
    return sys.modules["_pytest.debugging"].__file__ or ""


def ask(terminal: RankTerminal, method: str) -> bool:
    """Ask for the terminal for a debugger of pytest's.

    Args:
        terminal: The terminal.
        method: What pytest calls its way in: ``"set_trace"``, ``"runcall"`` (``--trace``) or ``"post_mortem"``.
    """
    if method == "post_mortem" and terminal.held:
        return True
    why: Why = "trace" if method == "runcall" else "breakpoint"
    return terminal.take(why, "the beginning of the test" if why == "trace" else place_of_call())
