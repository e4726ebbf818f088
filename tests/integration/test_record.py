"""Sessions that are started again, with a record of what was over."""

from __future__ import annotations

import re
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest
from torch.distributed import TCPStore

from pytest_elastic.cluster.places import FilePlace, PlaceError, StorePlace
from pytest_elastic.cluster.record import Identity, Occurrence, Recorder

pytestmark = pytest.mark.filterwarnings("ignore:Failed to initialize NumPy:UserWarning")
RECORD = "--elastic-record=record"
FIRST, SECOND = Occurrence("test_it.py::test_a", 0), Occurrence("test_it.py::test_b", 0)

ALL = """
import os, pathlib, signal, unittest, warnings
import pytest

ran = {}

def note(what):
    with open(os.environ["NOTES"], "a") as notes:
        notes.write(what + " ")

@pytest.fixture(scope="module")
def of_module():
    note("module+")
    yield
    note("module-")

@pytest.fixture
def bad_end():
    yield
    assert "teardown" == "bad"

@pytest.mark.elastic(nproc=2)
def test_ranks(rank):
    print("spoken by", rank)
    assert rank == 0

class TestClass:
    @pytest.fixture(scope="class")
    @classmethod
    def of_class(cls):
        note("class+")
        yield
        note("class-")

    def test_warns(self, of_module, of_class):
        print("printed")
        warnings.warn("a warning")

    def test_fails(self, of_class):
        assert [1, 2] == [1, 3]

    def test_killed(self, of_module, of_class):
        note("killed")
        if "KILL" in os.environ:
            os.kill(os.getpid(), signal.SIGKILL)

    def test_of_class(self, of_class):
        note("of_class")

@pytest.mark.parametrize("value", [(1, "x"), {1: 2}, pathlib.Path("a")], ids=str)
def test_property(value, record_property):
    record_property("value", value)

def test_skips():
    pytest.skip("a reason")

@pytest.mark.xfail(reason="known", strict=True)
@pytest.mark.parametrize("right", [True, False])
def test_xfail(right):
    assert right

@pytest.mark.flaky(reruns=2)
def test_flaky(subtests):
    ran["flaky"] = ran.get("flaky", 0) + 1
    with subtests.test("part"):
        assert ran["flaky"] > 1
    assert ran["flaky"] > 2

def test_parts(subtests):
    for i in range(3):
        with subtests.test(i=i):
            assert i != 1

class Case(unittest.TestCase):
    def test_parts(self):
        for i in range(3):
            with self.subTest(i=i):
                assert i != 1

def test_bad_end(bad_end):
    assert 0

def test_last(of_module):
    pass
"""
# Those that are over before the session is killed, and those that are run after that.
ORDER = """
import contextlib, importlib.util, pytest

if importlib.util.find_spec("_pytest.subtests") is None:  # before pytest 9
    class NoSubtests:
        def test(self, *args, **kwargs):
            return contextlib.suppress(AssertionError)

    @pytest.fixture
    def subtests():
        return NoSubtests()

def pytest_collection_modifyitems(items):
    last = ("test_killed", "test_of_class", "test_last")
    items.sort(key=lambda item: last.index(item.name) if item.name in last else -1)
"""


def run(pytester: pytest.Pytester, *arguments: str) -> pytest.RunResult:
    """Run pytest in a process, with no argument of pytester's: it would be another one each time."""
    return pytester.run(sys.executable, "-m", "pytest", *arguments)


def normalized(text: str, *, lines_to_leave_out: tuple[str, ...] = ()) -> list[str]:
    text = re.sub(r'(time|timestamp)="[^"]*"', "", text)
    text = re.sub(r"0x[0-9a-f]+|\d+\.\d\d+ ?s|in \d+\.\d+s", "N", text)
    text = re.sub(r"=+", "=", text)
    return [line for line in text.replace("><", ">\n<").splitlines() if not line.startswith(lines_to_leave_out)]


