"""What one pytest session holds: the preloaded server, the reaper, and the launches that use them."""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from pytest_elastic import kernel
from pytest_elastic.accelerators import Survey
from pytest_elastic.controller.copying import plugins_left_behind, pytest_variables, session_order
from pytest_elastic.controller.devices import Devices, Placement, ask_torch, check_survey
from pytest_elastic.controller.environment import needs_fresh_interpreter
from pytest_elastic.controller.failure_log import FILE_NAME
from pytest_elastic.controller.kept import KeptGroups, Sharing
from pytest_elastic.controller.launch import Launch
from pytest_elastic.controller.live import terminal_writer
from pytest_elastic.controller.measuring import RankCoverage, current_coverage, warn_of
from pytest_elastic.controller.plan import LaunchPlan, TestPlan
from pytest_elastic.controller.planning import Request, make_plan
from pytest_elastic.controller.progress import Progress, display_for
from pytest_elastic.controller.reaping import Reaper
from pytest_elastic.controller.server import PreloadedServer, make_run_directory, remove_run_directory
from pytest_elastic.controller.site import HERE
from pytest_elastic.controller.steady_thread import SteadyThread
from pytest_elastic.controller.terminal import Terminal
from pytest_elastic.controller.time_limit import Pause
from pytest_elastic.controller.turns import Turn, Turns
from pytest_elastic.controller.workers_progress import workers_file
from pytest_elastic.errors import ElasticError
from pytest_elastic.messages import PreloadOrder, SessionOrder
from pytest_elastic.one_line import one_line
from pytest_elastic.options import SETTINGS, Given
from pytest_elastic.scarcity import Scarcity
from pytest_elastic.services.slots import Waiting
from pytest_elastic.spec import LaunchSpec
from pytest_elastic.warning import ElasticWarning

if TYPE_CHECKING:
    from pytest_elastic.cluster.first import FirstController
    from pytest_elastic.cluster.packing import Packing


