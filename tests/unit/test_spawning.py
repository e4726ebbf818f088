from __future__ import annotations

import sys
import types
from importlib.machinery import ModuleSpec

import pytest

from pytest_elastic.controller.spawning import imported_modules, torch_imports


@pytest.mark.parametrize(
    ("source", "modules"),
    [
        ("import torch", ("torch",)),
        ("import os, torch.distributed as dist", ("torch.distributed",)),
        ("from torch.testing._internal import common_utils\nimport torchvision", ("torch.testing._internal",)),
        ("from . import torch\nfrom .torch import x", ()),
        ("def f():\n    import torch", ()),
        ("this is no Python", ()),
        ("import torch\0", ()),
    ],
)
def test_what_a_file_imports_of_torch(source: str, modules: tuple[str, ...]) -> None:
    assert torch_imports(source.encode()) == modules


def test_modules_that_came_by_an_import(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a_package", "a_package.part", "a_package_too", "another"):
        module = types.ModuleType(name)
        module.__spec__ = ModuleSpec(name, None)
        monkeypatch.setitem(sys.modules, name, module)
    for name in ("a_package.no_spec", "a_package.alias"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    sys.modules["a_package.alias"].__spec__ = ModuleSpec("a_package.part", None)
    assert imported_modules(("a_package",)) == ["a_package", "a_package.part"]
