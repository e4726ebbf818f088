"""Whatever is scarce or missing: the right verdict or one clear line, no hang, and nothing left behind."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from .sessions import AS_EVER, TESTS, need, run_session

REFUSED = {
    "test_marked": "failed at setup",
    "test_fails": "failed at setup",
    "test_launch": "failed",
    "test_plain": "passed",
}
"""What becomes of the tests where no rank can be started."""
WIDE = (
    TESTS
    + """
@pytest.mark.elastic(nproc=16, timeout=60)
def test_wide(rank): pass
@pytest.mark.elastic(nproc=2, timeout=60)
def test_after(rank): pass
"""
)


def in_shell(script: str) -> tuple[str, ...]:
    """Return a command that runs another after a line of shell."""
    return ("sh", "-c", f'{script} && exec "$@"', "sh")


# --- descriptors and processes ---


def test_64_descriptors_are_enough_for_few_ranks_and_too_few_is_told(tmp_path: Path) -> None:
    """Beyond that the agent fails in the middle of its start; the ranks that it had started are ended."""
    outcome = run_session(tmp_path, tests=WIDE, within=in_shell("ulimit -n 64"))
    few = {test: verdict for test, verdict in outcome.verdicts.items() if "wide" not in test}
    assert few == {**AS_EVER, "test_after": "passed"}, outcome.output
    assert outcome.verdicts["test_wide"].startswith("failed")
    assert "Too many open files (this process may open 64 files; raise `ulimit -n`" in outcome.texts["test_wide"]
    outcome.assert_nothing_is_left()
    assert "timed out" not in outcome.output


@pytest.mark.soak
def test_pytest_itself_has_few_descriptors(tmp_path: Path) -> None:
    """Its limit is its own: the server and the agents have more."""
    conftest = """
