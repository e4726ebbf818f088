"""What crosses a process border, each a frozen dataclass, each pickled over an authenticated channel."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

Address = str | tuple[str, int]
"""Path of a Unix socket; ``(host, port)`` for those on other machines."""

HOLD = "debugging"
"""File in a launch's scratch directory: while it is there, agents end no worker because another one has failed."""

Period = Literal["test", "teardown"]
"""The parts of a rank's test in which calls of ranks meet."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RankId:
    """Which rank of which world speaks.

    Attributes:
        world: Name of the world (one round of the rendezvous); equal on all of its ranks.
        rank: Global rank.
        local_rank: Rank on its node.
        node: Index of the agent, in order of start.
        group_rank: Rank of the node in this world, as the rendezvous gave it.
        world_size: Number of ranks of the world.
        restart: How often torch restarted the workers before this round.
    """

    world: str
    rank: int
    local_rank: int
    node: int
    group_rank: int
    world_size: int
    restart: int


# --- controller to server -----------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class Preloaded:
    """What a server says when it is about to take requests.

    Attributes:
        broken: What went wrong in the preload, or ``None``.
        unsafe: Why processes must not be forked from it, or ``None``.
    """

    broken: str | None
    unsafe: str | None


@dataclass(frozen=True, kw_only=True, slots=True)
class SpawnOrder:
    """A process that is to be forked where a fresh interpreter was asked for.

    What that would have inherited is here: it is the pytest process that is its parent, and the server that forks it.

    Attributes:
        environ: Environment of the parent, with the run's mark.
        streams: Index among the inherited descriptors of standard input, output and error; ``None`` for a closed one.
        umask: The parent's.
        limits: Soft and hard limit of each resource.
        cpus: CPUs that the parent may use, or ``None`` where the system has no such thing.
        ignored: Signals that the parent ignores.
        blocked: Signals that the parent's thread has blocked.
        preparation: Pickled preparation data of multiprocessing.
        process: The pickled process object.
    """

    environ: dict[str, str] = field(repr=False)
    streams: tuple[int | None, ...]
    umask: int | None
    limits: dict[int, tuple[int, int]]
    cpus: frozenset[int] | None
    ignored: frozenset[int]
    blocked: frozenset[int]
    preparation: bytes
    process: bytes

    def _bootstrap(self, parent_sentinel: int) -> int:
        """Run the process: the name by which multiprocessing's server calls what it has unpickled."""
        from pytest_elastic.worker.spawned import run

        return run(self, parent_sentinel)


# --- controller to agent and rank ---------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class Seats:
    """The nodes that agents with one rank each stand for: ``nproc`` of them, one after the other, are one node.

    Attributes:
        nproc: Ranks a node.
        nodes: Number of nodes.
    """

    nproc: int
    nodes: int


