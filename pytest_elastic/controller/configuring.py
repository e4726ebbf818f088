"""What conftests and other plugins make of a launch before it starts, and what they see of it afterwards."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import pytest

from pytest_elastic.one_line import one_line
from pytest_elastic.options import LAUNCH_ARGUMENTS
from pytest_elastic.result import LaunchResult
from pytest_elastic.spec import ArgumentError, LaunchSpec, make_spec
from pytest_elastic.warning import ElasticWarning

_CONFIGURE: Final = "pytest_elastic_configure_launch"


def configured(spec: LaunchSpec, item: pytest.Item) -> LaunchSpec:
    """Return a spec as implementations of ``pytest_elastic_configure_launch`` want it.

    Raises:
        ArgumentError: What one of them returns is not allowed.
    """
    __tracebackhide__ = True
    hook = item.ihook.pytest_elastic_configure_launch
    if not hook.get_hookimpls():
        return spec
    changes: dict[str, Any] = {}
    for given in reversed(hook(spec=spec, item=item)):  # what pytest calls first has the last word
        if not isinstance(given, Mapping):
            raise ArgumentError(f"{_CONFIGURE}: got {one_line(given)}, expected a dict of arguments, or None")
        added = {"env": {**changes.get("env", {}), **given["env"]}} if isinstance(given.get("env"), Mapping) else {}
        changes.update({**given, **added})
    if not changes:
        return spec
    arguments: dict[str, Any] = {name: getattr(spec, name) for name in LAUNCH_ARGUMENTS if name != "nnodes"}
    nodes = (spec.min_nodes, spec.max_nodes)
    arguments["nnodes"] = nodes[0] if nodes[0] == nodes[1] else f"{nodes[0]}:{nodes[1]}"
    if isinstance(changes.get("env"), Mapping):
        changes["env"] = {**spec.env, **changes["env"]}
    return make_spec(_CONFIGURE, arguments | changes, {})


def tell_finished(result: LaunchResult, item: pytest.Item) -> None:
    """Show what came of a launch to those who want to see it. What they raise is a warning: it changes no verdict."""
    try:
        item.ihook.pytest_elastic_launch_finished(result=result, item=item)
    except Exception as error:  # noqa: BLE001 (whatever another plugin raises)
        why = f"{type(error).__name__}: {error}"
        item.warn(ElasticWarning(f"pytest_elastic_launch_finished raised {' '.join(why.split())}"))
