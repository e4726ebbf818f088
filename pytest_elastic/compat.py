"""Every name of pytest's that is not public, each with the reason for it. PYTEST_DONT_REWRITE."""

from __future__ import annotations

import io
import logging
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

# Reports are merged into pytest's own classes: others lose the short summary under xdist.
from _pytest._code.code import ExceptionChainRepr, ReprEntryNative, ReprFileLocation, ReprTraceback

# The server and ranks make a pytest session of their own, as pytest-xdist's workers do.
from _pytest.config import _prepareconfig as prepare_config

# A rank opens pytest's own debugger on a terminal that is passed to it.
from _pytest.config import create_terminal_writer
from _pytest.debugging import _enter_pdb, pytestPDB

# The value of a fixture that another one overrides is asked for in the name of that other one.
from _pytest.fixtures import SubRequest

# A rank runs the three phases of one item without logstart and logfinish, which are the controller's.
from _pytest.runner import runtestprotocol

# Marks that the controller judges tell a rank which failures nobody wants to debug.
# Those that skip tell which tests are not to be started ahead of their turn.
from _pytest.skipping import Xfail, evaluate_skip_marks, evaluate_xfail_marks

__all__ = [
    "ExceptionChainRepr",
    "ReprEntryNative",
    "ReprFileLocation",
    "ReprTraceback",
    "Xfail",
    "breakpoints_passed_over",
    "capture_nothing",
    "column",
    "configure",
    "count_finalizers",
    "debug_failure",
    "definitions_for",
    "evaluate_skip_marks",
    "evaluate_xfail_marks",
    "failed_subtests",
    "fixture_definitions",
    "fixture_value",
    "given_back_by_capture",
    "has_fixture_of_users",
    "has_live_log",
    "initial_names",
    "is_expected",
    "is_subtest",
    "item_of",
    "level_of",
    "mend_subtest",
    "parameters_of",
    "prepare_config",
    "prune",
    "redefine",
    "resume_capture",
    "runtestprotocol",
    "set_basetemp",
    "set_failed_subtests",
    "show_live_log_by",
    "silence_terminal",
    "stop_capture",
    "suspend_capture",
    "take_back_subtests",
    "take_finalizers",
    "tear_down_everything",
    "tear_down_for",
    "terminal_file",
    "timeout_settings",
    "wrap_debugger",
    "write_lines",
    "write_through",
]


def configure(config: pytest.Config) -> None:
    """Call ``pytest_configure`` of every plugin, as ``pytest.main`` does."""
    config._do_configure()


def stop_capture(config: pytest.Config) -> None:
    """Give the output back: its temporary files must not be shared by forked ranks."""
    manager: Any = config.pluginmanager.getplugin("capturemanager")
    if manager is not None:
        manager.suspend_global_capture(in_=True)
        manager.stop_global_capturing()


def capture_nothing(config: pytest.Config) -> None:
    """Let all output through, as ``-s`` does; ``capsys`` and its like still work.

    A rank's output goes to its log, where it survives the rank's death: pytest's own files would not.
    """
    manager: Any = config.pluginmanager.getplugin("capturemanager")
    if manager is not None:
        manager._method = "no"
        manager.start_global_capturing()


def suspend_capture(config: pytest.Config) -> None:
    """Have the standard streams be what they were without pytest and its fixtures."""
    manager: Any = config.pluginmanager.getplugin("capturemanager")
    if manager is not None:
        manager.suspend(in_=True)


def resume_capture(config: pytest.Config) -> None:
    """Have pytest and its fixtures capture again."""
    manager: Any = config.pluginmanager.getplugin("capturemanager")
    if manager is not None:
        manager.resume()


@contextmanager
def given_back_by_capture(config: pytest.Config) -> Iterator[None]:
    """Have the standard streams be the person's while a block runs."""
    reporter: Any = config.pluginmanager.getplugin("terminalreporter")
    if reporter is not None:
        reporter.flush()
    suspend_capture(config)
    try:
        yield
    finally:
        resume_capture(config)


