"""Fixtures that are set up once, in the controller, and whose values ranks get."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest

HEAD = """
import os, pathlib, signal, threading, time
import pytest
from pytest_elastic import controller_fixture, role

LOG = os.environ["EVENTS"]
E = pytest.mark.elastic(nproc=2, timeout=60)

def note(*words):
    with open(LOG, "a") as file:
        file.write(" ".join(map(str, words)) + "\\n")
"""


@pytest.fixture
def log(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("PY_COLORS", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COLUMNS", "400")
    # Other plugins that happen to be installed shuffle tests, or warn.
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    path = pytester.path / "events"
    path.touch()
    monkeypatch.setenv("EVENTS", str(path))
    return path


def run(pytester: pytest.Pytester, source: str, *args: str) -> pytest.RunResult:
    pytester.makepyfile(test_it=HEAD + source)
    return pytester.runpytest_subprocess("-p", "elastic", *args)


def summary_of(result: pytest.RunResult) -> dict[str, str]:
    found = {}
    for line in result.outlines:
        if match := re.match(r"(?:FAILED|ERROR) test_it\.py::(\S+) - (.*)", line):
            found[match[1]] = match[2]
    return found


SCOPES = """
def up_and_down(request, *more):
    note("up", request.fixturename, *more)
    assert role(request.config) == "controller"
    yield f"{request.fixturename} of {os.getpid()}"
    note("down", request.fixturename, *more)

@controller_fixture(scope="session")
def run_wide(request, needed_by_run_wide):
    assert needed_by_run_wide == "controller"
    yield from up_and_down(request)

@pytest.fixture(scope="session")
def needed_by_run_wide(request):
    note("needed", role(request.config))
    return role(request.config)

@controller_fixture(scope="module", autouse=True)
def module_wide(request, run_wide):
    yield from up_and_down(request)

@controller_fixture
def for_one(request, module_wide, tmp_path):
    yield from up_and_down(request)

@controller_fixture(name="renamed")
def not_its_name():
    return None

@pytest.fixture
def on_ranks(for_one, rank):
    yield for_one
    note("down", "on_ranks")

@pytest.fixture(autouse=True)
def plain_before_and_after(request):
    if role(request.config) == "controller":
        note("plain up")
    yield

def test_plain_before(run_wide):
    pass

@E
def test_ranks(run_wide, on_ranks, renamed, rank, elastic_barrier):
    assert renamed is None
    assert int(run_wide.split()[-1]) != os.getpid()
    assert on_ranks.startswith("for_one of")
    note("test")
    elastic_barrier()

@controller_fixture(scope="class")
def class_wide(request):
    yield from up_and_down(request)

class TestInClass:
    @controller_fixture
    def method(self, class_wide):
        return [type(self).__name__, class_wide]

    @E
    def test_ranks(self, class_wide, run_wide, method):
        assert class_wide.startswith("class_wide of")
        assert method == ["TestInClass", class_wide]

    def test_plain(self, class_wide, for_one):
        assert class_wide == f"class_wide of {os.getpid()}"

def test_plain_after(run_wide, module_wide):
    assert run_wide == f"run_wide of {os.getpid()}"

@E
def test_dynamic(request, rank, elastic_barrier):
    name = "for_one" if rank else "run_wide"
    assert request.getfixturevalue(name).startswith(name)
    elastic_barrier()
    note("test")
"""


def test_each_scope_is_set_up_once_and_torn_down_in_pytests_order(pytester: pytest.Pytester, log: Path) -> None:
    result = run(pytester, SCOPES, "-Werror")
    assert result.ret == 0, result.stdout.str()
    result.assert_outcomes(passed=6)
    assert log.read_text().splitlines() == [
        "needed controller",
        "up run_wide",
        "up module_wide",
        "plain up",
        # test_ranks: what ranks tear down comes before what their fixtures have used
        "up for_one",
        "test",
        "test",
        "down on_ranks",
        "down on_ranks",
        "down for_one",
        # TestInClass
        "up class_wide",
        "plain up",
        "up for_one",
        "down for_one",
        "down class_wide",
        "plain up",
        # test_dynamic: set up while the ranks run
        "up for_one",
        "test",
        "test",
        "down for_one",
        "down module_wide",
        "down run_wide",
    ]


PARAMETERS = """
@controller_fixture(scope="module", params=["pg", "my"])
def engine(request):
    note("up", request.param)
    yield request.param
    note("down", request.param)

