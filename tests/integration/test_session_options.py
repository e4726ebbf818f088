"""Options that a blind copy of the command line in server and ranks would turn against the user's files and tests."""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path

import pytest

HEAD = """
import json, logging, os, sys, threading
from pathlib import Path
import pytest
"""
ROLE_FILE = """
import os
import pytest_elastic

def pytest_configure(config):
    with open(os.environ["ROLES"], "a") as file:
        file.write(pytest_elastic.role(config) + "\\n")
"""


def run(pytester: pytest.Pytester, *args: str, stdin: bytes = b"") -> pytest.RunResult:
    """Run pytest as a user does: ``runpytest_subprocess`` would give it a --basetemp."""
    return pytester.run(sys.executable, "-m", "pytest", "-p", "no:xdist", *args, stdin=stdin)


def numbered_directories() -> list[str]:
    root = Path(os.environ["PYTEST_DEBUG_TEMPROOT"])
    return sorted(path.name for path in root.glob("pytest-of-*/pytest-*") if not path.is_symlink())


TEMPORARY = (
    HEAD
    + """
@pytest.fixture(scope="session")
def kept(tmp_path_factory):
    path = tmp_path_factory.mktemp("kept") / "file"
    path.write_text("mine")
    return path

def test_before(kept): pass

@pytest.mark.elastic(nproc=3, timeout=60)
@pytest.mark.parametrize("again", [1, 2])
def test_ranks(tmp_path, tmp_path_factory, rank, again):
    (tmp_path / "file").write_text(str(rank))
    assert tmp_path_factory.getbasetemp().name == str(rank)

def test_after(kept): assert kept.read_text() == "mine"
"""
)