@dataclass(frozen=True, kw_only=True, slots=True)
class AgentOrder:
    """Everything an agent process needs.

    Attributes:
        launch: Name of the launch; part of every name that it makes visible to the system.
        node: Index of this agent, in order of start.
        directory: Where the output of the ranks goes.
        scratch: Private directory of the launch.
        channel: Address of the controller.
        key: Authentication key of the channel.
        state_key: Key by which agents sign the state of their rendezvous; ``None`` if others may take part in it.
        environ: Environment of the launching test.
        cwd: Its working directory.
        sys_path: Its ``sys.path``.
        command: Entry point and arguments of a script or command, or ``None`` for a function or a test.
        name: Name of the entry point, by torchrun's rule.
        config: Fields of torch's ``LaunchConfig`` by name.
        grace: Seconds that workers get between SIGTERM and SIGKILL.
        exit_barrier: Seconds an agent waits for the others after its own workers ended.
        agent_error: Pickled exception that the agent raises instead of running.
        store_port: Port of the agents' own store, where one process of several hosts it.
        store_fd: Index among the inherited descriptors of the listening socket of that store; ``None`` where
            this agent does not host it.
        store_host: Address of that store.
        clock_shift_ns: What is added to this machine's clock to have that of the controller.
        seats: How the ranks of agents with one rank each are numbered; ``None``: as torch does.
    """

    launch: str
    node: int
    directory: str
    scratch: str
    channel: Address
    key: bytes = field(repr=False)
    environ: dict[str, str] = field(repr=False)
    cwd: str
    sys_path: list[str]
    command: tuple[str, ...] | None
    name: str
    config: dict[str, Any]
    grace: float
    exit_barrier: float
    state_key: bytes | None = field(default=None, repr=False)
    agent_error: bytes | None = None
    store_port: int | None = None
    store_fd: int | None = None
    store_host: str = "127.0.0.1"
    clock_shift_ns: int = 0
    seats: Seats | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class DeviceOrder:
    """The devices of a launch's ranks.

    Attributes:
        kind: Type of device.
        variable: Environment variable that hides the devices of others, or an empty text if these are all there are.
        visible: Its value for each rank.
        single: Each rank sees one device only; else the index of its device is its local rank.
    """

    kind: str = "cpu"
    variable: str = ""
    visible: tuple[str, ...] = ()
    single: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class CoverageOrder:
    """How ranks are measured, as the pytest process is.

    Attributes:
        config: Pickled settings of the pytest process's ``coverage.Coverage``.
        base: Directory to which paths in them are relative.
        files: How the files begin in which ranks keep what they have executed.
        by_test: Each phase of each test is a dynamic context, named as pytest-cov names it.
        context: The dynamic context to begin with, or an empty text.
    """

    config: bytes
    base: str
    files: str
    by_test: bool = False
    context: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class RankOrder:
    """Everything a rank needs; one file that all ranks of a launch read.

    Attributes:
        channel: Address of the controller.
        key: Authentication key of the channel.
        environ: Environment of the launching test; what torch's agent sets for the rank comes on top.
        sys_path: Its ``sys.path``.
        grace: Seconds that threads and children left behind get.
        seed: Seed of the random generators, or ``None`` to leave them alone.
        backend: Process group that is initialised before the work begins, or ``None``.
        devices: Devices of the ranks.
        function: Cloudpickled ``(function, args, kwargs)``, or ``None``.
        session: How to make the pytest session, for a rank that runs tests and has none from the server.
        modules: Name and file of the test modules that pytest imported, for what the pickle names.
        coverage: How it is measured, or ``None``.
        basetemp: Directory in which that of each test is made, in place of the controller's, which is on another
            machine; an empty text: the controller's.
        clock_shift_ns: What is added to this machine's clock to have that of the controller.
        keeps_collectives: It keeps its last collectives in files.
    """

    channel: Address
    key: bytes = field(repr=False)
    environ: dict[str, str] = field(repr=False)
    sys_path: list[str]
    grace: float
    seed: int | None = None
    backend: str | None = None
    devices: DeviceOrder = field(default_factory=DeviceOrder)
    function: bytes | None = None
    session: SessionOrder | None = None
    modules: dict[str, str] = field(default_factory=dict)
    coverage: CoverageOrder | None = None
    basetemp: str = ""
    clock_shift_ns: int = 0
    keeps_collectives: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class ItemOrder:
    """A test that ranks run: what each of them hears when it may begin.

    Attributes:
        nodeid: pytest's node id.
        occurrence: Which one, where several tests share the id.
        path: File of the test.
        basetemp: Directory under which each rank has its own ``tmp_path``.
        seed: Seed of the random generators, or ``None`` to leave them alone.
        live_log: Records go to the controller as they are logged (``log_cli``).
        kept: How many of the collectors around the test, from the session on, another test of these ranks shares:
            their fixtures stay. 0 where no other test follows: everything is torn down, and the rank ends.
        master_port: MASTER_PORT from this test on; 0 leaves the one that is there.
        examples_seed: What hypothesis draws by, where the test gives it no seed.
    """

    nodeid: str
    occurrence: int
    path: str
    basetemp: str
    seed: int | None = None
    live_log: bool = False
    kept: int = 0
    master_port: int = 0
    examples_seed: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class SessionOrder:
    """How to make the controller's pytest session once more.

    Attributes:
        args: Command-line arguments of the controller.
        invocation_dir: Directory from which pytest was started.
        options: The controller's resolved ``config.option``, each pickled for itself, as far as it can be: classes of
            a conftest are known only once that is imported.
        workerinput: ``config.workerinput`` of the copy.
        files: Files to collect, those with tests that run on ranks; ``None`` for all that the arguments name.
        sys_path: ``sys.path`` of the controller.
        argv: Its ``sys.argv``.
        environ: Environment variables that pytest read when the controller started; ``None`` for an unset one.
        plugins: Names of the plugins that were given to ``pytest.main``.
        blocked: Names of plugins that the copy does without.
        markers: The controller's lines of the ini key ``markers``, with those that plugins added.
    """

    args: tuple[str, ...]
    invocation_dir: str
    options: dict[str, bytes]
    workerinput: dict[str, Any]
    files: tuple[str, ...] | None
    sys_path: list[str]
    argv: list[str]
    environ: dict[str, str | None] = field(repr=False)
    plugins: tuple[str, ...]
    blocked: tuple[str, ...]
    markers: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class PreloadOrder:
    """What the server is told once the controller has collected its tests.

    Attributes:
        session: The session to collect, or ``None`` for none.
        modules: Modules to import beside torch.
        tolerated: Those of them whose import may fail.
        sys_path: Where they are looked for; ``None`` for the server's own path.
        environ: Environment in which they are imported, over the server's own.
    """

    session: SessionOrder | None
    modules: tuple[str, ...] = ()
    tolerated: frozenset[str] = frozenset()
    sys_path: tuple[str, ...] | None = None
    environ: dict[str, str] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True)
