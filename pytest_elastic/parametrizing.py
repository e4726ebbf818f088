"""What parametrization has to do with the launch: lists in marks, and arguments of well-known names.

PYTEST_DONT_REWRITE.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

import pytest

from pytest_elastic import compat
from pytest_elastic.controller.configuring import configured
from pytest_elastic.detection import MARK
from pytest_elastic.one_line import one_line
from pytest_elastic.options import LAUNCH_ARGUMENTS, MOST, SETTINGS, Given
from pytest_elastic.spec import ArgumentError, LaunchSpec, check_names, make_spec

EXTRAS: Final = ("faults", "rdzv_configs")
"""Arguments of the mark that no option or ini key gives."""
ALLOWED: Final = (*LAUNCH_ARGUMENTS, *EXTRAS)
POSITIONAL: Final = "*"
"""Key under which merged arguments hold what a mark was given without a name."""
SOURCE: Final = "marker elastic"
_SWEPT: Final = ("nproc", "nnodes")
_SET_BY: Final = {"nproc": ("nproc", "world_size"), "nnodes": ("nnodes",)}
"""Argument of the mark to the parametrized arguments that set it."""
_DIFFERS_BY_RANK: Final = ("rank", "local_rank", "node_rank")


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class Entry:
    """One entry of a list in a mark: the value of a parameter that no function sees.

    Attributes:
        value: The entry.
        values: The list that it is from.
    """

    value: Any
    values: list[Any]

    def __repr__(self) -> str:
        return repr(self.value)


def merge_marks(marks: Iterable[pytest.Mark]) -> dict[str, Any]:
    """Merge the arguments of marks, the closest of which comes first and wins."""
    arguments: dict[str, Any] = {}
    for mark in reversed(list(marks)):
        if mark.args:
            arguments[POSITIONAL] = mark.args
        arguments.update(mark.kwargs)
    return arguments


def closest_first(item: pytest.Item) -> list[pytest.Mark]:
    """Return the marks of a test. One in ``pytest.param`` is for this test alone, so it is the closest."""
    marks = list(item.iter_markers(MARK))
    callspec = getattr(item, "callspec", None)
    own = [mark for mark in marks if callspec is not None and any(mark is other for other in callspec.marks)]
    return own + [mark for mark in marks if not any(mark is other for other in own)]


def parametrize_lists(metafunc: pytest.Metafunc) -> None:
    """Make a test of each entry of a list. A list that is not allowed is left to the one test, which says so."""
    arguments = merge_marks(metafunc.definition.iter_markers(MARK))
    lists = _lists(arguments)
    if POSITIONAL in arguments or _complaints(lists):
        return
    for name, values in lists.items():
        # pytest takes the names that a function asks for only; nothing fills in this one.
        metafunc.fixturenames.append(_hidden(name))
        metafunc.parametrize(
            _hidden(name),
            [Entry(value=value, values=values) for value in values],
            ids=[_id(name, value) for value in values],
        )


def spec_of(item: pytest.Item, arguments: Mapping[str, Any], given: Mapping[str, Given]) -> LaunchSpec:
    """Return what the launch of a test is to be.

    Args:
        item: The test.
        arguments: Merged arguments of its marks.
        given: What options and ini keys set.

    Raises:
        ArgumentError: An argument or a parameter is not allowed, or two contradict each other.
    """
    positional = arguments.get(POSITIONAL)
    if positional:
        got = ", ".join(map(one_line, positional))
        raise ArgumentError(f"{SOURCE} takes keywords only, got {got}; allowed are {', '.join(ALLOWED)}")
    check_names(SOURCE, [name for name in arguments if name != POSITIONAL], ALLOWED)
    for complaint in _complaints(_lists(arguments)):
        raise ArgumentError(complaint)
    callspec = getattr(item, "callspec", None)
    parameters: Mapping[str, Any] = callspec.params if callspec is not None else {}
    chosen = {name: value for name, value in arguments.items() if name not in EXTRAS}
    for name in _SWEPT:
        entry = parameters.get(_hidden(name))
        if isinstance(chosen.get(name), list) or entry is not None:
            chosen[name] = _entry_of(item, name, chosen.get(name), entry)
    own = {
        name: parameters[name]
        for name in ("nproc", "nnodes", "world_size", *_DIFFERS_BY_RANK)
        if name in parameters and not compat.has_fixture_of_users(item, name)
    }
    chosen |= _set_by_parameters(own, chosen, given, swept=[name for name in _SWEPT if _hidden(name) in parameters])
    spec = configured(make_spec(SOURCE, chosen, given), item)
    unfit = _unfit_for_sharing(spec, arguments)
    if spec.isolation == "function" or unfit is None:
        return spec
    if "isolation" in arguments:
        raise ArgumentError(
            f'{SOURCE}(isolation="{spec.isolation}"): ranks that are kept for other tests cannot have {unfit}; use '
            'isolation="function"'
        )
    return replace(spec, isolation="function")  # an option or ini key means the tests that can


def _unfit_for_sharing(spec: LaunchSpec, arguments: Mapping[str, Any]) -> str | None:
    """Return what keeps the ranks of a test from running others, or ``None``."""
    if spec.max_restarts:
        return f"max_restarts={spec.max_restarts}"
    if spec.min_nodes < spec.max_nodes:
        return f'nnodes="{spec.min_nodes}:{spec.max_nodes}"'
    faults = arguments.get("faults", ())
    return None if isinstance(faults, (list, tuple)) and not faults else "faults"


def _entry_of(item: pytest.Item, name: str, value: Any, entry: Entry | None) -> Any:
    """Return the entry of a list that this test is for."""
    if entry is not None and value == entry.values:
        return entry.value
    if isinstance(value, list):
        what = "unittest methods" if _is_unittest(item) else "by marks in pytest.param or added after collection"
        raise ArgumentError(f"{SOURCE}({name}={one_line(value)}): pytest cannot parametrize {what}; give one value")
    assert entry is not None
    raise ArgumentError(
        f"{SOURCE}({name}={one_line(value)}): contradicts the list {one_line(entry.values)} that parametrizes this "
        "test; use one"
    )


def _is_unittest(item: pytest.Item) -> bool:
    import unittest

    return issubclass(getattr(item, "cls", None) or object, unittest.TestCase)


def _set_by_parameters(
    own: Mapping[str, Any], chosen: Mapping[str, Any], given: Mapping[str, Given], *, swept: list[str]
) -> dict[str, Any]:
    """Return the arguments that parametrized ones of well-known names stand for."""
    for name in _DIFFERS_BY_RANK:
        if name in own:
            raise ArgumentError(
                f"parametrized argument {name!r}: got {one_line(own[name])}, but each rank of an elastic test has a "
                f"{name} of its own; use another name"
            )
    for name in swept:
        clash = next((other for other in _SET_BY[name] if other in own), None)
        if clash is not None:
            raise ArgumentError(f"{SOURCE}({name}=[...]) and parametrized argument {clash!r} both set {name}; use one")
    values = {name: _checked(name, own[name]) for name in _SWEPT if name in own}
    if "world_size" in own:
        values["nproc"] = _nproc_for(own["world_size"], {**chosen, **values}, given, nproc=values.get("nproc"))
    return values


def _checked(name: str, value: Any) -> Any:
    setting = SETTINGS[name]
    if not setting.check(value):
        raise ArgumentError(setting.refuse(f"parametrized argument {name!r}", value))
    return value


def _nproc_for(world_size: Any, chosen: Mapping[str, Any], given: Mapping[str, Given], *, nproc: Any) -> int:
    """Return the number of ranks a node that makes a world of the size that a test is parametrized with."""
    source = "parametrized argument 'world_size'"
    if type(world_size) is not int or world_size < 1:
        raise ArgumentError(f"{source}: got {one_line(world_size)}, expected an int >= 1")
    if world_size > MOST:
        raise ArgumentError(f"{source}: got {one_line(world_size)}, expected an int >= 1, up to {MOST}")
    rest = {name: value for name, value in chosen.items() if name != "nproc"}
    nodes = make_spec(SOURCE, rest, given)
    if nodes.min_nodes != nodes.max_nodes:
        raise ArgumentError(
            f'{source}: got {world_size}, but nnodes="{nodes.min_nodes}:{nodes.max_nodes}" leaves the size of the '
            "world open; give a fixed number of nodes"
        )
    if world_size % nodes.max_nodes:
        raise ArgumentError(f"{source}: got {world_size}, expected a multiple of nnodes, which is {nodes.max_nodes}")
    if nproc is not None and nproc != world_size // nodes.max_nodes:
        raise ArgumentError(
            f"{source}: got {world_size}, but parametrized argument 'nproc' is {nproc!r} and nnodes {nodes.max_nodes}"
        )
    return int(world_size // nodes.max_nodes)


def _lists(arguments: Mapping[str, Any]) -> dict[str, list[Any]]:
    return {name: arguments[name] for name in _SWEPT if isinstance(arguments.get(name), list)}


def _complaints(lists: Mapping[str, list[Any]]) -> list[str]:
    """Return a line for each list that is not allowed."""
    return [line for name, values in lists.items() if (line := _complain(name, values)) is not None]


def _complain(name: str, values: list[Any]) -> str | None:
    setting = SETTINGS[name]
    source = f"{SOURCE}({name}=)"
    if not values:
        return f"{source}: got [], expected a list with an entry for each test"
    for value in values:
        if not setting.check(value):
            return setting.refuse(source, value) + f", in each entry of {one_line(values)}"
    ids = [_id(name, value) for value in values]
    twice = next((value for value, text in zip(values, ids, strict=True) if ids.count(text) > 1), None)
    if twice is not None:
        got = f"{one_line(twice)} twice in {one_line(values)}"
        return f"{source}: got {got}, expected different entries, each for one test"
    return None


def _hidden(name: str) -> str:
    return f"_elastic_{name}"


def _id(name: str, value: Any) -> str:
    return f"{name}={value}"
