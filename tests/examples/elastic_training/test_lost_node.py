import itertools
import time
from datetime import timedelta

import torch
import torch.distributed as dist


def train(done):
    # A peer's death now and then leaves gloo waiting for it: the group's timeout ends that.
    dist.init_process_group("gloo", timeout=timedelta(seconds=10))
    for step in itertools.count():
        over = torch.tensor(int(done.exists()))
        dist.all_reduce(over, dist.ReduceOp.MAX)
        print(f"step {step} on {dist.get_world_size()} ranks", flush=True)
        if over:
            return dist.get_world_size()
        time.sleep(0.01)


def test_survives_a_lost_node(elastic_launch, tmp_path):
    done = tmp_path / "done"
    with elastic_launch.start(train, done, nnodes="1:2", nproc=2, max_restarts=2) as run:
        run.wait_for_output("step 3 on 4 ranks", rank=3, timeout=30)
        run.agents[1].kill()  # its agent and its ranks, SIGKILL
        run.wait_for_world(2, timeout=30)
        done.touch()
        result = run.wait(timeout=30)
    result.assert_ok()
    assert result.worlds == [4, 2]
    assert result.agents[1].state == "KILLED"


def test_takes_a_late_node(elastic_launch, tmp_path):
    done = tmp_path / "done"
    with elastic_launch.start(train, done, nnodes="1:2", agents=1, nproc=2) as run:
        run.wait_for_output("step 3 on 2 ranks", timeout=30)
        run.add_agent()
        run.wait_for_world(4, timeout=30)
        done.touch()
        result = run.wait(timeout=30)
    assert result.worlds == [2, 4]
    result.assert_restarted(0)