def wrap_debugger(
    *,
    begins: Callable[[str], bool],
    header: Callable[[str], str],
    otherwise: Callable[[], Any],
    attach: Callable[[type[Any]], type[Any]],
) -> None:
    """Have pytest's debugger ask before it begins.

    Args:
        begins: Tells whether it may; called with pytest's name for the way in, ``"set_trace"`` say.
        header: Makes the line above the first prompt from pytest's.
        otherwise: Makes what takes its place where it may not.
        attach: Makes its class.
    """
    debugger: Any = pytestPDB  # whose methods have no annotations
    begin, make = debugger._init_pdb, debugger._get_pdb_wrapper_class

    def init_pdb(method: str, *args: Any, **kwargs: Any) -> Any:
        if not begins(method):
            return otherwise()
        if debugger._recursive_debug == 0:
            kwargs["header"] = header(str(kwargs.get("header") or f"PDB {method}"))
        return begin(method, *args, **kwargs)

    def make_class(cls: type[Any], manager: Any) -> type[Any]:
        return attach(make(cls, manager))

    debugger._init_pdb = staticmethod(init_pdb)
    debugger._get_pdb_wrapper_class = staticmethod(make_class)
    debugger._wrapped_pdb_cls = None


@contextmanager
def breakpoints_passed_over(otherwise: Callable[[], Any]) -> Iterator[None]:
    """Have ``breakpoint()``, ``pdb.set_trace()`` and ``pytest.set_trace()`` do nothing, for a while.

    Args:
        otherwise: Makes what takes the place of a debugger.
    """
    import pdb

    debugger: Any = pytestPDB
    begin, hook = vars(debugger)["_init_pdb"], sys.breakpointhook

    def pass_over(*args: Any, **kwargs: Any) -> None:
        pass

    def init_pdb(method: str, *args: Any, **kwargs: Any) -> Any:  # noqa: ARG001
        return otherwise()

    # As pytest does when it is configured; conftests are imported before that, and may keep what they find.
    pdb.set_trace = debugger.set_trace
    debugger._init_pdb = staticmethod(init_pdb)
    sys.breakpointhook = pass_over
    try:
        yield
    finally:
        debugger._init_pdb = begin
        if sys.breakpointhook is pass_over:  # a conftest may have its own
            sys.breakpointhook = hook


def debug_failure(node: pytest.Item, excinfo: pytest.ExceptionInfo[BaseException], report: pytest.TestReport) -> None:
    """Show a failure and open the debugger in it, as ``--pdb`` does, on what standard output is now."""
    reporter: Any = node.config.pluginmanager.getplugin("terminalreporter")
    silent, reporter._tw = reporter._tw, create_terminal_writer(node.config)
    try:
        _enter_pdb(node, excinfo, report)
    finally:
        reporter._tw = silent


def is_expected(xfail: Xfail, error: BaseException) -> bool:
    """Tell whether a mark says that a test fails by an exception, as pytest's own report does."""
    raises: Any = xfail.raises
    if raises is None:
        return True
    if hasattr(raises, "matches"):  # pytest.RaisesExc
        return bool(raises.matches(error))
    return isinstance(error, raises)


def set_basetemp(config: pytest.Config, basetemp: Path) -> None:
    """Have ``tmp_path`` of this process be under ``basetemp``, and leave pytest's own directories alone."""
    factory: Any = getattr(config, "_tmp_path_factory", None)
    if factory is None:
        return  # -p no:tmpdir
    factory._given_basetemp = basetemp
    factory._basetemp = None


def has_fixture_of_users(item: pytest.Item, name: str) -> bool:
    """Tell whether a name that a test asks for is a fixture of its authors (or of another plugin of theirs).

    It is not where the test is parametrized with the name directly: pytest makes a fixture of its own of that.
    """
    info: Any = getattr(item, "_fixtureinfo", None)
    fixtures = info.name2fixturedefs.get(name) if info is not None else None
    if not fixtures:
        return False
    home = str(fixtures[-1].func.__module__).partition(".")[0]
    return home not in ("_pytest", "pytest_elastic")


def has_live_log(config: pytest.Config) -> bool:
    """Tell whether pytest's live log is on, as its logging plugin does; without that plugin it has no such settings."""
    if not config.pluginmanager.hasplugin("logging-plugin"):
        return False
    return config.getoption("log_cli_level", None) is not None or bool(config.getini("log_cli"))


def timeout_settings(item: pytest.Item) -> Any:
    """Return what pytest-timeout, if it is there, is going to want of a test.

    By its hook it tells a limit of the call only when the call begins, and a launch that may form again is awaited
    before that.
    """
    plugin = sys.modules.get("pytest_timeout")
    read = getattr(plugin, "_get_item_settings", None)
    return read(item) if read is not None and item.config.pluginmanager.hasplugin("timeout") else None


def tear_down_everything(session: pytest.Session) -> None:
    """Tear down what is set up, as the end of a session does after an interruption."""
    tear_down_for(session, None)


def tear_down_for(session: pytest.Session, nextitem: pytest.Item | None) -> None:
    """Tear down what is set up and the next test does not share."""
    session._setupstate.teardown_exact(nextitem)


