from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import pytest

from pytest_elastic.accelerators import Survey, read_survey
from pytest_elastic.controller.devices import Devices, Placement, TooFewDevicesError
from pytest_elastic.errors import ElasticError
from pytest_elastic.messages import DeviceOrder
from pytest_elastic.options import SETTINGS
from pytest_elastic.spec import ArgumentError, make_spec


class Machine:
    """Answers as torch would on a machine with these accelerators."""

    def __init__(self, kind: str = "cpu", private: str = "npu", **counts: int) -> None:
        self.asked: list[Mapping[str, str]] = []
        self._survey = Survey(kind=kind, private=private, counts=counts)

    def __call__(self, environ: Mapping[str, str]) -> Survey:
        self.asked.append(environ)
        return self._survey


BARE = Machine()
TWO = Machine("cuda", cuda=2)
FOUR = Machine("cuda", cuda=4)
CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def place(machine: Machine, environ: Mapping[str, str] | None = None, **arguments: Any) -> tuple[int, DeviceOrder]:
    spec = make_spec("marker elastic", arguments, {})
    return first_of(Devices(machine).place(spec, environ or {}, nodes=spec.max_nodes))


def first_of(placement: Placement) -> tuple[int, DeviceOrder]:
    """Have a launch get the first devices that will do."""
    ids, number = placement.wanted
    return placement.nproc, placement.devices(ids[:number])


def refusal(machine: Machine, environ: Mapping[str, str] | None = None, **arguments: Any) -> str:
    with pytest.raises(ArgumentError) as error:
        place(machine, environ, **arguments)
    text = str(error.value)
    assert "\n" not in text
    return ("skip: " if isinstance(error.value, TooFewDevicesError) else "fail: ") + text


def test_the_cpu_needs_no_question() -> None:
    nobody = Machine()
    assert place(nobody, nproc=3) == (3, DeviceOrder(kind="cpu"))
    assert place(nobody, nproc="cpu") == (CORES, DeviceOrder(kind="cpu"))
    assert nobody.asked == []


@pytest.mark.parametrize(
    ("machine", "nproc", "number"),
    [
        (BARE, "auto", CORES),
        (FOUR, "auto", 4),
        (FOUR, "gpu", 4),
        (Machine("xpu", xpu=2), "xpu", 2),
        (Machine("xpu", xpu=2), "auto", 2),
        (Machine("npu", npu=3), "npu", 3),
        (Machine("npu", npu=3), "auto", 3),
        (Machine("npu", npu=3, cuda=1), "gpu", 1),
    ],
)
def test_words_for_the_number_of_ranks_have_torchruns_meaning(machine: Machine, nproc: str, number: int) -> None:
    assert place(machine, nproc=nproc) == (number, DeviceOrder(kind="cpu"))


@pytest.mark.parametrize(
    ("machine", "device", "kind"),
    [(BARE, "auto", "cpu"), (TWO, "auto", "cuda"), (TWO, "cuda", "cuda"), (Machine("npu", npu=2), "npu", "npu")],
)
def test_device(machine: Machine, device: str, kind: str) -> None:
    assert place(machine, nproc=2, device=device) == (2, DeviceOrder(kind=kind))


@pytest.mark.parametrize(
    ("machine", "arguments", "text"),
    [
        (BARE, {"nproc": 4, "device": "cuda"}, "skip: needs 4 cuda devices, this machine has 0"),
        (BARE, {"nproc": 1, "device": "mps"}, "skip: needs 1 mps device, this machine has 0"),
        (FOUR, {"nproc": 5, "device": "cuda"}, "skip: needs 5 cuda devices, this machine has 4"),
        (FOUR, {"nproc": 5, "device": "auto"}, "skip: needs 5 cuda devices, this machine has 4"),
        (FOUR, {"nproc": 3, "nnodes": 2, "device": "cuda"}, "skip: needs 6 cuda devices, this machine has 4"),
        (FOUR, {"nproc": 3, "nnodes": "1:2", "device": "cuda"}, "skip: needs 6 cuda devices, this machine has 4"),
        (FOUR, {"nproc": 1, "device": "xpu"}, "skip: needs 1 xpu device, this machine has 0"),
        (BARE, {"nproc": "gpu"}, 'skip: needs a cuda device for nproc="gpu", this machine has 0'),
        (FOUR, {"nproc": "xpu"}, 'skip: needs a xpu device for nproc="xpu", this machine has 0'),
        (BARE, {"nproc": "npu"}, 'skip: needs a npu device for nproc="npu", this machine has 0'),
        (
            BARE,
            {"nproc": "many"},
            f'fail: nproc="many": expected {SETTINGS["nproc"].allowed}, which is "npu"',
        ),
        (
            BARE,
            {"device": "tpu"},
            'fail: device="tpu": torch has no such accelerator; allowed are "cpu", "cuda", "xpu", "mps", "mtia", '
            '"hpu", "npu", "auto"',
        ),
        (
            Machine("mtia", mtia=4),
            {"nnodes": 2, "device": "mtia"},
            'fail: device="mtia": 2 nodes on one machine cannot share devices of this type, since no environment '
            "variable is known that hides some of them from a process; use nnodes=1",
        ),
    ],
)
def test_what_the_machine_has_not(machine: Machine, arguments: dict[str, Any], text: str) -> None:
    assert refusal(machine, **arguments) == text