@controller_fixture(scope="module")
def url(engine):
    note("url of", engine)
    return f"{engine}://"

@E
def test_parameters(url, engine, rank):
    assert url == engine + "://"

def test_plain(url, engine):
    assert url == engine + "://"

@controller_fixture
def twice(request):
    return request.param * 2

@E
@pytest.mark.parametrize("twice", [1, "a"], indirect=True)
@pytest.mark.parametrize("direct", [3])
def test_indirect(twice, direct, elastic_gather):
    assert elastic_gather(twice) == [twice, twice]
    assert twice in (2, "aa")
    assert direct == 3

@E
@pytest.mark.parametrize("url", ["given"])
def test_direct_parameters_win(url):
    assert url == "given"

@controller_fixture
def factory():
    class Local:
        number = 7
    return lambda: Local

@E
def test_what_only_cloudpickle_carries(factory):
    assert factory().number == 7
"""


def test_parameters_direct_and_indirect(pytester: pytest.Pytester, log: Path) -> None:
    result = run(pytester, PARAMETERS)
    result.assert_outcomes(passed=8)
    assert log.read_text().split("\n")[:-1] == [
        line for name in ("pg", "my") for line in (f"up {name}", f"url of {name}", f"down {name}")
    ]


CONFTEST = """
import os, threading
import pytest

def note(*words):
    with open(os.environ["EVENTS"], "a") as file:
        file.write(" ".join(map(str, words)) + "\\n")

@pytest.fixture(scope="session")
def docker_services():
    note("docker up")
    yield threading.Lock()  # no rank asks for it
    note("docker down")

@pytest.fixture(scope="session")
def db_url(docker_services):
    assert docker_services is not None
    return f"db://{os.getpid()}"

@pytest.fixture
def overridden():
    return ["conftest", os.getpid()]
"""
MOVED = """
@pytest.fixture
def connection(db_url, rank):
    return f"{db_url} rank {rank}"

@E
def test_ranks(connection, rank, elastic_gather):
    assert connection.endswith(f"rank {rank}")
    assert len({text.split()[0] for text in elastic_gather(connection)}) == 1
    assert str(os.getpid()) not in connection

@E
def test_more_ranks(db_url):
    pass

@pytest.mark.elastic(nproc=2, timeout=100, start_method="spawn")
def test_spawned(db_url):
    assert db_url != f"db://{os.getpid()}"

def test_plain(db_url, docker_services):
    assert db_url == f"db://{os.getpid()}"

@pytest.fixture
def overridden(overridden, rank):
    return [*overridden, "module", rank]

@E
def test_a_fixture_on_ranks_overrides_one_of_the_controller(overridden, rank):
    where, pid, module, number = overridden
    assert (where, module, number) == ("conftest", "module", rank)
    assert pid != os.getpid()
