"""Which tests are elastic, and what follows from it in each hook. PYTEST_DONT_REWRITE."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

from pytest_elastic.controller.holding import RUN, run_of
from pytest_elastic.controller_fixtures import named_in_ini
from pytest_elastic.fixtures import is_xdist_worker
from pytest_elastic.options import may_be_member, read_options
from pytest_elastic.roles import GIVEN, role
from pytest_elastic.warning import ElasticWarning

if TYPE_CHECKING:
    from pytest_elastic.controller.item import ElasticItem

_MEMORY: Final = "elastic/needed"
"""What pytest's cache holds: directory and arguments of sessions that needed ranks, the last first."""
_REMEMBERED: Final = 50
_INSIDE: Final = ("PYTEST_ELASTIC_MEMBER", "PYTEST_ELASTIC_LAUNCH")
"""Variables of what a controller of a launcher's, or a rank of ours, has started: torchelastic's are not about it."""
_HINTS: Final = (b"elastic_launch", b"mark.elastic(")
MARK: Final = "elastic"
SUMMARY: Final[pytest.StashKey[bool]] = pytest.StashKey()
ELASTIC: Final[pytest.StashKey[ElasticItem]] = pytest.StashKey()


def arguments_of(item: pytest.Item) -> dict[str, Any] | None:
    """Return the merged arguments of a test's marks, or ``None`` if the test is none of ours.

    The closest mark wins, argument by argument. Positional arguments are under a key of their own.
    """
    if item.get_closest_marker(MARK) is None:
        return None
    # Imported where a test has the mark: other sessions do not pay for it.
    from pytest_elastic.parametrizing import closest_first, merge_marks

    arguments = merge_marks(closest_first(item))
    if not arguments and "nproc" not in item.config.stash[GIVEN]:
        return None
    return arguments


def parametrize(metafunc: pytest.Metafunc) -> None:
    """Make a test of each entry of a list in a mark."""
    if metafunc.definition.get_closest_marker(MARK) is not None:
        from pytest_elastic.parametrizing import parametrize_lists

        parametrize_lists(metafunc)


def take_place(config: pytest.Config) -> int | None:
    """Make this session one of several, where a launcher has started one on each node, or for each rank.

    Returns:
        The exit code of one that follows another, when that has ended; else ``None``.
    """
    if role(config) != "controller" or is_xdist_worker(config) or _only_tells(config):
        return None
    given = config.stash[GIVEN] = read_options(config)
    if not may_be_member(os.environ, given):
        return None
    from pytest_elastic.cluster.membership import find_membership

    membership = find_membership(os.environ, given)
    if membership is None:
        if "TORCHELASTIC_RUN_ID" not in os.environ or only_looks(config) or any(name in os.environ for name in _INSIDE):
            return None
        from pytest_elastic.cluster.plugins import go_on_alone

        return go_on_alone(config, given)
    if only_looks(config):
        return int(pytest.ExitCode.OK) if membership.rank else None
    if membership.in_place:
        from pytest_elastic.cluster.looking import may_have_elastic_tests

        if not may_have_elastic_tests(config, given):
            return None
    from pytest_elastic.cluster.plugins import join

    return join(config, membership, given)


def look_ahead(path: Path, config: pytest.Config) -> None:
    """Start the server if a file that is about to be imported shows signs of elastic tests.

    A wrong guess costs a process that is ended, silently, when collection is over.
    """
    if role(config) != "controller" or RUN in config.stash or only_looks(config):
        return
    try:
        source = path.read_bytes()
    except OSError:
        return  # pytest says so when it imports the file.
    if any(hint in source for hint in _HINTS):
        run_of(config).start_early()


def recorded_exit_code(config: pytest.Config) -> int | None:
    """Open the record of the session, where one is asked for; return its exit code if the session was complete."""
    if not (config.getoption("elastic_record", None) is not None or config.getini("elastic_record")):
        return None
    if only_looks(config) or _only_tells(config):
        return None
    from pytest_elastic.cluster.record_option import open_record

    return open_record(config)


