"""Call a launch's function in a rank."""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import importlib.util
import os
import pickle
import sys
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

import cloudpickle

from pytest_elastic.messages import RankOrder


class UnsendableValueError(TypeError):
    """A rank's return value cannot be pickled."""


class TestModuleFinder(importlib.abc.MetaPathFinder):
    """Finds the test modules that pytest imported under names that ``sys.path`` does not lead to."""

    __test__ = False

    def __init__(self, files: dict[str, str]) -> None:
        self._files = files

    def find_spec(
        self,
        name: str,
        path: Sequence[str] | None,  # noqa: ARG002
        target: ModuleType | None = None,  # noqa: ARG002
    ) -> importlib.machinery.ModuleSpec | None:
        """Find a module by the name that pytest gave it."""
        file = self._files.get(name)
        if file is None:
            return None
        for finder in sys.meta_path:
            # pytest's own finder rewrites asserts; it looks at the file that the path leads to.
            if type(finder).__module__.startswith("_pytest.assertion"):
                spec = finder.find_spec(name, [os.path.dirname(file)])
                if spec is not None:
                    return spec
        search = [os.path.dirname(file)] if os.path.basename(file) == "__init__.py" else None
        return importlib.util.spec_from_file_location(name, file, submodule_search_locations=search)


def call(order: RankOrder) -> bytes:
    """Call the function of a launch and return its pickled value.

    Raises:
        UnsendableValueError: The value cannot be pickled.
        BaseException: Whatever the function raises.
    """
    sys.meta_path.append(TestModuleFinder(order.modules))
    assert order.function is not None
    function: Callable[..., Any]
    function, args, kwargs = pickle.loads(order.function)
    value = function(*args, **kwargs)
    try:
        return bytes(cloudpickle.dumps(value))
    except Exception as error:
        raise UnsendableValueError(
            f"returned a value of type {type(value).__qualname__!r} that cannot be pickled: "
            f"{type(error).__name__}: {error}"
        ) from error