def test_ranks_have_their_temporary_directories_under_the_controllers(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(test_it=TEMPORARY)
    before = numbered_directories()
    run(pytester).assert_outcomes(passed=4)
    assert len(set(numbered_directories()) - set(before)) == 1

    run(pytester, "--basetemp=mine", "--elastic-start-method=spawn").assert_outcomes(passed=4)
    kept = pytester.path / "mine"
    assert (kept / "kept0" / "file").read_text() == "mine"
    assert sorted(file.read_text() for file in kept.rglob("test_ranks_1_0/file")) == ["0", "1", "2"]


def test_files_that_options_name_are_written_by_the_controller_alone(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        test_it=HEAD
        + """
def test_before():
    for i in range(20): logging.getLogger("plain").warning("before %s", i)

@pytest.mark.elastic(nproc=2, timeout=60)
def test_ranks(rank, caplog):
    logging.getLogger("rank").warning("of rank %s", rank)
    assert caplog.messages == [f"of rank {rank}"]

def test_after():
    logging.getLogger("plain").warning("after")
"""
    )
    options = ["--log-file=own.log", "--log-file-level=INFO", "--junitxml=own.xml", "--debug=own.debug"]
    run(pytester, *options).assert_outcomes(passed=3)
    logged = Path("own.log").read_text()
    assert logged.count("before") == 20
    assert logged.count("after") == 1
    assert Path("own.xml").read_text().count("<testcase") == 3
    debug = Path("own.debug").read_text()
    assert debug.startswith("versions pytest-")
    assert "pytest_sessionfinish" in debug


CACHE = (
    HEAD
    + """
def test_good(): pass

@pytest.mark.elastic(nproc=2, timeout=60)
def test_ranks(rank, request):
    assert request.config.cache.get("of/controller", None) == "kept"
    request.config.cache.set("of/controller", rank)
    assert request.config.cache.get("of/controller", None) == rank
    assert os.environ.get("FIXED")

def test_bad(): assert os.environ.get("FIXED")
def test_last(): pass
"""
)


def test_what_pytest_remembers_is_the_controllers(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    pytester.makepyfile(test_it=CACHE)
    pytester.makeconftest(
        """
        import pytest, pytest_elastic
        def pytest_sessionstart(session):
            if pytest_elastic.role(session.config) == "controller":
                session.config.cache.set("of/controller", "kept")
        """
    )
    remembered = pytester.path / ".pytest_cache" / "v"
    run(pytester).assert_outcomes(passed=2, failed=2)
    failed = json.loads((remembered / "cache" / "lastfailed").read_text())
    assert failed == {"test_it.py::test_ranks": True, "test_it.py::test_bad": True}
    assert len(json.loads((remembered / "cache" / "nodeids").read_text())) == 4
    assert json.loads((remembered / "of" / "controller").read_text()) == "kept"

    run(pytester, "--sw").assert_outcomes(passed=1, failed=1)
    run(pytester, "--sw", "--sw-skip").assert_outcomes(failed=2, deselected=1)
    run(pytester, "--ff", "--nf", "-x").assert_outcomes(failed=1)
    monkeypatch.setenv("FIXED", "1")
    run(pytester, "--lf", "--cache-clear", "-o", "cache_dir=.pytest_cache").assert_outcomes(passed=4)
    run(pytester, "--lf", "--lfnf=none").assert_outcomes(deselected=4)
    result = run(pytester, "--cache-show")
    assert "'kept'" in result.stdout.str()


@pytest.mark.parametrize("flags", [["--collect-only"], ["--setup-plan"], ["--fixtures"], ["--fixtures-per-test"]])
def test_a_session_that_runs_no_test_has_no_server(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, flags: list[str]
) -> None:
    monkeypatch.setenv("ROLES", str(pytester.path / "roles"))
    pytester.makepyfile(test_it=HEAD + "@pytest.mark.elastic(nproc=2)\ndef test_it(tmp_path): raise SystemExit\n")
    pytester.makeconftest(ROLE_FILE)
    assert run(pytester, *flags).ret == 0
    assert Path("roles").read_text() == "controller\n"


def test_debuggers_are_those_of_ranks_and_read_what_pytest_would(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        test_it=HEAD
        + """
@pytest.mark.elastic(nproc=2, timeout=60)
def test_good(request):
    assert request.config.getoption("usepdb")
    assert not request.config.pluginmanager.hasplugin("pdbinvoke")
    assert request.config.pluginmanager.hasplugin("pdbtrace")

@pytest.mark.elastic(nproc=2, timeout=60)
def test_bad(rank): assert rank != 1
"""
    )
    result = run(pytester, "--pdb", "--trace", stdin=b"continue\ncontinue\ncontinue\n")
    result.assert_outcomes(passed=1, failed=1)
    assert result.stdout.str().count("entering PDB") == 1


def test_setup_only_sets_up_in_the_ranks(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        test_it=HEAD
        + """
@pytest.fixture
def bad(rank): assert rank != 1

@pytest.mark.elastic(nproc=2, timeout=60)
def test_good(tmp_path): raise SystemExit

@pytest.mark.elastic(nproc=2, timeout=60)
def test_bad(bad): raise SystemExit
"""
    )
    run(pytester, "--setup-only").assert_outcomes(errors=1)
    run(pytester, "--setup-show", "-k", "good").assert_outcomes(errors=0, failed=1, deselected=1)


def test_plugins_find_their_terminal_reporter_and_it_writes_nowhere(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        test_it=HEAD
        + """
@pytest.mark.elastic(nproc=2, timeout=60)
def test_ranks(request, rank):
    reporter = request.config.pluginmanager.get_plugin("terminalreporter")
    reporter.write_line("WRITTEN-IN-A-TEST")
    reporter.section("SECTION")
    assert rank != 1
"""
    )
    pytester.makeconftest(
        """
        import pytest_elastic
        def pytest_collection_finish(session):
            reporter = session.config.pluginmanager.get_plugin("terminalreporter")
            reporter.write_line("WRITTEN-BY " + pytest_elastic.role(session.config))
        """
    )
    result = run(pytester, "-s")
    result.assert_outcomes(failed=1)
    text = result.stdout.str()
    assert re.findall("WRITTEN-.*", text.partition("FAILURES")[0]) == ["WRITTEN-BY controller"]
    assert "SECTION" not in text.partition("FAILURES")[0]


def test_plugins_that_are_switched_off_are_off_in_ranks_too(pytester: pytest.Pytester) -> None:
    names = ["cacheprovider", "logging", "tmpdir", "faulthandler", "warnings", "doctest", "debugging", "capture"]
    names += ["threadexception", "unraisableexception", "junitxml", "stepwise", "monkeypatch", "recwarn", "setuponly"]
    pytester.makepyfile(
        test_it=HEAD
        + f"""
@pytest.mark.elastic(nproc=2, timeout=60)
def test_ranks(request, rank):
    print("printed by", rank)
    for name in {names}:
        assert not request.config.pluginmanager.hasplugin(name), name
    assert rank != 1

def test_plain(): pass
"""
    )
    off = [f"-pno:{name}" for name in names]
    result = run(pytester, *off)
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["printed by 1", "FAILED test_it.py::test_ranks - [[]rank 1[]] assert 1 != 1"])
    silent = run(pytester, "-p", "no:terminal")
    assert (silent.ret, silent.stdout.str()) == (1, "")


def test_plugins_that_are_objects_are_named_once(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        test_it=HEAD
        + """
pytestmark = pytest.mark.elastic(nproc=1, timeout=60)
def test_one(of_module, of_name): pass
def test_two(of_module): pass
@pytest.mark.filterwarnings("error")
def test_three(of_object): pass
""",
        by_module="import pytest\n@pytest.fixture\ndef of_module(): pass\n",
        by_name="import pytest\n@pytest.fixture\ndef of_name(): pass\n",
        main="""
import pytest
import by_module

class Mine:
    @pytest.fixture
    def of_object(self): pass

raise SystemExit(pytest.main(["-p", "no:xdist"], plugins=[Mine(), by_module, "by_name"]))
""",
    )
    result = pytester.runpython(Path("main.py"))
    result.assert_outcomes(passed=2, errors=1, warnings=1)
    result.stdout.fnmatch_lines(
        [
            "*fixture 'of_object' not found*",
            "test_it.py::test_one",
            "*ElasticWarning: plugins given to pytest.main as objects are not in the server and ranks: __main__.Mine *",
        ]
    )


GUARDED = """
import os
import pytest, pytest_elastic

LOG = os.environ["ROLES"]

def say(*words):
    with open(LOG, "a") as file:
        file.write(" ".join(map(str, words)) + "\\n")

say("imported")

def pytest_addoption(parser):
    parser.addoption("--mode", type=Mode, default=Mode("default"))

class Mode:
    def __init__(self, name): self.name = name

def pytest_configure(config):
    where = pytest_elastic.role(config)
    say(where, "configure", config.getoption("--mode").name)
    if not hasattr(config, "workerinput"):
        say("once:", where)
    else:
        assert set(config.workerinput) >= {"workerid", "testrunuid", "mainargv", "randomly_seed"}
        config.workeroutput["mine"] = 1

def hook(name):
    def call(config): say(pytest_elastic.role(config), name)
    return call

def pytest_sessionstart(session): say(pytest_elastic.role(session.config), "sessionstart")
def pytest_collection_modifyitems(config): say(pytest_elastic.role(config), "modifyitems")
def pytest_collection_finish(session): say(pytest_elastic.role(session.config), "collection_finish")
def pytest_runtest_logstart(): say("logstart")
def pytest_runtest_logfinish(): say("logfinish")
def pytest_runtest_logreport(report): say("logreport", report.when)
def pytest_runtest_setup(item): say(pytest_elastic.role(item.config), "setup")
def pytest_runtest_call(item): say(pytest_elastic.role(item.config), "call")
def pytest_runtest_teardown(item): say(pytest_elastic.role(item.config), "teardown")
def pytest_runtest_makereport(item, call): say(pytest_elastic.role(item.config), "makereport", call.when)
def pytest_terminal_summary(config): say(pytest_elastic.role(config), "summary")
def pytest_sessionfinish(session): say(pytest_elastic.role(session.config), "sessionfinish")

@pytest.fixture
def fixture(request): say(pytest_elastic.role(request.config), "fixture")
"""


@pytest.mark.parametrize("method", ["forkserver", pytest.param("spawn", marks=pytest.mark.soak)])
def test_each_hook_runs_where_the_documentation_says(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    log = pytester.path / "log"
    monkeypatch.setenv("ROLES", str(log))
    pytester.makeconftest(GUARDED)
    pytester.makepyfile(test_it=HEAD + "@pytest.mark.elastic(nproc=2, timeout=60)\ndef test_it(fixture): pass\n")
    run(pytester, "--mode=mine", f"--elastic-start-method={method}").assert_outcomes(passed=1)
    counts: dict[str, int] = {}
    for line in log.read_text().splitlines():
        counts[line] = counts.get(line, 0) + 1
    own = "rank" if method == "spawn" else None  # a spawned rank makes the session that forked ones inherit
    collects = {"controller": 1, "server": 1, **({own: 2} if own else {})}
    expected = {"imported": sum(collects.values()), "once: controller": 1, "logstart": 1, "logfinish": 1}
    for where, times in collects.items():
        for what in ("configure mine", "sessionstart", "modifyitems", "collection_finish"):
            expected[f"{where} {what}"] = times
    for where, times in {"controller": 1, "rank": 2}.items():
        for what in ("setup", "call", "teardown", "makereport setup", "makereport call", "makereport teardown"):
            expected[f"{where} {what}"] = times
    expected |= {f"logreport {when}": 1 for when in ("setup", "call", "teardown")}
    expected |= {"rank fixture": 2, "controller summary": 1, "controller sessionfinish": 1}
    assert counts == expected


def test_two_sessions_in_one_process_share_nothing(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        test_it=HEAD + "@pytest.mark.elastic(nproc=2, timeout=60)\ndef test_it(value): assert value == 'first'\n",
        conftest="import pytest\n@pytest.fixture\ndef value(): return 'first'\n",
        main="""
import sys
import psutil, pytest

def run(*args):
    code = int(pytest.main(["-q", "-p", "no:xdist", "-p", "no:cacheprovider", *args]))
    for name in ("test_it", "conftest"):
        sys.modules.pop(name, None)
    return code, len(psutil.Process().children(recursive=True))

results = [run()]
with open("conftest.py", "w") as file:
    file.write("import pytest\\n@pytest.fixture\\ndef value(): return 'the second'\\n")
with open("test_it.py", "a") as file:
    file.write("@pytest.mark.elastic(nproc=2, timeout=60)\\ndef test_new(value): assert value == 'the second'\\n")
results += [run(), run("-k", "test_new")]
print("RESULTS", results)
""",
    )
    result = pytester.runpython(Path("main.py"))
    result.stdout.fnmatch_lines("RESULTS [[](0, 0), (1, 0), (0, 0)[]]")


def test_a_pool_of_the_users_own_and_the_server_do_not_meet(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        test_it=HEAD
        + """
import multiprocessing
from concurrent.futures import ProcessPoolExecutor

def look(_):
    return os.environ.get("PYTEST_ELASTIC_RUN"), "torch" in sys.modules, os.getppid()

def pool():
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("forkserver")) as executor:
        seen = set(executor.map(look, range(4)))
    (run, torch, server), = seen
    assert (run, torch) == (None, False)
    return server

servers = []

def test_before(): servers.append(pool())

@pytest.mark.elastic(nproc=2, timeout=60)
def test_ranks(rank):
    assert os.getppid() not in servers
    assert "PYTEST_ELASTIC_RUN" in os.environ

def test_after(): assert pool() == servers[0]

@pytest.mark.elastic(nproc=2, timeout=60)
def test_pool_in_a_rank():
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("forkserver")) as executor:
        assert executor.submit(abs, -1).result(30) == 1
"""
    )
    run(pytester).assert_outcomes(passed=4)
