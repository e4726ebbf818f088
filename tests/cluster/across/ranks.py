"""What goes right and wrong on ranks, with the last rank on the last of two nodes."""

import ctypes
import os
import signal
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

TWO_NODES = pytest.mark.elastic(nnodes=2, nproc=1, timeout=60)
GLOO = pytest.mark.elastic(nnodes=2, nproc=1, timeout=60, backend="gloo")


@TWO_NODES
def test_passes(rank, world_size, node_rank):
    assert (world_size, node_rank) == (2, rank)


@TWO_NODES
def test_fails_an_assert(rank):
    losses = [0.5, 0.25 / (1 + rank)]
    assert losses == [0.5, 0.25]


@TWO_NODES
def test_first_rank_fails(rank):
    assert rank


@pytest.fixture
def no_weights(rank):
    if rank == 1:
        raise ValueError("no weights")


@TWO_NODES
def test_fails_in_setup(no_weights):
    pass


@pytest.fixture
def still_in_use(rank):
    yield
    if rank == 1:
        raise ValueError("still in use")


@TWO_NODES
def test_fails_in_teardown(still_in_use):
    pass


@GLOO
def test_fails_while_others_wait(rank):
    if rank == 1:
        raise ValueError("the loss of rank 1 is not a number")
    dist.barrier()


@TWO_NODES
def test_both_fail_alike(rank):
    assert rank == 2


@TWO_NODES
def test_sys_exits(rank):
    if rank == 1:
        sys.exit(3)


@TWO_NODES
def test_os_exits_0(rank):
    if rank == 1:
        os._exit(0)


@GLOO
def test_dies_of_sigkill(rank):
    if rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    dist.barrier()


@GLOO
def test_dies_of_sigsegv(rank):
    if rank == 1:
        ctypes.string_at(0)
    dist.barrier()


@pytest.mark.elastic(nnodes=2, nproc=1, timeout=4, backend="gloo")
def test_hangs_in_a_collective(rank):
    if rank == 0:
        dist.barrier()
    dist.broadcast(torch.tensor(float(rank)), src=0)


@TWO_NODES
def test_all_skip():
    pytest.skip("no data here")


@TWO_NODES
def test_one_skips(rank):
    if rank == 1:
        pytest.skip("no data here")


@TWO_NODES
@pytest.mark.xfail(reason="the last rank has no data")
def test_xfails(rank):
    assert rank == 0


@GLOO
def test_xfails_while_others_wait(rank):
    if rank == 1:
        pytest.xfail("not on the last rank")
    dist.barrier()


@TWO_NODES
@pytest.mark.xfail(strict=True, reason="it used to fail")
def test_known_bug_is_gone():
    pass


@TWO_NODES
def test_prints(rank):
    print(f"out of rank {rank}")
    print(f"err of rank {rank}", file=sys.stderr)
    os.write(1, f"written by rank {rank}\n".encode())
    assert rank == 0


@TWO_NODES
def test_fails_in_a_subtest(rank, subtests):
    for batch in range(2):
        with subtests.test(batch=batch):
            assert (rank, batch) != (1, 1)


@TWO_NODES
def test_gathers(rank, elastic_gather, elastic_barrier):
    elastic_barrier()
    assert elastic_gather({"rank": rank}) == [{"rank": 0}, {"rank": 1}]


@TWO_NODES
def test_has_a_directory_of_its_own(rank, tmp_path, elastic_gather):
    (tmp_path / "own").write_text(str(rank))
    elastic_gather(None)
    assert (tmp_path / "own").read_text() == str(rank)


@TWO_NODES
def test_has_a_directory_of_all(rank, elastic_tmp_path, elastic_gather):
    (elastic_tmp_path / f"rank-{rank}").touch()
    elastic_gather(None)
    assert sorted(path.name for path in elastic_tmp_path.iterdir()) == ["rank-0", "rank-1"]


@GLOO
def test_reduces(rank):
    total = torch.tensor(rank + 1)
    dist.all_reduce(total)
    assert total.item() == 3


@pytest.mark.elastic(nnodes=2, nproc=2, timeout=60, backend="gloo")
def test_two_groups(rank):
    near, far = dist.new_group([0, 1]), dist.new_group([2, 3])
    total = torch.tensor(rank)
    dist.all_reduce(total, group=near if rank < 2 else far)
    assert total.item() == (1 if rank < 2 else 5)
    dist.all_reduce(total)
    assert total.item() == 12


@TWO_NODES
def test_makes_its_group_itself(rank):
    for _ in range(2):
        dist.init_process_group("gloo")
        total = torch.tensor(rank + 1)
        dist.all_reduce(total)
        dist.destroy_process_group()
        assert total.item() == 3


@pytest.mark.elastic(nnodes=2, nproc=1, timeout=60, backend="gloo", max_restarts=1)
def test_is_restarted(rank):
    attempt = int(os.environ["TORCHELASTIC_RESTART_COUNT"])
    if rank == 1:
        assert attempt == 1, f"attempt {attempt}"
    dist.barrier()


@pytest.mark.elastic(nnodes=2, nproc=1, timeout=60, backend="gloo", max_restarts=1)
def test_is_restarted_in_vain(rank):
    if rank == 1:
        raise ValueError(f"attempt {os.environ['TORCHELASTIC_RESTART_COUNT']}")
    dist.barrier()


@TWO_NODES
def test_warns(rank):
    import warnings

    warnings.warn(f"said by rank {rank}", UserWarning, stacklevel=1)


@pytest.mark.elastic(nproc=2, timeout=60)
def test_one_node_is_enough(rank, world_size):
    assert (rank < 2, world_size) == (True, 2)


def test_plain():
    assert Path(__file__).name == "ranks.py"