def use_record(config: pytest.Config) -> None:
    """Run only the tests that the record of the session does not have."""
    if "pytest_elastic.cluster.record_option" in sys.modules and role(config) == "controller":
        from pytest_elastic.cluster.record_option import use_record

        use_record(config)


def use_spawn_option(config: pytest.Config) -> None:
    """Have processes that tests spawn be forked, where ``--elastic-spawn`` says so."""
    spawn = config.stash[GIVEN].get("spawn")
    if spawn is not None and spawn.value == "forkserver" and role(config) == "controller" and not only_looks(config):
        from pytest_elastic.controller.spawning import Spawning

        config.pluginmanager.register(Spawning(config), "elastic-spawn")


def show_launches(config: pytest.Config, *, has_ranks: bool = False) -> None:
    """Gather what the ranks of tests do, where somebody wants to see it.

    Args:
        config: pytest's configuration.
        has_ranks: It is known that tests use ranks. Before that only an option makes this session do anything.
    """
    if role(config) != "controller" or only_looks(config):
        return
    given = config.stash[GIVEN]
    asked = any(name in given for name in ("report", "serve", "trace", "durations"))
    # The main process of pytest-xdist collects nothing: it never knows before the reports come.
    distributes = bool(getattr(config.option, "tx", None)) and not is_xdist_worker(config)
    implied = any(os.environ.get(name) for name in ("GITHUB_ACTIONS", "GITHUB_STEP_SUMMARY"))
    implied = implied or bool(config.getoption("htmlpath", None))
    if asked or (implied and (has_ranks or distributes)):
        from pytest_elastic.controller import showing

        showing.begin(config, given, os.environ)


def start_as_last_time(config: pytest.Config) -> None:
    """Start the server before anything is collected if a session with the same arguments needed it the last time."""
    if role(config) == "controller" and runs_tests(config) and _memory_key(config) in _memory(config):
        run_of(config).start_early()


def runs_tests(config: pytest.Config) -> bool:
    """Tell whether this process is going to run tests: not only to show something, nor to have workers run them."""
    only_distributes = getattr(config.option, "tx", None) and not is_xdist_worker(config)
    return not (only_looks(config) or only_distributes or config.option.help)


def _remember(config: pytest.Config, needed: bool) -> None:
    """Take note in pytest's cache of whether this session needs ranks."""
    key, known = _memory_key(config), _memory(config)
    if needed is (key in known) or getattr(config, "workerinput", {}).get("workerid", "gw0") != "gw0":
        return
    config.cache.set(_MEMORY, ([key] if needed else []) + [other for other in known if other != key][:_REMEMBERED])


def _memory(config: pytest.Config) -> list[str]:
    cache = getattr(config, "cache", None)  # -p no:cacheprovider
    known = cache.get(_MEMORY, []) if cache is not None else []
    return [entry for entry in known if isinstance(entry, str)] if isinstance(known, list) else []


def _memory_key(config: pytest.Config) -> str:
    given = config.invocation_params
    return "\n".join([str(given.dir), *map(str, given.args)])


def _only_tells(config: pytest.Config) -> bool:
    """Tell whether pytest answers a question, and has no session."""
    return any(config.getoption(name, False) for name in ("help", "version", "markers", "cacheshow"))


def only_looks(config: pytest.Config) -> bool:
    """Tell whether the session runs no test."""
    names = ("collectonly", "setupplan", "showfixtures", "show_fixtures_per_test")
    return any(config.getoption(name, False) for name in names)