def show_live_log_by(config: pytest.Config, show: Callable[[str], None]) -> None:
    """Have pytest's live log (``log_cli``) call ``show`` with each formatted record."""
    plugin: Any = config.pluginmanager.getplugin("logging-plugin")
    if plugin is not None:
        live = _LiveLog(show)
        live.setFormatter(plugin.log_cli_handler.formatter)
        level = plugin.log_cli_level
        plugin.log_cli_handler = live
        # pytest does this around the loop over all tests, which a rank has not.
        root = logging.getLogger()
        root.addHandler(live)
        if level is not None:
            live.setLevel(level)
            root.setLevel(min(root.level, level))


class _LiveLog(logging.Handler):
    """What pytest's own live log handler is to the logging plugin, without a terminal."""

    def __init__(self, show: Callable[[str], None]) -> None:
        super().__init__()
        self._show = show

    def emit(self, record: logging.LogRecord) -> None:
        self._show(self.format(record))

    def reset(self) -> None:
        """Take note that another test begins: of no matter here."""

    def set_when(self, when: str | None) -> None:
        """Take note that another phase begins: of no matter here."""


class _Nowhere(io.TextIOBase):
    """Swallows text; it holds no descriptor, which a test might close."""

    def write(self, text: str) -> int:
        return len(text)


def write_lines(reporter: Any, text: str) -> None:
    """Write whole lines to the terminal, beginning at a fresh one, also behind the letter of an outcome."""
    if reporter._tw.width_of_current_line:
        reporter.write("\n")
    reporter.currentfspath = None  # the next outcome begins a line of its own, with the name of the file
    reporter.write(text, flush=True)


def terminal_file(reporter: Any) -> Any:
    """Return the file to which the terminal reporter writes; ``None`` without one, or where it is not pytest's own."""
    return getattr(getattr(reporter, "_tw", None), "_file", None)


def column(reporter: Any) -> int:
    """Return how wide the line is that the terminal reporter is writing."""
    return int(reporter._tw.width_of_current_line)


def write_through(reporter: Any, write: Callable[[Callable[[str], Any], str], Any]) -> Callable[[], None]:
    """Have what the terminal reporter writes go through a function; return what undoes it.

    Args:
        reporter: pytest's terminal reporter.
        write: Called with the file's own ``write`` and a text.
    """
    file = reporter._tw._file
    reporter._tw._file = _Through(file, write)

    def undo() -> None:
        reporter._tw._file = file

    return undo


