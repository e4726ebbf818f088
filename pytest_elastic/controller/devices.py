"""How many ranks torchrun's words mean on this machine, and which device each of them gets.

torch is asked by a process of its own, once, so that neither pytest nor the preloaded server ever touches a device.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pytest_elastic import kernel
from pytest_elastic.accelerators import CPU, KINDS, Survey, read_survey
from pytest_elastic.errors import ElasticError
from pytest_elastic.messages import DeviceOrder
from pytest_elastic.one_line import one_line
from pytest_elastic.options import MOST, SETTINGS
from pytest_elastic.spec import ArgumentError, LaunchSpec

_PACKAGES: Final = str(Path(__file__).parents[2])
_DEADLINE: Final = 120.0
_VISIBLE: Final[Mapping[str, tuple[str, ...]]] = {
    # Which variable limits the devices of a process: the first that is set, else the first.
    "cuda": ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES"),
    "xpu": ("ZE_AFFINITY_MASK",),
    "npu": ("ASCEND_RT_VISIBLE_DEVICES",),
}
_COUNTED: Final = {"gpu": "cuda", "xpu": "xpu"}
"""torchrun's words for the number of devices, and the type that they count."""

Ask = Callable[[Mapping[str, str]], Survey]
Choose = Callable[[str, tuple[str, ...], int], Sequence[str] | None]
"""From a type of device, what they are called, and the number of ranks, to the device of each rank or nothing."""


