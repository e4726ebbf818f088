"""What a launch runs: a function with its arguments, or a command line."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pytest_elastic import worker
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
        raise ArgumentError(f"elastic_launch(kwargs=): got {kwargs!r}, expected a dict of keyword arguments")
    __tracebackhide__ = True
    if callable(entrypoint):
        return EntryPoint(name=name_of(entrypoint, args), function=_pickled(entrypoint, args, kwargs))
    if not isinstance(entrypoint, (str, os.PathLike)) or not os.fspath(entrypoint):
        raise ArgumentError(
            f"elastic_launch: the entry point is {entrypoint!r}, expected a callable, the path of a .py file, "
            "or a command"
        )
    if kwargs:
        raise ArgumentError(f"elastic_launch(kwargs=): got {kwargs!r} for a command; only a function takes keywords")
    path = os.fspath(entrypoint)
    words = tuple(os.fspath(arg) if isinstance(arg, os.PathLike) else str(arg) for arg in args)
    if path.endswith(".py"):
        if not Path(path).is_file():
            raise ArgumentError(f"elastic_launch: there is no file {path!r} (working directory {os.getcwd()!r})")
        command = (sys.executable, "-u", str(_WORKER / "script.py"), path, *words)
    else:
        command = (sys.executable, "-S", str(_WORKER / "command.py"), path, *words)
    return EntryPoint(name=name_of(path, words), command=command, script=path.endswith(".py"))


def _pickled(function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> bytes:
    __tracebackhide__ = True
    import cloudpickle

    try:
        return bytes(cloudpickle.dumps((function, tuple(args), dict(kwargs))))
    except Exception as error:
        raise ArgumentError(
            f"elastic_launch: {name_of(function, args)} or one of its arguments cannot be sent to the ranks: "
            f"{type(error).__name__}: {error}"
        ) from error
