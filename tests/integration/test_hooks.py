"""The hooks that other plugins and conftests may implement, by an example of such a plugin."""

from __future__ import annotations

import re
import sys

import pytest

PLUGIN = """
import os
from pathlib import Path
import pytest
import pytest_elastic
from pytest_elastic.accelerators import Survey

seen = Path(__file__).with_name("seen")

def note(text):
    with seen.open("a") as file: file.write(text + "\\n")

def pytest_configure(config):
    if pytest_elastic.role(config) != "controller":
        import torch
        torch.cuda.set_device = lambda index: None

def pytest_elastic_configure_launch(spec, item):
    if item.get_closest_marker("elastic") is None or "plain" in item.name:
        nproc = 3 if "launch" in item.name else spec.nproc
        return {"timeout": 50, "env": {"A": "plugin", "B": "plugin"}, "nproc": nproc}
    return None

def pytest_elastic_launch_finished(result, item):
    first = result.first
    came_to = f"rank {first.rank}: {first.message}" if first is not None else dict(result)
    note(f"{item.name} finished: {result.world_size} ranks, {came_to}")
    if "finished_raises" in item.name:
        raise OSError("no server")
    if "finished_skips" in item.name:
        pytest.skip("not here")

def pytest_elastic_rank_started(context):
    note(f"{context.item.name} started: {context.rank} of {context.world_size} on {context.device}")
    os.environ["PREPARED"] = f"{context.rank} {context.local_rank} {context.node_rank} {context.restart}"
    assert "start_raises" not in context.item.name or context.rank != 1, "no licence"

def pytest_elastic_find_devices(config, environ):
    assert pytest_elastic.role(config) == "controller"
    return Survey(kind="cuda", private="npu", counts={"cuda": 2})

def pytest_elastic_map_devices(item, kind, devices, world_size):
    assert (kind, devices) == ("cuda", ("0", "1"))
    return ["1", "1", "0"] if "mapped" in item.name else None
"""
CONFTEST = """
import pytest

@pytest.hookimpl(tryfirst=True)
def pytest_elastic_configure_launch(spec, item):
    answers = {"test_wrong_name": {"nprok": 3}, "test_wrong_value": {"timeout": -1}, "test_no_dict": ["nproc"]}
    return answers.get(item.name, {"env": {"B": "conftest"}} if "merged" in item.name else None)
"""
TESTS = """
import os, sys
import pytest

pytestmark = pytest.mark.filterwarnings("default")
elastic = pytest.mark.elastic(nproc=2, timeout=60)

def rank_and_variables():
    return int(os.environ["RANK"]), os.environ["A"], os.environ["B"]

def test_merged_launch(elastic_launch):
    assert elastic_launch(rank_and_variables) == {rank: (rank, "plugin", "conftest") for rank in range(3)}

@pytest.mark.elastic(nproc=2, env={"A": "mark", "C": "mark"})
def test_merged_plain(rank):
    assert [os.environ[name] for name in "ABC"] == ["plugin", "conftest", "mark"]
    assert os.environ["PREPARED"] == f"{rank} {rank} 0 0"

@elastic
def test_wrong_name(): pass
@elastic
def test_wrong_value(): pass
@elastic
def test_no_dict(): pass
@elastic
def test_finished_raises(): pass
@elastic
def test_finished_skips(rank): assert rank == 7
def test_finished_skips_launch(elastic_launch): elastic_launch(sys.exit, 7, nproc=1)
@elastic
def test_start_raises(): pass

@pytest.mark.elastic(nproc=3, timeout=60, device="cuda")
def test_mapped(rank, device):
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "110"[rank] and device.index == 0

@pytest.mark.elastic(nproc=2, timeout=60, isolation="module")
@pytest.mark.parametrize("n", range(3))
def test_kept(n): assert os.environ["PREPARED"]
"""


def test_a_plugin_with_every_hook(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(of_a_cluster=PLUGIN, conftest=CONFTEST, test_it=TESTS)
    result = pytester.run(sys.executable, "-m", "pytest", "-p", "of_a_cluster", "-p", "no:xdist", "-p", "no:randomly")
    result.assert_outcomes(passed=7, failed=2, errors=4, warnings=3)
    assert result.stdout.str().count("pytest_elastic_launch_finished raised Skipped: not here") == 2
    what = "pytest_elastic_configure_launch"
    text = result.stdout.str()
    assert f"{what} has no argument 'nprok' (did you mean nproc?); allowed are" in text
    assert f"{what}(timeout=): got -1, expected seconds > 0, or None for no deadline" in text
    assert f"{what}: got ['nproc'], expected a dict of arguments, or None" in text
    assert "ElasticWarning: pytest_elastic_launch_finished raised OSError: no server" in text
    assert re.search(r"ERROR test_it.py::test_start_raises - \[rank 1\] AssertionError: no licence", text)
    seen = (pytester.path / "seen").read_text().splitlines()
    assert "test_merged_launch finished: 3 ranks, {0: (0, 'plugin', 'conftest')" in "\n".join(seen)
    assert [line for line in seen if line.startswith("test_finished_raises f")] == [
        "test_finished_raises finished: 2 ranks, {0: None, 1: None}"
    ]
    assert "test_start_raises finished: 2 ranks, rank 1: AssertionError: no licence ..." in seen
    assert sorted(line for line in seen if line.startswith("test_mapped s")) == [
        f"test_mapped started: {rank} of 3 on cuda:0" for rank in range(3)
    ]
    kept = [line for line in seen if line.startswith("test_kept")]
    assert sorted(line for line in kept if "started" in line) == [
        f"test_kept[0] started: {rank} of 2 on cpu" for rank in range(2)
    ]
    assert sum("finished" in line for line in kept) == 3