"""


def test_existing_fixtures_are_moved_by_the_ini_file(pytester: pytest.Pytester, log: Path) -> None:
    pytester.makeini("[pytest]\nelastic_controller_fixtures = docker_services db_url\n  no_such_fixture another\n")
    # A fixture named in the ini file is moved wherever it is defined; one that is marked, only where it is marked.
    marked = CONFTEST.replace("@pytest.fixture\ndef overridden", "@pytest_elastic.controller_fixture\ndef overridden")
    pytester.makeconftest("import pytest_elastic\n" + marked)
    result = run(pytester, MOVED)
    result.assert_outcomes(passed=5, warnings=1)
    result.stdout.fnmatch_lines(
        [
            "*ElasticWarning: ini elastic_controller_fixtures: no collected file or plugin defines 'no_such_fixture', "
            "'another'"
        ]
    )
    assert log.read_text().splitlines() == ["docker up", "docker down"]


def test_without_elastic_tests_the_ini_file_changes_nothing(pytester: pytest.Pytester, log: Path) -> None:
    pytester.makeconftest(CONFTEST)
    pytester.makeini("[pytest]\nelastic_controller_fixtures = docker_services db_url no_such_fixture\n")
    result = run(pytester, "def test_plain(docker_services, db_url): pass\n", "-Werror")
    result.assert_outcomes(passed=1)


@pytest.mark.skipif(pytest.version_tuple < (9,), reason="pytest does not read such a table")
def test_the_ini_file_of_the_new_kind_takes_the_names_too(pytester: pytest.Pytester, log: Path) -> None:
    pytester.makeconftest(CONFTEST)
    pytester.makepyprojecttoml('[tool.pytest]\nelastic_controller_fixtures = "docker_services db_url"\n')
    result = run(pytester, "@E\ndef test_it(db_url): assert db_url != f'db://{os.getpid()}'\n")
    result.assert_outcomes(passed=1)


FAILURES = """
@controller_fixture
def breaks():
    secret = 7
    assert secret == 8, "no server"

@controller_fixture
def skips():
    pytest.skip("no docker here")

@controller_fixture
def asks_for_rank(rank):
    pass

@controller_fixture
def asks_for_gather(elastic_gather):
    pass

@controller_fixture
def lock():
    return threading.Lock()

@controller_fixture
def breaks_at_end():
    yield
    raise OSError("still in use")

@pytest.fixture
def uses_lock(lock):
    return lock

@E
def test_breaks(breaks): pass
@E
def test_skips(skips): pass
@E
def test_asks_for_rank(asks_for_rank): pass
@E
def test_asks_for_gather(asks_for_gather): pass
@E
def test_lock(lock): pass
@E
def test_lock_in_between(uses_lock): pass
@E
@pytest.mark.usefixtures("lock")
def test_lock_is_not_needed(request):
    assert "cannot be sent to ranks" in repr(request.getfixturevalue("lock"))
    with pytest.raises(AttributeError, match="controller fixture 'lock' has a value of type 'lock' that cannot be"):
        request.getfixturevalue("lock").acquire()
@E
def test_breaks_at_end(breaks_at_end): pass
@E
def test_dynamic_breaks(request):
    with pytest.raises(AssertionError, match="no server") as raised:
        request.getfixturevalue("breaks")
    assert "assert secret == 8" in str(raised.value.__cause__)
    assert "item_fixtures" not in str(raised.value.__cause__)
@E
def test_dynamic_skips(request): request.getfixturevalue("skips")
@E
def test_dynamic_lock(request): request.getfixturevalue("lock")
@E
def test_dynamic_unknown(request): request.getfixturevalue("nobody_has_it")
@E
def test_next(rank): pass
@pytest.mark.xfail(raises=AssertionError, strict=True)
@E
def test_expected_to_break(breaks): pass
"""


def test_what_goes_wrong_in_one_is_told_as_pytest_tells_it(pytester: pytest.Pytester, log: Path) -> None:
    result = run(pytester, FAILURES, "-ra")
    result.assert_outcomes(passed=4, skipped=2, errors=6, failed=2, xfailed=1)
    found = summary_of(result)
    cannot = "controller fixture 'lock' has a value of type 'lock' that cannot be sent to ranks (TypeError: cannot "
    assert found["test_breaks"] == "AssertionError: no server"
    assert found["test_asks_for_rank"] == (
        "Failed: controller fixture 'asks_for_rank' requests 'rank', which exists on ranks only: it is set up once, "
        "in the pytest process, before there are ranks"
    )
    assert "'asks_for_gather' requests 'elastic_gather', which exists on ranks only" in found["test_asks_for_gather"]
    assert found["test_lock"].startswith(f"Failed: {cannot}")
    assert found["test_lock_in_between"].startswith(f"Failed: {cannot}")
    assert found["test_breaks_at_end"] == "OSError: still in use"
    assert re.match(rf"\[rank [01]\] Failed: {re.escape(cannot)}", found["test_dynamic_lock"])
    assert "fixture 'nobody_has_it' not found" in result.stdout.str()
    result.stdout.fnmatch_lines(
        [
            "*ERROR at setup of test_breaks*",
            '>       assert secret == 8, "no server"',
            "E       AssertionError: no server",
            "SKIPPED [[]1[]] test_it.py:*: no docker here",
        ]
    )


def test_one_on_a_fixed_port_runs_once(pytester: pytest.Pytester, log: Path, free_port: int) -> None:
    source = f"""
