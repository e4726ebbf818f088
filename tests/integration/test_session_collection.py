"""The session that ranks have is the controller's: however tests are found, named, imported and configured."""

from __future__ import annotations

import os
import shlex
import sys
import textwrap
from pathlib import Path

import pytest

SAME_SESSION = """
import json, os, sys
from pathlib import Path
import pytest, pytest_elastic

FILE = Path(__file__).with_name("session.json")

def options(config):
    from pytest_elastic.worker.differences import SWITCHED_OFF
    return {name: repr(value) for name, value in vars(config.option).items() if name not in SWITCHED_OFF}

def facts(config):
    return {
        "rootpath": str(config.rootpath),
        "inipath": str(config.inipath),
        "invocation": [list(map(str, config.invocation_params.args)), str(config.invocation_params.dir)],
        "args": [str(arg) for arg in config.args],
        "options": options(config),
        "ini": {name: repr(config.getini(name)) for name in ("addopts", "markers", "filterwarnings", "xfail_strict",
                "pythonpath", "usefixtures", "strict_markers", "elastic_nproc")},
        "plugins": sorted(str(name) for name, plugin in config.pluginmanager.list_name_plugin()
            if plugin is not None and getattr(plugin, "__file__", None) and not name.isdigit()
            and name != "helpconfig" and not name.endswith("conftest.py")),
        "sys.path": sys.path,
        "sys.argv": sys.argv,
    }

def conftests(config):
    files = [getattr(plugin, "__file__", None) or "" for plugin in config.pluginmanager.get_plugins()]
    return sorted(file for file in files if file.endswith("conftest.py"))

@pytest.hookimpl(trylast=True)
def pytest_collection_finish(session):
    if pytest_elastic.role(session.config) == "controller":
        ids = [[item.nodeid, item.module.__name__] for item in session.items]
        told = {"facts": facts(session.config), "ids": ids, "conftests": conftests(session.config)}
        FILE.write_text(json.dumps(told))

@pytest.fixture(autouse=True)
def same_session(request):
    told = json.loads(FILE.read_text())
    assert pytest_elastic.role(request.config) == "rank"
    assert facts(request.config) == told["facts"]
    assert [request.node.nodeid, request.module.__name__] in told["ids"]
    # Directories without tests for ranks are not collected again.
    mine = [file for file in told["conftests"] if Path(file).parent in request.path.parents]
    assert set(mine) <= set(conftests(request.config)) <= set(told["conftests"])
"""
CHECKS = """
import os, sys, warnings
import pytest
pytestmark = pytest.mark.elastic(nproc=1, timeout=60)
"""


def write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text))


