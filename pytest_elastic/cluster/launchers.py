"""What launchers tell the processes that they start: who they are, of how many, and where they meet."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NoReturn

import pytest

from pytest_elastic.cluster.ancestors import launcher_process
from pytest_elastic.cluster.member import Membership
from pytest_elastic.cluster.node_list import first_node, tasks_per_node
from pytest_elastic.one_line import fitted, one_line
from pytest_elastic.options import MOST

ALONE: Final = "--elastic-nodes=1 runs the tests on this machine alone"


def launcher_of(environ: Mapping[str, str]) -> str | None:
    """Return which launcher has set an environment: of those that started each other the one that was last."""
    if "TORCHELASTIC_RUN_ID" in environ:
        return "torchrun"
    if "OMPI_COMM_WORLD_RANK" in environ:
        return "Open MPI"
    if "PMI_RANK" in environ and "MPI_LOCALRANKID" in environ:  # srun sets the first, but not the second
        return "MPICH"
    return "srun" if "SLURM_STEP_ID" in environ else None


def run_id_of(launcher: str, environ: Mapping[str, str]) -> str:
    """Return what a launcher calls its run, without reading more."""
    if launcher == "torchrun":
        return environ["TORCHELASTIC_RUN_ID"]
    if launcher == "srun":
        return f"{environ.get('SLURM_JOB_ID')}.{environ.get('SLURM_STEP_ID')}"
    if launcher == "Open MPI":
        job = environ.get("PMIX_NAMESPACE") or environ.get("OMPI_MCA_ess_base_jobid")
        return job or launcher_process("mpirun")
    return launcher_process("hydra_pmi_proxy")


def _torchrun(environ: Mapping[str, str], has_endpoint: bool) -> Membership | None:
    rank, size = _rank_of(environ, "torchrun", "RANK", "WORLD_SIZE")
    if size == 1:
        return None
    local_rank, local_size = _rank_of(environ, "torchrun", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    node, nodes = _rank_of(environ, "torchrun", "GROUP_RANK", "GROUP_WORLD_SIZE")
    if local_size * nodes != size:
        got = f"WORLD_SIZE={size}, GROUP_WORLD_SIZE={nodes} and LOCAL_WORLD_SIZE={local_size}"
        _refuse_unequal("torchrun", got, "give each torchrun the same --nproc-per-node")
    host, port, store = None, 0, False
    if not has_endpoint:
        host = environ.get("MASTER_ADDR", "")
        if host.startswith("[") and host.endswith("]"):
            host = host[1:-1]
        if not host.strip() or not host.isprintable():
            _refuse_variable(environ, "torchrun", "MASTER_ADDR", "the name of a host")
        port = number(environ, "torchrun", "MASTER_PORT", 1, 2**16 - 1)
        if environ.get("TORCHELASTIC_USE_AGENT_STORE", "True") not in ("True", "False"):
            _refuse_variable(environ, "torchrun", "TORCHELASTIC_USE_AGENT_STORE", "True or False")
        # If torchrun's agents do not share their store nothing listens there: the port was picked for rank 0 to use.
        store = environ.get("TORCHELASTIC_USE_AGENT_STORE", "True") == "True"
    attempt = 0
    if "TORCHELASTIC_RESTART_COUNT" in environ:
        attempt = number(environ, "torchrun", "TORCHELASTIC_RESTART_COUNT", 0, MOST)
    return Membership(
        launcher="torchrun",
        rank=rank,
        size=size,
        local_rank=local_rank,
        local_size=local_size,
        node=node,
        nodes=nodes,
        host=host,
        port=port,
        store=store,
        attempt=attempt,
        run_id=run_id_of("torchrun", environ),
    )


def _open_mpi(environ: Mapping[str, str], has_endpoint: bool) -> Membership | None:
    names = ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_SIZE")
    return _mpi(environ, names, run_id_of("Open MPI", environ), has_endpoint)


def _mpich(environ: Mapping[str, str], has_endpoint: bool) -> Membership | None:
    names = ("PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS")
    return _mpi(environ, names, run_id_of("MPICH", environ), has_endpoint)


def _mpi(
    environ: Mapping[str, str], names: tuple[str, str, str, str], run_id: str, has_endpoint: bool
) -> Membership | None:
    rank, size = _rank_of(environ, "mpirun", *names[:2])
    if size == 1:
        return None
    local_rank, local_size = _rank_of(environ, "mpirun", *names[2:])
    if size % local_size != 0:
        _refuse_unequal("mpirun", f"{names[1]}={size} and {names[3]}={local_size}", "such as by -n and --npernode")
    nodes = size // local_size
    # No variable says which node this is. Ranks are counted node by node, or dealt out one to each node in turn.
    node = rank // local_size if rank % local_size == local_rank else rank - nodes * local_rank
    if not 0 <= node < nodes:
        got = f"{names[0]}={rank} of {size} with {names[2]}={local_rank} of {local_size}"
        raise pytest.UsageError(
            f"mpirun: got {got}, expected ranks that are placed node by node or one on each node in turn: map them so"
        )
    if nodes > 1 and not has_endpoint:
        raise pytest.UsageError(
            f"mpirun: got {nodes} nodes and no --elastic-rdzv-endpoint, expected host:port of the node of rank 0: add "
            "--elastic-rdzv-endpoint=host:port"
        )
    return Membership(
        launcher="mpirun",
        rank=rank,
        size=size,
        local_rank=local_rank,
        local_size=local_size,
        node=node,
        nodes=nodes,
        host=None,
        port=0,
        store=False,
        attempt=0,
        run_id=run_id,
    )


def _srun(environ: Mapping[str, str], has_endpoint: bool) -> Membership | None:
    rank, size = _rank_of(environ, "srun", "SLURM_PROCID", "SLURM_STEP_NUM_TASKS")
    if size == 1:
        return None  # such as a shell: srun --pty bash
    node, nodes = _rank_of(environ, "srun", "SLURM_NODEID", "SLURM_STEP_NUM_NODES")
    names = "SLURM_STEP_NUM_NODES", "SLURM_STEP_NUM_TASKS"
    local_size, rest = divmod(size, nodes)
    counts = tasks_per_node(environ.get("SLURM_STEP_TASKS_PER_NODE", ""))
    if rest or (counts is not None and len(set(counts)) > 1):
        shown = environ.get("SLURM_STEP_TASKS_PER_NODE", "")
        got = f"{names[0]}={nodes}, {names[1]}={size}" + (f" and {fitted(shown)} on the nodes" if shown else "")
        _refuse_unequal("srun", got, "give srun --ntasks-per-node")
    local_rank = number(environ, "srun", "SLURM_LOCALID", 0, local_size - 1)
    job = number(environ, "srun", "SLURM_JOB_ID", 0, 2**32 - 1)
    step = number(environ, "srun", "SLURM_STEP_ID", 0, 2**32 - 1)
    host, port = None, 0
    if nodes > 1 and not has_endpoint:
        host, port = first_node(environ.get("SLURM_STEP_NODELIST", "")), step_port(job, step)
        if host is None:
            _refuse_variable(environ, "srun", "SLURM_STEP_NODELIST", "a list of nodes such as node[1-3,7]")
        if rank == 0 and node != 0:
            raise pytest.UsageError(
                f"srun: got SLURM_PROCID=0 with SLURM_NODEID={node}, expected the first task on the first node: give "
                "--elastic-rdzv-endpoint=host:port of its node"
            )
    attempt = number(environ, "srun", "SLURM_RESTART_COUNT", 0, MOST) if "SLURM_RESTART_COUNT" in environ else 0
    return Membership(
        launcher="srun",
        rank=rank,
        size=size,
        local_rank=local_rank,
        local_size=local_size,
        node=node,
        nodes=nodes,
        host=host,
        port=port,
        store=False,
        attempt=attempt,
        run_id=f"{job}.{step}",
    )


READ: Final = {"torchrun": _torchrun, "Open MPI": _open_mpi, "MPICH": _mpich, "srun": _srun}


def step_port(job: int, step: int) -> int:
    """Return the port of a step of a Slurm job: below those that systems give out by themselves."""
    return 20_000 + (job * 37 + step) % 12_000


def _rank_of(environ: Mapping[str, str], launcher: str, rank: str, size: str) -> tuple[int, int]:
    most = number(environ, launcher, size, 1, MOST)
    return number(environ, launcher, rank, 0, most - 1), most


def number(environ: Mapping[str, str], launcher: str, name: str, least: int, most: int) -> int:
    """Return the number in a variable that a launcher sets, or refuse what else is there."""
    text = environ.get(name, "")
    if not (text.isascii() and text.isdigit() and len(text) <= 10 and least <= int(text) <= most):
        _refuse_variable(environ, launcher, name, f"an int from {least}" + (f" to {most}" if most < MOST else ""))
    return int(text)


def _refuse_variable(environ: Mapping[str, str], launcher: str, name: str, allowed: str) -> NoReturn:
    got = f"got {one_line(environ[name])}" if name in environ else "got none"
    raise pytest.UsageError(
        f"{launcher}: environment variable {name}: {got}, expected {allowed}, as {_SETTERS[launcher]} sets it; {ALONE}"
    )


_SETTERS: Final = {
    "torchrun": "torchrun",
    "mpirun": "mpirun",
    "srun": "srun",
    "Kubernetes": "an Indexed Job",
}


def _refuse_unequal(launcher: str, got: str, remedy: str) -> NoReturn:
    raise pytest.UsageError(f"{launcher}: got {got}, expected equally many on every node: {remedy}")
