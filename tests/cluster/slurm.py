"""A Slurm cluster of the hosts of these tests: the real programs, with files of their own, none of the system's.

slurmctld and munged run on the first host, and a slurmd on each. All of it ends with the hosts.
"""

from __future__ import annotations

import contextlib
import functools
import os
import secrets
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from .hosts import PATIENCE, Host

CONFIGURATION = """\
ClusterName=tests
SlurmctldHost={controller}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/%n.log
# Neither systemd nor control groups: a machine of continuous integration may have none of its own to give.
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
MailProg=/bin/true
SchedulerType=sched/builtin
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=2
# As many tasks as are said below, however few the cores are.
SlurmdParameters=config_overrides
# A job begins as soon as it can, and one that is told to end is killed soon.
SchedulerParameters=sched_interval=1,batch_sched_delay=0
KillWait=2
{nodes}
PartitionName=all Nodes=ALL Default=YES State=UP MaxTime=INFINITE
"""


@functools.cache
def why_not() -> str | None:
    """Return why there can be no Slurm here, in one line; None: there can."""
    missing = [program for program in ("munged", "slurmctld", "slurmd", "srun") if shutil.which(program) is None]
    if missing:
        return f"Slurm is not installed: no {', '.join(missing)} (Debian: munge slurmctld slurmd slurm-client)"
    return None


@dataclass(kw_only=True, slots=True)
class Slurm:
    """A cluster, to which jobs are given from its first host."""

    hosts: list[Host]
    folder: Path

    @property
    def environ(self) -> dict[str, str]:
        """The environment in which Slurm's programs talk to this cluster, whatever this process is itself part of."""
        own = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "SRUN_", "SBATCH_"))}
        return {**own, "SLURM_CONF": str(self.folder / "slurm.conf")}

    def popen(self, argv: Sequence[str | Path], **options: Any) -> subprocess.Popen[str]:
        """Start srun, sbatch and their like on the first host."""
        return self.hosts[0].popen(argv, env=self.environ, **options)

    def run(self, argv: Sequence[str | Path], **options: Any) -> subprocess.CompletedProcess[str]:
        """Run one to its end, and return what it printed."""
        return self.hosts[0].run(argv, env=self.environ, **options)

    def logs(self) -> str:
        """Return what its daemons wrote."""
        return "".join(f"--- {path.name}\n{path.read_text()}" for path in sorted(self.folder.glob("*.log")))


@contextlib.contextmanager
def slurm(hosts: list[Host], *, cpus: int = 4) -> Iterator[Slurm]:
    """Have a Slurm cluster of these hosts; skip where it is not installed.

    Args:
        hosts: Its nodes, by their names.
        cpus: How many tasks each takes; Slurm believes it.
    """
    if (reason := why_not()) is not None:
        pytest.skip(reason)
    # Not below pytest's folder: the names of sockets are short.
    with tempfile.TemporaryDirectory(prefix="slurm-") as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        (folder / "state").mkdir()
        for host in hosts:
            (folder / host.name).mkdir()
        nodes = "\n".join(
            f"NodeName={host.name} NodeAddr={host.address} CPUs={cpus} RealMemory=1000 State=UNKNOWN" for host in hosts
        )
        (folder / "slurm.conf").write_text(
            CONFIGURATION.format(controller=f"{hosts[0].name}({hosts[0].address})", folder=folder, nodes=nodes)
        )
        key = folder / "munge.key"
        key.touch(mode=0o600)
        key.write_bytes(secrets.token_bytes(128))
        cluster = Slurm(hosts=hosts, folder=folder)

        def daemon(host: Host, name: str, argv: Sequence[str]) -> None:
            with (folder / f"{name}.out.log").open("w") as output:
                process = host.popen(argv, env=cluster.environ, stdout=output, stderr=output, cwd=folder)
            stack.callback(end, process)

        daemon(
            hosts[0],
            "munged",
            # --force: the folder is for this user alone, and munged would have everybody reach its socket
            ["munged", "--foreground", "--force", f"--socket={folder}/munge", f"--key-file={key}"]
            + [f"--{kind}-file={folder}/munged.{kind}" for kind in ("log", "pid", "seed")],
        )
        wait_until(cluster, (folder / "munge").is_socket, "munged")
        # In the foreground, and slurmctld without the state of a cluster before it.
        daemon(hosts[0], "slurmctld", ["slurmctld", "-D", "-c", "-i"])
        for host in hosts:
            daemon(host, f"slurmd-{host.name}", ["slurmd", "-D"])
        wait_until(cluster, lambda: idle(cluster) == len(hosts), "all nodes")
        try:
            yield cluster
        finally:
            cluster.run(["scancel", "--user=root", "--signal=KILL"])


def idle(cluster: Slurm) -> int:
    """Return how many nodes wait for a job."""
    return cluster.run(["sinfo", "--noheader", "--Node", "--format=%t"]).stdout.split().count("idle")


def wait_until(cluster: Slurm, condition: Any, what: str) -> None:
    """Wait for the cluster, and show its logs if that is in vain."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > deadline:
            raise RuntimeError(f"{what} of Slurm not there after {PATIENCE} s:\n{cluster.logs()}")
        time.sleep(0.05)


def end(process: subprocess.Popen[str]) -> None:
    """End a daemon, which is given the time to end what it started."""
    process.terminate()
    try:
        process.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(PATIENCE)