class TooFewDevicesError(ArgumentError):
    """This machine has not the accelerators that a launch needs."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Placement:
    """Where the ranks of a launch run.

    Attributes:
        nodes: Number of nodes.
        nproc: Ranks a node.
        kind: Type of their devices.
        names: What this machine's devices of the type are called.
        ids: What tells them from all others, in the same order.
        variable: Environment variable that hides some of them from a process, or an empty text if there is none.
        given: The device of each rank, by name, where a plugin has chosen them.
        virtual: Each rank is to see its own device only (torch's ``virtual_local_rank``).
    """

    nodes: int
    nproc: int
    kind: str = CPU
    names: tuple[str, ...] = ()
    ids: tuple[str, ...] = ()
    variable: str = ""
    given: tuple[str, ...] = ()
    virtual: bool = False

    @property
    def world_size(self) -> int:
        """Number of ranks."""
        return self.nodes * self.nproc

    @property
    def wanted(self) -> tuple[tuple[str, ...], int]:
        """Ids of devices, and how many of them the launch needs for itself."""
        if self.given:
            chosen = tuple(id for name, id in zip(self.names, self.ids, strict=True) if name in self.given)  # noqa: A001
            return chosen, len(chosen)
        # Where nothing can hide devices from a process, a launch has all of them.
        return self.ids, self.world_size if self.variable else len(self.ids)

    def devices(self, ids: Sequence[str]) -> DeviceOrder:
        """Divide devices among the ranks: the index of a rank's device is its local rank, as torchrun has it.

        Args:
            ids: The devices that the launch has.
        """
        if self.kind == CPU:
            return DeviceOrder()
        mine = self.given or tuple(n for n, id in zip(self.names, self.ids, strict=True) if id in ids)  # noqa: A001
        if self.nodes == 1 and mine == self.names:
            return DeviceOrder(kind=self.kind)
        nodes = [mine[first : first + self.nproc] for first in range(0, self.world_size, self.nproc)]
        # A list in which a device comes twice would end there.
        single = self.virtual or any(len(set(node)) < len(node) for node in nodes)
        width = 1 if single else self.nproc
        firsts = [rank - rank % width for rank in range(self.world_size)]
        visible = tuple(",".join(mine[first : first + width]) for first in firsts)
        return DeviceOrder(kind=self.kind, variable=self.variable, visible=visible, single=single)


class Devices:
    """This machine's accelerators, counted when a launch first needs to know, and not again.

    Args:
        ask: Counts them, in the environment that it is given.
    """

    def __init__(self, ask: Ask | None = None) -> None:
        self._ask = ask if ask is not None else ask_torch
        self._answers: dict[tuple[str | None, ...], Survey | ElasticError] = {}

    def _survey(self, environ: Mapping[str, str]) -> Survey:
        # A test may hide devices from its ranks: then there are others to count.
        key = tuple(environ.get(variable) for variables in _VISIBLE.values() for variable in variables)
        if key not in self._answers:
            try:
                self._answers[key] = self._ask(environ)
            except ElasticError as error:
                self._answers[key] = error
        answer = self._answers[key]
        if isinstance(answer, ElasticError):
            raise ElasticError(str(answer))
        return answer

    def place(
        self,
        spec: LaunchSpec,
        environ: Mapping[str, str],
        *,
        nodes: int,
        nproc: int | None = None,
        virtual: bool = False,
        choose: Choose | None = None,
    ) -> Placement:
        """Find out the number of ranks, and which devices there are for them.

        Args:
            spec: The launch.
            environ: Environment of its ranks.
            nodes: How many nodes it has at most.
            nproc: Ranks a node, if something else than the spec says so.
            virtual: Each rank is to see its own device only (torch's ``virtual_local_rank``).
            choose: Chooses the device of each rank.

        Raises:
            ArgumentError: torch does not know what ``nproc`` or ``device`` names.
            TooFewDevicesError: There are fewer devices than the launch needs.
        """
        __tracebackhide__ = True
        number = nproc if nproc is not None else self._number(spec.nproc, environ)
        if spec.device == CPU:
            return Placement(nodes=nodes, nproc=number)
        survey = self._survey(environ)
        kind = survey.kind if spec.device == "auto" else spec.device
        if kind == CPU:
            return Placement(nodes=nodes, nproc=number)
        if kind not in survey.kinds:
            known = ", ".join(f'"{name}"' for name in ("cpu", *survey.kinds, "auto"))
            raise ArgumentError(f'device="{kind}": torch has no such accelerator; allowed are {known}')
        count, needed = survey.counts.get(kind, 0), nodes * number
        variables = _VISIBLE.get(kind, ())
        variable = next((variable for variable in variables if environ.get(variable)), (*variables, "")[0])
        names = _names(count, environ.get(variable, ""))
        choice = choose(kind, names, needed) if choose is not None else None
        given = _checked_choice(choice, kind, names, needed, variable) if choice is not None else ()
        if not given and count < needed:
            raise TooFewDevicesError(f"needs {needed} {kind} {_noun(needed)}, {_has(kind, count, environ)}")
        if nodes > 1 and not variable:
            raise ArgumentError(
                f'device="{kind}": {nodes} nodes on one machine cannot share devices of this type, since no '
                "environment variable is known that hides some of them from a process; use nnodes=1"
            )
        return Placement(
            nodes=nodes,
            nproc=number,
            kind=kind,
            names=names,
            ids=_ids(survey.ids.get(kind, ()), names),
            variable=variable,
            given=given,
            virtual=virtual,
        )

    def allowed_words(self, name: str, word: str, environ: Mapping[str, str]) -> str | None:
        """Return what is allowed where torch does not know a word; ``None`` if it does, or if it does not tell.

        Args:
            name: The setting: ``nproc`` or ``device``.
            word: Its value.
            environ: The environment.
        """
        if word in (CPU, "auto", *(_COUNTED if name == "nproc" else KINDS)):
            return None
        try:
            private = self._survey(environ).private
        except ElasticError:
            return None  # told by each test that needs to know
        if word == private:
            return None
        if name == "nproc":
            return f'{SETTINGS[name].allowed}, which is "{private}"'
        return ", ".join(f'"{each}"' for each in (CPU, *KINDS, private)) + ' or "auto"'

    def _number(self, nproc: int | str, environ: Mapping[str, str]) -> int:
        """Turn ``nproc`` into a number, with torchrun's meaning of its words."""
        __tracebackhide__ = True
        if isinstance(nproc, int):
            return nproc
        if nproc == CPU:
            return cores()
        survey = self._survey(environ)
        if nproc == "auto":
            return survey.counts.get(survey.kind, 0) or cores()
        kind = survey.private if nproc == survey.private else _COUNTED.get(nproc)
        if kind is None:
            private = f'{SETTINGS["nproc"].allowed}, which is "{survey.private}"'
            raise ArgumentError(f'nproc="{nproc}": expected {private}')
        count = survey.counts.get(kind, 0)
        if count == 0:
            raise TooFewDevicesError(f'needs a {kind} device for nproc="{nproc}", {_has(kind, count, environ)}')
        return count


def check_survey(found: object) -> Survey:
    """Check what a plugin says of the accelerators.

    Raises:
        ArgumentError: It says what is allowed.
    """
    if isinstance(found, Survey) and _is_survey(found.kind, found.private, found.counts, found.ids):
        return found
    raise ArgumentError(
        f"pytest_elastic_find_devices: got {one_line(found)}, expected None, or a pytest_elastic.accelerators.Survey: "
        "kind and private are of type str, counts is a dict of str to int >= 0, and ids one of str to lists of str"
    )


def _is_survey(kind: object, private: object, counts: object, ids: object) -> bool:
    if not isinstance(counts, Mapping) or not isinstance(ids, Mapping):
        return False
    lists = [each for each in ids.values() if isinstance(each, (list, tuple))]
    names = [kind, private, *counts, *ids, *(name for each in lists for name in each)]
    numbers = all(type(count) is int and 0 <= count <= MOST for count in counts.values())
    return numbers and len(lists) == len(ids) and all(isinstance(name, str) for name in names)


def ask_torch(environ: Mapping[str, str]) -> Survey:
    """Have a process of its own count the accelerators.

    Raises:
        ElasticError: It could not.
    """
    question = (
        f"import sys; sys.path.append({_PACKAGES!r}); "
        f"from pytest_elastic.accelerators import print_survey; print_survey({kernel.own_pid()})"
    )
    try:
        answer = subprocess.run(
            [sys.executable, "-c", question],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_DEADLINE,
            env=dict(environ),
        )
    except subprocess.TimeoutExpired:
        raise ElasticError(f"torch did not tell within {_DEADLINE:g} s how many accelerators there are") from None
    if answer.returncode != 0:
        last = (answer.stderr.strip().splitlines() or [f"exit code {answer.returncode}"])[-1]
        raise ElasticError(f"torch could not tell how many accelerators there are: {last}")
    return read_survey(answer.stdout)


def _names(count: int, visible: str) -> tuple[str, ...]:
    """Return what devices are called in the variable that limits them."""
    names = tuple(name.strip() for name in visible.split(",") if name.strip())[:count]
    return names if len(names) == count else tuple(map(str, range(count)))


def _ids(told: Sequence[str], names: tuple[str, ...]) -> tuple[str, ...]:
    """Return what tells devices apart: what they say of themselves, if all do and none as another; else their names."""
    return tuple(told) if len(told) == len(set(told)) == len(names) else names


def _checked_choice(
    choice: Sequence[str], kind: str, names: tuple[str, ...], needed: int, variable: str
) -> tuple[str, ...]:
    """Return the devices that a plugin has chosen.

    Raises:
        ArgumentError: They are not to be had; it says what is allowed.
    """
    source = f"pytest_elastic_map_devices: got {one_line(choice)}"
    if not (
        isinstance(choice, (list, tuple))
        and all(isinstance(name, str) for name in choice)
        and len(choice) == needed
        and set(choice) <= set(names)
    ):
        known = ", ".join(map(repr, names)) or "no device"
        raise ArgumentError(f"{source}, expected a list of {needed}, each one of {known}")
    if not variable:
        raise ArgumentError(
            f"{source}, but no environment variable is known that hides devices of type {kind!r} from a process"
        )
    return tuple(choice)


def _has(kind: str, count: int, environ: Mapping[str, str]) -> str:
    limits = [f"{name}={environ[name]!r}" for name in _VISIBLE.get(kind, ()) if name in environ]
    return f"this machine has {count}" + (f" ({', '.join(limits)})" if limits else "")


def _noun(count: int) -> str:
    return "device" if count == 1 else "devices"


def cores() -> int:
    """Return the number of cores that this process may use, as torchrun counts them."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
