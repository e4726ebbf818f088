"""Exceptions across process borders, those that do not survive pickle included."""

from __future__ import annotations

import functools
import io
import pickle
import sys
import traceback
from typing import Any

import cloudpickle

from pytest_elastic.errors import ElasticError, rebuild


class UnpicklableError(ElasticError):
    """Stands for an exception that could not be sent.

    Attributes:
        type_name: Qualified name of its class.
        text: Its text.
    """

    def __init__(self, type_name: str, text: str) -> None:
        super().__init__(f"{type_name}: {text} (the exception itself could not be sent)")
        self.type_name = type_name
        self.text = text


def pickle_exception(error: BaseException) -> bytes:
    """Pickle an exception, by its parts where its own way fails, as a stand-in where those fail too."""
    parts: tuple[Any, ...]
    try:
        data = bytes(cloudpickle.dumps(error))
        if type(pickle.loads(data)) is type(error):
            return data
    except BaseException:  # noqa: BLE001 (a foreign __reduce__ or __init__ may raise anything, or call sys.exit)
        pass
    parts = (type(error), error.args, dict(error.__dict__))
    try:
        return bytes(cloudpickle.dumps(_Rebuilt(*parts)))
    except Exception:  # noqa: BLE001
        text = "".join(traceback.format_exception_only(type(error), error)).strip().partition(": ")[2]
        return pickle.dumps(UnpicklableError(type(error).__qualname__, text))


class _Rebuilt:
    """Unpickles as the exception that has these parts."""

    def __init__(self, cls: type[BaseException], args: tuple[Any, ...], state: dict[str, Any]) -> None:
        self._parts = (cls, args, state)

    def __reduce__(self) -> tuple[Any, ...]:
        return rebuild, self._parts


def dumps(value: object) -> bytes:
    """Pickle what cloudpickle can carry, and functions behind ``functools.lru_cache``, which it knows by name only."""
    file = io.BytesIO()
    _Pickler(file).dump(value)
    return file.getvalue()


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]  # cloudpickle has no types
    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, functools._lru_cache_wrapper) and _found_by_name(obj) is not obj:
            return _cached, (obj.__wrapped__, obj.cache_parameters())
        return super().reducer_override(obj)


def _cached(function: Any, parameters: dict[str, Any]) -> Any:
    return functools.lru_cache(**parameters)(function)


def _found_by_name(obj: Any) -> object:
    """Return what the module and name of an object lead to, or ``None``; ``pickle`` sends no more than these."""
    found: object = sys.modules.get(obj.__module__)
    for name in obj.__qualname__.split("."):
        found = getattr(found, name, None)
    return found