def run_in(pytester: pytest.Pytester, directory: Path, *args: str) -> pytest.RunResult:
    directory.mkdir(parents=True, exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(directory)
        patch.setattr(pytester, "_path", directory)
        return pytester.run(sys.executable, "-m", "pytest", "-p", "no:xdist", *args)


PROJECT = {
    "conftest.py": SAME_SESSION,
    "pytest.ini": """
        [pytest]
        markers =
            slow: takes long
        elastic_nproc = 1
        """,
    "other.ini": """
        [pytest]
        markers =
            slow: takes long
        xfail_strict = true
        """,
    "tests/conftest.py": """
        import pytest
        pytest_plugins = []
        @pytest.fixture
        def where(): return "tests"
        def pytest_runtest_setup(item): item.user_properties.append(("from", "tests/conftest.py"))
        """,
    "tests/sub/conftest.py": """
        import pytest
        @pytest.fixture
        def where(where): return where + "/sub"
        """,
    "tests/test_top.py": CHECKS
    + """
def test_where(where): assert where == "tests"
@pytest.mark.slow
@pytest.mark.parametrize("a", ["x", "y"])
def test_slow(a, where): assert where == "tests"
""",
    "tests/sub/test_nested.py": CHECKS
    + """
class TestClass:
    def test_method(self, where, request):
        assert where == "tests/sub"
        assert ("from", "tests/conftest.py") in request.node.user_properties
    def test_other(self): raise SystemExit(9)
""",
    "myplugin.py": """
        import pytest
        @pytest.fixture
        def mine(): return 1
        """,
    "tests/test_plugin.py": """
        import pytest, warnings
        @pytest.mark.elastic(nproc=1, timeout=60)
        def test_plugin(mine, request):
            assert request.config.pluginmanager.hasplugin("myplugin")
            assert not request.config.pluginmanager.hasplugin("doctest")
        """,
}

COMMANDS: dict[str, tuple[str, str, int, int]] = {
    "everything below a directory, -k": (".", "tests -k 'where or (method and not other)'", 2, 4),
    "node ids and --deselect": (
        ".",
        "tests/sub/test_nested.py::TestClass::test_method tests/test_top.py --deselect tests/test_top.py::test_slow[y]",
        3,
        1,
    ),
    "another cwd, -m, --ignore": ("tests/sub", "-m slow .. --ignore=../test_plugin.py --ignore=test_nested.py", 2, 1),
    "-p, -c, -o, -W": (
        ".",
        "-p myplugin -p no:doctest -c other.ini -o usefixtures=mine -W error::UserWarning tests/test_plugin.py",
        1,
        0,
    ),
    "--rootdir, --confcutdir, strict": (
        "elsewhere",
        "--rootdir=../tests --confcutdir=.. --strict-markers --strict-config -o 'markers=slow: long' ../tests/sub "
        "-k method",
        1,
        1,
    ),
}


@pytest.mark.parametrize("case", COMMANDS)
def test_ranks_have_the_controllers_session_however_tests_are_addressed(pytester: pytest.Pytester, case: str) -> None:
    directory, args, passed, deselected = COMMANDS[case]
    write(pytester.path, PROJECT)
    result = run_in(pytester, pytester.path / directory, *shlex.split(args))
    result.assert_outcomes(passed=passed, deselected=deselected)


INI = "addopts = -p myplugin\nmarkers =\n    slow: s\nelastic_nproc = 2\nstrict_markers = true\n"
INI_FILES = {
    "pytest.ini": f"[pytest]\n{INI}",
    "pyproject.toml [tool.pytest]": "[tool.pytest]\naddopts = ['-p', 'myplugin']\nmarkers = ['slow: s']\n"
    "elastic_nproc = '2'\nstrict_markers = true\n",
    "pyproject.toml [tool.pytest.ini_options]": "[tool.pytest.ini_options]\naddopts = '-p myplugin'\n"
    "markers = ['slow: s']\nelastic_nproc = 2\nstrict_markers = true\n",
    "tox.ini": f"[pytest]\n{INI}",
    "setup.cfg": f"[tool:pytest]\n{INI}",
}


@pytest.mark.parametrize("kind", INI_FILES)
def test_ini_files_of_every_kind(pytester: pytest.Pytester, kind: str) -> None:
    write(
        pytester.path,
        {
            kind.partition(" ")[0]: INI_FILES[kind],
            "conftest.py": SAME_SESSION,
            "myplugin.py": PROJECT["myplugin.py"],
            "test_it.py": """
                import pytest
                @pytest.mark.slow
                @pytest.mark.elastic
                def test_it(mine, world_size): assert (mine, world_size) == (1, 2)
                """,
        },
    )
    run_in(pytester, pytester.path).assert_outcomes(passed=1)


@pytest.mark.parametrize("mode", ["prepend", "append", "importlib"])
def test_import_modes(pytester: pytest.Pytester, mode: str) -> None:
    body = (
        CHECKS
        + """
{imports}
def test_it(request):
    assert __name__ == {name!r}
    with pytest.raises(AssertionError, match="assert 1 == 2"):
        check(1, 2)
"""
    )
    local = "def check(a, b): assert a == b\n"
    files = {"conftest.py": SAME_SESSION, "pytest.ini": "[pytest]\npythonpath = lib\n"}
    if mode == "importlib":
        # Two files of one name, and a package: only this mode can do it.
        files["a/test_it.py"] = body.format(name="a.test_it", imports=local)
        files["b/test_it.py"] = body.format(name="b.test_it", imports=local)
        files["c/__init__.py"] = ""
        files["c/test_it.py"] = body.format(name="c.test_it", imports="from c.checks import check")
        files["c/checks.py"] = "import pytest\n" + local
        files["c/conftest.py"] = "import pytest\npytest.register_assert_rewrite('c.checks')\n"
        passed = 3
    else:
        files["a/test_it.py"] = body.format(name="test_it", imports="from helper_of_a import check")
        files["a/helper_of_a.py"] = local
        files["conftest.py"] += "pytest.register_assert_rewrite('helper_of_a')\n"
        files["c/__init__.py"] = ""
        files["c/test_it.py"] = body.format(name="c.test_it", imports=local)
        passed = 2
    write(pytester.path, files)
    run_in(pytester, pytester.path, f"--import-mode={mode}").assert_outcomes(passed=passed)


def test_pyargs_environment_variables_and_plugins_of_modules(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(
        pytester.path,
        {
            "site/pack/__init__.py": "",
            "site/pack/tests/__init__.py": "",
            "site/pack/tests/conftest.py": SAME_SESSION,
            "site/pack/tests/test_in_package.py": CHECKS
            + """
pytest_plugins = ["module_plugin"]
def test_it(of_module, mine, request, monkeypatch):
    assert request.config.option.maxfail == 0
    assert os.environ["SEEN"] == "by the test"
""",
            "site/module_plugin.py": "import pytest\n@pytest.fixture\ndef of_module(): pass\n",
            "site/myplugin.py": PROJECT["myplugin.py"],
            # What is in the environment of a test later is no business of the ranks' session.
            "site/pack/tests/test_later.py": """
                import pytest
                @pytest.fixture(scope="session", autouse=True)
                def same_session(): pass
                @pytest.fixture
                def late(monkeypatch):
                    monkeypatch.setenv("PYTEST_ADDOPTS", "--no-such-option")
                    monkeypatch.setenv("PYTEST_PLUGINS", "no_such_plugin")
                def run(): return 1
                def test_launch(late, elastic_launch):
                    assert elastic_launch(run, nproc=1, start_method="spawn") == {0: 1}
                """,
        },
    )
    addopts = os.environ["PYTEST_ADDOPTS"]
    monkeypatch.setenv("PYTEST_ADDOPTS", f"{addopts} -x -o console_output_style=classic")
    monkeypatch.setenv("PYTEST_PLUGINS", "myplugin")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(pytester.path / "site"), *_python_path()]))
    monkeypatch.setenv("SEEN", "by the test")
    run_in(pytester, pytester.path / "elsewhere", "--pyargs", "pack").assert_outcomes(passed=2)


