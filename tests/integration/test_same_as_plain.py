"""The same ordinary tests come out the same with one rank as without any."""

from __future__ import annotations

import re

import pytest

ORDINARY = """
import logging, os, sys, unittest, warnings
import pytest

if os.environ.get("ON_A_RANK"):
    pytestmark = pytest.mark.elastic(nproc=1, timeout=60)

log = []

@pytest.fixture(scope="session")
def of_session(tmp_path_factory):
    yield tmp_path_factory.mktemp("session")

@pytest.fixture(scope="module", params=["one", "two"])
def of_module(request, of_session):
    yield request.param

@pytest.fixture(scope="class")
def of_class(of_session):
    return [of_session.name]

@pytest.fixture(autouse=True)
def always(monkeypatch):
    monkeypatch.setenv("ALWAYS", "set")

@pytest.fixture
def bad_setup(): raise LookupError("set-up")

@pytest.fixture
def bad_teardown():
    yield 5
    raise LookupError("teardown")

@pytest.fixture
def skips(): pytest.skip("by a fixture")

def test_passes(): assert os.environ["ALWAYS"] == "set"
def test_fails(): assert [1, 2] == [1, 3]
def test_raises(): raise KeyError("k")
def test_session(of_session): assert of_session.is_dir()
def test_module(of_module): assert of_module in ("one", "two")
def test_module_fails_once(of_module): assert of_module == "one"
def test_bad_setup(bad_setup): pass
def test_bad_teardown(bad_teardown): assert bad_teardown == 5
def test_bad_both(bad_teardown): assert bad_teardown == 6
def test_skips(): pytest.skip("by hand")
def test_skips_by_a_fixture(skips): pass
@pytest.mark.skip(reason="by a mark")
def test_skip_mark(): pass
@pytest.mark.skipif(sys.maxsize > 0, reason="true here")
def test_skipif(): pass
@pytest.mark.xfail
def test_xfails(): assert 0
@pytest.mark.xfail
def test_xpasses(): pass
@pytest.mark.xfail(strict=True)
def test_xpasses_strictly(): pass
@pytest.mark.xfail(raises=KeyError, strict=True)
def test_xfails_by_its_kind(): raise KeyError
@pytest.mark.xfail(raises=KeyError)
def test_fails_by_another_kind(): raise ValueError("other")
@pytest.mark.xfail(run=False)
def test_never_runs(): raise SystemExit
def test_xfails_by_hand(): pytest.xfail("by hand")
@pytest.mark.xfail
def test_xfails_in_setup(bad_setup): pass
@pytest.mark.xfail
def test_xfails_and_bad_teardown(bad_teardown): assert 0
@pytest.mark.parametrize("left", [1, 2])
@pytest.mark.parametrize("right", [1, pytest.param(2, marks=pytest.mark.xfail), pytest.param(3, id="x y")])
def test_parametrized(left, right): assert left == right
@pytest.mark.parametrize("always", ["indirect"], indirect=True)
def test_indirect(always): pass
def test_warns(): warnings.warn("careful")
@pytest.mark.filterwarnings("error")
def test_warning_is_error(): warnings.warn("too late")
def test_capsys(capsys):
    print("out"); print("err", file=sys.stderr)
    assert capsys.readouterr() == ("out\\n", "err\\n")
def test_capfd(capfd):
    os.write(1, b"raw")
    assert capfd.readouterr().out == "raw"
def test_caplog(caplog):
    logging.getLogger("it").warning("hm")
    assert [record.message for record in caplog.records] == ["hm"]
def test_tmp_path(tmp_path): (tmp_path / "file").write_text("x")
def test_raises_as_expected():
    with pytest.raises(ValueError, match="no"):
        raise ValueError("no")
def test_exits(): sys.exit(3)
def test_subtests(subtests):
    for number in range(3):
        with subtests.test(number=number):
            assert number != 1
@pytest.mark.usefixtures("of_session")
class TestClass:
    def setup_method(self): self.made = 1
    @classmethod
    def teardown_class(cls): log.append("down")
    def test_setup_method(self): assert self.made == 1
    def test_of_class(self, of_class): of_class.append(1); assert len(of_class) == 2
    def test_method_fails(self): assert self.made == 2
class TestCase(unittest.TestCase):
    def setUp(self): self.made = 1
    def test_equal(self): self.assertEqual(self.made, 1)
    def test_not_equal(self): self.assertEqual(self.made, 2)
    def test_skip(self): self.skipTest("by unittest")
    @unittest.expectedFailure
    def test_expected(self): self.assertEqual(self.made, 2)
"""


def outcomes(result: pytest.RunResult) -> list[str]:
    """Return the lines of the short summary, without what only ranks have in front of a message."""
    kinds = r"(PASSED|FAILED|ERROR|SKIPPED|XFAIL|XPASS|SUBFAILED\S*|SUBPASSED\S*)"
    lines = [line for line in result.outlines if re.match(rf"{kinds} ", line)]
    # Said in words of its own: an exit, and of a failed subtest what failed in it.
    for ours, pytests in (
        ("exited with code 3 before the test ended", "SystemExit: 3"),
        ("assert 1 != 1", "contains 1 failed subtest"),
    ):
        lines = [line.replace(ours, pytests) for line in lines]
    return sorted(line.replace("[rank 0] ", "") for line in lines if not line.startswith("SUB"))


def test_ordinary_tests_come_out_the_same(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    pytester.makepyfile(test_ordinary=ORDINARY)
    args = ("-rA", "--tb=no", "-p", "no:xdist", "--show-capture=no")
    plain = pytester.runpytest_subprocess(*args)
    monkeypatch.setenv("ON_A_RANK", "1")
    ranks = pytester.runpytest_subprocess(*args)
    assert len(outcomes(plain)) == 50
    assert outcomes(ranks) == outcomes(plain)