import socket

@FIXTURE(scope="session", autouse=True)
def server():
    with socket.create_server(("127.0.0.1", {free_port})) as listening:
        note("up")
        yield listening

@pytest.mark.elastic(nproc=2, timeout=60)
def test_two(rank, elastic_barrier): elastic_barrier()
@pytest.mark.elastic(nproc=4, timeout=60)
def test_four(rank, elastic_barrier):
    socket.create_connection(("127.0.0.1", {free_port})).close()
    elastic_barrier()
def test_plain(server):
    assert server.getsockname()[1] == {free_port}
"""
    # As it is, each rank would listen on the port, which the controller holds for the plain test.
    result = run(pytester, source.replace("FIXTURE", "pytest.fixture"), "-k", "four or plain")
    assert "Address already in use" in result.stdout.str()
    log.write_text("")
    run(pytester, source.replace("FIXTURE", "controller_fixture")).assert_outcomes(passed=3)
    assert log.read_text() == "up\n"


# --- pytest-xdist: a file for each worker ---


def run_workers(pytester: pytest.Pytester, conftest: str, *files: str) -> pytest.RunResult:
    pytest.importorskip("xdist")
    pytester.makeconftest(HEAD + WAITING + conftest)
    pytester.makepyfile(**{f"test_{i}": HEAD + "from conftest import wait_for\n" + f for i, f in enumerate(files)})
    args = (
        "-p",
        "elastic",
        "-p",
        "xdist",
        f"-n{len(files)}",
        "--dist=loadfile",
        "--max-worker-restart=0",
        "-ra",
        "--import-mode=prepend",
    )
    return pytester.runpytest_subprocess(*args)


WAITING = """
def wait_for(text, times=1):
    deadline = time.monotonic() + 100
    while pathlib.Path(LOG).read_text().split("\\n").count(text) < times:
        assert time.monotonic() < deadline
        time.sleep(0.01)
"""
SHARED = """
@pytest.fixture(scope="session")
def requested():
    note("requested up")
    yield "requested"
    note("requested down")

@controller_fixture(scope="session")
def shared(requested):
    note("up", requested)
    yield os.getpid()
    note("down")

@controller_fixture(scope="session", params=["a", "b"])
def with_parameters(request, shared):
    note("up", request.param)
    yield request.param, shared
    note("down", request.param)

@controller_fixture(scope="session")
def nothing():
    note("nothing")

@controller_fixture(scope="session")
def breaks():
    note("breaks")
    raise OSError("no disk")

@controller_fixture(scope="session")
def skips():
    note("skips")
    pytest.skip("no docker")

@controller_fixture(scope="session", autouse=True)
def unsendable():
    return threading.Lock()

@pytest.fixture(scope="session", params=[1, 2])
def not_moved(request):
    return request.param

@controller_fixture(scope="session")
def of_each_worker(not_moved):
    note("own", not_moved)
    return not_moved
"""
SHARING = """
def test_plain(shared, nothing):
    assert nothing is None
    note("plain", shared, os.getpid())
    note("come")
    wait_for("come", 2)

def test_with_parameters(with_parameters, shared):
    assert with_parameters[1] == shared

@pytest.mark.elastic(nproc=2, timeout=100)
def test_ranks(shared, with_parameters, nothing, elastic_gather):
    assert elastic_gather(shared) == [shared] * 2
    assert with_parameters[1] == shared
    note("rank", shared)

def test_breaks(breaks):
    pass

def test_skips(skips):
    pass

def test_what_they_request_has_parameters(of_each_worker, not_moved):
    assert of_each_worker == not_moved