def test_a_session_that_was_killed_goes_on_and_tells_what_one_session_tells(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    notes = pytester.path / "notes"
    monkeypatch.setenv("NOTES", str(notes))
    pytester.makepyfile(test_it=ALL)
    pytester.makeconftest(ORDER)
    options = ("-v", "-p", "rerunfailures", "-p", "no:randomly", "--junitxml=report.xml")
    whole = run(pytester, *options)
    xml = (pytester.path / "report.xml").read_text()
    failed = (pytester.path / ".pytest_cache/v/cache/lastfailed").read_text()
    (pytester.path / ".pytest_cache/v/cache/lastfailed").unlink()
    (pytester.path / "report.xml").unlink()

    notes.unlink()
    monkeypatch.setenv("KILL", "1")
    killed = run(pytester, *options, RECORD)
    assert killed.ret == -9
    assert notes.read_text() == "module+ class+ class- class+ killed "
    notes.unlink()
    monkeypatch.delenv("KILL")
    again = run(pytester, *options, RECORD)
    assert again.ret == whole.ret == 1
    assert notes.read_text() == "module+ class+ killed of_class class- module- "
    again.stdout.fnmatch_lines("record: 13 tests finished before, in record")
    # pytest's capture swallows what it prints on subtests of unittest while they run.
    left_out = ("record: ", "test_it.py::Case::test_parts ")
    told, whole_told = (normalized(result.stdout.str(), lines_to_leave_out=left_out) for result in (again, whole))
    assert told == whole_told
    assert normalized((pytester.path / "report.xml").read_text()) == normalized(xml)
    assert (pytester.path / ".pytest_cache/v/cache/lastfailed").read_text() == failed

    (pytester.path / "report.xml").unlink()
    done = run(pytester, *options, RECORD)
    assert (done.ret, done.stdout.str().strip(), done.stderr.str().strip()) == (1, "", "")
    assert not (pytester.path / "report.xml").exists()
    assert notes.read_text() == "module+ class+ killed of_class class- module- "


def test_a_test_that_takes_the_session_along_twice_fails(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        test_it="import os, signal\ndef test_a(): pass\n"
        "def test_b(): os.kill(os.getpid(), signal.SIGKILL)\ndef test_c(): pass\n"
    )
    for _ in range(2):
        assert run(pytester, RECORD, "-p", "no:cacheprovider").ret == -9
    result = pytester.runpytest_inprocess(RECORD, "-p", "no:cacheprovider")
    result.assert_outcomes(passed=2, failed=1)
    result.stdout.fnmatch_lines(["the session ended 2 times while this test ran", "FAILED test_it.py::test_b*"])


INTERRUPTED = """
import os, pytest

@pytest.fixture(scope="module", autouse=True)
def of_module(request):
    print("UP")
    yield
    print("DOWN")

def test_a():
    assert 0
@pytest.mark.parametrize("n", [1, 2])
def test_b(n):
    if "INTERRUPT" in os.environ:
        pytest.exit("enough")
def test_c():
    assert 0
def test_d():
    assert 0
"""


def test_failures_before_count_for_maxfail_and_an_interrupted_test_has_not_ended_the_session(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytester.makepyfile(test_it=INTERRUPTED)
    arguments = (RECORD, "--maxfail=2", "-v", "-s", "--tb=no")
    monkeypatch.setenv("INTERRUPT", "1")
    for _ in range(2):
        assert pytester.runpytest_inprocess(*arguments).ret == 2
    monkeypatch.delenv("INTERRUPT")
    result = pytester.runpytest_inprocess(*arguments)
    result.assert_outcomes(passed=2, failed=2)
    assert result.ret == 1
    result.stdout.fnmatch_lines(["record: 1 test finished before, in record", "*stopping after 2 failures*"])
    assert [result.stdout.str().count(word) for word in ("UP", "DOWN")] == [1, 1]
    assert pytester.runpytest_inprocess(*arguments).ret == 1


IN_ANY_ORDER = """
def pytest_collection_modifyitems(items):
    import os
    items.sort(key=lambda item: os.environ["ORDER"].index(item.name[-1]))
"""


@pytest.mark.parametrize("bad_end", [False, True])
def test_fixtures_are_torn_down_for_the_next_test_that_is_run(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, bad_end: bool
) -> None:
    """In an order of its own each time, tests that are over may be anywhere among the others."""
    arguments = (RECORD, "-v", "-s", "--tb=no", "--maxfail=2")
    pytester.makeconftest(IN_ANY_ORDER)
    pytester.makepyfile(
        test_x="import os, pytest\n"
        "@pytest.fixture(scope='module', autouse=True)\n"
        "def of_module():\n"
        "    print('UP')\n"
        "    yield\n"
        "    print('DOWN')\n"
        "    if 'BAD_END' in os.environ: raise OSError\n"
        "def test_b():\n"
        "    if 'INTERRUPT' in os.environ: pytest.exit('enough')\n"
        "def test_c(): assert 0\n",
        test_y="def test_d(): pass\n",
    )
    monkeypatch.setenv("ORDER", "cbd")
    monkeypatch.setenv("INTERRUPT", "1")
    assert pytester.runpytest_inprocess(*arguments).ret == 2
    monkeypatch.setenv("ORDER", "bcd")
    monkeypatch.delenv("INTERRUPT")
    if bad_end:
        monkeypatch.setenv("BAD_END", "1")
    result = pytester.runpytest_inprocess(*arguments)
    result.assert_outcomes(failed=1, errors=bad_end, passed=1 if bad_end else 2)
    assert [result.stdout.str().count(word) for word in ("UP", "DOWN")] == [1, 1]
    result.stdout.no_fnmatch_line("*INTERNALERROR*")


def test_what_cannot_be_gone_on_with_is_one_line(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    pytester.makepyfile(test_it="import pytest\ndef test_a(): pass\ndef test_b(): pytest.exit('enough')\n")

    def refused(*arguments: str) -> str:
        result = pytester.runpytest_inprocess(*arguments)
        assert result.ret == 4
        (line,) = [line for line in result.errlines if line.strip()]
        return line

    other = "ERROR: --elastic-record: record is of another session ({}); remove it or name another file"
    assert pytester.runpytest_inprocess(RECORD).ret == 2
    assert refused(RECORD, "-v") == other.format("other arguments")
    pytester.makepyfile(test_more="def test_c(): pass\n")
    assert refused(RECORD) == other.format("2 tests; here 3")
    (pytester.path / "test_more.py").unlink()
    pytester.makepyfile(test_it="import pytest\ndef test_a(): pass\ndef test_z(): pytest.exit('enough')\n")
    assert refused(RECORD) == other.format("other tests")
    assert refused("--elastic-record=test_it.py") == (
        "ERROR: --elastic-record: test_it.py is no record of a session; name another file"
    )
    assert refused(RECORD, "-p", "xdist", "-n2") == (
        "ERROR: --elastic-record: workers of pytest-xdist have no record; leave it out, or run with -n0"
    )


@pytest.mark.parametrize("option", ["--collect-only", "--help", "--markers", "--setup-plan"])
def test_a_session_that_runs_no_test_leaves_the_record_alone(pytester: pytest.Pytester, option: str) -> None:
    pytester.makepyfile(test_it="def test_a(): pass")
    (pytester.path / "record").write_text("something else")
    result = pytester.runpytest_inprocess(RECORD, option)
    assert result.ret == 0
    assert result.outlines
    assert (pytester.path / "record").read_text() == "something else"


def test_a_complete_session_of_two_equal_ids_and_an_exit_code_of_a_plugin(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        test_it="import pytest\nran = []\n@pytest.mark.flaky(reruns=1)\ndef test_a():\n    ran.append(0)\n"
        "    if len(ran) == 1: pytest.fail('the first time')\n    if len(ran) == 3: pytest.exit('enough')\n"
    )
    arguments = (RECORD, "-p", "rerunfailures", "--fail-on-flaky", "--keep-duplicates", "test_it.py", "test_it.py")
    assert pytester.runpytest_inprocess(*arguments).ret == 2
    pytester.makepyfile(test_it="import pytest\n@pytest.mark.flaky(reruns=1)\ndef test_a(): pass\n")
    again = pytester.runpytest_inprocess(*arguments)
    again.stdout.fnmatch_lines(["record: 1 test finished before, in record", "*2 passed, 1 rerun*"])
    assert again.ret == 7
    done = pytester.runpytest_inprocess(*arguments)
    assert (done.ret, done.outlines, done.errlines) == (7, [], [])


def test_a_session_that_could_not_write_its_reports_is_not_complete(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(test_it="def test_a(): pass\n")
    conftest = pytester.makeconftest("def pytest_sessionfinish(): raise RuntimeError('the disk is full')\n")
    assert pytester.runpytest_inprocess(RECORD).ret == 3
    conftest.write_text("")
    result = pytester.runpytest_inprocess(RECORD)
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines("record: 1 test finished before, in record")


def test_what_is_damaged_or_cannot_be_kept_is_told_once(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(
        "import pytest\n"
        "def pytest_report_to_serializable(config, report):\n"
        "    if report.nodeid.endswith('odd'): raise ValueError('no way')\n"
    )
    pytester.makepyfile(
        test_it="import os, pytest\ndef test_a(): pass\ndef test_odd(): pass\n"
        "def test_c():\n    if not os.path.exists('again'): pytest.exit('enough')\n"
    )
    assert pytester.runpytest_inprocess(RECORD).ret == 2
    record = pytester.path / "record"
    record.write_text(record.read_text().replace('"outcome":"passed"', '"outcome":"failed"') + "rubbish\ntorn")
    (pytester.path / "again").touch()
    result = pytester.runpytest_inprocess(RECORD, "-W", "error")
    assert result.ret == 4  # other arguments
    result = pytester.runpytest_inprocess(RECORD)
    result.assert_outcomes(passed=3, warnings=2)
    result.stdout.no_fnmatch_line("record: *")
    result.stdout.fnmatch_lines(
        [
            "*--elastic-record: record: 2 entries were not written by this run, or damaged, and ignored",
            "*--elastic-record: record: cannot record test_it.py::test_odd, which runs again where the session is "
            "started again: no way",
        ]
    )


def test_a_second_session_that_writes_at_the_same_time_is_refused(tmp_path: Path) -> None:
    path = str(tmp_path / "record")
    hold = f"from pytest_elastic.cluster.places import FilePlace\nplace = FilePlace({path!r})\nprint()\ninput()\n"
    with subprocess.Popen([sys.executable, "-c", hold], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdin is not None
        assert other.stdout is not None
        assert other.stdout.readline() == b"\n"
        with pytest.raises(PlaceError) as error:
            FilePlace(path)
        other.stdin.close()
        assert other.wait(60) != 9
    FilePlace(path).close()
    said = "is in use by another session; wait for its end or name another file"
    assert str(error.value) == f"--elastic-record: {path} {said}"


@pytest.fixture
def server() -> TCPStore:
    return TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False, timeout=timedelta(seconds=60))


def client(server: TCPStore) -> TCPStore:
    return TCPStore("127.0.0.1", server.port, wait_for_workers=False, timeout=timedelta(seconds=60))


def test_a_store_keeps_what_several_clients_add(server: TCPStore) -> None:
    here, there = StorePlace(client(server), "run"), StorePlace(client(server), "run")
    large = bytes(range(256)) * 2**16
    assert here.read() == []
    for place, data in ((here, b"one"), (there, b"two"), (here, large), (there, b""), (here, b"\0\xff")):
        place.append(data)
    assert StorePlace(client(server), "run").read() == here.read() == [b"one", b"two", large, b"", b"\0\xff"]
    assert StorePlace(client(server), "other").read() == []
    here.close()
    there.close()


def test_an_entry_of_a_store_that_was_not_written_to_its_end_is_left_out(server: TCPStore) -> None:
    place = StorePlace(client(server), "run")
    place.append(b"one")
    server.add("run/record", 1)  # killed before it wrote anything
    server.set("run/record/3", "2\nhalf")
    server.add("run/record", 1)
    server.set("run/record/4", "99999999999999999999\n")
    server.add("run/record", 1)
    place.append(b"five")
    assert place.read() == [b"one", b"", b"", b"five"]


def test_a_recorder_with_a_key_goes_on_in_a_store(server: TCPStore) -> None:
    identity = Identity(versions="1", rootdir="/project", arguments="of these")
    first = Recorder(StorePlace(client(server), "run"), b"key", run_id="run")
    first.open_session(identity, [FIRST, SECOND])
    first.finish(FIRST, [{"mark": "start"}])
    first.begin(SECOND)
    Recorder(StorePlace(client(server), "run"), b"not the key").begin(SECOND)
    second = Recorder(StorePlace(client(server), "run"), b"key", run_id="run")
    assert (second.finished, second.unfinished) == ({FIRST: [{"mark": "start"}]}, {SECOND: 1})
    assert second.damaged == 1
    assert second.refusal(identity, [FIRST]) == (
        "record: the launcher's store is of another session (2 tests; here 1); give the launch another run id"
    )


def test_a_store_that_is_gone_is_one_line() -> None:
    code = (
        "from datetime import timedelta\nfrom torch.distributed import TCPStore\n"
        "store = TCPStore('127.0.0.1', 0, is_master=True, wait_for_workers=False)\nprint(store.port, flush=True)\n"
        "input()\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as host:
        assert host.stdout is not None
        port = int(host.stdout.readline())
        place = StorePlace(TCPStore("127.0.0.1", port, wait_for_workers=False, timeout=timedelta(seconds=5)), "run")
        host.kill()
        host.wait(60)
    with pytest.raises(PlaceError, match=r"^record: the launcher's store cannot be written: [^\n]+$"):
        place.append(b"x")
