"""The device and the group of a rank, where torch is a stand-in: there is no accelerator here."""

from __future__ import annotations

from typing import Any

import pytest

from pytest_elastic.accelerators import Accelerators, Survey
from pytest_elastic.messages import DeviceOrder, RankOrder
from pytest_elastic.worker.device import select_device
from pytest_elastic.worker.group import DefaultGroup


class Device:
    def __init__(self, kind: str, index: int) -> None:
        self.type = kind
        self.index = index

    def __repr__(self) -> str:
        return f"{self.type}:{self.index}"


class Recorder:
    """Notes what it is asked to do."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.current: str | None = None

    def survey(self) -> Survey:
        raise NotImplementedError

    def device(self, kind: str, index: int) -> Any:
        return Device(kind, index)

    def select(self, device: Any) -> None:
        self.done.append(f"select {device}")

    def default_backend(self, kind: str) -> str:
        return {"cpu": "gloo", "cuda": "nccl"}[kind]

    def make_group(self, backend: str, device: Any) -> None:
        self.current = backend
        self.done.append(f"make {backend} on {device}")

    def end_group(self) -> None:
        self.current = None
        self.done.append("end")

    def group(self) -> Any:
        return self.current


@pytest.fixture(autouse=True)
def _local_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_RANK", "3")


def order(backend: str | None, kind: str) -> RankOrder:
    return RankOrder(
        channel="", key=b"", environ={}, sys_path=[], grace=1.0, backend=backend, devices=DeviceOrder(kind=kind)
    )


def test_an_accelerator_is_selected_by_local_rank_and_a_cpu_is_not() -> None:
    torch: Accelerators = Recorder()
    select_device(order(None, "cuda"), torch)
    select_device(order(None, "cpu"), torch)
    assert vars(torch)["done"] == ["select cuda:3"]


@pytest.mark.parametrize(
    ("backend", "kind", "made"),
    [
        ("gloo", "cpu", "make gloo on cpu:3"),
        ("nccl", "cuda", "make nccl on cuda:3"),
        ("auto", "cpu", "make gloo on cpu:3"),
        ("auto", "cuda", "make nccl on cuda:3"),
        ("cpu:gloo,cuda:nccl", "cuda", "make cpu:gloo,cuda:nccl on cuda:3"),
    ],
)
def test_a_backend_is_a_group_around_the_work(backend: str, kind: str, made: str) -> None:
    torch = Recorder()
    group = DefaultGroup(order(backend, kind), torch)
    with group:
        assert group.need() == torch.current
    # One of CPUs ends with its rank, which leaves the world when all others are done as well.
    assert torch.done == ([made] if kind == "cpu" else [made, "end"])


def test_without_a_backend_a_group_is_made_when_it_is_needed() -> None:
    torch = Recorder()
    group = DefaultGroup(order(None, "cuda"), torch)
    with group:
        assert torch.done == []
        assert group.need() == group.need() == "nccl"
    assert torch.done == ["make nccl on cuda:3", "end"]


def test_a_group_of_the_test_itself_is_left_to_it() -> None:
    torch = Recorder()
    with (group := DefaultGroup(order(None, "cpu"), torch)):
        torch.current = "its own"
        assert group.need() == "its own"
    assert torch.done == []


def test_after_a_failure_the_group_is_left_to_the_end_of_the_process() -> None:
    torch = Recorder()
    with pytest.raises(ZeroDivisionError), DefaultGroup(order("gloo", "cpu"), torch):
        1 / 0  # noqa: B018 (it is there to raise)
    assert torch.done == ["make gloo on cpu:3"]