import resource
def pytest_collection_finish(session):
    if "PYTEST_ELASTIC_RUN" not in os.environ:
        resource.setrlimit(resource.RLIMIT_NOFILE, (34, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
"""
    outcome = run_session(tmp_path, tests=WIDE, conftest=conftest)
    few = {test: verdict for test, verdict in outcome.verdicts.items() if "wide" not in test}
    assert few == {**AS_EVER, "test_after": "passed"}, outcome.output
    assert outcome.verdicts["test_wide"].startswith("failed")
    assert "Too many open files (this process may open 34 files; raise `ulimit -n`" in outcome.texts["test_wide"]
    outcome.assert_nothing_is_left()


def as_another_user(*command: str) -> tuple[str, ...]:
    """Return a command that runs another as a user who has no process yet; it may read what root may."""
    user = ("setpriv", "--reuid=65533", "--regid=65534", "--clear-groups")
    rights = ("--inh-caps=+dac_override", "--ambient-caps=+dac_override")
    need(*user, *rights, "true", why="a limit of processes holds for users other than root only")
    return (*user, *rights, *command)


@pytest.mark.soak
@pytest.mark.parametrize("most", [4, 7, 9, 12])
def test_few_processes_and_threads(tmp_path: Path, most: int) -> None:
    within = as_another_user("prlimit", f"--nproc={most}")
    tmp_path.chmod(0o777)
    outcome = run_session(tmp_path, within=within, environ={"HOME": "/nonexistent"})
    assert list(outcome.verdicts) == list(AS_EVER), outcome.output
    assert outcome.verdicts["test_plain"] == "passed"
    told = f"this user may have {most} processes and threads; raise `ulimit -u`"
    for test, verdict in outcome.verdicts.items():
        # Between too few and enough, it depends on who is quicker.
        as_ever = verdict == AS_EVER[test] and (most > 4 or test == "test_plain")
        assert as_ever or told in outcome.texts[test], outcome.output
    outcome.assert_nothing_is_left()


# --- places to write to ---


@pytest.fixture
def small_disk(tmp_path: Path) -> Path:
    """A file system of a few pages that is full; the test gives it to the session's mount namespace."""
    need("unshare", "-m", "true", why="a file system of one's own")
    directory = tmp_path / "small"
    directory.mkdir()
    return directory


def mounted(directory: Path, options: str, then: str = "true") -> tuple[str, ...]:
    """Return a command that runs another with a small file system mounted on a directory."""
    return ("unshare", "-m", *in_shell(f"mount -t tmpfs -o {options} none '{directory}' && {then}"))


def test_full_log_directory(tmp_path: Path, small_disk: Path) -> None:
    """What a rank writes goes there, so it fails where it writes; the log of failures takes no verdict along."""
    tests = TESTS + "\n@pytest.mark.elastic(nproc=2, timeout=60)\ndef test_prints(rank): print('text')\n"
    fill = f"cp /dev/zero '{small_disk}/rest' 2>/dev/null || true"
    within = mounted(small_disk, "size=4k", fill)
    outcome = run_session(tmp_path, f"--elastic-log-dir={small_disk}", tests=tests, within=within)
    assert outcome.verdicts == {**AS_EVER, "test_prints": "failed"}, outcome.output
    assert "OSError: [Errno 28] No space left on device" in outcome.texts["test_prints"]
    assert "assert 1 == 0" in outcome.texts["test_fails"]
    assert f"ElasticWarning: --elastic-log-dir: cannot write to {small_disk}/failures.log: No space" in outcome.output
    outcome.assert_nothing_is_left()


@pytest.mark.soak
def test_read_only_log_directory(tmp_path: Path, small_disk: Path) -> None:
    within = mounted(small_disk, "size=4k,ro")
    outcome = run_session(tmp_path, f"--elastic-log-dir={small_disk / 'logs'}", within=within)
    assert outcome.verdicts == REFUSED, outcome.output
    for test in ("test_marked", "test_launch"):
        assert f"--elastic-log-dir: cannot make {small_disk}/logs/" in outcome.texts[test]
        assert "Read-only file system" in outcome.texts[test]
    outcome.assert_nothing_is_left()


@pytest.mark.soak
@pytest.mark.parametrize("options", ["size=4k", "size=1m,ro"], ids=["full", "read-only"])
def test_temporary_directory_that_takes_nothing(tmp_path: Path, small_disk: Path, options: str) -> None:
    """Python chooses another, as for every program."""
    fill = f"cp /dev/zero '{small_disk}/rest' 2>/dev/null || true"
    environ = {"TMPDIR": str(small_disk)}
    outcome = run_session(tmp_path, within=mounted(small_disk, options, fill), environ=environ)
    assert outcome.verdicts == AS_EVER, outcome.output
    outcome.assert_nothing_is_left()


@pytest.mark.soak
@pytest.mark.parametrize("files", [18, 21, 24, 27])
def test_temporary_directory_that_is_full_in_mid_session(tmp_path: Path, small_disk: Path, files: int) -> None:
    within = mounted(small_disk, f"size=1m,nr_inodes={files}")
    outcome = run_session(tmp_path, within=within, environ={"TMPDIR": str(small_disk)})
    assert list(outcome.verdicts) == list(AS_EVER), outcome.output
    assert outcome.verdicts["test_plain"] == "passed"
    for test, verdict in outcome.verdicts.items():
        assert verdict == AS_EVER[test] or "No space left on device" in outcome.texts[test], outcome.output
    outcome.assert_nothing_is_left()


@pytest.mark.soak
def test_no_dev_shm(tmp_path: Path) -> None:
    """multiprocessing's semaphores, by which torch's agents speak with their workers, cannot be made."""
    need("unshare", "-m", "true", why="a /dev of one's own")
    new = tmp_path / "dev"
    new.mkdir()
    nodes = "null zero full random urandom tty"
    script = (
        f"mount -t tmpfs none {new} && for n in {nodes}; do touch {new}/$n; mount --bind /dev/$n {new}/$n; done"
        f" && mkdir {new}/pts && mount --rbind /dev/pts {new}/pts && ln -s /proc/self/fd {new}/fd"
        f" && mount --rbind {new} /dev"
    )
    outcome = run_session(tmp_path / "tests", within=("unshare", "-m", *in_shell(script)))
    assert outcome.verdicts == REFUSED, outcome.output
    for test in ("test_marked", "test_launch"):
        told = "agent 0 failed: FileNotFoundError: [Errno 2] No such file or directory (semaphores need /dev/shm, which"
        assert told in outcome.texts[test]
    outcome.assert_nothing_is_left()


@pytest.mark.soak
@pytest.mark.parametrize("home", ["none", "nowhere", "read-only"])
def test_home(tmp_path: Path, small_disk: Path, home: str) -> None:
    place = {"none": None, "nowhere": "/nonexistent", "read-only": str(small_disk)}[home]
    outcome = run_session(tmp_path, within=mounted(small_disk, "size=4k,ro"), environ={"HOME": place})
    assert outcome.verdicts == AS_EVER, outcome.output
    outcome.assert_nothing_is_left()


# --- the network ---


def in_network(script: str) -> tuple[str, ...]:
    """Return a command that runs another in a network of its own, which has nothing but a loopback that is down."""
    need("unshare", "-n", "true", why="a network of one's own")
    need("ip", "link", why="a network of one's own")
    return ("unshare", "-n", *in_shell(script))


NODES = (
    TESTS
    + """
import torch, torch.distributed as dist
def add():
    dist.init_process_group("gloo")
    total = torch.tensor(1)
    dist.all_reduce(total)
    dist.destroy_process_group()
    return total.item()
@pytest.mark.parametrize("backend", ["local", "c10d", "static", "etcd", "etcd-v2"])
def test_nodes(elastic_launch, backend, request):
    more = {"rdzv_endpoint": f"127.0.0.1:{request.getfixturevalue('free_port')}"} if backend == "static" else {}
    assert elastic_launch(add, nnodes=2, nproc=1, rdzv_backend=backend, timeout=60, **more) == {0: 2, 1: 2}
"""
)
WITH_NODES = AS_EVER | {f"test_nodes[{name}]": "passed" for name in ("local", "c10d", "static", "etcd", "etcd-v2")}


def test_no_network_at_all(tmp_path: Path) -> None:
    """Not even loopback, which is down where nobody brings it up. torch would try for five minutes."""
    outcome = run_session(tmp_path, within=in_network("true"))
    assert outcome.verdicts == REFUSED, outcome.output
    for test in ("test_marked", "test_launch"):
        assert "ranks meet on 127.0.0.1, which cannot be reached: Network is unreachable" in outcome.texts[test]
        assert "`ip link set lo up`" in outcome.texts[test]
    outcome.assert_nothing_is_left()
    assert "timed out" not in outcome.output


@pytest.mark.soak
@pytest.mark.parametrize("ipv6", [True, False], ids=["with IPv6", "without IPv6"])
def test_no_network_but_loopback(tmp_path: Path, ipv6: bool) -> None:
    off = "" if ipv6 else "echo 1 > /proc/sys/net/ipv6/conf/all/disable_ipv6 && "
    outcome = run_session(tmp_path, tests=NODES, within=in_network(f"{off}ip link set lo up"))
    assert outcome.verdicts == WITH_NODES, outcome.output
    outcome.assert_nothing_is_left()


# --- the clock on the wall ---

CLOCK = """
import os, threading, time, pytest, torch.distributed as dist
from pytest_elastic import ElasticTimeoutError
def jump(seconds):
    file = os.environ["WALL_CLOCK_OFFSET"]
    with open(file + ".new", "w") as new: new.write(str(seconds))
    os.replace(file + ".new", file)
def jumps():
    dist.init_process_group("gloo")
    seen = []
    for seconds in (259200, -259200, 0):
        before = time.time()
        if dist.get_rank() == 0: jump(seconds)
        dist.barrier()
        seen.append(round((time.time() - before) / 86400))
    dist.destroy_process_group()
    return seen
def hangs(seconds):
    jump(seconds)
    threading.Event().wait()
@pytest.mark.elastic(nproc=2, timeout=60)
def test_marked(rank, elastic_gather):
    assert [3, -6, 3] in elastic_gather(jumps())
@pytest.mark.parametrize("backend", ["local", "c10d", "etcd-v2"])
def test_launch(elastic_launch, backend):
    result = elastic_launch(jumps, nnodes=2, nproc=1, timeout=60, rdzv_backend=backend)
    assert [3, -6, 3] in result.values()
@pytest.mark.parametrize("seconds", [900000, -900000])
def test_hangs(elastic_launch, seconds):
    begin = time.monotonic()
    with pytest.raises(ElasticTimeoutError, match="timed out after 3 s"):
        elastic_launch(hangs, seconds, nproc=2, timeout=3)
    assert 3 <= time.monotonic() - begin < 33
def test_after(elastic_launch): assert elastic_launch(os.getpgid, 0, nproc=1, timeout=60)
"""


@pytest.mark.soak
def test_clock_that_jumps(tmp_path: Path) -> None:
    """By days, to and fro, while ranks are in a collective, in a rendezvous, or hang."""
    if shutil.which("cc") is None:
        pytest.skip("a clock of one's own: there is no cc here")
    library = tmp_path / "wall_clock.so"
    source = Path(__file__).parent / "wall_clock.c"
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, source], check=True, timeout=60)
    offset = tmp_path / "offset"
    offset.write_text("0")
    environ = {"LD_PRELOAD": str(library), "WALL_CLOCK_OFFSET": str(offset)}
    outcome = run_session(tmp_path / "tests", tests=CLOCK, environ=environ)
    assert set(outcome.verdicts.values()) == {"passed"}, outcome.output
    assert len(outcome.verdicts) == 7
    outcome.assert_nothing_is_left()
