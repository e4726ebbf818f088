"""What the arguments of the marker, well-known parameters and the fixtures of a rank do on real ranks."""

from __future__ import annotations

import itertools
from collections import Counter
from pathlib import Path

import pytest

HEAD = "import os, sys, warnings\nimport pytest\nelastic = pytest.mark.elastic\n"


def run(pytester: pytest.Pytester, source: str, *args: str) -> pytest.RunResult:
    pytester.makepyfile(test_it=HEAD + source)
    return pytester.runpytest_subprocess("-p", "no:randomly", *args)


SIZES = """
pytestmark = elastic(timeout=60, env={"FROM": "module"})

def world():
    return int(os.environ["LOCAL_WORLD_SIZE"]), int(os.environ["GROUP_WORLD_SIZE"])

@pytest.mark.parametrize("letter", ["a"])
@elastic(nproc=[1, 2], nnodes=[1, 2])
def test_lists(letter, request, world_size):
    nproc, nnodes = world()
    assert request.node.name == f"test_lists[a-nproc={nproc}-nnodes={nnodes}]"
    assert world_size == nproc * nnodes
    assert os.environ["FROM"] == "module"

@pytest.mark.parametrize("world_size", [1, 3])
@elastic(nproc=2)
def test_world_size(world_size, rank):
    assert world() == (world_size, 1)

@elastic(nnodes=2)
@pytest.mark.parametrize(("nproc", "x"), [(1, "x")])
class TestClass:
    def test_nproc(self, nproc, x):
        assert world() == (1, 2)

@pytest.fixture
def noted(rank):
    os.environ["NOTED"] = str(rank)

@elastic(nproc=[2])
@pytest.mark.usefixtures("noted")
@pytest.mark.skipif("sys.platform == 'win32'")
class TestMarks:
    @pytest.mark.filterwarnings("error:mine")
    def test_usefixtures(self, rank):
        assert os.environ["NOTED"] == str(rank)
        with pytest.raises(UserWarning):
            warnings.warn("mine")

    @pytest.mark.skipif(True, reason="static")
    def test_skip(self):
        raise AssertionError

    @pytest.mark.parametrize("bad", [0, pytest.param(1, marks=pytest.mark.xfail(strict=True))])
    def test_xfail(self, rank, bad):
        assert rank != 1 or not bad

    @pytest.mark.xfail(strict=True)
    def test_strict(self):
        pass
"""


@pytest.mark.parametrize("workers", [0, 2])
def test_lists_and_parameters_set_the_number_of_ranks(pytester: pytest.Pytester, workers: int) -> None:
    result = run(pytester, SIZES, "-rA", f"-n{workers}")
    result.assert_outcomes(passed=9, skipped=1, xfailed=1, failed=1)
    for name in (
        "PASSED test_it.py::test_lists[a-nproc=2-nnodes=1]",
        "PASSED test_it.py::test_world_size[3]",
        "PASSED test_it.py::TestClass::test_nproc[1-x]",
        "XFAIL test_it.py::TestMarks::test_xfail[1-nproc=2]",
        "FAILED test_it.py::TestMarks::test_strict[nproc=2]",
    ):
        assert any(line.startswith(name) for line in result.outlines), name


@pytest.mark.soak
def test_one_test_of_a_list_by_its_id_and_spawned(pytester: pytest.Pytester) -> None:
    names = ("test_lists[a-nproc=2-nnodes=1]", "test_world_size[3]")
    result = run(pytester, SIZES, "--elastic-start-method=spawn", *(f"test_it.py::{name}" for name in names))
    result.assert_outcomes(passed=2)


