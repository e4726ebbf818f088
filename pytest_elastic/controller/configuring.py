"""What conftests and other plugins make of a launch before it starts, and what they see of it afterwards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import pytest

from pytest_elastic.one_line import fitted, one_line
from pytest_elastic.options import LAUNCH_ARGUMENTS
from pytest_elastic.refusal import TOLD
from pytest_elastic.result import LaunchResult
from pytest_elastic.spec import ArgumentError, LaunchSpec, check_names, make_spec, takes_late_nodes
from pytest_elastic.worker.failure import text_of

_CONFIGURE: Final = "pytest_elastic_configure_launch"


def configured(spec: LaunchSpec, item: pytest.Item, allowed: Sequence[str] = LAUNCH_ARGUMENTS) -> LaunchSpec:
    """Return a spec as implementations of ``pytest_elastic_configure_launch`` want it.

    Args:
        spec: What the launch is to be.
        item: The test.
        allowed: What may be changed.

    Raises:
        ArgumentError: What one of them returns is not allowed.
    """
    __tracebackhide__ = True
    hook = item.ihook.pytest_elastic_configure_launch
    if not hook.get_hookimpls():
        return spec
    changes: dict[str, Any] = {}
    for given in reversed(hook(spec=spec, item=item)):  # what pytest calls first has the last word
        if not isinstance(given, Mapping) or not all(isinstance(name, str) for name in given):
            raise ArgumentError(f"{_CONFIGURE}: got {one_line(given)}, expected a dict of arguments, or None")
        check_names(_CONFIGURE, list(given), allowed)
        added = {"env": {**changes.get("env", {}), **given["env"]}} if isinstance(given.get("env"), Mapping) else {}
        changes.update({**given, **added})
    if not changes:
        return spec
    arguments: dict[str, Any] = {name: getattr(spec, name) for name in LAUNCH_ARGUMENTS if name != "nnodes"}
    nodes = (spec.min_nodes, spec.max_nodes)
    arguments["nnodes"] = nodes[0] if nodes[0] == nodes[1] else f"{nodes[0]}:{nodes[1]}"
    if "nnodes" in changes and not takes_late_nodes(spec.rdzv_backend):
        del arguments["rdzv_backend"]  # a range of nodes has another default
    if isinstance(changes.get("env"), Mapping):
        changes["env"] = {**spec.env, **changes["env"]}
    return make_spec(_CONFIGURE, arguments | changes, {})


def tell_finished(result: LaunchResult, item: pytest.Item) -> list[str]:
    """Show what came of a launch to those who want to see it.

    Returns:
        What there is to warn of: what one of them raises changes no verdict.
    """
    try:
        item.ihook.pytest_elastic_launch_finished(result=result, item=item)
    except TOLD as error:
        why = fitted(f"{type(error).__name__}: {text_of(error)}")
        return [f"pytest_elastic_launch_finished raised {why}"]
    return []
