"""Run one agent: the sequence of torch's ``launch_agent``, with the settings that it has no name for.

torch's own does not pass an exit barrier's or a stop's time-out on, starts workers by its own start methods only, and
writes into ``os.environ``. The order of what happens, the events, and the rule that a rendezvous is shut down unless a
signal ended the agent, are torch's (torch/distributed/launcher/api.py).
"""

from __future__ import annotations

import logging
import pickle
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Literal

from torch.distributed.elastic import events, metrics
from torch.distributed.elastic.agent.server.api import WorkerSpec
from torch.distributed.elastic.events import handlers as event_handlers
from torch.distributed.elastic.multiprocessing import SignalException
from torch.distributed.elastic.rendezvous import RendezvousParameters

from pytest_elastic import clock
from pytest_elastic.agent.elastic_agent import ObservedAgent
from pytest_elastic.agent.logs import RankLogs
from pytest_elastic.agent.rendezvous import FreshPort, make_handler
from pytest_elastic.forking import START_METHOD
from pytest_elastic.loopback_store import LOOPBACK
from pytest_elastic.messages import HOLD, AgentFinished, AgentMessage, AgentOrder, EventRecorded
from pytest_elastic.pickling import pickle_exception
from pytest_elastic.scarcity import remedy
from pytest_elastic.worker import rank

_NEWER: Final = ("duplicate_stdout_filters", "duplicate_stderr_filters", "virtual_local_rank")
"""What not every supported torch has; such a one cannot have been given it either."""


class EventsToController(logging.Handler):
    """Sends torch's events to the controller."""

    def __init__(self, node: int, tell: Callable[[AgentMessage], None]) -> None:
        super().__init__(logging.INFO)
        self._node = node
        self._tell = tell

    def emit(self, record: logging.LogRecord) -> None:
        """Send one event."""
        self._tell(EventRecorded(node=self._node, event=record.getMessage()))


class EventDestination:
    """A destination of torch's events, registered while one agent runs."""

    def __init__(self, order: AgentOrder, tell: Callable[[AgentMessage], None]) -> None:
        self.name = f"pytest_elastic-{order.launch}-{order.node}"
        self._handler = EventsToController(order.node, tell)

    def __enter__(self) -> str:
        event_handlers._log_handlers[self.name] = self._handler
        # Its level comes from LOGLEVEL, which is about other logs: events are wanted whatever that says.
        events._get_or_create_logger(self.name).setLevel(logging.INFO)
        return self.name

    def __exit__(self, *_: object) -> None:
        event_handlers._log_handlers.pop(self.name, None)
        logger = events._events_loggers.pop(self.name, None)
        if logger is not None:
            logger.removeHandler(self._handler)
            logging.Logger.manager.loggerDict.pop(logger.name, None)


def launch(
    order: AgentOrder,
    tell: Callable[[AgentMessage], None],
    store_fd: int | None,
    *,
    start_method: str = START_METHOD,
) -> AgentFinished:
    """Run an agent to its end and say how it ended; errors of workers are told apart from the agent's own.

    Args:
        order: What to run.
        tell: Sends a message to the controller.
        store_fd: Listening socket for the store of the rendezvous, or ``None``; it stays the caller's.
        start_method: What multiprocessing calls forking from the preloaded server.
    """
    handler: FreshPort | None = None
    agent: ObservedAgent | None = None
    state: Literal["SUCCEEDED", "FAILED"] = "FAILED"
    error: BaseException | None = None
    trace = ""
    with EventDestination(order, tell) as destination:
        try:
            handler = make_handler(
                _rendezvous_parameters(order, store_fd), order.state_key, address=order.config["local_addr"] or LOOPBACK
            )
            agent = _make_agent(order, handler, tell, destination, start_method)
            state = _run(order, agent, handler, destination)
        except BaseException as caught:  # noqa: BLE001 (told to the controller, whatever it is)
            error, trace = caught, traceback.format_exc()
        if agent is not None:
            agent.release()
    return AgentFinished(
        node=order.node,
        state=state,
        exception=None if error is None else pickle_exception(error),
        traceback=trace,
        shutdowns=0 if handler is None else handler.shutdowns,
        rounds=0 if handler is None else handler.rounds,
        restarts=0 if agent is None else agent.restarts,
        group_rank=None if handler is None else handler.group_rank,
        left_ns=None if not isinstance(error, SignalException) else _since(agent),
        advice="" if error is None else remedy(error),
    )