def group_items(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Run the tests that may share ranks one after the other (``--elastic-group``)."""
    given = config.stash[GIVEN]
    if role(config) == "controller" and "group" in given and given["group"].value:
        from pytest_elastic.controller.kept import put_together

        put_together(items, given)


def tell_server(session: pytest.Session) -> None:
    """Tell the server which files to collect, now that it is known which tests run."""
    config = session.config
    if role(config) != "controller" or only_looks(config):
        return
    ours = [
        item
        for item in session.items
        if arguments_of(item) is not None or "elastic_launch" in getattr(item, "fixturenames", ())
    ]
    if getattr(config, "cache", None) is not None:
        _remember(config, bool(ours))
    if not ours and RUN not in config.stash:
        return
    files = tuple(dict.fromkeys(str(item.path) for item in ours))
    modules = {}
    for item in session.items:
        module = getattr(item, "module", None)
        file = getattr(module, "__file__", None)
        if module is not None and file is not None:
            modules[module.__name__] = file
    run = run_of(config)
    if files:
        run.start_early()
        show_launches(config, has_ranks=True)
    run.collected(files, modules)
    if ours and not is_xdist_worker(config):  # a worker has nobody to tell: there each test does
        run.refuse_unknown_words()


def prepare_controller_fixtures(session: pytest.Session) -> None:
    """Make ready the fixtures that are set up once for all ranks, where a session has such."""
    if is_xdist_worker(session.config) or named_in_ini(session.config):
        from pytest_elastic.controller import moving

        moving.prepare(session)


def leave_scopes(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """Have ranks that are kept between tests tear down what pytest is about to tear down in its own process.

    Before pytest does so, since fixtures of ranks may use some of the controller's.
    """
    __tracebackhide__ = True
    if RUN in item.config.stash and role(item.config) == "controller":
        run_of(item.config).kept.leave(nextitem)


def tell_of_kept(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """Fail the teardown of a test if ranks that are kept were lost, or have not torn down or ended well."""
    __tracebackhide__ = True
    if RUN in item.config.stash and role(item.config) == "controller":
        run_of(item.config).tell_of_kept(item, nextitem)


def end_kept(session: pytest.Session) -> None:
    """End the ranks that are kept between tests, where a session stops before the last of their tests."""
    if role(session.config) == "controller" and RUN in session.config.stash:
        run_of(session.config).end_kept(session)


def tell_notes(config: pytest.Config) -> None:
    """Have the summary of warnings tell which directories for locks could not be used."""
    directories = sys.modules.get("pytest_elastic.services.private_directories")
    for note in directories.take_notes() if directories is not None else ():
        try:
            config.issue_config_time_warning(ElasticWarning(note), stacklevel=2)
        except ElasticWarning as warning:
            # An error, if it were up to the filters; but no test is to blame.
            message = warnings.WarningMessage(warning, ElasticWarning, __file__, 0)
            config.hook.pytest_warning_recorded.call_historic(
                kwargs={"warning_message": message, "nodeid": "", "when": "config", "location": None}
            )


def tell_worker(node: Any) -> None:
    """Tell a worker of pytest-xdist whether the progress of its launches is shown."""
    from pytest_elastic.controller.workers_progress import tell_worker as tell

    tell(node)


def end_shared(config: pytest.Config) -> None:
    """End the run's etcd in the main process of pytest-xdist, whose workers only borrow it."""
    if role(config) != "controller" or hasattr(config, "workerinput") or not getattr(config.option, "tx", None):
        return
    factory: Any = getattr(config, "_tmp_path_factory", None)
    basetemp = getattr(factory, "_basetemp", None)
    if basetemp is not None and (basetemp / "elastic").is_dir():
        from pytest_elastic.services.etcd import stop_shared

        stop_shared(basetemp / "elastic")


@contextmanager
def with_coverage_of_ranks(session: pytest.Session) -> Iterator[None]:
    """Add what ranks have executed to what this process has, once all tests have run."""
    config = session.config
    if RUN in config.stash:
        run_of(config).coverage.begin()
    error: BaseException | None = None
    try:
        yield
    except BaseException as caught:
        error = caught
        raise
    finally:
        if RUN in config.stash:
            run_of(config).merge_coverage(error)


@contextmanager
def on_ranks(item: pytest.Item, nextitem: pytest.Item | None) -> Iterator[None]:
    """Replace the three phases of an elastic test by those of a launch, while pytest runs its protocol."""
    launches = role(item.config) == "controller" and not only_looks(item.config)
    arguments = arguments_of(item) if launches else None
    if arguments is None:
        yield
        return
    from pytest_elastic.controller.examples import checked_in_ranks
    from pytest_elastic.controller.item import ElasticItem
    from pytest_elastic.controller.own_debugger import OwnDebugger
    from pytest_elastic.controller.snapshots import spare_snapshots
    from pytest_elastic.controller.time_limit import LIMIT, TimeLimit

    own = OwnDebugger(item.config)
    limit = item.stash[LIMIT] = TimeLimit(item)

    def setup() -> None:
        __tracebackhide__ = True
        # pytest-rerunfailures comes here once more for each attempt, which has ranks of its own.
        close_launch(item)
        limit.begin_attempt()
        run_of(item.config).warn_once(item)
        packing = run_of(item.config).packing
        elastic = (packing.take(item) if packing is not None else None) or ElasticItem(item, arguments, nextitem)
        item.stash[ELASTIC] = elastic
        with own.apart_from(elastic):
            elastic.setup()

    def runtest() -> None:
        __tracebackhide__ = True
        with own.apart_from(item.stash[ELASTIC]):
            item.stash[ELASTIC].runtest()

    def teardown() -> None:
        __tracebackhide__ = True
        if ELASTIC in item.stash:
            with own.apart_from(item.stash[ELASTIC]):
                item.stash[ELASTIC].teardown()

    replaced = {"setup": setup, "runtest": runtest, "teardown": teardown}
    vars(item).update(replaced)
    try:
        with checked_in_ranks(item):
            yield
    finally:
        for name in replaced:
            vars(item).pop(name, None)
        own.put_back()
        close_launch(item)
        spare_snapshots(item)
        del item.stash[LIMIT]


def stand_still(config: pytest.Config, still: bool) -> None:
    """Have deadlines of launches stand still while a person is in a debugger of this process, or go on."""
    if RUN in config.stash and role(config) == "controller":
        run_of(config).stand_still(still)


def take_limit(item: pytest.Item, settings: Any) -> bool | None:
    """Take a limit that pytest-timeout sets to a test on ranks; ``None`` leaves it to its own timer."""
    if not isinstance(item, pytest.Item) or "pytest_elastic.controller.time_limit" not in sys.modules:
        return None
    from pytest_elastic.controller.time_limit import LIMIT

    limit = item.stash.get(LIMIT, None)
    return limit.set_by(settings) if limit is not None else None


def close_launch(item: pytest.Item) -> None:
    """End what is left of the launch behind a test."""
    elastic = item.stash.get(ELASTIC, None)
    if elastic is not None:
        elastic.close()
        del item.stash[ELASTIC]


def after_failure(node: pytest.Item | pytest.Collector, error: BaseException) -> None:
    """Take note that pytest has told a failure of an elastic test, into which a person might want to look."""
    elastic = node.stash.get(ELASTIC, None)
    if elastic is not None and isinstance(node, pytest.Item):
        from pytest_elastic.controller.own_debugger import after_failure as look_into

        look_into(elastic, node, error)


def complete_report(item: pytest.Item, report: pytest.TestReport) -> None:
    """Finish a report of the controller's: what ranks said, and what etcd wrote."""
    elastic = item.stash.get(ELASTIC, None)
    if elastic is not None:
        elastic.complete(report)
    # Imported only where it was used: a session without etcd or launches does not pay for them.
    if report.failed and "pytest_elastic.controller.launcher" in sys.modules:
        from pytest_elastic.controller.launcher import add_output

        add_output(item, report)
    if "pytest_elastic.controller.showing" in sys.modules:
        from pytest_elastic.controller.showing import put

        put(item, report)
    if report.failed and "pytest_elastic.services.etcd" in sys.modules:
        from pytest_elastic.services.etcd import add_etcd_section

        add_etcd_section(item, report)


def with_ranks(report: pytest.TestReport, config: pytest.Config, status: Any) -> Any:
    """Add the number of ranks to the word by which pytest tells the outcome of an elastic test.

    Where it failed, what became of each of them. Not in the short summary, which names the rank, and which other
    tools read.
    """
    ranks = getattr(report, "elastic_ranks", None)
    if ranks is None or not status or SUMMARY in config.stash:
        return status
    category, letter, word = status
    text, markup = word if isinstance(word, tuple) else (word, None)
    if text:
        told = getattr(report, "elastic_rank_map", "") or f"{ranks} rank{'' if ranks == 1 else 's'}"
        text = f"{text} [{told}]"
    return category, letter, text if markup is None else (text, markup)