def _python_path() -> list[str]:
    return [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]


DYNAMIC = {
    "conftest.py": """
        import os
        import pytest, pytest_elastic

        def pytest_addoption(parser):
            parser.addoption("--shard", type=int, default=None)

        @pytest.hookimpl(trylast=True)
        def pytest_collection_modifyitems(config, items):
            # As sharding plugins do: every second test of what is collected, which is more in the controller.
            keep = [item for i, item in enumerate(items) if i % 2 == 1 or item.path.name != "test_shard.py"]
            gone = [item for item in items if item not in keep]
            config.hook.pytest_deselected(items=gone)
            items[:] = keep

        def pytest_pycollect_makeitem(collector, name, obj):
            if name == "test_renamed":
                name += "_for_the_server" if pytest_elastic.role(collector.config) == "server" else "_for_ranks"
                return pytest.Function.from_parent(collector, name=name, callobj=obj)

        def pytest_generate_tests(metafunc):
            if "mode" in metafunc.fixturenames:
                metafunc.parametrize("mode", ["fast"] if pytest_elastic.role(metafunc.config) == "server" else ["slow"])

        def pytest_collect_file(file_path, parent):
            if file_path.suffix == ".yaml" and pytest_elastic.role(parent.config) != "server":
                return Yaml.from_parent(parent, path=file_path)

        class Yaml(pytest.File):
            def collect(self):
                for line in self.path.read_text().splitlines():
                    item = YamlItem.from_parent(self, name=line)
                    item.add_marker(pytest.mark.elastic(nproc=2, timeout=60))
                    yield item

        class YamlItem(pytest.Item):
            def runtest(self):
                if self.name == "bad" and os.environ["RANK"] == "1":
                    raise ValueError("bad yaml")
            def repr_failure(self, excinfo):
                return f"the file says so: {excinfo.value}"
            def reportinfo(self):
                return self.path, 0, f"yaml: {self.name}"
        """,
    "test_e_plain.py": "import os\nos.environ['MODES'] = 'one,two'\ndef test_plain(): pass\n",
    "test_dynamic.py": CHECKS
    + """
def test_renamed(): pass
def test_mode(mode): assert mode == "slow"
""",
    "test_module_level.py": CHECKS
    + """
# The server was started before the file above set the variable.
@pytest.mark.parametrize("environment", os.environ.get("MODES", "none").split(","))
def test_environment(environment): pass
""",
    "test_random.py": CHECKS
    + """
import time
@pytest.mark.parametrize("now", [time.time()])
def test_now(now): pass
""",
    "test_shard.py": CHECKS + "def test_one(): raise SystemExit\ndef test_two(): pass\n",
    "data.yaml": "good\nbad\n",
}


