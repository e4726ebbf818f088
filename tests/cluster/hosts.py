"""Hosts on one machine: each has its own network, name and /etc/hosts, and a link to a switch that can be cut or slow.

A host is a set of Linux namespaces. None has a name in the file system, and every interface is made inside of them: the
machine's own network is not touched, runs that happen at the same time cannot clash though all use the same
addresses, and what a killed test run leaves behind ends with it.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import pytest

HERE = Path(__file__).parent
PATIENCE = 60.0
"""Seconds within which a program of this harness has answered, on a machine that is busy."""
CLONE_NEWNET = 0x40000000


@functools.cache
def why_not() -> str | None:
    """Return why there can be no hosts here, in one line; None: there can."""
    if sys.platform != "linux":
        return f"hosts are Linux namespaces, and this is {sys.platform}"
    for program in ("ip", "unshare", "nsenter", "mount", "hostname"):
        if shutil.which(program) is None:
            return f"hosts are made with {program}, which is not installed"
    if not os.path.exists("/dev/net/tun"):
        return "a slow link is made with /dev/net/tun, which is not there"
    made = "link add name br type bridge\nlink add name one type veth peer name other\n"
    tried = subprocess.run(
        ["unshare", "--net", "--uts", "--mount", "ip", "-batch", "-"],
        input=made,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    if tried.returncode:
        return f"this process may not make network namespaces: {tried.stderr.strip().splitlines()[0]}"
    return None


@dataclass(kw_only=True, slots=True)
class Namespaces:
    """Namespaces, and the process that keeps them and ends what runs in them."""

    holder: subprocess.Popen[str]

    @classmethod
    def make(cls, hostname: str, *, names: str = "", tmp: str = "", visible: Sequence[str] = ()) -> Namespaces:
        """Start a holder; see there for the arguments."""
        return cls(
            holder=started(
                [
                    *("unshare", "--net", "--uts", "--mount", "--propagation", "private", "--"),
                    *(sys.executable, "-I", "-S", str(HERE / "holder.py")),
                    *(os.readlink("/proc/thread-self/ns/net"), hostname, names, tmp, *visible),
                ]
            )
        )

    def entering(self, *which: str) -> list[str]:
        """Return the beginning of a command that is executed in there, as the process that was started."""
        return ["nsenter", f"--target={self.holder.pid}", *(f"--{name}" for name in which), "--"]

    def ip(self, *commands: str) -> None:
        """Have iproute2 do all of these in there."""
        subprocess.run(
            [*self.entering("net"), "ip", "-batch", "-"],
            input="".join(f"{command}\n" for command in commands),
            check=True,
            text=True,
            timeout=PATIENCE,
        )

    def end_processes(self) -> None:
        """Kill all that runs in there, and return when it is dead."""
        assert self.holder.stdin is not None
        self.holder.stdin.write("end\n")
        self.holder.stdin.flush()
        expect(self.holder, "ended")

    def end(self) -> None:
        """Kill all that runs in there, and give up the namespaces."""
        ended(self.holder)


@dataclass(kw_only=True, slots=True)
class Host:
    """One of the hosts, by whose `popen` programs are started there."""

    number: int
    name: str
    address: str
    namespaces: Namespaces = field(repr=False)
    switch: Namespaces = field(repr=False)
    relay: subprocess.Popen[str] | None = field(default=None, repr=False)
    is_cut: bool = field(default=False, repr=False)

    def popen(
        self,
        argv: Sequence[str | Path],
        *,
        env: Mapping[str, str] | None = None,
        cwd: str | Path | None = None,
        **options: Any,
    ) -> subprocess.Popen[str]:
        """Start a program on this host; the process is the program's own, not one that waits for it.

        Args:
            argv: The program and its arguments.
            env: Its environment; None: that of this process.
            cwd: Its working directory; None: that of this process.
            options: What else subprocess.Popen takes; `text=True` unless said otherwise.
        """
        # To enter a mount namespace is to be in its root: the folder has to be found again, inside.
        inside = [*self.namespaces.entering("net", "uts", "mount"), "env", f"--chdir={cwd or os.getcwd()}", "--"]
        options.setdefault("text", True)
        return subprocess.Popen([*inside, *map(str, argv)], env=env, **options)

    def run(
        self, argv: Sequence[str | Path], *, timeout: float = PATIENCE, **options: Any
    ) -> subprocess.CompletedProcess[str]:
        """Run a program on this host to its end, and return what it printed."""
        for stream in ("stdout", "stderr"):
            options.setdefault(stream, subprocess.PIPE)
        with self.popen(argv, **options) as process:
            try:
                stdout, stderr = process.communicate(timeout=timeout)
            except BaseException:
                process.kill()
                raise
        return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)

    @contextlib.contextmanager
    def network(self) -> Iterator[None]:
        """Have the sockets that this thread makes meanwhile be sockets of this host."""
        with open("/proc/thread-self/ns/net") as own:
            with open(f"/proc/{self.namespaces.holder.pid}/ns/net") as there:
                enter(there)
            try:
                yield
            finally:
                enter(own)

    def cut(self) -> None:
        """Pull the cable: no packet gets to or from this host, and nobody is told."""
        self.is_cut = True
        self._plug()

    def mend(self) -> None:
        """Put the cable back.

        What TCP had under way comes after its next retransmission, that is after as long again as the cut lasted.
        """
        self.is_cut = False
        self._plug()

    def delay(self, milliseconds: float) -> None:
        """Have each packet to and from this host take so much longer, so an answer takes twice that; 0: as at first."""
        if self.relay is not None:
            relay, self.relay = self.relay, None
            self._plug()
            self.switch.ip(f"link del {self._slow}")
            ended(relay)
        if milliseconds > 0:
            near, far = f"near{self.number}", f"far{self.number}"
            program = [sys.executable, "-I", "-S", str(HERE / "relay.py"), str(milliseconds / 1000), near, far]
            self.relay = started([*self.switch.entering("net"), *program])
            self.switch.ip(
                f"link add name {self._slow} type bridge",
                f"link set dev {near} txqueuelen 10000 master {self._slow} up",
                f"link set dev {far} txqueuelen 10000 master switch up",
                f"link set dev {self._slow} up",
            )
            self._plug()

    def crash(self) -> None:
        """Lose the host as by a power failure: it falls silent, with no last packet. `mend` has it back, empty."""
        self.cut()
        self.namespaces.end_processes()

    def _plug(self) -> None:
        """Put the cable where it belongs."""
        place = "nomaster" if self.is_cut else f"master {'switch' if self.relay is None else self._slow}"
        self.switch.ip(f"link set dev port{self.number} {place}")

    @property
    def _slow(self) -> str:
        return f"slow{self.number}"


@contextlib.contextmanager
def hosts(count: int, folder: Path, *, private_tmp: bool = False) -> Iterator[list[Host]]:
    """Make hosts that reach each other by address and by name, and nothing else; skip where that is not permitted.

    Args:
        count: How many; they are called host0, host1 and so on.
        folder: Where to keep their files; to be seen on every host under the same name.
        private_tmp: Whether each has a /tmp and a /dev/shm of its own.
    """
    if (reason := why_not()) is not None:
        pytest.skip(reason)
    addresses = {f"host{number}": f"10.77.0.{number + 1}" for number in range(count)}
    # Also the code of this project and the interpreter may well be below /tmp.
    visible = [str(place.resolve()) for place in (folder, HERE.parents[1], Path(sys.prefix))]
    names = folder / "etc-hosts"
    names.write_text(
        "127.0.0.1 localhost\n::1 localhost\n" + "".join(f"{address} {name}\n" for name, address in addresses.items())
    )
    with contextlib.ExitStack() as stack:
        switch = Namespaces.make("switch")
        stack.callback(switch.end)
        switch.ip("link set dev lo up", "link add name switch type bridge", "link set dev switch up")
        made = []
        for number, (name, address) in enumerate(addresses.items()):
            tmp = folder / f"tmp-{name}" if private_tmp else None
            if tmp is not None:
                tmp.mkdir(mode=0o1777)
            namespaces = Namespaces.make(name, names=str(names), tmp="" if tmp is None else str(tmp), visible=visible)
            stack.callback(namespaces.end)
            switch.ip(
                f"link add name port{number} type veth peer name eth0 netns {namespaces.holder.pid}",
                f"link set dev port{number} master switch up",
            )
            namespaces.ip("link set dev lo up", f"addr add {address}/24 dev eth0", "link set dev eth0 up")
            host = Host(number=number, name=name, address=address, namespaces=namespaces, switch=switch)
            stack.callback(host.delay, 0)
            made.append(host)
        yield made


def enter(namespace: IO[str]) -> None:
    """Have this thread be in a network namespace."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(namespace.fileno(), CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), f"setns to {namespace.name}: {os.strerror(ctypes.get_errno())}")


def started(argv: Sequence[str]) -> subprocess.Popen[str]:
    """Start a program of this harness, which says when it is ready and ends when its input does."""
    process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    expect(process, "ready")
    return process


def expect(process: subprocess.Popen[str], word: str) -> None:
    """Wait until a program of this harness says a word; a program that is stuck is killed, which ends the wait."""
    assert process.stdout is not None
    watch = threading.Timer(PATIENCE, process.kill)
    watch.start()
    try:
        said = process.stdout.readline().strip()
    finally:
        watch.cancel()
    if said != word:
        ended(process)
        raise RuntimeError(f"{process.args!r} said {said!r}, not {word!r}, and ended with {process.returncode}")


def ended(process: subprocess.Popen[str]) -> None:
    """Have a program of this harness end, and return when it has."""
    assert process.stdin is not None
    assert process.stdout is not None
    with contextlib.suppress(BrokenPipeError):
        process.stdin.close()
    try:
        process.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(PATIENCE)
    process.stdout.close()
