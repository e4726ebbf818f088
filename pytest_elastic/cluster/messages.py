"""What the controllers of a run say to each other, over links whose two ends have proven that they hold its key."""

from __future__ import annotations

from dataclasses import dataclass, field

from pytest_elastic.messages import AgentOrder, PreloadOrder, RankOrder, SessionOrder

# --- from either end ----------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class Ping:
    """Asks whether the other end is there.

    Attributes:
        sent_ns: ``time.monotonic_ns()`` of whoever asks.
    """

    sent_ns: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Pong:
    """Answers a :class:`Ping`.

    Attributes:
        sent_ns: When that was sent, by the clock of whoever asked.
        here_ns: When it was answered, by the clock of whoever answers.
    """

    sent_ns: int
    here_ns: int


@dataclass(frozen=True, kw_only=True, slots=True)
class GoodBye:
    """The last word of an end that gives the other one up.

    Attributes:
        reason: Why, as the other end tells it.
    """

    reason: str


# --- from those that follow ---------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class Hello:
    """First message of a controller that follows.

    Attributes:
        rank: Its number.
        size: How many controllers there are, as far as it knows.
        nodes: On how many nodes, likewise.
        local_size: How many there are on each, likewise.
        host: Name of its machine.
        address: IP address under which the first one's machine reaches it.
        pid: Its process id.
        versions: Versions of what must be equal on all machines, by name.
        arguments: Its directory and arguments, as far as they must be equal.
        clock: What tells its machine's clock from those of others.
    """

    rank: int
    size: int
    nodes: int
    local_size: int
    host: str
    address: str
    pid: int
    versions: dict[str, str]
    arguments: tuple[str, ...] = field(default=(), repr=False)
    clock: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Collected:
    """What a controller has collected.

    Attributes:
        tests: Node ids of all that was found, sorted.
        trouble: What went wrong, or an empty text.
    """

    tests: tuple[str, ...] = field(repr=False)
    trouble: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class AgentBegan:
    """An agent's process runs.

    Attributes:
        launch: Name of the launch.
        pid: Its process id.
    """

    launch: str
    pid: int


@dataclass(frozen=True, kw_only=True, slots=True)
class AgentEnded:
    """An agent's process has ended, or was not started.

    Attributes:
        launch: Name of the launch.
        exitcode: Its exit code, or ``None`` where nobody could see it.
        server_lost: How the preloaded server died, and its last words below, or an empty text.
        server_words: What the server wrote last.
        refused: Why nothing could be started, or an empty text.
    """

    launch: str
    exitcode: int | None = None
    server_lost: str = ""
    server_words: str = ""
    refused: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class ProcessEnded:
    """A process that is watched has ended.

    Attributes:
        launch: Name of the launch.
        pid: Its process id.
    """

    launch: str
    pid: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Written:
    """Bytes that were written to a file of a launch.

    Attributes:
        launch: Name of the launch.
        root: Which of its directories: ``"logs"`` or ``"coverage"``.
        path: The file, from there.
        offset: Where in it.
        data: The bytes.
    """

    launch: str
    root: str
    path: str
    offset: int
    data: bytes = field(repr=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class Synced:
    """Everything that was written before a :class:`Sync` has been sent.

    Attributes:
        launch: Name of the launch.
        number: Number of the request.
    """

    launch: str
    number: int


@dataclass(frozen=True, kw_only=True, slots=True)
class LaunchEnded:
    """Nothing is left of a launch on this machine.

    Attributes:
        launch: Name of the launch.
        leftovers: What ranks had left behind, a line each.
    """

    launch: str
    leftovers: tuple[str, ...]


# --- from the first -----------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class Refused:
    """A controller cannot take part.

    Attributes:
        reason: Why.
    """

    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Welcome:
    """A controller takes part.

    Attributes:
        run: Name of the run.
    """

    run: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Collect:
    """Collect what the first controller has collected.

    Attributes:
        order: What its own preloaded server is told.
        everything: How to collect all that the arguments name, to compare it.
    """

    order: PreloadOrder
    everything: SessionOrder


@dataclass(frozen=True, slots=True)
class LeaveAlone:
    """No test runs on ranks: each process has a session of its own, as if there were no plugin."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StartAgent:
    """Start the agent of a node.

    The orders lack what is each machine's own: keys, directories, the environment.

    Attributes:
        launch: Name of the launch.
        agent: What the agent is told.
        ranks: What its ranks are told.
        extra: Variables of the launch, over those of the machine.
        removed: Names of variables that the test has removed.
        torch_only: Ranks are forked from a server that has collected nothing.
        temporary: Directory of the test's temporary ones; it is used where it is the same on both machines.
        token: What is written in a file there.
    """

    launch: str
    agent: AgentOrder
    ranks: RankOrder
    extra: dict[str, str] = field(repr=False)
    removed: tuple[str, ...]
    torch_only: bool
    temporary: str
    token: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Watch:
    """Tell of the end of a process.

    Attributes:
        launch: Name of the launch.
        pid: Its process id.
    """

    launch: str
    pid: int


@dataclass(frozen=True, kw_only=True, slots=True)
class SendSignal:
    """Send a signal to a process that is watched.

    Attributes:
        launch: Name of the launch.
        pid: Its process id.
        signum: The signal.
        wakes: A stopped process is to go on, to act on it.
    """

    launch: str
    pid: int
    signum: int
    wakes: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class KillAll:
    """End every process of a launch, also those that are still to come.

    Attributes:
        launch: Name of the launch.
    """

    launch: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Sync:
    """Send what was written so far.

    Attributes:
        launch: Name of the launch.
        number: Number of the request.
    """

    launch: str
    number: int


@dataclass(frozen=True, kw_only=True, slots=True)
class EndLaunch:
    """Leave nothing of a launch.

    Attributes:
        launch: Name of the launch.
    """

    launch: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Release:
    """The run is over.

    Attributes:
        exitcode: pytest's exit code, for all.
    """

    exitcode: int


OfLaunch = AgentBegan | AgentEnded | ProcessEnded | Written | Synced | LaunchEnded
ToLaunch = StartAgent | Watch | SendSignal | KillAll | Sync | EndLaunch