def test_what_the_server_does_not_have_is_collected_by_the_rank(pytester: pytest.Pytester) -> None:
    write(pytester.path, DYNAMIC)
    result = run_in(pytester, pytester.path, "-v")
    result.assert_outcomes(passed=7, failed=1, errors=1, deselected=1)
    result.stdout.fnmatch_lines(
        [
            "*the file says so: bad yaml*",
            "FAILED data.yaml::bad - *",
        ]
    )
    text = result.stdout.str()
    assert "the ranks' session has no test test_random.py::test_now[" in text
    assert "; it has test_random.py::test_now[" in text
    assert "(do ids differ from collection to collection?)" in text


def test_tests_of_one_id_are_told_apart_by_their_order(pytester: pytest.Pytester) -> None:
    write(
        pytester.path,
        {
            "conftest.py": """
                import pytest
                def pytest_collect_file(file_path, parent):
                    if file_path.suffix == ".txt":
                        return Text.from_parent(parent, path=file_path)
                class Text(pytest.File):
                    def collect(self):
                        for i, line in enumerate(self.path.read_text().splitlines()):
                            item = Line.from_parent(self, name="line")
                            item.text, item.number = line, i
                            item.add_marker(pytest.mark.elastic(nproc=1, timeout=60))
                            yield item
                class Line(pytest.Item):
                    def runtest(self): assert self.text != "two", f"{self.number}: {self.text}"
                    def repr_failure(self, excinfo): return str(excinfo.value)
                """,
            "lines.txt": "one\ntwo\nthree\n",
            "test_twice.py": CHECKS + "def test_it(): pass\n",
        },
    )
    result = run_in(pytester, pytester.path, "lines.txt", "test_twice.py", "test_twice.py", "--keep-duplicates", "-v")
    result.assert_outcomes(passed=4, failed=1)
    result.stdout.fnmatch_lines(["*lines.txt::line PASSED*", "*lines.txt::line FAILED*", "*lines.txt::line PASSED*"])
    result.stdout.fnmatch_lines("*1: two*")


@pytest.mark.soak
def test_spawned_ranks_collect_the_same_session(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    write(pytester.path, PROJECT)
    args = ["-p", "myplugin", "-p", "no:doctest", "--elastic-start-method=spawn", "-o", "xfail_strict=true"]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(pytester.path), *_python_path()]))
    args += ["../tests/test_plugin.py", "../tests/test_top.py::test_slow", "../tests/sub", "-k", "not other"]
    run_in(pytester, pytester.path / "elsewhere", *args).assert_outcomes(passed=4, deselected=1)


@pytest.mark.soak
def test_a_spawned_rank_starts_where_its_test_is_and_writes_its_stacks(pytester: pytest.Pytester) -> None:
    write(
        pytester.path,
        {
            "test_it.py": """
                import os, signal
                import pytest
                os.chdir("below")
                @pytest.mark.elastic(nproc=1, timeout=60, start_method="spawn")
                def test_cwd(): assert os.path.basename(os.getcwd()) == "below"
                @pytest.mark.elastic(nproc=1, timeout=60, start_method="spawn")
                def test_segv(): os.kill(os.getpid(), signal.SIGSEGV)
                """,
            "below/empty": "",
        },
    )
    result = run_in(pytester, pytester.path)
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["*in test_segv*", "FAILED test_it.py::test_segv - [[]rank 0[]] killed by SIGSEGV"])
