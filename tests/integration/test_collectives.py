"""What ranks keep of their last collectives, and what a failure shows of it."""

from __future__ import annotations

import re
import sys

import pytest

from .test_showing import page_tests

SOURCE = """
import os, signal, sys
import pytest, torch
import torch.distributed as dist

elastic = pytest.mark.elastic(nproc=3, backend="gloo", timeout={timeout})
four = torch.ones(4)

@elastic
def test_other_order(rank):
    for _ in range(8):
        dist.all_reduce(four)
    if rank == 1:
        dist.broadcast(four, 1)
    dist.all_reduce(four)
    dist.all_reduce(four)

@elastic
def test_other_shape(rank):
    dist.barrier()
    dist.all_reduce(torch.ones(8 if rank == 2 else 4))

@elastic
def test_dies(rank):
    for number in range(40):
        dist.all_reduce(four)
        if rank == 2 and number == 25:
            os.kill(os.getpid(), signal.SIGKILL)

@elastic
def test_groups_and_pairs(rank):
    pair = dist.new_group([1, 2], group_desc="tp")
    if rank == 0:
        dist.recv(four, 2)
    elif rank == 1:
        dist.all_gather_object([None, None], rank, group=pair)
    else:
        signal.pause()

@pytest.mark.elastic(nproc=3, backend="gloo", isolation="module")
def test_kept(rank):
    dist.broadcast(four, 0)

@pytest.mark.elastic(nproc=3, backend="gloo", isolation="module")
def test_kept_fails(rank):
    dist.monitored_barrier()
    assert rank != 1

def test_script(elastic_launch, tmp_path):
    script = tmp_path / "train.py"
    script.write_text('''if True:
        import torch, torch.distributed as dist
        dist.init_process_group("gloo")
        dist.all_reduce(torch.ones(2, 3, dtype=torch.int64))
        assert dist.get_rank() == 0, "a script"
    ''')
    elastic_launch(str(script), nproc=2)

@pytest.mark.elastic(nproc=2, backend="gloo")
def test_passes(rank):
    dist.all_reduce(four)
"""


def run(pytester: pytest.Pytester, source: str, *args: str) -> tuple[dict[str, str], str]:
    """Run a session; return what it says of each failure, and all of it."""
    pytester.makepyfile(test_it=source)
    args = ("-p", "no:cacheprovider", "--elastic-debug=collectives", *args)
    result = pytester.run(sys.executable, "-m", "pytest", *args, timeout=200)
    told = result.stdout.str()
    parts = re.split(r"^_{3,} (test_\w+) _{3,}$", told.partition("short test summary")[0], flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True)), told


def test_it_says_where_each_rank_was_and_where_they_came_apart(pytester: pytest.Pytester) -> None:
    failures, told = run(pytester, SOURCE.replace("{timeout}", "6"), "--elastic-report=page.html")
    assert set(failures) == {
        "test_other_order",
        "test_other_shape",
        "test_dies",
        "test_groups_and_pairs",
        "test_kept_fails",
        "test_script",
    }, told
    order = failures["test_other_order"]
    apart = "the ranks came apart at collective #9 of the default group"
    one = "rank 1 began broadcast of [4] float32, test_it.py:13"
    assert f"\n{apart}: {one}; ranks 0,2 began all_reduce of [4] float32, test_it.py:14\n" in order
    # The root of a broadcast does not wait for the others.
    assert re.search(r"^ranks? .*: at all_reduce #(9|10) of \[4\] float32, test_it.py:1[45]$", order, re.MULTILINE)

    shape = failures["test_other_shape"]
    assert "came apart at collective #2 of the default group: rank 2 began all_reduce of [8] float32" in shape
    assert "; ranks 0-1 began all_reduce of [4] float32, test_it.py:20" in shape

    # It had no time to write down what torch has recorded.
    dies = failures["test_dies"]
    assert "rank 2: its last was all_reduce #26 of [4] float32, test_it.py:25" in dies
    assert "came apart" not in dies

    groups = failures["test_groups_and_pairs"]
    assert "rank 0: at recv from rank 2 of [4] float32, test_it.py:33" in groups
    assert (
        "rank 1: at all_gather #1 in group 'tp' of ranks 1-2 of [1] int64, all_gather_object at test_it.py:35" in groups
    )
    assert "rank 2: has begun none" in groups

    kept = failures["test_kept_fails"]
    assert "its last was monitored_barrier" in kept
    assert "broadcast" not in kept.rpartition("last collectives")[2]

    script = failures["test_script"]
    assert "ranks 0-1: at none, its last was all_reduce #1 of [2, 3] int64, train.py:4" in script

    page = page_tests(pytester.path / "page.html")
    [launch] = page["test_other_order"]["launches"]
    assert apart in page["test_other_order"]["texts"][0][1]
    begun = launch["lanes"][1]["collectives"]
    assert begun[8][1].startswith("broadcast #9 of [4] float32, test_it.py:13")
    times = [at for at, _ in begun]
    assert times == sorted(times)
    assert 0 < times[0] <= times[-1] <= launch["us"]
    [passed] = page["test_passes"]["launches"]
    assert [[text for _, text in lane["collectives"]] for lane in passed["lanes"]] == [
        ["all_reduce #1 of [4] float32, test_it.py:60"]
    ] * 2


BY_ITSELF = """
import pytest, torch
import torch.distributed as dist

elastic = pytest.mark.elastic(nproc=2, backend="gloo", timeout=60)

@elastic
def test_ddp(rank):
    model = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(3, 4))
    model(torch.ones(2, 3)).sum().backward()
    assert rank != 1

@elastic
def test_functional(rank):
    from torch.distributed._functional_collectives import all_reduce
    all_reduce(torch.ones(5), "sum", dist.group.WORLD).wait()
    assert rank != 1

@elastic
def test_compared(rank, monkeypatch):
    for _ in range(3):
        dist.all_reduce(torch.ones(4))
    monkeypatch.delattr("json.dumps")
    assert rank != 1
"""


@pytest.mark.soak  # each rank imports torch's compiler
def test_what_torch_begins_by_itself_is_known_too(pytester: pytest.Pytester) -> None:
    failures, told = run(pytester, BY_ITSELF)
    assert re.search(r"^ranks 0-1: at none, its last was all_reduce #\d+ of \[16\] float32", told, re.MULTILINE), told
    assert "its last was all_reduce #1 of [5] float32" in failures["test_functional"]


@pytest.mark.soak
def test_groups_that_torch_wraps_to_compare_ranks(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_DISTRIBUTED_DEBUG", "DETAIL")
    failures, told = run(pytester, BY_ITSELF, "-k", "compared")
    assert "ranks 0-1: at none, its last was all_reduce #3 of [4]" in failures["test_compared"], told


def test_nothing_is_kept_unless_it_is_asked_for(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        test_it="""
        import os, pytest
        import torch.distributed as dist

        @pytest.mark.elastic(nproc=1)
        def test_it(rank):
            assert "TORCH_FR_BUFFER_SIZE" not in os.environ
            assert not hasattr(dist.ProcessGroup.allreduce, "__wrapped__")
            raise ValueError("to have a report")
        """
    )
    result = pytester.run(sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--elastic-log-dir=logs")
    assert "ValueError: to have a report" in result.stdout.str()
    assert "last collectives" not in result.stdout.str()
    assert [path.name for path in (pytester.path / "logs").rglob("collectives.*")] == []