def test_what_is_not_allowed_is_one_line_and_the_rest_runs(pytester: pytest.Pytester) -> None:
    source = """
import unittest
@elastic(nproc=[])
def test_empty(): pass
@elastic(nproc=[2, 2])
def test_twice(): pass
@elastic(nproc=[1, 2])
class TestIt(unittest.TestCase):
    def test_method(self): pass
@pytest.mark.parametrize("x", [pytest.param(1, marks=elastic(nproc=[1]))])
def test_param(x): pass
@pytest.mark.parametrize("world_size", [3])
@elastic(nnodes=2)
def test_size(world_size): pass
@pytest.mark.parametrize("rank", [0])
@elastic(nproc=2)
def test_rank(rank): pass
@elastic(nproc="many")
def test_word(): pass
@elastic(nproc=2, device="tpu")
def test_device(): pass
@elastic(nproc=2, isolation="class")
def test_isolation(): pass
@elastic(nproc=[2], timeout=60)
def test_good(rank): pass
def test_plain(): pass
"""
    result = run(pytester, source)
    result.assert_outcomes(passed=2, errors=9)
    heads = [i for i, line in enumerate(result.outlines) if " ERROR at setup of " in line]
    lines = [result.outlines[head + 1] for head in heads]
    assert [line.partition(":")[0] for line in lines] == [
        "marker elastic(nproc=)",
        "marker elastic(nproc=)",
        "marker elastic(nproc=[1, 2])",
        "marker elastic(nproc=[1])",
        "parametrized argument 'world_size'",
        "parametrized argument 'rank'",
        'nproc="many"',
        'device="tpu"',
        "marker elastic(isolation=)",
    ]
    # Nothing else is printed of them.
    assert all(later - earlier == 2 for earlier, later in itertools.pairwise(heads))


FIXTURES = """
import torch
import torch.distributed as dist
pytestmark = elastic(timeout=60, nproc=2)

@pytest.fixture(scope="session", autouse=True)
def around():
    assert not dist.is_initialized()
    yield
    # Its own is the last teardown: the group is there until after the fixtures of the test.
    print("GROUP", dist.is_initialized())

@pytest.fixture(scope="session")
def total(process_group, world_size):
    tensor = torch.ones(1)
    dist.all_reduce(tensor, group=process_group)
    return tensor.item()

def test_process_group(process_group, total, rank, world_size):
    assert process_group is dist.group.WORLD
    assert (dist.get_backend(process_group), process_group.rank(), process_group.size()) == ("gloo", rank, 2)
    assert total == world_size

@elastic(nnodes=2, nproc=1)
def test_node_rank(node_rank, local_rank, rank):
    assert node_rank == rank == int(os.environ["GROUP_RANK"])
    assert local_rank == 0

def test_device(device):
    assert device == torch.device("cpu")
    assert not dist.is_initialized()

def test_a_group_of_its_own(request):
    dist.init_process_group("gloo")
    dist.barrier()  # or rank 0 might destroy the group while rank 1 still connects
    assert request.getfixturevalue("process_group") is dist.group.WORLD
    dist.destroy_process_group()

@elastic(device="auto", nproc="auto", nnodes=2, env={"OMP_NUM_THREADS": "1"})
@pytest.mark.skipif(torch.accelerator.is_available(), reason="for a machine without an accelerator")
def test_auto(device, world_size):
    assert device.type == "cpu"
    assert world_size == 2 * len(os.sched_getaffinity(0))
"""
BACKEND = """
@pytest.fixture(scope="session", autouse=True)
def around():
    assert dist.get_backend() == "gloo"
    yield
    assert dist.is_initialized()

@elastic(backend="auto")
def test_backend(process_group, rank):
    assert process_group is dist.group.WORLD
"""
DESTROYED = """
import os, pytest
import torch.distributed as dist
destroy = dist.destroy_process_group
def noted():
    with open(os.environ["NOTES"], "a") as file:
        file.write(os.environ["RANK"] + "\\n")
    destroy()
dist.destroy_process_group = noted
"""


