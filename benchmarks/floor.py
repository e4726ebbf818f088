"""The floor: what fresh processes cost without pytest and without this plugin.

A process that has imported torch forks the ranks. They meet over a TCPStore, make a gloo group, reduce one tensor and
leave. Timed is from just before the first fork to just after the last wait. Nothing that fresh ranks need is left out,
and nothing else is done; the socket of the store listens before the first fork, so that nobody has to try again.

``python benchmarks/floor.py 4`` prints the median of some launches of 4 ranks. With ``--destroy`` the ranks destroy
their group before they leave, as tests do; gloo waits up to 10 ms for each peer then.
"""

from __future__ import annotations

import argparse
import gc
import os
import socket
import statistics
import time
import traceback

os.environ |= {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}

import torch
import torch.distributed as dist

from pytest_elastic.worker.names import stop_reverse_lookups

LOOPBACK = "127.0.0.1"


def prepare() -> None:
    """Make this process one that ranks can be forked from, as early as once."""
    # About the machine's DNS, not about a launch: without it some launches take 5 s.
    stop_reverse_lookups()
    gc.collect()
    gc.freeze()


def launch(ranks: int, *, destroy: bool = False) -> float:
    """Run one launch and return the seconds that it took."""
    with socket.socket() as listener:
        listener.bind((LOOPBACK, 0))
        listener.listen(ranks)
        begin = time.perf_counter()
        pids = [_fork(rank, ranks, listener, destroy=destroy) for rank in range(ranks)]
        statuses = [os.waitpid(pid, 0)[1] for pid in pids]
        seconds = time.perf_counter() - begin
    if any(statuses):
        raise RuntimeError(f"ranks of the floor ended with {statuses}")
    return seconds


def _fork(rank: int, ranks: int, listener: socket.socket, *, destroy: bool) -> int:
    pid = os.fork()
    if pid == 0:
        try:
            _reduce(rank, ranks, listener)
            if destroy:
                dist.destroy_process_group()
            os._exit(0)
        except BaseException:  # noqa: BLE001 (a forked child must not come back)
            traceback.print_exc()
        finally:
            os._exit(1)
    return pid


def _reduce(rank: int, ranks: int, listener: socket.socket) -> None:
    store = dist.TCPStore(
        LOOPBACK,
        listener.getsockname()[1],
        ranks,
        is_master=rank == 0,
        wait_for_workers=False,
        master_listen_fd=listener.detach() if rank == 0 else None,
    )
    dist.init_process_group("gloo", store=store, rank=rank, world_size=ranks)
    total = torch.tensor(rank)
    dist.all_reduce(total)
    assert total.item() == sum(range(ranks))


def serve(ranks: int, *, destroy: bool) -> None:
    """Take turns as gate.py has pytest sessions do."""
    commands_fd, answers_fd = map(int, os.environ.pop("BENCH_GATE").split(","))
    with open(commands_fd) as commands, open(answers_fd, "w", buffering=1) as answers:
        answers.write("ready\n")
        for command in commands:
            begin = time.perf_counter()
            for _ in range(int(command)):
                launch(ranks, destroy=destroy)
            answers.write(f"{time.perf_counter() - begin!r}\n")


def main() -> None:
    """Serve a benchmark, or print a median."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("ranks", type=int)
    parser.add_argument("--destroy", action="store_true")
    options = parser.parse_args()
    prepare()
    if "BENCH_GATE" in os.environ:
        serve(options.ranks, destroy=options.destroy)
        return
    times = sorted(launch(options.ranks, destroy=options.destroy) for _ in range(21))
    print(f"{options.ranks} ranks: median {statistics.median(times):.4f} s, least {times[0]:.4f}, most {times[-1]:.4f}")


if __name__ == "__main__":
    main()
