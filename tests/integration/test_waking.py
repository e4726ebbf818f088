"""A stopped process that is woken for its stacks writes them in its main thread, while that one does nothing else."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

from pytest_elastic import kernel

TIMES = 20
CHILD = """
import faulthandler, os, signal, sys
import torch.distributed as dist
# Each store has a thread that Python does not know: it would take the signal as well as any other.
stores = [dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False) for _ in range(4)]
faulthandler.register(signal.SIGUSR1, file=open(sys.argv[1], "w"), all_threads=True)
while True:
    os.kill(os.getpid(), signal.SIGSTOP)
"""


def test_the_main_thread_takes_the_signal(tmp_path: Path) -> None:
    written = tmp_path / "stacks"
    process = subprocess.Popen([sys.executable, "-c", CHILD, str(written)])
    handle = kernel.ProcessHandle(process.pid)
    try:
        deadline = time.monotonic() + 60
        for number in range(1, TIMES + 1):
            while not kernel.is_stopped(process.pid):
                assert process.poll() is None
                assert time.monotonic() < deadline
                kernel.pause(0.001)
            assert handle.wake_by(signal.SIGUSR1)
            while not written.exists() or written.read_text().count("most recent call first") < number:
                assert time.monotonic() < deadline
                kernel.pause(0.001)
        assert written.read_text().count("Current thread") == TIMES
    finally:
        process.kill()
        process.wait()
        handle.close()
