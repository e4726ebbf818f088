"""What users of multiprocessing, torch's and Python's, do with the start method spawn."""

import concurrent.futures
import multiprocessing
import os
import signal
import sys
import time

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

SPAWN = multiprocessing.get_context("spawn")


def all_reduce(rank, file, world_size):
    store = dist.FileStore(file, world_size)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=world_size)
    total = torch.tensor(rank)
    dist.all_reduce(total)
    assert total.item() == 1
    dist.destroy_process_group()


def test_torch_spawn(tmp_path):
    mp.spawn(all_reduce, (str(tmp_path / "store"), 2), nprocs=2)


def raises(rank):
    if rank == 1:
        raise ValueError("rank 1 is not well")


def test_torch_spawn_that_raises():
    with pytest.raises(mp.ProcessRaisedException, match="ValueError: rank 1 is not well"):
        mp.spawn(raises, nprocs=2)


def dies(rank):
    if rank == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(60)


def test_start_processes_with_one_that_dies():
    with pytest.raises(mp.ProcessExitedException, match="process 0 terminated with signal SIGKILL"):
        mp.start_processes(dies, nprocs=2, start_method="spawn")


def leaves(code):
    sys.exit(code)


@pytest.mark.parametrize(("code", "exitcode"), [(0, 0), (None, 0), (3, 3), (-1, 255), (256, 0), ("a word", 1)])
def test_exit_codes(code, exitcode, capfd):
    process = SPAWN.Process(target=leaves, args=(code,))
    process.start()
    process.join(60)
    assert process.exitcode == exitcode
    assert ("a word" in capfd.readouterr().err) == (code == "a word")


def waits(connection):
    connection.send(os.getpid())
    connection.recv()


@pytest.mark.parametrize("daemon", [True, False])
def test_signals_and_sentinels(daemon):
    ours, theirs = SPAWN.Pipe()
    process = SPAWN.Process(target=waits, args=(theirs,), daemon=daemon)
    process.start()
    assert ours.recv() == process.pid
    assert process.is_alive()
    assert process.exitcode is None
    assert process in multiprocessing.active_children()
    assert not multiprocessing.connection.wait([process.sentinel], 0)
    process.terminate()
    assert multiprocessing.connection.wait([process.sentinel], 60)
    process.join(60)
    assert process.exitcode == -signal.SIGTERM
    process.terminate()
    process.close()


def shares(tensor, array, lock, event, queue):
    with lock:
        tensor += 1
        array[0] = 7
    queue.put((tensor * 2, multiprocessing.parent_process().pid, multiprocessing.parent_process().is_alive()))
    event.wait(60)


def test_what_processes_share():
    tensor, array = torch.zeros(3).share_memory_(), SPAWN.Array("i", 2)
    lock, event, queue = SPAWN.Lock(), SPAWN.Event(), mp.get_context("spawn").Queue()
    process = SPAWN.Process(target=shares, args=(tensor, array, lock, event, queue))
    process.start()
    doubled, parent, alive = queue.get(timeout=60)
    assert doubled.tolist() == [2, 2, 2]
    assert (parent, alive) == (os.getpid(), True)
    assert (tensor.tolist(), array[:]) == ([1, 1, 1], [7, 0])
    event.set()
    process.join(60)
    assert process.exitcode == 0


def square(number):
    return number**2


def test_pools():
    with SPAWN.Pool(2) as pool:
        assert pool.map(square, range(4)) == [0, 1, 4, 9]
    with concurrent.futures.ProcessPoolExecutor(2, mp_context=SPAWN) as executor:
        assert list(executor.map(square, range(4))) == [0, 1, 4, 9]


def many(connections):
    assert [connection.recv() for connection in connections] == list(range(len(connections)))


def test_more_descriptors_than_a_message_takes():
    pairs = [SPAWN.Pipe(duplex=False) for _ in range(260)]
    process = SPAWN.Process(target=many, args=([reader for reader, _ in pairs],))
    process.start()
    for number, (_, writer) in enumerate(pairs):
        writer.send(number)
    process.join(60)
    assert process.exitcode == 0


def writes():
    print("said by print")
    os.write(2, b"said to the descriptor\n")


def test_output_is_captured(capfd):
    process = SPAWN.Process(target=writes)
    process.start()
    process.join(60)
    assert capfd.readouterr() == ("said by print\n", "said to the descriptor\n")


def test_an_argument_that_cannot_be_sent():
    with pytest.raises(Exception, match="pickle"):
        SPAWN.Process(target=lambda: None).start()


def launched():
    dist.init_process_group("gloo")
    total = torch.tensor(dist.get_rank())
    dist.all_reduce(total)
    dist.destroy_process_group()
    return total.item()


def refuses():
    raise ValueError("not today")


def config():
    return LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=2,
        start_method="spawn",
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
        monitor_interval=0.05,
    )


def test_bare_elastic_launch():
    assert elastic_launch(config(), launched)() == {0: 1, 1: 1}


def test_bare_elastic_launch_that_fails():
    with pytest.raises(Exception, match="ValueError: not today"):
        elastic_launch(config(), refuses)()
