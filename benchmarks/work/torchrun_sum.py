"""The measured work as a script under ``torchrun``; run as a script it is what a rank does."""

from __future__ import annotations

import os
import subprocess
import sys

RANKS = os.environ["BENCH_RANKS"]

if __name__ == "__main__":
    import torch
    import torch.distributed as dist

    dist.init_process_group("gloo")
    total = torch.tensor(dist.get_rank())
    dist.all_reduce(total)
    assert total.item() == sum(range(dist.get_world_size()))
    dist.destroy_process_group()
else:
    import pytest

    @pytest.mark.parametrize("number", range(int(os.environ["BENCH_TESTS"])))
    def test_sum(number: int) -> None:
        torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={RANKS}"]
        subprocess.run([*torchrun, __file__], check=True, timeout=120)