class Go:
    """The controller's leave to start. A rank that has not heard it runs nothing."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TearDown:
    """pytest has left a scope in which ranks that wait for a test may have fixtures.

    Attributes:
        kept: How many of the collectors around the last test stay set up, as in :class:`ItemOrder`.
    """

    kept: int


@dataclass(frozen=True, slots=True)
class NoMoreTests:
    """No test follows, for ranks that wait for one: they tear down what they have kept, and end."""


@dataclass(frozen=True, slots=True)
class Leave:
    """The controller's leave to end, for a rank that has told how it ended.

    Attributes:
        together: Every rank of its world has, and well: nobody waits for it any more. Else some may, and are to see
            that it leaves.
    """

    together: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """Answers a rank's question. A frame of its own follows: the pickled value, or the pickled :class:`Refusal`.

    Attributes:
        number: Number of the question.
        good: What follows is the value.
    """

    number: int
    good: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Refusal:
    """Why a rank does not get what it asked for.

    Attributes:
        exception: The exception that it raises, pickled; ``None`` for an outcome of pytest's, whose classes do not
            pickle.
        outcome: Which of those.
        message: What that one says.
        traceback: Traceback in the controller, or an empty text.
    """

    exception: bytes | None = None
    outcome: Literal["skip", "fail", "xfail"] = "fail"
    message: str = ""
    traceback: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class TerminalAnswer:
    """Answers a rank that wants the person's terminal for a debugger.

    Attributes:
        granted: It gets it: the descriptors follow. Else it goes on as if there were no breakpoint.
        refusal: Why nobody gets it, or an empty text.
    """

    granted: bool
    refusal: str = ""


# --- agent to controller ------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class AgentHello:
    """First message of an agent.

    Attributes:
        node: Index of the agent, in order of start.
        pid: Its process id.
        broken: Why the preloaded server cannot serve (a traceback), or ``None``.
        unsafe: What the server says of modules after whose import forking is not safe, or ``None``.
    """

    node: int
    pid: int
    broken: str | None
    unsafe: str | None


@dataclass(frozen=True, kw_only=True, slots=True)
class RoundStarted:
    """An agent has started the workers of one round.

    Attributes:
        node: Index of the agent, in order of start.
        ranks: Rank of each worker, in order of local rank.
        pids: Their process ids, in the same order.
        times_ns: ``time.monotonic_ns()`` when the agent came to the rendezvous, when that was complete, and when the
            workers had been started.
    """

    node: int
    ranks: tuple[RankId, ...]
    pids: tuple[int, ...]
    times_ns: tuple[int, int, int] = (0, 0, 0)


@dataclass(frozen=True, kw_only=True, slots=True)
class RankExited:
    """A worker process has ended.

    Attributes:
        id: Which one.
        exitcode: Exit code; ``-n`` for death by signal ``n``.
        time_ns: ``time.monotonic_ns()`` when the agent noticed.
        stopped: The agent was stopping its workers already: a death by SIGTERM is its own doing.
        forced: It had been for longer than the grace time: a death by SIGKILL is its own doing too.
    """

    id: RankId
    exitcode: int
    time_ns: int
    stopped: bool
    forced: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class EventRecorded:
    """torch recorded an event.

    Attributes:
        node: Index of the agent, in order of start.
        event: The event as torch serialises it (JSON).
    """

    node: int
    event: str


@dataclass(frozen=True, kw_only=True, slots=True)
class AgentFinished:
    """Last message of an agent.

    Attributes:
        node: Index of the agent, in order of start.
        state: ``"SUCCEEDED"`` or ``"FAILED"`` (workers failed, or the agent itself).
        exception: Pickled exception of the agent itself, or ``None``.
        traceback: Its traceback.
        shutdowns: How often the rendezvous handler was shut down.
        rounds: How many rounds of the rendezvous it took part in.
        restarts: How often it restarted its workers because some failed.
        group_rank: Its rank in the last round, or ``None`` if it never had one.
        left_ns: ``time.monotonic_ns()`` when a signal made it leave (torch's ``SignalException``), or ``None``.
        advice: What to do about the exception where something was scarce, or an empty text.
    """

    node: int
    state: Literal["SUCCEEDED", "FAILED"]
    exception: bytes | None
    traceback: str
    shutdowns: int
    rounds: int
    restarts: int
    group_rank: int | None
    left_ns: int | None = None
    advice: str = ""


# --- rank to controller -------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class RankHello:
    """First message of a rank; it runs nothing before it hears :class:`Go`.

    Attributes:
        id: Which rank.
        pid: Its process id.
        writes_stacks: It writes its stacks when it is asked to; a command would die of the signal.
    """

    id: RankId
    pid: int
    writes_stacks: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class RankFailed:
    """A rank's work ended badly.

    Attributes:
        id: Which rank.
        time_ns: ``time.monotonic_ns()`` when the exception was caught.
        how: ``"raised"``, ``"exited"`` (``sys.exit``), or ``"result"`` (the value cannot be sent).
        type: Qualified name of the exception's class.
        message: Its text.
        traceback: Its traceback.
        exception: The exception, pickled, or ``None`` if it cannot be.
        exitcode: Argument of ``sys.exit`` as an exit code, or ``None``.
    """

    id: RankId
    time_ns: int
    how: Literal["raised", "exited", "result"]
    type: str
    message: str
    traceback: str
    exception: bytes | None = None
    exitcode: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class RankCaught:
    """A phase of a rank's test has just failed; the report, which takes a while to make, follows.

    Attributes:
        id: Which rank.
        time_ns: ``time.monotonic_ns()`` when the exception was caught.
        when: ``"setup"``, ``"call"`` or ``"teardown"``.
        type: Qualified name of the exception's class.
        message: Its text.
        place: Where in the user's code that was, ``"all_reduce at test_x.py:17"``, or an empty text.
        traceback: Python's own traceback, for the case that the report never comes.
    """

    id: RankId
    time_ns: int
    when: str
    type: str
    message: str
    place: str = ""
    traceback: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class RankReport:
    """One pytest report of a rank, sent the moment it exists.

    Attributes:
        id: Which rank.
        time_ns: ``time.monotonic_ns()`` when the exception behind it was caught, else when it was made.
        when: ``"setup"``, ``"call"`` or ``"teardown"``.
        outcome: ``"passed"``, ``"failed"`` or ``"skipped"``.
        written: How many bytes the rank had written to standard output and standard error by then.
        report: The report, pickled.
        sections: It has sections of its own, such as the log's.
        dropped: What others hung on the report and cannot be sent, by name.
        exception: The exception behind a failed or skipped one, pickled, or ``None``.
        type: Qualified name of that exception's class, or an empty text.
        place: Where in the user's code that was, ``"all_reduce at test_x.py:17"``, or an empty text.
        expected: The test called ``pytest.xfail()``: its reason; else ``None``.
        subtest: It is about a part of the phase, which goes on.
        stopped: The rank had been told to end (SIGTERM), and ends for that reason.
        should_stop: What the rank wrote to ``session.shouldstop``, or an empty text.
        should_fail: What it wrote to ``session.shouldfail``, or an empty text.
    """

    id: RankId
    time_ns: int
    when: str
    outcome: Literal["passed", "failed", "skipped"]
    written: tuple[int, int]
    report: bytes
    exception: bytes | None
    type: str
    sections: bool = True
    dropped: tuple[str, ...] = ()
    place: str = ""
    expected: str | None = None
    subtest: bool = False
    stopped: bool = False
    should_stop: str = ""
    should_fail: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class RankWarned:
    """A warning was recorded while a rank ran its test.

    Attributes:
        id: Which rank.
        category: Qualified name of its class.
        pickled: The class, pickled, or ``None`` if it cannot be.
        message: Its text.
        file: File that it points to.
        line: Line in that file.
    """

    id: RankId
    category: str
    pickled: bytes | None
    message: str
    file: str
    line: int


@dataclass(frozen=True, kw_only=True, slots=True)
class RankLogged:
    """Lines that pytest's live log (``log_cli``) shows.

    Attributes:
        id: Which rank.
        text: One or more whole lines.
    """

    id: RankId
    text: str


@dataclass(frozen=True, kw_only=True, slots=True)
class RankFinished:
    """A rank's work is complete; that of a rank which is kept, until the next test.

    Attributes:
        id: Which rank.
        time_ns: ``time.monotonic_ns()`` when the work was complete.
        started_ns: The same clock when the work began.
        value: Pickled value of the function; ``None`` for a test or a script.
        leftovers: Names of non-daemon threads and child processes that still run.
        leaks: What the test changed in a process that is kept, a few words each.
        spoilt: Some of that cannot be undone: no other test is to run here.
    """

    id: RankId
    time_ns: int
    started_ns: int
    value: bytes | None
    leftovers: tuple[str, ...]
    leaks: tuple[str, ...] = ()
    spoilt: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Meeting:
    """A call that every rank of the world is to make, once each.

    Attributes:
        what: Name of the fixture that was called.
        period: ``"test"`` (set-up and call) or ``"teardown"``.
        round: How many such calls this rank has made before in the period.
        place: Where the test made the call.
        value: What this rank gives, pickled.
        error: Why there is no value, or an empty text.
    """

    what: str
    period: Period
    round: int
    place: str
    value: bytes
    error: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class FixtureWanted:
    """The value of a fixture that the controller has.

    Attributes:
        name: Name of the fixture.
        level: Which one where fixtures override each other, 1 for the closest to the test.
    """

    name: str
    level: int


@dataclass(frozen=True, kw_only=True, slots=True)
class FactoryCalled:
    """A call of a factory that is a fixture of the controller's: one for all ranks.

    Attributes:
        name: Name of the fixture.
        level: Which one, as in :class:`FixtureWanted`.
        call: How often this rank has called it before.
        arguments: Pickled positional and keyword arguments.
        shown: The same for a reader.
    """

    name: str
    level: int
    call: int
    arguments: bytes
    shown: str


@dataclass(frozen=True, kw_only=True, slots=True)
class RankAsks:
    """A rank asks for something, and waits for the :class:`Answer`.

    Attributes:
        id: Which rank.
        number: Number of the question, counted by each rank.
        what: The question.
    """

    id: RankId
    number: int
    what: Meeting | FixtureWanted | FactoryCalled


@dataclass(frozen=True, kw_only=True, slots=True)
class TerminalWanted:
    """A rank has reached a breakpoint or has failed, and wants the person's terminal for a debugger.

    It is said over a connection of its own, which is open for as long as the rank has the terminal or waits for it.

    Attributes:
        id: Which rank.
        why: ``"breakpoint"``, ``"trace"`` (``--trace``: the beginning of its test), or ``"failure"`` (``--pdb``).
        place: Where it is.
        has_it: It has the terminal already, and only tells that it has been here.
    """

    id: RankId
    why: Literal["breakpoint", "trace", "failure"]
    place: str
    has_it: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class TerminalUsed:
    """What a debugger does that has the terminal.

    Attributes:
        id: The rank.
        prompting: It waits for a command; else the rank runs, by a step, say.
    """

    id: RankId
    prompting: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class TerminalDone:
    """A rank gives the terminal back.

    Attributes:
        id: The rank.
        quits: The person has left the debugger by ``quit``.
    """

    id: RankId
    quits: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class TestOver:
    """A rank's set-up and call are behind it: it makes no call in them any more.

    Attributes:
        id: Which rank.
        how: How they ended, in a few words.
    """

    __test__ = False

    id: RankId
    how: str


RankMessage = (
    RankHello
    | RankFailed
    | RankCaught
    | RankReport
    | RankWarned
    | RankLogged
    | RankFinished
    | RankAsks
    | TestOver
    | TerminalWanted
    | TerminalUsed
    | TerminalDone
)
AgentMessage = AgentHello | RoundStarted | RankExited | EventRecorded | AgentFinished
Message = RankMessage | AgentMessage
