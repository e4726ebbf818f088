"""The plugin: hooks that each call one function. PYTEST_DONT_REWRITE."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from pytest_elastic import detection, hookspecs
from pytest_elastic.fixtures import (  # noqa: F401 (pytest finds fixtures in the plugin's module)
    _elastic_ports,
    elastic_launch,
    etcd_server,
    etcd_server_factory,
    free_port,
    free_port_factory,
    free_socket,
    free_socket_factory,
    local_rank,
    rank,
    world_size,
)
from pytest_elastic.options import add_options, read_options
from pytest_elastic.rank_fixtures import (  # noqa: F401
    device,
    elastic_barrier,
    elastic_gather,
    elastic_tmp_path,
    node_rank,
    process_group,
)
from pytest_elastic.roles import GIVEN

MARKER = (
    "elastic(nproc=, nnodes=, backend=, timeout=, ...): run the whole test on each of nnodes * nproc ranks, started "
    "by real torch elastic agents. Without arguments, and without a default nproc from --elastic-nproc or the ini "
    "file, the mark is left alone."
)


def pytest_addhooks(pluginmanager: pytest.PytestPluginManager) -> None:
    """Declare the hooks that others may implement."""
    pluginmanager.add_hookspecs(hookspecs)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Declare options and ini keys."""
    add_options(parser)


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> int | None:
    """Follow the first one of several sessions of a launcher; or leave at once if the record says that all was done."""
    code = detection.take_place(config)
    return code if code is not None else detection.recorded_exit_code(config)


def pytest_configure(config: pytest.Config) -> None:
    """Check the options, hold the run's state, and start the server if it was needed the last time."""
    config.addinivalue_line("markers", MARKER)
    if GIVEN not in config.stash:  # a configuration that no command made
        config.stash[GIVEN] = read_options(config)
    detection.use_record(config)
    detection.start_as_last_time(config)
    detection.use_spawn_option(config)
    detection.show_launches(config)


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Tell a worker of pytest-xdist whether somebody may see its progress."""
    detection.tell_worker(node)


def pytest_unconfigure(config: pytest.Config) -> None:
    """End the servers that the run's processes shared."""
    detection.end_shared(config)


def pytest_pycollect_makemodule(module_path: Path, parent: pytest.Collector) -> None:
    """Start the server as early as a file shows that it is going to be needed."""
    detection.look_ahead(module_path, parent.config)


@pytest.hookimpl(trylast=True)  # last in the id of the test
def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Make a test of each entry of a list in the mark."""
    detection.parametrize(metafunc)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Put tests that may share ranks next to each other, if that was asked for."""
    detection.group_items(config, items)


@pytest.hookimpl(trylast=True)
def pytest_collection_finish(session: pytest.Session) -> None:
    """Tell the server what to collect, or end it if nothing needs it; share what workers of xdist share."""
    detection.tell_server(session)
    detection.prepare_controller_fixtures(session)


@pytest.hookimpl(wrapper=True, trylast=True)  # within pytest-cov's, which saves and reports
def pytest_runtestloop(session: pytest.Session) -> Generator[None, object, object]:
    """Have coverage know what ranks executed."""
    with detection.with_coverage_of_ranks(session):
        return (yield)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> Generator[None, object, object]:
    """Have the ranks run a marked test: its three phases become those of a launch."""
    with detection.on_ranks(item, nextitem):
        return (yield)


@pytest.hookimpl(optionalhook=True, tryfirst=True)
def pytest_timeout_set_timer(item: pytest.Item, settings: Any) -> bool | None:
    """Make a limit of pytest-timeout's a deadline of the launch, where a test runs on ranks."""
    return detection.take_limit(item, settings)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> Generator[None, None, None]:
    """Have ranks that are kept between tests leave the scopes that pytest leaves."""
    __tracebackhide__ = True
    detection.leave_scopes(item, nextitem)
    yield
    detection.tell_of_kept(item, nextitem)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Put what the ranks reported in the place of what the controller saw."""
    report = yield
    detection.complete_report(item, report)
    return report


def pytest_exception_interact(node: pytest.Item | pytest.Collector, call: pytest.CallInfo[Any]) -> None:
    """End the session if the person has left the debugger of a rank by ``quit``."""
    if call.excinfo is not None:
        detection.after_failure(node, call.excinfo.value)


def pytest_enter_pdb(config: pytest.Config) -> None:
    """Stop the deadlines of launches while a person is in a debugger of this process."""
    detection.stand_still(config, True)


def pytest_leave_pdb(config: pytest.Config) -> None:
    """Have the deadlines of launches go on."""
    detection.stand_still(config, False)


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """End the ranks that are kept; take note that reports are told in the summary from here on."""
    detection.end_kept(session)
    detection.tell_notes(session.config)
    session.config.stash[detection.SUMMARY] = True


@pytest.hookimpl(wrapper=True)
def pytest_report_teststatus(report: pytest.TestReport, config: pytest.Config) -> Generator[None, Any, Any]:
    """Say on how many ranks a test ran, where pytest says while tests run how each went (``-v``)."""
    return detection.with_ranks(report, config, (yield))
