"""No launch waits for DNS: nobody is asked, even where the host's own name is unknown and DNS never answers."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

INSIDE = """
import os, socket, subprocess, sys, threading

queries = []
server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
server.bind(("127.0.0.1", 53))

def note():
    while True:
        queries.append(server.recv(512)[12:])

threading.Thread(target=note, daemon=True).start()
code = subprocess.call(sys.argv[1:])
names = sorted({bytes(c if 32 < c < 127 else 46 for c in query).decode() for query in queries})
print(f"QUERIES {len(queries)} {names}")
sys.exit(code)
"""
TEST = """
import socket
import pytest
import torch.distributed as dist

def barrier():
    dist.init_process_group("gloo")
    dist.barrier()
    dist.destroy_process_group()

def test_the_trap_is_set():
    if {trap}:
        with pytest.raises(OSError):
            socket.gethostbyname("a-name-nobody-knows.example")

@pytest.mark.parametrize("settings", [
    {{}},
    {{"rdzv_backend": "c10d"}},
    {{"rdzv_backend": "static"}},
    {{"rdzv_backend": "etcd-v2"}},
    {{"agent": "inline"}},
    {{"nnodes": 2}},
    {{"start_method": "spawn"}},
], ids=str)
def test_functions(elastic_launch, settings):
    elastic_launch(barrier, nproc=2, timeout=60, **settings)

def test_script(elastic_launch, tmp_path):
    script = tmp_path / "train.py"
    script.write_text("import torch.distributed as dist\\ndist.init_process_group('gloo')\\ndist.barrier()\\n")
    elastic_launch(script, nproc=2, timeout=60)

@pytest.mark.elastic(nproc=2, backend="gloo", timeout=60)
def test_marker(rank):
    dist.barrier()
"""
ENTER = """
set -e
ip link set lo up
hostname a-name-nobody-knows
mount --bind resolv.conf /etc/resolv.conf
exec "$@"
"""


def can_unshare() -> bool:
    if sys.platform != "linux" or not all(map(shutil.which, ("unshare", "ip", "mount", "hostname"))):
        return False
    command = ["unshare", "--net", "--uts", "--mount", "true"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def run_without_dns(directory: Path, *, trap: bool, select: str = "", passed: int) -> str:
    (directory / "resolv.conf").write_text("nameserver 127.0.0.1\noptions timeout:1 attempts:1\n")
    (directory / "inside.py").write_text(INSIDE)
    (directory / "test_it.py").write_text(TEST.format(trap=trap))
    pytest_command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "-p",
        "no:xdist",
        "test_it.py",
        "-k",
        select,
    ]
    done = subprocess.run(
        ["unshare", "--net", "--uts", "--mount", "sh", "-c", ENTER, "sh", sys.executable, "inside.py", *pytest_command],
        cwd=directory,
        env={key: value for key, value in os.environ.items() if not key.startswith("PYTEST")},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{passed} passed" in done.stdout
    return next(line for line in done.stdout.splitlines() if line.startswith("QUERIES"))


@pytest.mark.soak  # several sessions, in namespaces of their own
@pytest.mark.skipif(not can_unshare(), reason="needs Linux, root and the commands unshare, ip, mount and hostname")
def test_no_launch_asks_dns(tmp_path: Path) -> None:
    assert run_without_dns(tmp_path, trap=False, passed=10) == "QUERIES 0 []"
    # The check can fail: a look-up of the test's own is seen.
    assert "a-name-nobody-knows.example" in run_without_dns(tmp_path, trap=True, select="trap", passed=1)