class ElasticRun:
    """The processes behind the elastic tests of one pytest session. Nothing is started before it is needed.

    Attributes:
        given: What options and ini keys set.
        modules: Name and file of the test modules that pytest has imported.
        kept: Ranks that are kept for more than one test.
        progress: What a person sees of launches that take long.
        coverage: What ranks have executed, where it is measured.
        cluster: The other controllers, where this is the first of several.
        packing: Launches that are started ahead of their turn, if that is asked for.
    """

    def __init__(self, config: pytest.Config, given: dict[str, Given]) -> None:
        self.given: Final = given
        self._config = config
        self._owner = kernel.own_pid()
        # execnet gives a worker five seconds to notice.
        self._main = os.getppid() if hasattr(config, "workerinput") else None
        self._directory: Path | None = None
        self._state_key = os.urandom(32)
        self._given_order: PreloadOrder | None = None
        self.cluster: FirstController | None = None
        self.packing: Packing | None = None
        self._reaper: Reaper | None = None
        self._server: PreloadedServer | None = None
        self._torch_only: PreloadedServer | None = None
        self._environ_at_start: dict[str, str] = {}
        self._files: tuple[str, ...] = ()
        self._numbers = itertools.count()
        self._servers = threading.RLock()
        self._starter = SteadyThread()
        self._inline_turn = threading.Lock()
        self._unsafe: str | None = None
        self._untold: str | None = None
        self.progress: Final = Progress(lambda: display_for(config, workers_file(config)))
        self.kept: Final = KeptGroups(self._end, self._resume)
        self._turns = Turns(
            config,
            cpu_slots=given["cpu_slots"].value if "cpu_slots" in given else None,
            give_back=self.kept.give_back_devices,
        )
        self.coverage: Final = RankCoverage(config)
        self._temporary = itertools.count()
        self._ending: threading.Thread | None = None
        self._occurrences: dict[pytest.Item, int] | None = None
        self._orders: dict[tuple[str, ...], SessionOrder] = {}
        self._launches: set[Launch] = set()
        self._devices = Devices(self._find_devices)
        self._terminal = Terminal(config, given["pdb_rank"].value if "pdb_rank" in given else None)
        self.modules: dict[str, str] = {}
        self._pytest_variables = pytest_variables()
        self._left_behind = plugins_left_behind(config)

    def setting(self, name: str) -> object:
        """Return a setting of the run: option, ini key or default."""
        return self.given[name].value if name in self.given else SETTINGS[name].default

    # --- the server ---

    def start_early(self) -> None:
        """Start the server while tests are still being collected: both import torch at the same time."""
        if self._server is None and threading.current_thread() is threading.main_thread():
            # Where that cannot be, the first launch tries again, and its test says why.
            with contextlib.suppress(ElasticError), Scarcity("the preloaded server"):
                self._server = self._start_server()

    def collected(self, files: tuple[str, ...], modules: dict[str, str]) -> None:
        """Take note of which files hold tests that use ranks; without one, end a server that was started early."""
        self._files = files
        self.modules = modules
        if self._server is None:
            return
        if files:
            with contextlib.suppress(ElasticError), Scarcity("the preloaded server"):
                self._server.preload(self.preload_order())
        else:
            self.close()

    def refuse_unknown_words(self) -> None:
        """Refuse words in options and ini keys that torch does not know; all tests would fail with them.

        Raises:
            pytest.UsageError: It says what is allowed.
        """
        for name in ("nproc", "device"):
            given = self.given.get(name)
            if given is not None and isinstance(given.value, str):
                allowed = self._devices.allowed_words(name, given.value, os.environ)
                if allowed is not None:
                    raise pytest.UsageError(f"{given.source}: got {one_line(given.value)}, expected {allowed}")

    def follow(self, order: PreloadOrder) -> None:
        """Have the server of this session collect what that of another machine does."""
        self._given_order = order
        self.start_early()
        assert self._server is not None
        self._server.preload(order)

    def preload_order(self) -> PreloadOrder:
        """Return what the server is told."""
        if self._given_order is not None:
            return self._given_order
        # Each of the ranks would import it otherwise.
        needed = ("pytest_elastic.worker.traced",) if current_coverage() is not None else ()
        return PreloadOrder(session=self.session_order(self._files), modules=needed, tolerated=frozenset(needed))

    def session_order(self, files: tuple[str, ...] | None) -> SessionOrder:
        """Return how to make this pytest session once more, with some files, or all that the arguments name."""
        # The ids of files outside of rootdir depend on what the arguments name: there all of that is collected.
        inside = files is not None and all(Path(file).is_relative_to(self._config.rootpath) for file in files)
        return session_order(self._config, files if inside else None, self._pytest_variables)

    def occurrence_of(self, item: pytest.Item) -> int:
        """Return which one a test is, where several of the session share its id."""
        if self._occurrences is None:
            seen: dict[str, int] = {}
            self._occurrences = {}
            for other in item.session.items:
                self._occurrences[other] = seen.get(other.nodeid, 0)
                seen[other.nodeid] = self._occurrences[other] + 1
        return self._occurrences.get(item, 0)

    def rank_session(self, item: pytest.Item, *, everything: bool) -> SessionOrder:
        """Return how the ranks of a test make their pytest session, where they find none.

        Args:
            item: The test.
            everything: They may run tests of other files too.
        """
        files = self._files if everything and self._files else (str(item.path),)
        if files not in self._orders:
            self._orders[files] = self.session_order(files)
        return self._orders[files]

    def tell_of_kept(self, item: pytest.Item, nextitem: pytest.Item | None) -> None:
        """End ranks that their test has left unfit; fail if some were lost, or have not torn down or ended well."""
        # The one frame that is not hidden: pytest adds a line to a failure that has none.
        self.kept.leave(nextitem)
        lines, leftovers = list(self.kept.untold), list(self.kept.leftovers)
        self.kept.untold.clear()
        self.kept.leftovers.clear()
        for left in leftovers:
            item.warn(ElasticWarning(left))
        if lines:
            pytest.fail("\n".join(lines), pytrace=False)

    def end_kept(self, session: pytest.Session) -> None:
        """End the ranks that are kept where a session is broken off. What goes wrong fails it: no test can tell it.

        So are those of tests that were started ahead of their turn, and do not come to it.
        """
        if self.packing is not None:
            self.packing.close()
        grace = self.setting("grace")
        assert isinstance(grace, float)
        # Somebody who presses Ctrl-C does not wait for a rank that waits for another.
        self.kept.end_all(grace if session.exitstatus == pytest.ExitCode.INTERRUPTED else None)
        for line in self.kept.untold:
            session.exitstatus = max(int(session.exitstatus), 1)
            terminal_writer(self._config)(f"\nERROR {line}\n")
        self.kept.untold.clear()

    def merge_coverage(self, error: BaseException | None) -> None:
        """Add what ranks have executed to what this process has: the last moment before pytest-cov reports.

        Args:
            error: Why not all tests have run, or ``None``.
        """
        # Where pytest stops early, pytest-cov neither saves nor reports: what is added would be left in a file.
        if not self.coverage.ordered or (error is not None and self._config.pluginmanager.hasplugin("_cov")):
            return
        if error is None or isinstance(error, pytest.Session.Failed):
            self.kept.end_all(None)  # their teardown counts; somebody who presses Ctrl-C does not wait for it
        self._join_ending()
        warn_of(self.coverage.merge(), self._config)

    def warn_once(self, item: pytest.Item) -> None:
        """Say on the first test on ranks what the ranks' session cannot have."""
        left_behind, self._left_behind = self._left_behind, []
        if left_behind:
            item.warn(
                ElasticWarning(
                    f"plugins given to pytest.main as objects are not in the server and ranks: {', '.join(left_behind)}"
                    " (name an importable module instead)"
                )
            )

    def _start_server(self, *, torch_only: bool = False) -> PreloadedServer:
        if self._directory is None:
            directory = make_run_directory()
            try:
                self._reaper = Reaper(directory, self._main)
            except BaseException:
                remove_run_directory(directory)
                raise
            self._directory = directory
            self._environ_at_start = dict(os.environ)
        make = partial(
            PreloadedServer,
            invocation_dir=self._config.invocation_params.dir,
            directory=self._directory,
            torch_only=torch_only,
        )
        return self._starter.call(make)

    def server_for(self, *, torch_only: bool) -> PreloadedServer:
        """Return a server that takes requests, and that knows of one more launch; others may ask at the same time.

        Args:
            torch_only: One that has collected nothing.
        """
        with self._servers:
            self._server = server = self._living(self._server)
            server.preload(self.preload_order())
            if torch_only:
                self._torch_only = server = self._living(self._torch_only, torch_only=True)
            server.enter()
            return server

    def _living(self, server: PreloadedServer | None, *, torch_only: bool = False) -> PreloadedServer:
        if server is not None and server.alive():
            return server
        if server is not None:
            server.retire()
        return self._start_server(torch_only=torch_only)

    @property
    def files(self) -> frozenset[str]:
        """The files with tests that run on ranks."""
        return frozenset(self._files)

    # --- launches ---

    def plan(
        self,
        spec: LaunchSpec,
        request: Request,
        item: pytest.Item,
        *,
        name: str | None = None,
        ahead: bool = False,
    ) -> LaunchPlan:
        """Make the plan of a launch for a test, and wait until it is its turn.

        Args:
            spec: What it is to be.
            request: What it is to do.
            item: The test.
            name: What its logs are kept under; default the test's node id.
            ahead: Its turn has not come: it is started where nodes are free, or not at all.

        Raises:
            NoFreeNodesError: No nodes are free for one that is ahead of its turn.
        """
        __tracebackhide__ = True
        if kernel.own_pid() != self._owner:
            raise ElasticError(
                "elastic_launch was called in a process that the test forked; launch from the pytest process itself"
            )
        nodeid = name if name is not None else item.nodeid
        launch = f"{self.directory.name}-{next(self._numbers)}"
        scratch = self.directory / launch
        logs = self.setting("log_dir")
        directory, failure_log = scratch / "logs", None
        if logs is not None:
            kept = self._config.invocation_params.dir / str(logs)
            directory, failure_log = kept / safe_name(nodeid) / launch, kept / FILE_NAME
        grace = self.setting("grace")
        assert isinstance(grace, float)

        def choose(kind: str, names: tuple[str, ...], ranks: int) -> Sequence[str] | None:
            chosen: Sequence[str] | None = item.ihook.pytest_elastic_map_devices(
                item=item, kind=kind, devices=names, world_size=ranks
            )
            return chosen

        site = HERE
        if self.cluster is not None and request.session is not None:
            site = self.cluster.site_for(launch, spec, request, self._devices, ahead=ahead)
        plan, placement = make_plan(
            spec,
            request,
            site=site,
            devices=self._devices,
            choose=choose,
            run=self.directory.name,
            launch=launch,
            scratch=scratch,
            directory=directory,
            grace=grace,
        )
        if plan.needs_safe_server and needs_fresh_interpreter(plan.environ, self._environ_at_start) is not None:
            plan.config["start_method"] = "spawn"
        coverage = self.coverage.order(self.directory, launch)
        if site.is_here:
            turn = self._take_turn_in_queue(item, placement, spec.timeout)
        else:
            turn = self._turns.elsewhere(placement)
        return replace(
            plan,
            nodeid=nodeid,
            failure_log=failure_log,
            coverage=coverage,
            state_key=None if request.foreign else site.state_key or self._state_key,
            devices=turn.devices,
            turn=turn,
            watches_memory="trace" in self.given,
            keeps_collectives="debug" in self.given and self.given["debug"].value is not None,
        )

    def _take_turn_in_queue(self, item: pytest.Item, placement: Placement, timeout: float | None) -> Turn:
        pause = Pause(item)

        def waits(waiting: Waiting) -> None:
            pause.begin()
            self.progress.waits(item.name, waiting)

        try:
            return self._turns.take(placement, timeout, waits)
        finally:
            self.progress.wipe()
            pause.end()

    def _find_devices(self, environ: Mapping[str, str]) -> Survey:
        found = self._config.hook.pytest_elastic_find_devices(config=self._config, environ=environ)
        return check_survey(found) if found is not None else ask_torch(environ)

    def make_temporary_directory(self) -> Path:
        """Make a directory in which the ranks of a test have their temporary directories; kept as pytest's own are."""
        factory = getattr(self._config, "_tmp_path_factory", None)
        if factory is None:  # -p no:tmpdir
            return Path(tempfile.mkdtemp(prefix="ranks-", dir=self.directory))
        base = Path(factory.getbasetemp())
        while True:  # pytest's own way to number them looks at all that are there
            directory = base / f"ranks{next(self._temporary)}"
            try:
                directory.mkdir(mode=0o700)
            except FileExistsError:
                continue
            return directory

    @property
    def directory(self) -> Path:
        """The run's private directory; the server is started with it."""
        with self._servers:
            if self._directory is None:
                with Scarcity("the preloaded server could not start"):
                    self._server = self._start_server()
            assert self._directory is not None
            return self._directory

    def begin_test(
        self,
        item: pytest.Item,
        spec: LaunchSpec,
        request: Request,
        test: TestPlan,
        sharing: Sharing | None,
        *,
        ahead: bool = False,
    ) -> Launch:
        """Have ranks run a test: fresh ones, or where it may share them such as wait for it."""
        __tracebackhide__ = True
        if sharing is None:
            return self.launch(self.plan(spec, request, item, ahead=ahead), test)

        def start() -> Launch:
            name = f"kept-{test.nodeid.partition('::')[0]}" if spec.isolation == "module" else "kept"
            return self.launch(self.plan(spec, replace(request, kept=True), item, name=name), test)

        return self.kept.begin(item, sharing, spec.isolation, test, start)

    def end_test(self, launch: Launch, temporary: Path, *, beside: bool) -> None:
        """Take note that a test is done with its launch.

        Args:
            launch: The launch.
            temporary: Directory in which its ranks had their temporary ones; it is removed if it is empty.
            beside: Another test on ranks follows: what is left of the launch may end beside that one's beginning. Else
                nothing is left of it when this returns.
        """
        with contextlib.suppress(OSError):
            temporary.rmdir()
        _turn_of(launch.plan).rest()
        if launch.plan.kept:
            self.kept.release(launch)
            return
        self._join_ending()
        if beside and launch.settled:
            self._ending = threading.Thread(target=self._end, args=(launch,), name="elastic-ending", daemon=True)
            self._ending.start()
        else:
            self._end(launch)

    def _resume(self, launch: Launch) -> bool:
        name = launch.plan.name
        try:
            return self._turns.resume(_turn_of(launch.plan), lambda waiting: self.progress.waits(name, waiting))
        finally:
            self.progress.wipe()

    def _end(self, launch: Launch) -> None:
        launch.close()
        remove_run_directory(launch.plan.scratch)

    def _join_ending(self) -> None:
        if self._ending is not None:
            self._ending.join()
            self._ending = None

    def launch(self, plan: LaunchPlan, test: TestPlan | None = None, *, held_open: bool = False) -> Launch:
        """Start a launch. Where ranks cannot be forked from the server that collected the tests, another one serves."""
        __tracebackhide__ = True
        try:
            with Scarcity("the launch could not start"):
                launch = self._start_launch(plan, test, held_open)
                if plan.needs_safe_server and self._unsafe is None:
                    launch.wait_until(lambda: launch.admitted)
                    if launch.unsafe is not None:
                        launch.close()
                        self._unsafe = self._untold = launch.unsafe
                        launch = self._start_launch(plan, test, held_open)
        except BaseException:
            _turn_of(plan).end()
            raise
        return launch

    def unsafe_once(self) -> str | None:
        """Return, once, why ranks are not forked from the server that collected the tests, and what that means."""
        reason, self._untold = self._untold, None
        if reason is None:
            return None
        return (
            f"{reason}, and a process with threads or a device in use cannot be forked safely: ranks of this session "
            "are forked before that and collect their test anew, which takes longer"
        )

    def _start_launch(self, plan: LaunchPlan, test: TestPlan | None, held_open: bool) -> Launch:
        __tracebackhide__ = True
        with ExitStack() as over:
            if plan.inline:
                over.callback(self._take_turn(plan))
            server = self.server_for(torch_only=self._unsafe is not None and plan.needs_safe_server)
            over.callback(server.leave)
            launch = Launch(
                plan,
                server,
                write=terminal_writer(self._config),
                progress=self.progress,
                stream=self.streams,
                terminal=self._terminal,
                abandoned=self._is_abandoned,
            )
            # One that finds its server unfit is started once more, from another.
            over.callback(lambda: None if launch.unsafe is not None else _turn_of(plan).end())
            over.callback(self._launches.discard, launch)
            over.callback(self._free, plan)
            self._launches.add(launch)
            launch.start(over.pop_all().close, test=test, held_open=held_open)
        return launch

    def _free(self, plan: LaunchPlan) -> None:
        if self.cluster is not None:
            self.cluster.free(plan.site)

    def stand_still(self, still: bool) -> None:
        """Have the clocks of all launches stand still while a person is in a debugger of this process, or go on."""
        if kernel.own_pid() == self._owner:
            for launch in list(self._launches):
                launch.stand_still(still)

    def _take_turn(self, plan: LaunchPlan) -> Callable[[], object]:
        """Wait until no other inline agent runs: each changes this process. Return what ends the turn."""
        __tracebackhide__ = True
        timeout = -1 if plan.timeout is None else min(plan.timeout, threading.TIMEOUT_MAX)
        if not self._inline_turn.acquire(timeout=timeout):
            raise ElasticError(
                f'elastic_launch(agent="inline"): another one has run for {plan.timeout:g} s; one inline agent runs at '
                "a time, so give this one a longer timeout or launch it later"
            )
        return self._inline_turn.release

    def _is_abandoned(self) -> bool:
        """Tell whether this is a worker of pytest-xdist whose main process has ended."""
        return self._main is not None and os.getppid() != self._main

    @property
    def streams(self) -> bool:
        """Output of ranks goes to the terminal while they run, as that of tests does (``-s``)."""
        return bool(self._config.getoption("capture", None) == "no")

    def close(self) -> None:
        """End every process of the run and remove its directory."""
        if kernel.own_pid() != self._owner:
            return  # a fork of pytest: nothing of this is its own
        self.kept.close()
        self._join_ending()
        servers = [server for server in (self._server, self._torch_only) if server is not None]
        self._server = self._torch_only = None
        for server in servers:
            server.kill()
        # The end of a large process takes a while: the rest is done beside it.
        if self._reaper is not None:
            self._reaper.dismiss()
            self._reaper = None
        for server in servers:
            server.stop()
        self._starter.end()
        if self._directory is not None:
            remove_run_directory(self._directory)
            self._directory = None


def _turn_of(plan: LaunchPlan) -> Turn:
    assert plan.turn is not None
    return plan.turn


def safe_name(nodeid: str) -> str:
    """Make a directory name of a node id."""
    return re.sub(r"[^\w.=\[\]-]+", "-", nodeid)[-120:].strip("-") or "launch"