def test_last():
    note("last")
    wait_for("last", 2)
"""


def test_workers_of_xdist_share_those_of_the_session(pytester: pytest.Pytester, log: Path) -> None:
    result = run_workers(pytester, SHARED, SHARING, SHARING)
    result.assert_outcomes(passed=2 * 8, errors=2, skipped=2)
    events = log.read_text().splitlines()
    counts = Counter(events)
    for once in ("requested up", "up requested", "up a", "up b", "down", "down a", "down b", "nothing", "breaks"):
        assert counts[once] == 1, (once, events)
    assert counts["skips"] == counts["requested down"] == 1
    assert counts["own 1"] == counts["own 2"] == 2
    # One value, of one of the two workers, wherever it is used; torn down when all is over.
    used = [line.split() for line in events if line.startswith(("plain", "rank"))]
    assert len({words[1] for words in used}) == 1
    assert len({words[2] for words in used if words[0] == "plain"}) == 2
    assert set(events[-4:-2]) == {"down a", "down b"}
    assert events[-2:] == ["down", "requested down"]
    text = result.stdout.str()
    assert text.count("in the controller") == 1  # the worker that borrowed the failure says where it is from
    assert len(re.findall(r"ERROR test_\d\.py::test_breaks - OSError: no disk", text)) == 2


def test_a_value_that_does_not_pickle_is_an_error_for_the_worker_that_borrows(
    pytester: pytest.Pytester, log: Path
) -> None:
    uses = """
def test_lock(unsendable): pass
def test_last(): note("last"); wait_for("last", 2)
"""
    result = run_workers(pytester, SHARED, uses, uses)
    result.assert_outcomes(passed=3, errors=1)
    [message] = [line for line in result.outlines if line.startswith("ERROR test_")]
    assert "has a value of type 'lock' that cannot be sent to other workers of pytest-xdist" in message


LENT = """
@controller_fixture(scope="session")
def lent():
    note("up")
    yield os.getpid()
    note("down")

def wait_for_end(pid):
    # While a thread of it is left its locks are held, also if the first one is a zombie by now.
    deadline = time.monotonic() + 100
    while True:
        try:
            state = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
            if state == "Z" and len(os.listdir(f"/proc/{pid}/task")) == 1:
                return
        except OSError:
            return
        assert time.monotonic() < deadline
        time.sleep(0.01)
"""


def test_the_owner_waits_for_those_that_borrowed(pytester: pytest.Pytester, log: Path) -> None:
    owner = """
def test_owner(lent):
    assert lent == os.getpid()
    wait_for("borrowed")
    note("owner ends")
"""
    borrower = """
def test_borrower(request):
    wait_for("up")
    assert request.getfixturevalue("lent") != os.getpid()
    note("borrowed")
    wait_for("owner ends")
    time.sleep(0.5)  # the owner would tear down now
    note("borrower ends")
"""
    run_workers(pytester, LENT, owner, borrower).assert_outcomes(passed=2)
    assert log.read_text().splitlines() == ["up", "borrowed", "owner ends", "borrower ends", "down"]


def test_a_crashed_owner_is_replaced_and_a_crashed_borrower_is_not_waited_for(
    pytester: pytest.Pytester, log: Path
) -> None:
    first = """
def test_owner_crashes(lent):
    wait_for("borrowed")
    os.kill(os.getpid(), signal.SIGKILL)
"""
    second = """
from conftest import wait_for_end

def test_borrower_crashes(request):
    wait_for("up")
    pid = request.getfixturevalue("lent")
    note("borrowed")
    wait_for_end(pid)
    note("owner is gone")
    wait_for("lent again")
    os.kill(os.getpid(), signal.SIGKILL)
"""
    third = """
def test_next_owner(request):
    wait_for("owner is gone")
    assert request.getfixturevalue("lent") == os.getpid()
    note("lent again")
"""
    result = run_workers(pytester, LENT, first, second, third)
    assert result.parseoutcomes()["passed"] == 1
    assert log.read_text().splitlines() == ["up", "borrowed", "owner is gone", "up", "lent again", "down"]
