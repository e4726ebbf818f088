import pytest
import torch.distributed as dist

from pytest_elastic import KillRank, StopRank


@pytest.mark.elastic(nproc=2, backend="gloo", max_restarts=1, faults=[KillRank(1, when_output="step 3")])
def test_resumes(rank):
    for step in range(10):
        dist.barrier()
        print("step", step, flush=True)


def paced():
    dist.init_process_group("gloo")
    for step in range(10):
        dist.barrier()
        print("step", step, flush=True)


def test_straggler(elastic_launch):
    result = elastic_launch(paced, nproc=2, faults=[StopRank(1, when_output="step 3", for_=0.5)])
    result.assert_ok()