def _since(agent: ObservedAgent | None) -> int:
    """Return when an agent that a signal ended began to stop its workers."""
    return clock.monotonic_ns() if agent is None or agent.stopping_ns is None else agent.stopping_ns


def _rendezvous_parameters(order: AgentOrder, store_fd: int | None) -> RendezvousParameters:
    config = order.config
    settings: dict[str, Any] = dict(config["rdzv_configs"])
    if config["rdzv_backend"] in ("local", "static"):
        settings["rank"] = order.node
    if config["rdzv_backend"] == "local":
        settings |= {"store_host": order.store_host, "store_port": order.store_port, "store_fd": store_fd}
    return RendezvousParameters(
        backend=config["rdzv_backend"],
        endpoint=config["rdzv_endpoint"],
        run_id=config["run_id"],
        min_nodes=config["min_nodes"],
        max_nodes=config["max_nodes"],
        local_addr=config["local_addr"],
        **settings,
    )


def _make_agent(
    order: AgentOrder, handler: FreshPort, tell: Callable[[AgentMessage], None], destination: str, start_method: str
) -> ObservedAgent:
    config = order.config
    if order.command is None:
        entrypoint: Any = rank.main
        args: tuple[str, ...] = ()
    else:
        entrypoint, args = order.command[0], order.command[1:]
    spec = WorkerSpec(
        role=config["role"],
        local_world_size=config["nproc_per_node"],
        entrypoint=entrypoint,
        args=args,
        rdzv_handler=handler,
        max_restarts=config["max_restarts"],
        # The agent's own wait is driven by events; this sleep, which must be more than 0, comes before each.
        monitor_interval=1e-6,
        local_addr=config["local_addr"],
        event_log_handler=destination,
        numa_options=config["numa_options"],
        **{name: config[name] for name in _NEWER if name in WorkerSpec.__dataclass_fields__},
    )
    logs = RankLogs(
        directory=Path(order.directory),
        order=Path(order.scratch) / "rank.order",
        node=order.node,
        world=lambda: handler.world,
        seats=order.seats,
    )
    if config["start_method"] != "forkserver":
        start_method = config["start_method"]
    return ObservedAgent(
        spec,
        logs,
        start_method=start_method,
        tell=tell,
        grace=order.grace,
        exit_barrier=order.exit_barrier,
        node=order.node,
        hold=Path(order.scratch) / HOLD,
        error=None if order.agent_error is None else pickle.loads(order.agent_error),
    )


def _run(
    order: AgentOrder, agent: ObservedAgent, handler: FreshPort, destination: str
) -> Literal["SUCCEEDED", "FAILED"]:
    shut_down = True
    failed = False
    try:
        metrics.initialize_metrics(metrics.MetricsConfig(order.config["metrics_cfg"]))
        result = agent.run()
        # It says that the agent ran, not that the workers succeeded.
        events.record(agent.get_event_succeeded(), destination)
        failed = result is not None and result.is_failed()
    except SignalException:
        # Shutting down would close the rendezvous for every other node, for good.
        shut_down = False
        events.record(agent.get_event_failed(), destination)
        raise
    except Exception:
        events.record(agent.get_event_failed(), destination)
        raise
    finally:
        if shut_down:
            handler.shutdown()
    return "FAILED" if failed else "SUCCEEDED"