def test_fixtures_of_a_rank(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTES", str(pytester.path / "notes"))
    pytester.makeconftest(DESTROYED)
    pytester.makepyfile(
        test_backend=HEAD + "import torch.distributed as dist\npytestmark = elastic(timeout=60)\n" + BACKEND
    )
    run(pytester, FIXTURES).assert_outcomes(passed=6)
    # By the test that does it itself. The others' ends with their ranks where these leave at the same time, as they do
    # unless the machine is busy.
    times = Counter((pytester.path / "notes").read_text().split())
    assert times.keys() == {"0", "1"}
    assert max(times.values()) <= 3


def test_a_group_is_connected_on_all_ranks_before_one_of_them_ends(pytester: pytest.Pytester) -> None:
    # Without that, two in a hundred of these fail on a busy machine.
    source = """
@elastic(nproc=4, backend="gloo", timeout=60)
@pytest.mark.parametrize("i", range(20))
def test_short(i):
    pass
"""
    run(pytester, source).assert_outcomes(passed=20)


NAMES = ("rank", "local_rank", "world_size", "node_rank", "device", "process_group")


def test_fixtures_of_a_rank_outside_an_elastic_test_say_so(pytester: pytest.Pytester) -> None:
    source = "".join(f"def test_{name}({name}): pass\n" for name in NAMES)
    result = run(pytester, source + "def test_nothing_of_torch(): assert 'torch' not in sys.modules\n")
    result.assert_outcomes(passed=1, errors=len(NAMES))
    for name in NAMES:
        result.stdout.fnmatch_lines(
            f"fixture '{name}' is for tests that run on ranks: mark the test with @pytest.mark.elastic(nproc=...)"
        )


def test_a_users_fixture_of_the_same_name_wins_and_changes_nothing_else(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(
        "import pytest\n"
        + "".join(f"@pytest.fixture\ndef {name}(): return 'conftest {name}'\n" for name in NAMES)
        + "@pytest.fixture(params=[5, 6])\ndef nproc(request): return request.param\n"
    )
    source = """
import torch.distributed as dist

@pytest.fixture(scope="module")
def device(): return "module"

@pytest.fixture(scope="session")
def process_group():
    return "module"

@elastic(nproc=2, timeout=60)
def test_ranks(rank, local_rank, world_size, node_rank, device, process_group, nproc):
    names = ["rank", "local_rank", "world_size", "node_rank"]
    assert [rank, local_rank, world_size, node_rank] == [f"conftest {name}" for name in names]
    assert (device, process_group, os.environ["WORLD_SIZE"]) == ("module", "module", "2")
    assert not dist.is_initialized()

@elastic(nproc=2, timeout=60, backend="auto")
def test_group(device, process_group, rank, nproc):
    assert process_group == "module"
    assert dist.get_world_size() == 2

def test_plain(rank, world_size, device):
    assert (rank, world_size, device) == ("conftest rank", "conftest world_size", "module")
"""
    run(pytester, source).assert_outcomes(passed=5)


# A backend as vendors ship them: torch loads it by its entry point, in every process that imports torch.
ACCELERATOR = """
import os, sys, types

def note(what):
    with open(os.environ["NOTES"], "a") as file:
        file.write(what + "\\n")

def load():
    import torch
    torch.utils.rename_privateuse1_backend("fakeaccel")
    module = types.ModuleType("torch.fakeaccel")
    module.is_available = lambda: True
    def device_count():
        note("counted")
        return 3
    module.device_count = device_count
    module.set_device = lambda index: note(f"rank {os.environ['RANK']} set {index}")
    module._is_in_bad_fork = lambda: False
    module.manual_seed_all = lambda seed: note(f"rank {os.environ['RANK']} seeded")
    torch._register_device_module("fakeaccel", module)
    if any("print_survey" in argument for argument in sys.orig_argv):
        torch.cuda.is_available = lambda: True
        torch.cuda.device_count = lambda: len(os.environ.get("CUDA_VISIBLE_DEVICES", "0,1,2,3").split(","))
"""


@pytest.fixture
def notes(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with three accelerators of a private backend, and four for CUDA; what is asked of the former."""
    directory = pytester.mkdir("backend")
    (directory / "fakeaccel.py").write_text(ACCELERATOR)
    info = directory / "fakeaccel-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: fakeaccel\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[torch.backends]\nfakeaccel = fakeaccel:load\n")
    monkeypatch.setenv("PYTHONPATH", str(directory), prepend=":")
    monkeypatch.setenv("NOTES", str(pytester.path / "notes"))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return pytester.path / "notes"


@pytest.mark.own_server
def test_accelerators_are_counted_once_and_selected_first(pytester: pytest.Pytester, notes: Path) -> None:
    source = """
pytestmark = elastic(timeout=60)

@pytest.fixture(scope="session", autouse=True)
def first():
    from fakeaccel import note
    note(f"rank {os.environ['RANK']} fixture")

@elastic(nproc=2, device="fakeaccel", backend="gloo")
def test_device(device, local_rank, process_group):
    assert (device.type, device.index) == ("fakeaccel", local_rank)
    assert process_group.size() == 2

@elastic(nproc="fakeaccel", device="cpu", env={"A": "1"})
def test_nproc(world_size, device):
    assert (world_size, str(device)) == (3, "cpu")

@elastic(nproc=4, device="fakeaccel")
def test_too_many(): pass

@elastic(nproc=[1], nnodes=2, device="fakeaccel")
def test_nodes(): pass

@elastic(device="fakeaccel", nproc=1, start_method="spawn")
def test_spawn(device):
    assert str(device) == "fakeaccel:0"
"""
    result = run(pytester, source, "-rs")
    result.assert_outcomes(passed=3, skipped=1, errors=1)
    result.stdout.fnmatch_lines(
        [
            'device="fakeaccel": 2 nodes on one machine cannot share devices of this type*; use nnodes=1',
            "SKIPPED [[]1[]] test_it.py:*: needs 4 fakeaccel devices, this machine has 3",
        ]
    )
    lines = notes.read_text().splitlines()
    assert lines.count("counted") == 1
    of_rank_1 = [line for line in lines if line.startswith("rank 1")]
    assert of_rank_1 == ["rank 1 set 1", "rank 1 seeded", "rank 1 fixture", "rank 1 seeded", "rank 1 fixture"]


def test_nodes_of_one_machine_see_their_own_accelerators(pytester: pytest.Pytester, notes: Path) -> None:
    source = """
def test_commands(elastic_launch):
    show = ("sh", "-c", "echo $CUDA_VISIBLE_DEVICES")
    result = elastic_launch(*show, device="cuda", nnodes=2, nproc=2, timeout=60)
    assert {rank: text.strip() for rank, text in result.stdout.items()} == {0: "0,1", 1: "0,1", 2: "2,3", 3: "2,3"}
    result = elastic_launch(*show, device="cuda", nnodes=2, env={"CUDA_VISIBLE_DEVICES": "7,6"}, nproc=1, timeout=60)
    assert [result.stdout[0], result.stdout[1]] == ["7\\n", "6\\n"]
    result = elastic_launch(*show, device="cuda", nproc=1, timeout=60)
    assert result.stdout[0] == "0\\n"
    result = elastic_launch(*show, device="cuda", nproc=4, timeout=60)
    assert result.stdout[0] == "\\n"

def test_virtual_local_ranks(elastic_launch):
    from torch.distributed.launcher.api import LaunchConfig
    config = LaunchConfig(2, 2, 2, rdzv_backend="local", virtual_local_rank=True, max_restarts=0)
    result = elastic_launch("sh", "-c", "echo $CUDA_VISIBLE_DEVICES $LOCAL_RANK", config=config, timeout=60)
    assert sorted(result.stdout.values()) == [f"{index} 0\\n" for index in range(4)]

def test_too_many(elastic_launch):
    elastic_launch(int, device="cuda", nnodes=2, nproc=3)

@elastic(device="cuda", nproc=2, env={"CUDA_VISIBLE_DEVICES": "7"})
def test_hidden(): pass
"""
    result = run(pytester, source, "-rs", "--elastic-device=cuda")
    result.assert_outcomes(passed=2, skipped=2)
    result.stdout.fnmatch_lines(
        [
            "SKIPPED [[]1[]] test_it.py:*: needs 6 cuda devices, this machine has 4",
            "SKIPPED [[]1[]] test_it.py:*: needs 2 cuda devices, this machine has 1 (CUDA_VISIBLE_DEVICES='7')",
        ]
    )


def test_too_few_accelerators_are_a_skip_or_with_strict_a_failure(pytester: pytest.Pytester) -> None:
    source = """
@elastic(nproc=4)
def test_option(rank): pass
@elastic(nproc=[4])
def test_list(): pass
def test_launch(elastic_launch): elastic_launch(int, nproc=4, device="xpu")
def test_nothing_of_torch(): assert "torch" not in sys.modules
"""
    result = run(pytester, source, "-rs", "--elastic-device=xpu")
    result.assert_outcomes(passed=1, skipped=3)
    skips = [line for line in result.outlines if line.startswith("SKIPPED [1] test_it.py:")]
    assert [line.partition(": ")[2] for line in skips] == ["needs 4 xpu devices, this machine has 0"] * 3
    pytester.makeini("[pytest]\nelastic_strict = true\nelastic_device = xpu\n")
    result = run(pytester, source)
    result.assert_outcomes(passed=1, failed=1, errors=2)
    result.stdout.fnmatch_lines("*needs 4 xpu devices, this machine has 0")


def test_a_torch_that_does_not_tell_is_one_line(pytester: pytest.Pytester, notes: Path) -> None:
    text = ACCELERATOR.replace('        note("counted")\n', "        raise RuntimeError('driver too old')\n")
    (pytester.path / "backend" / "fakeaccel.py").write_text(text)
    result = run(pytester, "@elastic(nproc='gpu')\ndef test_it(): pass\n")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines("torch could not tell how many accelerators there are: RuntimeError: driver too old")
