"""What a launch runs: a function with its arguments, or a command line."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pytest_elastic import worker
from pytest_elastic.one_line import one_line
from pytest_elastic.options import is_encodable
from pytest_elastic.pickling import dumps
from pytest_elastic.spec import ArgumentError

_WORKER = Path(worker.__file__).parent


@dataclass(frozen=True, kw_only=True, slots=True)
class EntryPoint:
    """A checked entry point.

    Attributes:
        name: Its name, by torchrun's rule.
        function: Cloudpickled function, arguments and keyword arguments, or ``None``.
        command: Command line, or ``None``.
        script: The command runs a ``.py`` file.
    """

    name: str
    function: bytes | None = None
    command: tuple[str, ...] | None = None
    script: bool = False


def name_of(entrypoint: object, args: Sequence[object]) -> str:
    """Name an entry point as torchrun does.

    A function by its name, a command by its first word, and behind the Python interpreter the first argument that is
    no option; an empty text where there is none. What has no ``__name__``, such as a ``functools.partial`` (torch
    raises AttributeError), is named by what it calls, or by its class.
    """
    if callable(entrypoint):
        inner = getattr(entrypoint, "func", entrypoint)
        return str(getattr(inner, "__name__", type(inner).__name__))
    if isinstance(entrypoint, str):
        if entrypoint == sys.executable:
            return next((str(arg) for arg in args if not str(arg).startswith("-")), "")
        return entrypoint
    return ""


def make_entry_point(
    entrypoint: Callable[..., Any] | str | os.PathLike[str], args: Sequence[Any], kwargs: Mapping[str, Any]
) -> EntryPoint:
    """Check an entry point and make it ready to be sent.

    Raises:
        ArgumentError: It is neither a callable nor a path or command, or cannot be pickled.
    """
    if not isinstance(kwargs, Mapping) or not all(isinstance(name, str) for name in kwargs):
        raise ArgumentError(f"elastic_launch(kwargs=): got {one_line(kwargs)}, expected a dict of keyword arguments")
    __tracebackhide__ = True
    if callable(entrypoint):
        return EntryPoint(name=name_of(entrypoint, args), function=_pickled(entrypoint, args, kwargs))
    # The path of a PathLike may be bytes.
    path = os.fspath(entrypoint) if isinstance(entrypoint, (str, os.PathLike)) else ""
    if not isinstance(path, str) or not path:
        raise ArgumentError(
            f"elastic_launch: the entry point is {one_line(entrypoint)}, expected a callable, the path of a .py file, "
            "or a command"
        )
    if kwargs:
        raise ArgumentError(
            f"elastic_launch(kwargs=): got {one_line(kwargs)} for a command; only a function takes keywords"
        )
    words = tuple(_word(arg) for arg in args)
    if path.endswith(".py"):
        if not Path(path).is_file():
            raise ArgumentError(f"elastic_launch: there is no file {path!r} (working directory {_working_directory()})")
        command = (sys.executable, "-u", str(_WORKER / "script.py"), path, *words)
    else:
        command = (sys.executable, "-S", str(_WORKER / "command.py"), path, *words)
    for word in command:
        if not is_encodable(word):
            what = "a NUL character" if "\0" in word else "half of a character"
            raise ArgumentError(f"elastic_launch: the command has a word with {what}; no program can be given one")
    return EntryPoint(name=name_of(path, words), command=command, script=path.endswith(".py"))


def _word(arg: object) -> str:
    __tracebackhide__ = True
    try:
        return str(os.fspath(arg) if isinstance(arg, os.PathLike) else str(arg))
    except Exception as error:
        raise ArgumentError(
            f"elastic_launch: the argument {one_line(arg)} of a command cannot be made a text: "
            f"{type(error).__name__}: {one_line(str(error))}"
        ) from error


def _working_directory() -> str:
    try:
        return repr(os.getcwd())
    except FileNotFoundError:
        return "no longer exists"


def _pickled(function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> bytes:
    __tracebackhide__ = True
    try:
        return dumps((function, tuple(args), dict(kwargs)))
    except Exception as error:
        named = [(name_of(function, args) or one_line(function), function)]
        named += [(f"argument {index} ({type(arg).__qualname__})", arg) for index, arg in enumerate(args, 1)]
        named += [(f"keyword argument {name} ({type(arg).__qualname__})", arg) for name, arg in kwargs.items()]
        what = next((name for name, value in named if not _can_be_sent(value)), named[0][0])
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise ArgumentError(f"elastic_launch: {what} cannot be sent to the ranks: {reason}") from error


def _can_be_sent(value: object) -> bool:
    try:
        dumps(value)
    except Exception:  # noqa: BLE001 (whatever a foreign class does when it is pickled)
        return False
    return True
