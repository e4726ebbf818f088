"""Prepare modules that a rank's code may or may not import: torch (name look-ups, ranks that are early), pdb."""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import sys
from collections.abc import Callable, Sequence
from types import ModuleType

_TRIGGER = "torch.distributed.distributed_c10d"


class _When(importlib.abc.MetaPathFinder):
    def __init__(self, module: str, then: Callable[[ModuleType], None]) -> None:
        self._module = module
        self._then = then

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name != self._module:
            return None
        sys.meta_path.remove(self)
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = _Then(spec.loader, self._then)
        return spec


class _Then(importlib.abc.Loader):
    def __init__(self, loader: importlib.abc.Loader, then: Callable[[ModuleType], None]) -> None:
        self._loader = loader
        self._then = then

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self._loader.exec_module(module)
        self._then(module)


def when_imported(module: str, then: Callable[[ModuleType], None]) -> None:
    """Do something with a module as soon as it has been imported, or now if it has been.

    Args:
        module: Its name.
        then: What to do.
    """
    if module in sys.modules:
        then(sys.modules[module])
    else:
        sys.meta_path.insert(0, _When(module, then))


def prepare_torch_when_imported() -> None:
    """Prepare ``torch.distributed`` as soon as the script has imported it."""
    when_imported(_TRIGGER, _prepare_torch)


def _prepare_torch(module: ModuleType) -> None:  # noqa: ARG001 (that it is there is enough)
    from pytest_elastic.worker.names import stop_reverse_lookups
    from pytest_elastic.worker.rendezvous import prepare_rendezvous

    stop_reverse_lookups()
    prepare_rendezvous()
