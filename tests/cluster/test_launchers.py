"""The same twenty tests under every launcher that is there, with the same outcomes as on one machine."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from .hosts import Host
from .launching import (
    HERE,
    PYTEST,
    Command,
    Session,
    by_torchrun,
    environment,
    left_on,
    processes_on,
    read_reports,
    started,
)
from .slurm import Slurm, slurm, wait_until

pytestmark = pytest.mark.soak

SUITE = HERE / "suite"
ACROSS = HERE / "across"
TORCHRUN = (sys.executable, "-m", "torch.distributed.run")


def run(commands: Sequence[Command], folder: Path, **variables: str) -> Session:
    with started(commands, folder, cwd=SUITE, variables=variables) as running:
        return running.finish()


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Session:
    """What comes of the twenty tests on one machine."""
    session = run([(None, [*PYTEST, "twenty.py"])], tmp_path_factory.mktemp("alone") / "session")
    assert session.codes == [1]
    assert len(session.outcomes()) == 20
    return session


def is_as(alone: Session, other: Session, hosts: Sequence[Host] = ()) -> None:
    assert other.outcomes() == alone.outcomes(), other.outputs
    assert other.messages(hosts) == alone.messages(())
    assert sum(output.count("test session starts") for output in other.outputs) == 1


def test_torchrun_with_two_nodes(alone: Session, free_port: int, tmp_path: Path) -> None:
    given = ("--nnodes=2", "--nproc-per-node=1", "--rdzv-backend=c10d", f"--rdzv-endpoint=127.0.0.1:{free_port}")
    command: Command = (None, [*TORCHRUN, *given, "--rdzv-id=twenty", *PYTEST[1:], "twenty.py"])
    session = run([command, command], tmp_path / "session")
    assert session.codes == [1, 1]
    assert "elastic: 2 nodes (torchrun)" in "".join(session.outputs)
    is_as(alone, session)


def test_torchrun_on_two_hosts(alone: Session, two_hosts: list[Host], tmp_path: Path) -> None:
    session = run(by_torchrun(two_hosts, "twenty.py"), tmp_path / "session")
    assert session.codes == [1, 1]
    assert "elastic: 2 nodes (torchrun): host0, host1" in session.output
    is_as(alone, session, two_hosts)
    assert [left_on(host) for host in two_hosts] == [[], []]


def test_torchx_with_two_replicas(alone: Session, tmp_path: Path) -> None:
    torchx = Path(sys.executable).with_name("torchx")
    if not torchx.exists():
        pytest.skip("TorchX is not installed beside this interpreter")
    # TorchX takes no option twice, and starts the torchrun that it finds.
    variables = {
        "PYTEST_ADDOPTS": f"{os.environ.get('PYTEST_ADDOPTS', '')} -p no:cacheprovider -p no:xdist --color=no",
        "PATH": f"{torchx.parent}:{os.environ['PATH']}",
    }
    given = ("--scheduler", "local_cwd", "dist.ddp", "-j", "2x1", "-m", "pytest", "--", "-p", "elastic", "twenty.py")
    session = run([(None, [torchx, "run", *given])], tmp_path / "session", **variables)
    assert session.codes == [1]
    assert "elastic: 2 nodes (torchrun)" in session.output
    is_as(alone, session)


def test_in_place_with_four_ranks(alone: Session, tmp_path: Path) -> None:
    command = [*TORCHRUN, "--standalone", "--nproc-per-node=4", *PYTEST[1:], "twenty.py"]
    session = run([(None, command)], tmp_path / "session")
    assert session.codes == [1]
    assert "elastic: 4 ranks in place (torchrun)" in session.output
    is_as(alone, session)


@pytest.mark.parametrize("kind", ["openmpi", "mpich"])
def test_in_place_under_mpirun(alone: Session, tmp_path: Path, kind: str) -> None:
    mpirun = shutil.which(f"mpirun.{kind}")
    if mpirun is None:
        pytest.skip(f"mpirun.{kind} is not installed (Debian: {'openmpi-bin' if kind == 'openmpi' else 'mpich'})")
    own = ("--oversubscribe", "--allow-run-as-root") if kind == "openmpi" else ()
    session = run([(None, [mpirun, "-n", "4", *own, *PYTEST, "twenty.py"])], tmp_path / "session")
    assert session.codes == [1]
    assert "elastic: 4 ranks in place (mpirun)" in session.output
    is_as(alone, session)


def test_pods_of_an_indexed_job(alone: Session, two_hosts: list[Host], tmp_path: Path) -> None:
    added = f"{os.environ.get('PYTEST_ADDOPTS', '')} --elastic-nodes=2 --elastic-rdzv-endpoint=host0:29400"
    commands = [
        (host, ["env", f"JOB_COMPLETION_INDEX={host.number}", f"PYTEST_ADDOPTS={added}", *PYTEST, "twenty.py"])
        for host in two_hosts
    ]
    session = run(commands, tmp_path / "session")
    assert session.codes == [1, 1]
    assert "elastic: 2 nodes (Kubernetes): host0, host1" in session.output
    is_as(alone, session, two_hosts)


def srun(cluster: Slurm, folder: Path, *args: str | Path, cwd: Path = SUITE) -> Session:
    """Run a step, and return what came of it."""
    folder.mkdir(exist_ok=True)
    own = {name: value for name, value in cluster.environ.items() if name.startswith("SLURM_")}
    environ = environment(folder, **own)
    ran = cluster.hosts[0].run(["srun", *args], env=environ, cwd=cwd, timeout=300)
    return Session(codes=[ran.returncode], outputs=[ran.stdout, ran.stderr], seconds=[], reports=read_reports(folder))


ONE_EACH = ("-N2", "--ntasks-per-node=1", "--kill-on-bad-exit=0")


def test_slurm(alone: Session, two_hosts: list[Host], tmp_path: Path) -> None:
    with slurm(two_hosts) as cluster:
        session = srun(cluster, tmp_path / "one-each", *ONE_EACH, *PYTEST, "twenty.py")
        assert session.codes == [1], session.outputs
        assert "elastic: 2 nodes (srun): host0, host1" in session.output
        is_as(alone, session, two_hosts)

        session = srun(cluster, tmp_path / "in-place", "-N2", "--ntasks-per-node=2", *PYTEST, "twenty.py")
        assert session.codes == [1], session.outputs
        assert "elastic: 4 ranks in place (srun): host0, host1" in session.output, session.output
        is_as(alone, session, two_hosts)

        uneven = srun(cluster, tmp_path / "uneven", "-N2", "-n3", *PYTEST, "twenty.py")
        assert uneven.codes == [4]
        assert "srun: got SLURM_STEP_NUM_NODES=2, SLURM_STEP_NUM_TASKS=3" in uneven.outputs[1], uneven.outputs

        session = srun(cluster, tmp_path / "passes", *ONE_EACH, *PYTEST, "twenty.py", "-k", "test_two_nodes_skips")
        assert session.codes == [0], session.outputs


def test_a_batch_script_of_slurm(two_hosts: list[Host], tmp_path: Path) -> None:
    script = HERE.parents[1] / "examples" / "cluster" / "slurm.sh"
    folder = tmp_path / "session"
    folder.mkdir()
    with slurm(two_hosts) as cluster:
        own = {name: value for name, value in cluster.environ.items() if name.startswith("SLURM_")}
        environ = environment(folder, **own, PATH=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
        junit = folder / "report.xml"
        argv: list[str | Path] = [
            "sbatch",
            f"--output={folder}/out",
            script,
            "-p",
            "no:cacheprovider",
            f"--junitxml={junit}",
            "twenty.py",
        ]
        given = cluster.hosts[0].run(argv, env=environ, cwd=SUITE)
        assert given.returncode == 0, given.stderr
        wait_until(cluster, lambda: not cluster.run(["squeue", "--noheader"]).stdout, "the end of the job")
    said = (folder / "out").read_text()
    assert "elastic: 2 nodes (srun): host0, host1" in said
    assert "7 failed, 9 passed, 2 skipped, 1 xfailed, 2 errors" in said, said
    assert junit.read_text().count("<testcase") == 20


def test_a_task_of_slurm_is_killed(two_hosts: list[Host], tmp_path: Path) -> None:
    with slurm(two_hosts) as cluster:
        argv = (*ONE_EACH, *PYTEST, "back.py", "--elastic-node-timeout=4")
        session = srun(cluster, tmp_path / "session", *argv, cwd=ACROSS)
        assert session.codes == [137], session.outputs  # the highest: what a shell makes of SIGKILL
        assert "node 1 (host1) was lost after " in session.failure("test_pytest_dies")
        assert "its pytest has ended" in session.failure("test_pytest_dies")
        assert "needs 2 nodes, 1 of 2 are left" in session.failure("test_after")


@pytest.mark.parametrize("how", [["--signal=TERM"], []])
def test_a_step_of_slurm_is_cancelled(two_hosts: list[Host], tmp_path: Path, how: list[str]) -> None:
    folder = tmp_path / "session"
    folder.mkdir()
    with slurm(two_hosts) as cluster:
        own = {name: value for name, value in cluster.environ.items() if name.startswith("SLURM_")}
        environ = environment(folder, **own)
        argv = ["srun", *ONE_EACH, *PYTEST, "lost.py"]
        with (folder / "out").open("w") as out:
            process = two_hosts[0].popen(argv, env=environ, cwd=ACROSS, stdout=out, stderr=out)
        try:
            wait_until(cluster, lambda: all((folder / f"reduced-{rank}").exists() for rank in range(4)), "a test")
            cluster.run(["scancel", *how, "1.0"])
            code = process.wait(60)
        finally:
            process.kill()
        said = (folder / "out").read_text()
        wait_until(cluster, lambda: not any(map(pytests_on, two_hosts)), "the end of all processes")
    if how:
        assert code == 128 + 15, said
        assert "ended by the launcher (SIGTERM)" in said
        assert "1 passed" in said
    else:
        assert code == 128 + 9, said  # Slurm kills the tasks of a step at once: nobody can say anything


def pytests_on(host: Host) -> list[str]:
    return [line for line in processes_on(host) if "lost.py" in line]
