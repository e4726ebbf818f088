"""``elastic_launch``: what the fixture of that name gives to a test."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, Literal

import pytest

from pytest_elastic import kernel
from pytest_elastic.controller.awaiting import refuse_no_bool
from pytest_elastic.controller.configuring import configured, tell_finished
from pytest_elastic.controller.devices import TooFewDevicesError
from pytest_elastic.controller.entrypoint import make_entry_point
from pytest_elastic.controller.holding import run_of
from pytest_elastic.controller.launch import Launch
from pytest_elastic.controller.launch_config import drop_empty_log_directory
from pytest_elastic.controller.plan import LaunchPlan
from pytest_elastic.controller.planning import Request
from pytest_elastic.controller.properties import culprit_of, put_properties
from pytest_elastic.controller.run import ElasticRun
from pytest_elastic.controller.running import RunningLaunch
from pytest_elastic.controller.server import remove_run_directory
from pytest_elastic.errors import ElasticError
from pytest_elastic.faults import Fault, check_faults
from pytest_elastic.one_line import one_line
from pytest_elastic.options import LAUNCH_ARGUMENTS
from pytest_elastic.pickling import pickle_exception
from pytest_elastic.report.output import launch_sections, stack_sections
from pytest_elastic.report.records import LaunchRecord
from pytest_elastic.report.verdict import Verdict, judge, not_preloaded
from pytest_elastic.result import LaunchResult
from pytest_elastic.roles import role
from pytest_elastic.spec import ArgumentError, LaunchSpec, check_names, make_spec, takes_late_nodes
from pytest_elastic.warning import ElasticWarning

if TYPE_CHECKING:
    from torch.distributed.launcher.api import LaunchConfig

_OWN_ARGUMENTS: Final = (
    "kwargs",
    "check",
    "agents",
    "config",
    "rdzv_configs",
    "rdzv_endpoint",
    "agent",
    "agent_error",
    "faults",
)
_BESIDE_CONFIG: Final = ("timeout", "env")
LAST_RESULT: Final = pytest.StashKey[LaunchResult]()
"""What the last launch of a test came to, kept with the test for its report."""


CUT_SHORT: Final = pytest.StashKey[bool]()
"""That launch was ended by the test or another plugin: nothing has said so far where its ranks were."""


class ElasticLaunch:
    """Launches real torch elastic agents from inside a test."""

    def __init__(self, request: pytest.FixtureRequest) -> None:
        if role(request.config) != "controller":
            pytest.fail(
                "fixture 'elastic_launch' was requested by a test that itself runs on ranks (marker elastic): "
                "launch from a test without the marker",
                pytrace=False,
            )
        self._request = request
        self._run: ElasticRun = run_of(request.config)
        self._owner = kernel.own_pid()
        self._messages: list[str] = []
        self._plans: list[LaunchPlan] = []
        self._started: list[RunningLaunch] = []

    def __call__(
        self,
        entrypoint: Callable[..., Any] | str | os.PathLike[str],
        *args: Any,
        kwargs: Mapping[str, Any] | None = None,
        check: bool = True,
        agents: int | None = None,
        config: LaunchConfig | None = None,
        rdzv_configs: Mapping[str, Any] | None = None,
        rdzv_endpoint: str = "",
        agent: Literal["process", "inline"] = "process",
        agent_error: BaseException | None = None,
        faults: Sequence[Fault] = (),
        **settings: Any,
    ) -> LaunchResult:
        """Run an entry point on ``nnodes * nproc`` ranks and wait for the end.

        Args:
            entrypoint: A callable of any kind; the path of a ``.py`` file, run by this interpreter; or a command.
            *args: Its positional arguments.
            kwargs: Keyword arguments of a callable.
            check: Raise if the launch failed. ``False`` returns the result, with its ``failures``, as
                ``subprocess.run`` does.
            agents: How many of the nodes come; default all.
            config: torch's ``LaunchConfig``, for every setting of torch's. Beside it only ``kwargs``, ``check``,
                ``timeout``, ``agents``, ``agent``, ``agent_error``, ``faults`` and ``env``; its log specs and event
                handler are replaced.
            rdzv_configs: Settings of the rendezvous backend, over the built-in ones.
            rdzv_endpoint: Endpoint of the rendezvous; by default one is made, for etcd by ``etcd_server``.
            agent: ``"process"``, or ``"inline"`` to run the agent in a thread of the pytest process, where torch's
                agent can be patched.
            agent_error: Exception that the agents raise instead of running.
            faults: What the launch is to suffer, and when: ``[KillRank(2, when_output="step 3")]``.
            **settings: The arguments of the marker ``elastic``: ``nproc``, ``nnodes``, ``timeout`` (seconds), ...

        Returns:
            The values by rank, and all else that is known.

        Raises:
            WorkerFailedError: A rank failed; also torch's ``ChildFailedError``.
            AgentFailedError: An agent failed.
            ElasticTimeoutError: The deadline came.
            ElasticError: An argument is not allowed, or the preloaded server could not start.
        """
        __tracebackhide__ = True
        refuse_no_bool("elastic_launch(check=)", check)
        plan = self._prepare(
            "elastic_launch",
            entrypoint,
            args,
            kwargs=kwargs,
            agents=agents,
            config=config,
            rdzv_configs=rdzv_configs,
            rdzv_endpoint=rdzv_endpoint,
            agent=agent,
            agent_error=agent_error,
            faults=faults,
            settings=settings,
        )
        return self.finish(self._run.launch(plan), check=check)

    def start(
        self,
        entrypoint: Callable[..., Any] | str | os.PathLike[str],
        *args: Any,
        kwargs: Mapping[str, Any] | None = None,
        agents: int | None = None,
        config: LaunchConfig | None = None,
        rdzv_configs: Mapping[str, Any] | None = None,
        rdzv_endpoint: str = "",
        agent: Literal["process", "inline"] = "process",
        agent_error: BaseException | None = None,
        faults: Sequence[Fault] = (),
        **settings: Any,
    ) -> RunningLaunch:
        """Start a launch and return at once, with a handle on it; use it in a ``with`` block.

        How it ended is raised by the handle's ``wait()``. A launch that failed by itself, where nobody waited for it,
        is a warning.

        Args:
            entrypoint: As for ``elastic_launch`` itself, like everything that follows.
            *args: Its positional arguments.
            kwargs: Keyword arguments of a callable.
            agents: How many of the nodes come at the start; default all.
            config: torch's ``LaunchConfig``.
            rdzv_configs: Settings of the rendezvous backend.
            rdzv_endpoint: Endpoint of the rendezvous.
            agent: ``"process"`` or ``"inline"``.
            agent_error: Exception that the agents raise instead of running.
            faults: What the launch is to suffer, and when.
            **settings: The arguments of the marker ``elastic``.

        Raises:
            ElasticError: An argument is not allowed, or the preloaded server could not start.
        """
        __tracebackhide__ = True
        plan = self._prepare(
            "elastic_launch.start",
            entrypoint,
            args,
            kwargs=kwargs,
            agents=agents,
            config=config,
            rdzv_configs=rdzv_configs,
            rdzv_endpoint=rdzv_endpoint,
            agent=agent,
            agent_error=agent_error,
            faults=faults,
            settings=settings,
        )
        launch = self._run.launch(plan, held_open=True)
        launch.wait_until(lambda: len(launch.roster.agents) >= plan.agents)
        running = RunningLaunch(self, launch)
        self._started.append(running)
        return running

    def _prepare(
        self,
        source: str,
        entrypoint: Callable[..., Any] | str | os.PathLike[str],
        args: tuple[Any, ...],
        *,
        kwargs: Mapping[str, Any] | None,
        agents: int | None,
        config: LaunchConfig | None,
        rdzv_configs: Mapping[str, Any] | None,
        rdzv_endpoint: str,
        agent: str,
        agent_error: BaseException | None,
        faults: Sequence[Fault],
        settings: dict[str, Any],
    ) -> LaunchPlan:
        """Check everything, and make the plan of a launch."""
        __tracebackhide__ = True
        drop_empty_log_directory(config)
        rdzv_configs = {} if rdzv_configs is None else rdzv_configs
        if not isinstance(rdzv_configs, Mapping):
            raise ArgumentError(f"{source}(rdzv_configs=): got {one_line(rdzv_configs)}, expected a dict")
        if not isinstance(rdzv_endpoint, str):
            raise ArgumentError(f'{source}(rdzv_endpoint=): got {one_line(rdzv_endpoint)}, expected "host:port"')
        spec = self._spec(source, settings, config, bool(rdzv_configs) or bool(rdzv_endpoint))
        if not isinstance(agent, str) or agent not in ("process", "inline"):
            raise ArgumentError(f'{source}(agent=): got {one_line(agent)}, expected "process" or "inline"')
        if agent_error is not None and not isinstance(agent_error, BaseException):
            raise ArgumentError(f"{source}(agent_error=): got {one_line(agent_error)}, expected an exception")
        entry = make_entry_point(entrypoint, args, kwargs if kwargs is not None else {})
        if entry.command is not None and "backend" in settings:
            raise ArgumentError(
                f"{source}(backend=): got {spec.backend!r} for a command; only functions and tests get a group"
            )
        request = Request(
            source=source,
            name=entry.name,
            entry=entry,
            agents=agents,
            config=config,
            rdzv_configs=rdzv_configs,
            rdzv_endpoint=rdzv_endpoint or self._endpoint(spec, config),
            # Without its run id, which is the launch's own, nobody else can take part.
            foreign=config is not None and bool(config.rdzv_endpoint and config.run_id),
            inline=agent == "inline",
            agent_error=None if agent_error is None else pickle_exception(agent_error),
            faults=check_faults(
                source,
                faults,
                may_add=takes_late_nodes(spec.rdzv_backend if config is None else config.rdzv_backend),
                agents_are_processes=agent == "process",
            ),
            modules=self._run.modules,
        )
        plan = self._plan(spec, request)
        self._plans.append(plan)
        return plan

    def _spec(
        self, source: str, settings: dict[str, Any], config: LaunchConfig | None, has_rendezvous: bool
    ) -> LaunchSpec:
        __tracebackhide__ = True
        own = [name for name in _OWN_ARGUMENTS if name != "check" or source == "elastic_launch"]
        check_names(source, list(settings), (*LAUNCH_ARGUMENTS, *own))
        if config is not None:
            if not hasattr(config, "rdzv_backend"):
                raise ArgumentError(f"{source}(config=): got {one_line(config)}, expected a torch LaunchConfig")
            check_names(f"{source}(config=)", list(settings), _BESIDE_CONFIG)
            if has_rendezvous:
                raise ArgumentError(f"{source}(config=): put rdzv_configs and rdzv_endpoint into the LaunchConfig")
        # A function usually makes its own group: only the call itself asks for another, no option and no ini key.
        given = {name: value for name, value in self._run.given.items() if name != "backend"}
        spec = make_spec(source, settings, given)
        if config is not None:
            spec = replace(spec, **_told_by(config))
        spec = configured(spec, self._request.node, _BESIDE_CONFIG if config is not None else LAUNCH_ARGUMENTS)
        if settings.get("isolation", "function") != "function":
            raise ArgumentError(
                f'{source}(isolation="{spec.isolation}"): a call has ranks of its own; leave it out, or mark the test '
                "with elastic(isolation=)"
            )
        return replace(spec, isolation="function")

    def _plan(self, spec: LaunchSpec, request: Request) -> LaunchPlan:
        __tracebackhide__ = True
        try:
            return self._run.plan(spec, request, self._request.node)
        except TooFewDevicesError as error:
            if self._run.setting("strict"):
                raise
            too_few = str(error)
        # Outside of the block, or pytest would show the error behind the skip too.
        raise pytest.skip.Exception(too_few, _use_item_location=True)

    def _endpoint(self, spec: LaunchSpec, config: LaunchConfig | None) -> str:
        backend, endpoint = spec.rdzv_backend, ""
        if config is not None:
            backend, endpoint = config.rdzv_backend, config.rdzv_endpoint
        if backend not in ("etcd", "etcd-v2") or endpoint:
            return endpoint
        from pytest_elastic.services.etcd import USES_SHARED

        self._request.node.stash[USES_SHARED] = True
        return str(self._request.getfixturevalue("etcd_server").endpoint)

    def finish(self, launch: Launch, *, check: bool) -> LaunchResult:
        """Wait for the end of a launch, warn of what it left behind, and return its result or raise its error."""
        __tracebackhide__ = True
        try:
            record = launch.wait()
        except BaseException:
            # Another plugin's time-out, say: what the ranks wrote, and where they were, is for the report.
            if launch.record is not None:
                self.keep(launch.record)
            raise
        if launch.broken is not None:
            raise ElasticError(not_preloaded(launch.broken))
        verdict = self.keep(record)
        try:
            self.warn_of(verdict.result)
        finally:
            # Also where warnings are errors: what failed says more than what was left behind.
            if check and verdict.error is not None:
                raise verdict.error
        return verdict.result

    def keep(self, record: LaunchRecord) -> Verdict:
        """Judge a launch, and keep its result for the report of the test."""
        verdict = judge(record)
        self._messages += record.notes
        item = self._request.node
        put_properties(item, record, culprit_of(verdict))
        if "pytest_elastic.controller.showing" in sys.modules:  # imported only where somebody wants to see it
            from pytest_elastic.controller.showing import keep_launch

            keep_launch(item, record, verdict)
        item.stash[LAST_RESULT] = verdict.result
        self._messages += tell_finished(verdict.result, item)
        item.stash[CUT_SHORT] = record.cut_short
        return verdict

    def warn_of(self, result: LaunchResult) -> None:
        """Warn of what ranks left behind, and once of a server that is not fit."""
        unsafe = self._run.unsafe_once()
        messages, self._messages = self._messages, []
        messages += [unsafe] if unsafe is not None else []
        for message in messages + [f"{what}; it was ended" for what in result.leftovers]:
            warnings.warn(ElasticWarning(message), stacklevel=4)

    def close(self) -> None:
        """End what is left of the test's launches, and remove what they left on disk."""
        if kernel.own_pid() != self._owner:
            return
        for running in self._started:
            running.close()
        for plan in self._plans:
            remove_run_directory(plan.scratch)
        messages, self._messages = self._messages, []
        for message in messages:  # of a launch that nobody waited for
            self._request.node.warn(ElasticWarning(message))


def _told_by(config: LaunchConfig) -> dict[str, Any]:
    """Return what a ``LaunchConfig`` says of a launch: for plugins that want to know, the plan is made of it itself."""
    return {
        "nproc": config.nproc_per_node,
        "min_nodes": config.min_nodes,
        "max_nodes": config.max_nodes,
        "max_restarts": config.max_restarts,
        "rdzv_backend": config.rdzv_backend,
    }


def add_output(item: pytest.Item, report: pytest.TestReport) -> None:
    """Show what the ranks of a failed test's last launch wrote, those that failed by themselves or as the user says."""
    result = item.stash.get(LAST_RESULT, None)
    if result is None or report.when == "teardown":
        return
    run = run_of(item.config)
    if run.streams:
        return  # it is on the terminal already
    show = run.setting("show_output")
    failed = [failure.rank for failure in result.failures if not failure.collateral]
    if not failed:  # they were ended where nobody had failed: any of them may have something to say
        failed = [failure.rank for failure in result.failures]
    ranks = {"failed": failed, "all": sorted(result.exitcodes), "none": []}[str(show)]
    report.sections += launch_sections(result, ranks, str(report.when))
    if item.stash.get(CUT_SHORT, False):
        report.sections += stack_sections(result)
