"""Prepare torch in a script that may or may not import it: name look-ups, ranks that are early."""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import sys
from collections.abc import Sequence
from types import ModuleType

_TRIGGER = "torch.distributed.distributed_c10d"


class _AfterTorch(importlib.abc.MetaPathFinder):
    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name != _TRIGGER:
            return None
        sys.meta_path.remove(self)
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = _Then(spec.loader)
        return spec


class _Then(importlib.abc.Loader):
    def __init__(self, loader: importlib.abc.Loader) -> None:
        self._loader = loader

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self._loader.exec_module(module)
        from pytest_elastic.worker.names import stop_reverse_lookups
        from pytest_elastic.worker.rendezvous import prepare_rendezvous

        stop_reverse_lookups()
        prepare_rendezvous()


def prepare_torch_when_imported() -> None:
    """Prepare ``torch.distributed`` as soon as the script has imported it."""
    sys.meta_path.insert(0, _AfterTorch())
