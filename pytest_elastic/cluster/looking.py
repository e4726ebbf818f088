"""Whether a session in place may have tests on ranks: told by a look at its files, before anybody waits for anybody.

Suites whose plain tests make up a world by themselves may do so as early as a conftest is imported, which takes all
processes: none of them must wait for the first one to have collected. All look at the same files, and come to the same.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import pytest

    from pytest_elastic.options import Given

_SIGNS: Final = re.compile(rb"elastic_launch|mark\.elastic\b|pytest_elastic|[\"']elastic[\"']")
_NEVER: Final = frozenset({"__pycache__", "node_modules", "site-packages"})


def may_have_elastic_tests(config: pytest.Config, given: dict[str, Given]) -> bool:
    """Tell whether a file that the session might collect or load shows signs of tests that run on ranks."""
    if "nproc" in given:
        return True  # a bare mark is enough then
    seen: set[str] = set()
    return any(_has_sign(file, seen) for root in _roots(config) for file in _files(root))


def _roots(config: pytest.Config) -> list[Path]:
    names = [str(argument).partition("::")[0] for argument in config.args]
    roots = [Path(config.invocation_params.dir, name) for name in names]
    existing = [root for root in roots if root.exists()]
    if len(existing) < len(roots):  # --pyargs
        existing.append(config.rootpath)
    # Conftests above what is collected may mark tests as well.
    above = {parent / "conftest.py" for root in existing for parent in root.resolve().parents}
    inside = [file for file in above if file.is_relative_to(config.rootpath) and file.exists()]
    return [*existing, *inside]


def _files(root: Path) -> Iterator[str]:
    if root.is_file():
        yield str(root)
        return
    for folder, folders, names in os.walk(root):
        folders[:] = [name for name in folders if name[:1] != "." and name not in _NEVER]
        yield from (os.path.join(folder, name) for name in names if name.endswith(".py"))


def _has_sign(file: str, seen: set[str]) -> bool:
    if file in seen:
        return False
    seen.add(file)
    try:
        with open(file, "rb") as stream:
            return _SIGNS.search(stream.read()) is not None
    except OSError:
        return False