def test_a_count_that_the_environment_limits_says_so() -> None:
    one = Machine("cuda", cuda=1)
    assert refusal(one, {"CUDA_VISIBLE_DEVICES": "3"}, device="cuda") == (
        "skip: needs 2 cuda devices, this machine has 1 (CUDA_VISIBLE_DEVICES='3')"
    )


@pytest.mark.parametrize(
    ("environ", "variable", "visible"),
    [
        ({}, "CUDA_VISIBLE_DEVICES", ("0,1", "0,1", "2,3", "2,3")),
        ({"CUDA_VISIBLE_DEVICES": "7, 5,GPU-8, 6"}, "CUDA_VISIBLE_DEVICES", ("7,5", "7,5", "GPU-8,6", "GPU-8,6")),
        ({"HIP_VISIBLE_DEVICES": "3,2,1,0"}, "HIP_VISIBLE_DEVICES", ("3,2", "3,2", "1,0", "1,0")),
    ],
)
def test_nodes_of_one_machine_divide_its_devices(
    environ: dict[str, str], variable: str, visible: tuple[str, ...]
) -> None:
    nproc, devices = place(FOUR, environ, nproc=2, nnodes=2, device="cuda")
    assert (nproc, devices) == (2, DeviceOrder(kind="cuda", variable=variable, visible=visible))


@pytest.mark.parametrize(
    ("kind", "variable", "value", "visible"),
    [
        ("xpu", "ZE_AFFINITY_MASK", "0.0,0.1,1.0,1.1", ("0.0", "0.1")),
        ("xpu", "ZE_AFFINITY_MASK", "", ("0", "1")),
        ("npu", "ASCEND_RT_VISIBLE_DEVICES", "4,5,6,7", ("4", "5")),
        ("cuda", "ROCR_VISIBLE_DEVICES", "2,3,0,1", ("2", "3")),
    ],
)
def test_each_type_has_its_variable(kind: str, variable: str, value: str, visible: tuple[str, ...]) -> None:
    machine = Machine(kind, private="npu", **{kind: 4})
    _, devices = place(machine, {variable: value} if value else {}, nproc=1, nnodes=2, device=kind)
    assert devices == DeviceOrder(kind=kind, variable=variable, visible=visible)


def test_ranks_that_each_call_their_device_0_see_one() -> None:
    spec = make_spec("elastic_launch", {"device": "cuda"}, {})
    _, devices = first_of(Devices(FOUR).place(spec, {}, nodes=2, nproc=2, virtual=True))
    assert (devices.visible, devices.single) == (("0", "1", "2", "3"), True)
    # Where they have all that there is, torch's own agent sees to it.
    assert first_of(Devices(TWO).place(spec, {}, nodes=1, nproc=2, virtual=True)) == (2, DeviceOrder(kind="cuda"))


def test_a_launch_sees_the_devices_that_it_got_and_no_others() -> None:
    spec = make_spec("marker elastic", {"nproc": 2, "device": "cuda"}, {})
    ids = ("GPU-a", "GPU-b", "GPU-c", "GPU-d")
    survey = Survey(kind="cuda", private="npu", counts={"cuda": 4}, ids={"cuda": ids})
    placement = Devices(lambda environ: survey).place(spec, {"CUDA_VISIBLE_DEVICES": "3,2,1,0"}, nodes=1)
    assert placement.wanted == (ids, 2)
    order = placement.devices(["GPU-d", "GPU-b"])
    assert order == DeviceOrder(kind="cuda", variable="CUDA_VISIBLE_DEVICES", visible=("2,0", "2,0"))


@pytest.mark.parametrize("ids", [("a",), ("a", "a", "b", "c"), ()])
def test_ids_that_tell_nothing_apart_are_not_used(ids: tuple[str, ...]) -> None:
    spec = make_spec("marker elastic", {"nproc": 2, "device": "cuda"}, {})
    survey = Survey(kind="cuda", private="npu", counts={"cuda": 4}, ids={"cuda": ids})
    assert Devices(lambda environ: survey).place(spec, {}, nodes=1).wanted == (("0", "1", "2", "3"), 2)


