"""A Slurm of two of the hosts runs tasks on both, and nothing is left of it."""

from __future__ import annotations

from pathlib import Path

from .hosts import Host
from .slurm import slurm, wait_until

TELL = 'echo "$SLURM_PROCID $SLURM_STEP_NUM_TASKS $SLURM_NODEID $SLURM_STEP_NUM_NODES $SLURM_LOCALID $(hostname)"'


def test_tasks_run_on_two_nodes_and_srun_tells_the_highest_exit_code(two_hosts: list[Host]) -> None:
    with slurm(two_hosts) as cluster:
        one_each = cluster.run(["srun", "-N2", "--ntasks-per-node=1", "sh", "-c", TELL])
        assert sorted(one_each.stdout.splitlines()) == ["0 2 0 2 0 host0", "1 2 1 2 0 host1"], one_each.stderr
        four = cluster.run(["srun", "-N2", "-n4", "sh", "-c", TELL])
        assert sorted(line.split()[0] for line in four.stdout.splitlines()) == ["0", "1", "2", "3"], four.stderr
        assert {line.split()[1] for line in four.stdout.splitlines()} == {"4"}
        assert cluster.run(["srun", "-N2", "--ntasks-per-node=1", "sh", "-c", "exit $SLURM_PROCID"]).returncode == 1
        daemons = sorted(path.name for path in cluster.folder.glob("*.out.log"))
        assert daemons == ["munged.out.log", "slurmctld.out.log", "slurmd-host0.out.log", "slurmd-host1.out.log"]
        folder = cluster.folder
    assert not folder.exists()
    for pid in Path("/proc").glob("[0-9]*"):
        assert str(folder) not in arguments(pid)


def test_a_batch_script_is_no_task_and_its_steps_are(two_hosts: list[Host], tmp_path: Path) -> None:
    script = tmp_path / "job.sh"
    script.write_text(
        "#!/bin/sh\n#SBATCH -N2 --ntasks-per-node=1\n"
        f"echo \"script ${{SLURM_STEP_ID-none}} $SLURM_PROCID $SLURM_NTASKS\"\nsrun sh -c '{TELL}'\n"
    )
    with slurm(two_hosts) as cluster:
        # Without --wait, which looks every two seconds, then four, then eight.
        given = cluster.run(["sbatch", f"--output={tmp_path}/out", script])
        assert given.returncode == 0, given.stderr + cluster.logs()
        wait_until(cluster, lambda: not cluster.run(["squeue", "--noheader"]).stdout, "the end of the job")
    first, *rest = (tmp_path / "out").read_text().splitlines()
    assert first == "script none 0 2"
    assert sorted(rest) == ["0 2 0 2 0 host0", "1 2 1 2 0 host1"]


def arguments(process: Path) -> str:
    try:
        return (process / "cmdline").read_text()
    except OSError:
        return ""  # it has ended
