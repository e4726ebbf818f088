"""Keeps the namespaces of one host and ends all that runs in them. A program; the harness starts it through unshare."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time


def main(outside: str, hostname: str, names: str, tmp: str, *visible: str) -> None:
    """Make the host, say so, then do as told line by line; the end of the input is the end of the host.

    Args:
        outside: The network namespace of whoever starts this, as /proc names it.
        hostname: What gethostname returns here.
        names: The file that is /etc/hosts here; empty: the machine's own.
        tmp: The folder that is /tmp here, /dev/shm is empty then; without a name: the machine's own.
        visible: Folders that are to be seen under their own names, also where they are below /tmp.
    """
    harness = os.getppid()
    own = os.readlink("/proc/self/ns/net")
    if own == outside:
        sys.exit(f"{__file__}: still in the network namespace {outside}, whose processes are not this program's to end")
    subprocess.run(["hostname", hostname], check=True)
    if names:
        subprocess.run(["mount", "--bind", names, "/etc/hosts"], check=True)
    if tmp:
        for folder in visible:
            if folder.startswith("/tmp/"):
                place = os.path.join(tmp, os.path.relpath(folder, "/tmp"))
                os.makedirs(place, exist_ok=True)
                subprocess.run(["mount", "--bind", folder, place], check=True)
        subprocess.run(["mount", "--rbind", tmp, "/tmp"], check=True)
        subprocess.run(["mount", "-t", "tmpfs", "shm", "/dev/shm"], check=True)
    print("ready", flush=True)
    for _ in sys.stdin:
        end_all(own, spared={os.getpid(), harness})
        print("ended", flush=True)
    end_all(own, spared={os.getpid(), harness})


def end_all(namespace: str, spared: set[int]) -> None:
    """Kill what is in a network namespace until nothing is; what was just forked is found by the next look."""
    while pids := [pid for pid in processes_in(namespace) if pid not in spared]:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.005)


def processes_in(namespace: str) -> list[int]:
    """Return the processes of a network namespace; one that has ended and waits to be reaped is in none."""
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(OSError):
                if os.readlink(f"/proc/{name}/ns/net") == namespace:
                    found.append(int(name))
    return found


if __name__ == "__main__":
    main(*sys.argv[1:])
