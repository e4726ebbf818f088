"""How many ranks torchrun's words mean on this machine, and which device each of them gets.

torch is asked by a process of its own, once, so that neither pytest nor the preloaded server ever touches a device.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pytest_elastic.accelerators import CPU, Survey, read_survey
from pytest_elastic.errors import ElasticError
from pytest_elastic.messages import DeviceOrder
from pytest_elastic.options import SETTINGS
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


class TooFewDevicesError(ArgumentError):
    """This machine has not the accelerators that a launch needs."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Placement:
    """Where the ranks of a launch run.

    Attributes:
        nproc: Ranks a node.
        devices: Their devices.
    """

    nproc: int
    devices: DeviceOrder


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
    ) -> Placement:
        """Choose the number of ranks and their devices.

        Args:
            spec: The launch.
            environ: Environment of its ranks.
            nodes: How many nodes it has at most.
            nproc: Ranks a node, if something else than the spec says so.
            virtual: Each rank is to see its own device only (torch's ``virtual_local_rank``).

        Raises:
            ArgumentError: torch does not know what ``nproc`` or ``device`` names.
            TooFewDevicesError: There are fewer devices than the launch needs.
        """
        number = nproc if nproc is not None else self._number(spec.nproc, environ)
        if spec.device == CPU:
            return Placement(nproc=number, devices=DeviceOrder())
        survey = self._survey(environ)
        kind = survey.kind if spec.device == "auto" else spec.device
        if kind == CPU:
            return Placement(nproc=number, devices=DeviceOrder())
        if kind not in survey.kinds:
            known = ", ".join(f'"{name}"' for name in ("cpu", *survey.kinds, "auto"))
            raise ArgumentError(f'device="{kind}": torch has no such accelerator; allowed are {known}')
        count, needed = survey.counts.get(kind, 0), nodes * number
        if count < needed:
            raise TooFewDevicesError(f"needs {needed} {kind} {_noun(needed)}, {_has(kind, count, environ)}")
        return Placement(
            nproc=number, devices=_divide(kind, count, environ, nodes=nodes, nproc=number, virtual=virtual)
        )

    def _number(self, nproc: int | str, environ: Mapping[str, str]) -> int:
        """Turn ``nproc`` into a number, with torchrun's meaning of its words."""
        if isinstance(nproc, int):
            return nproc
        if nproc == CPU:
            return _cores()
        survey = self._survey(environ)
        if nproc == "auto":
            return survey.counts.get(survey.kind, 0) or _cores()
        kind = survey.private if nproc == survey.private else _COUNTED.get(nproc)
        if kind is None:
            private = f'{SETTINGS["nproc"].allowed}, which is "{survey.private}"'
            raise ArgumentError(f'nproc="{nproc}": expected {private}')
        count = survey.counts.get(kind, 0)
        if count == 0:
            raise TooFewDevicesError(f'needs a {kind} device for nproc="{nproc}", {_has(kind, count, environ)}')
        return count


def ask_torch(environ: Mapping[str, str]) -> Survey:
    """Have a process of its own count the accelerators.

    Raises:
        ElasticError: It could not.
    """
    question = (
        f"import sys; sys.path.append({_PACKAGES!r}); "
        f"from pytest_elastic.accelerators import print_survey; print_survey({os.getpid()})"
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


def _divide(kind: str, count: int, environ: Mapping[str, str], *, nodes: int, nproc: int, virtual: bool) -> DeviceOrder:
    """Divide the devices of this machine among its nodes: the index of a rank's device is its local rank."""
    if nodes == 1:
        return DeviceOrder(kind=kind)
    variables = _VISIBLE.get(kind)
    if variables is None:
        raise ArgumentError(
            f'device="{kind}": {nodes} nodes on one machine cannot share devices of this type, since no environment '
            "variable is known that hides some of them from a process; use nnodes=1"
        )
    variable = next((variable for variable in variables if environ.get(variable)), variables[0])
    names = [name.strip() for name in environ.get(variable, "").split(",") if name.strip()]
    if not names:
        names = [str(index) for index in range(count)]
    width = 1 if virtual else nproc
    firsts = [rank - rank % width for rank in range(nodes * nproc)]
    shares = tuple(",".join(names[first : first + width]) for first in firsts)
    return DeviceOrder(kind=kind, variable=variable, visible=shares)


def _has(kind: str, count: int, environ: Mapping[str, str]) -> str:
    limits = [f"{name}={environ[name]!r}" for name in _VISIBLE.get(kind, ()) if name in environ]
    return f"this machine has {count}" + (f" ({', '.join(limits)})" if limits else "")


def _noun(count: int) -> str:
    return "device" if count == 1 else "devices"


def _cores() -> int:
    """Return the number of cores that this process may use, as torchrun counts them."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