def test_devices_that_nothing_can_hide_belong_to_one_launch_at_a_time() -> None:
    spec = make_spec("marker elastic", {"nproc": 1, "device": "mtia"}, {})
    placement = Devices(Machine("mtia", mtia=4)).place(spec, {}, nodes=1)
    assert placement.wanted == (("0", "1", "2", "3"), 4)
    assert placement.devices(["0", "1", "2", "3"]) == DeviceOrder(kind="mtia")


def test_a_plugin_may_choose_the_device_of_each_rank() -> None:
    asked = []

    def choose(*what: Any) -> list[str]:
        asked.append(what)
        return ["1", "3", "1", "0"]

    spec = make_spec("marker elastic", {"nproc": 2, "nnodes": 2, "device": "cuda"}, {})
    placement = Devices(FOUR).place(spec, {}, nodes=2, choose=choose)
    assert asked == [("cuda", ("0", "1", "2", "3"), 4)]
    assert placement.wanted == (("0", "1", "3"), 3)
    assert placement.devices(["0", "1", "3"]) == DeviceOrder(
        kind="cuda", variable="CUDA_VISIBLE_DEVICES", visible=("1,3", "1,3", "1,0", "1,0")
    )
    shared = Devices(Machine("cuda", cuda=1)).place(spec, {}, nodes=2, choose=lambda *_: ["0"] * 4)
    assert shared.devices(["0"]) == DeviceOrder(
        kind="cuda", variable="CUDA_VISIBLE_DEVICES", visible=("0", "0", "0", "0"), single=True
    )


@pytest.mark.parametrize(
    ("machine", "kind", "chosen", "text"),
    [
        (TWO, "cuda", ["0"], "got ['0'], expected a list of 2, each one of '0', '1'"),
        (TWO, "cuda", ["0", "7"], "got ['0', '7'], expected a list of 2, each one of '0', '1'"),
        (TWO, "cuda", [0, 1], "got [0, 1], expected a list of 2, each one of '0', '1'"),
        (TWO, "cuda", "01", "got '01', expected a list of 2, each one of '0', '1'"),
        (TWO, "cuda", 5, "got 5, expected a list of 2, each one of '0', '1'"),
        (TWO, "cuda", [["0"], ["1"]], "got [['0'], ['1']], expected a list of 2, each one of '0', '1'"),
        (
            Machine("mtia", mtia=2),
            "mtia",
            ["1", "0"],
            "got ['1', '0'], but no environment variable is known that hides ",
        ),
    ],
)
def test_a_choice_of_devices_that_are_not_there(machine: Machine, kind: str, chosen: Any, text: str) -> None:
    spec = make_spec("marker elastic", {"device": kind}, {})
    with pytest.raises(ArgumentError) as error:
        Devices(machine).place(spec, {}, nodes=1, choose=lambda *_: chosen)
    assert str(error.value).startswith(f"pytest_elastic_map_devices: {text}")


def test_torch_is_asked_once_for_each_set_of_visible_devices() -> None:
    machine = Machine("cuda", cuda=4)
    devices = Devices(machine)
    spec = make_spec("marker elastic", {"device": "cuda"}, {})
    for environ in ({"A": "1"}, {"A": "2"}, {"CUDA_VISIBLE_DEVICES": "0,1"}, {"CUDA_VISIBLE_DEVICES": "0,1"}, {}):
        devices.place(spec, environ, nodes=1)
    assert machine.asked == [{"A": "1"}, {"CUDA_VISIBLE_DEVICES": "0,1"}]


def test_a_torch_that_does_not_tell_is_not_asked_again() -> None:
    asked = []

    def ask(environ: Mapping[str, str]) -> Survey:
        asked.append(environ)
        raise ElasticError("no driver")

    devices = Devices(ask)
    spec = make_spec("marker elastic", {"nproc": "gpu"}, {})
    for _ in range(2):
        with pytest.raises(ElasticError, match="no driver"):
            devices.place(spec, {}, nodes=1)
    assert len(asked) == 1


def test_a_number_from_elsewhere_wins() -> None:
    spec = make_spec("elastic_launch", {"device": "cuda"}, {})
    assert Devices(FOUR).place(spec, {}, nodes=1, nproc=4).nproc == 4


def test_an_answer_is_found_among_what_a_backend_prints() -> None:
    text = 'loading npu\naccelerators of this machine: {"kind": "npu", "private": "npu", "counts": {"npu": 2}}\nbye\n'
    assert read_survey(text) == Survey(kind="npu", private="npu", counts={"npu": 2})
