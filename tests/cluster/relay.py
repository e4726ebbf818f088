"""Passes frames between two interfaces, each some time after it came. A program; the harness starts it.

In place of the kernel's netem, which is often not built in, as on the machines of many a continuous integration.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import struct
import sys
import time
from collections import deque

TUNSETIFF = 0x400454CA
IFF_TAP = 0x0002
IFF_NO_PI = 0x1000
LONGEST = 65536


def main(seconds: float, one: str, other: str) -> None:
    """Make both interfaces, say so, and pass frames between them until the input ends."""
    ends = {tap(one): one, tap(other): other}
    across = dict(zip(ends, reversed(ends), strict=True))
    print("ready", flush=True)
    waiting: deque[tuple[float, int, bytes]] = deque()
    while True:
        until = max(0.0, waiting[0][0] - time.monotonic()) if waiting else None
        readable, _, _ = select.select([0, *ends], [], [], until)
        if 0 in readable:
            return
        for end in readable:
            waiting.append((time.monotonic() + seconds, across[end], os.read(end, LONGEST)))
        while waiting and waiting[0][0] <= time.monotonic():
            _, end, frame = waiting.popleft()
            with contextlib.suppress(OSError):  # an interface that is not up loses the frame, as a wire does
                os.write(end, frame)


def tap(name: str) -> int:
    """Make an interface whose frames this process reads and writes; it is gone when the process is."""
    end = os.open("/dev/net/tun", os.O_RDWR)
    fcntl.ioctl(end, TUNSETIFF, struct.pack("16sH", name.encode(), IFF_TAP | IFF_NO_PI))
    return end


if __name__ == "__main__":
    main(float(sys.argv[1]), *sys.argv[2:])