class _Through:
    """A file whose ``write`` is another one's."""

    def __init__(self, file: Any, write: Callable[[Callable[[str], Any], str], Any]) -> None:
        self._file = file
        self._write = write

    def write(self, text: str) -> Any:
        return self._write(self._file.write, text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def silence_terminal(reporter: Any) -> None:
    """Keep the terminal reporter, which other plugins need, and have it write nowhere."""
    reporter._tw._file = _Nowhere()


def fixture_definitions(session: pytest.Session) -> list[Any]:
    """Return the definitions of all fixtures of a session: which of them are the controller's is only seen there."""
    manager: Any = getattr(session, "_fixturemanager", None)
    if manager is None:
        return []
    if hasattr(manager, "_get_all_fixture_defs"):  # from pytest 9.1 on
        return list(manager._get_all_fixture_defs())
    known: dict[str, list[Any]] = getattr(manager, "_arg2fixturedefs", {})
    return [definition for definitions in known.values() for definition in definitions]


def initial_names(item: pytest.Item) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the fixtures that a test asks for without others: all, and those that are arguments of its function."""
    info: Any = getattr(item, "_fixtureinfo", None)
    return (info.initialnames, info.argnames) if info is not None else ((), ())


def definitions_for(item: pytest.Item, name: str) -> Sequence[Any]:
    """Return the definitions of a fixture that a test sees, the closest one last."""
    info: Any = getattr(item, "_fixtureinfo", None)
    definitions: Sequence[Any] | None = info.name2fixturedefs.get(name) if info is not None else None
    if definitions is None:
        manager: Any = item.session._fixturemanager
        definitions = manager.getfixturedefs(name, item)
    return definitions or ()


def parameters_of(item: pytest.Item) -> dict[str, Any]:
    """Return the parameters of a test by the name of their fixture or argument."""
    callspec: Any = getattr(item, "callspec", None)
    return dict(callspec.params) if callspec is not None else {}


def prune(item: pytest.Item) -> None:
    """Leave out the fixtures that a test no longer needs: what a fixture requests has changed."""
    info: Any = getattr(item, "_fixtureinfo", None)
    if info is not None:
        info.prune_dependency_tree()


def redefine(
    definition: Any,
    *,
    argnames: tuple[str, ...] | None = None,
    function: Callable[..., object] | None = None,
    key: Callable[[Any], object] | None = None,
) -> None:
    """Change what a fixture requests, what makes its value, and what tells one value from another.

    pytest has no public way to have a fixture's value come from elsewhere without setting up what it requests.
    """
    if argnames is not None:
        definition.argnames = argnames
    if function is not None:
        definition.func = function
    if key is not None:
        definition.cache_key = key


def item_of(request: pytest.FixtureRequest) -> pytest.Item:
    """Return the test for which a fixture of any scope is set up; ``request.node`` is that of the fixture's scope."""
    item: pytest.Item = request._pyfuncitem
    return item


def level_of(request: pytest.FixtureRequest, definition: Any) -> int:
    """Return which of the fixtures of its name a definition is, 1 for the closest to the test."""
    definitions = list(definitions_for(item_of(request), definition.argname))
    return len(definitions) - next(i for i, other in enumerate(definitions) if other is definition)


def fixture_value(item: pytest.Item, name: str, level: int) -> Any:
    """Return the value of a fixture for a test that is being set up or run, by pytest's own ways.

    Args:
        item: The test. Fixtures of tests that have no functions (``item._request``) cannot be asked for.
        name: Name of the fixture.
        level: Which one of that name, 1 for the closest to the test.
    """
    request: Any = getattr(item, "_request", None)
    if not request:
        raise LookupError(f"a test of type {type(item).__qualname__!r} has no fixtures")
    if level == 1:
        return request.getfixturevalue(name)
    # As if the closer ones requested it; they are not set up for that, and do not find its value in their place.
    asking: Any = request
    definitions = definitions_for(item, name)
    for closer in range(1, level):
        definition = definitions[-closer]
        asking = SubRequest(asking, definition._scope, None, 0, definition, _ispytest=True)
    known = request._fixture_defs
    finished = known.pop(name, None)
    try:
        return asking.getfixturevalue(name)
    finally:
        known.pop(name, None)
        if finished is not None:
            known[name] = finished


def take_finalizers(definition: Any, first: int) -> list[Callable[[], object]]:
    """Take the finalizers of a fixture that were added after the ``first`` ones, to call them at another time."""
    taken: list[Callable[[], object]] = definition._finalizers[first:]
    del definition._finalizers[first:]
    return taken


def count_finalizers(definition: Any) -> int:
    """Return how many finalizers a fixture has."""
    return len(definition._finalizers)


def is_subtest(report: object) -> bool:
    """Tell whether a report is one of a part of a test; pytest has such since 9.0."""
    subtests: Any = sys.modules.get("_pytest.subtests")
    return subtests is not None and isinstance(report, subtests.SubtestReport)


def failed_subtests(config: pytest.Config, report: pytest.TestReport) -> int:
    """Return how many parts of a test have failed so far, by which pytest fails it when it tells its outcome."""
    subtests: Any = sys.modules.get("_pytest.subtests")
    counts: dict[Any, int] = config.stash.get(subtests.failed_subtests_key, {}) if subtests is not None else {}
    return int(counts.get(getattr(report, "id", report.nodeid), 0))


def set_failed_subtests(config: pytest.Config, report: pytest.TestReport, count: int) -> None:
    """Have pytest know so of a test whose reports come from elsewhere."""
    subtests: Any = sys.modules.get("_pytest.subtests")
    if subtests is not None:
        config.stash[subtests.failed_subtests_key][getattr(report, "id", report.nodeid)] = count


def take_back_subtests(session: pytest.Session, nodeid: str) -> None:
    """Have the parts of a test count for nothing, as pytest-rerunfailures does when it repeats the test."""
    reporter: Any = session.config.pluginmanager.getplugin("terminalreporter")
    if reporter is None:
        return  # then it does not, either
    for category in ("failed", "subtests passed"):
        reports = reporter.stats.pop(category, [])
        kept = [report for report in reports if not is_subtest(report) or report.nodeid != nodeid]
        if category == "failed":
            session.testsfailed = max(session.testsfailed - len(reports) + len(kept), 0)
        if kept:
            reporter.stats[category] = kept


def mend_subtest(report: pytest.TestReport, data: Mapping[str, Any]) -> None:
    """Have a restored report of a part of a test show its arguments as before; pytest 9 quotes their text again."""
    if is_subtest(report):
        object.__setattr__(report.context, "kwargs", data["_subtest.context"]["kwargs"])
