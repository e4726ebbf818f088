"""Every setting, declared once: its check, its default, its option and its ini key."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from pytest_elastic.one_line import fitted, one_line

if TYPE_CHECKING:
    import pytest

Check = Callable[[Any], bool]
MOST: Final = 2**31 - 1
"""The largest int that is allowed anywhere, but for seeds: torch's own are 32 bits long."""


# Tuples, not dataclasses: this module is imported in every session, and those take ten times as long to make.
class Setting(NamedTuple):
    """One setting of a launch or of the run.

    Attributes:
        name: Stem of the option, the ini key and the marker's argument.
        default: Its value where nobody sets it.
        allowed: What is allowed, in words.
        check: Tells whether a value is allowed.
        parse: Makes a value from the text of an option or ini key; raises ``ValueError``.
        help: What it does, for ``--help``.
        option: It has a command-line option.
        launch: It is an argument of the marker and of ``elastic_launch``.
        flag: The option takes no value.
        metavar: Placeholder in ``--help``.
        in_ini: It has an ini key.
        show: Returns a value that is not allowed as an error shows it.
    """

    name: str
    default: Any
    allowed: str
    check: Check
    parse: Callable[[str], Any]
    help: str
    option: bool = True
    launch: bool = True
    flag: bool = False
    metavar: str | None = None
    in_ini: bool = True
    show: Callable[[object], str] = one_line

    @property
    def ini(self) -> str:
        """Return the name of the ini key."""
        return f"elastic_{self.name}"

    @property
    def flag_name(self) -> str:
        """Return the command-line option."""
        return "--elastic-" + self.name.replace("_", "-")

    def refuse(self, source: str, value: object) -> str:
        """Return the line that says that a value is not allowed."""
        most = f", up to {MOST}" if type(value) is int and value > MOST and ">=" in self.allowed else ""
        return f"{source}: got {self.show(value)}, expected {self.allowed}{most}"


def _integer(least: int) -> Check:
    return lambda value: type(value) is int and least <= value <= MOST


def is_seconds(value: object) -> bool:
    """Tell whether a value is a number of seconds above 0; an int that is too large for a float is none."""
    return type(value) in (int, float) and 0 < value <= sys.float_info.max  # type: ignore[operator]


def _seconds(value: object) -> bool:
    return value is None or is_seconds(value)


def _one_of(*words: str) -> Check:
    return lambda value: isinstance(value, str) and value in words


def _nproc(value: object) -> bool:
    return _integer(1)(value) or _word(value)


def _word(value: object) -> bool:
    # torch alone knows the name of its private backend, and it is not asked before a test needs it.
    return isinstance(value, str) and re.fullmatch(r"[a-z_][a-z0-9_]*", value) is not None


def _nnodes(value: object) -> bool:
    if isinstance(value, str):
        match = re.fullmatch(r"([0-9]{1,10})(?::([0-9]{1,10}))?", value)
        return match is not None and 1 <= int(match[1]) <= int(match[2] or match[1]) <= MOST
    return _integer(1)(value)


def _name(value: object) -> bool:
    return isinstance(value, str) and value.isprintable() and value.strip() != ""


def _path(value: object) -> bool:
    return isinstance(value, str) and value.strip() != "" and is_encodable(value)


def _endpoint(value: object) -> bool:
    return isinstance(value, str) and split_endpoint(value) is not None


def split_endpoint(text: str) -> tuple[str, int] | None:
    """Return host and port of ``host:port`` or ``[IPv6 address]:port``, or ``None`` if it is neither."""
    # A number alone would be taken for an address in a form that nobody writes.
    name = r"(?=[^:]*[A-Za-z])[A-Za-z0-9_][A-Za-z0-9_.-]*|[0-9]{1,3}(?:\.[0-9]{1,3}){3}"
    match = re.fullmatch(rf"(?:({name})|\[([0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*)\]):([0-9]{{1,5}})", text)
    if match is None or not 0 < int(match[3]) < 2**16:
        return None
    return match[1] or match[2], int(match[3])


def is_encodable(text: str) -> bool:
    """Tell whether the system takes a text: in a path, or in an environment."""
    try:
        return b"\0" not in os.fsencode(text)
    except UnicodeEncodeError:  # half a character
        return False


def _number_or_word(text: str) -> int | str:
    return int(text) if re.fullmatch(r"[+-]?\d+", text) else text


def _number_or_none(text: str) -> float | None:
    return None if text.lower() == "none" else float(text)


def _whole_or_none(text: str) -> int | None:
    return None if text.lower() == "none" else int(text)


def _word_or_none(text: str) -> str | None:
    return None if text.lower() == "none" else text


def _boolean(text: str) -> bool:
    words = {
        "true": True,
        "1": True,
        "yes": True,
        "on": True,
        "false": False,
        "0": False,
        "no": False,
        "off": False,
    }
    return words[text.lower()]


def _variables(text: str) -> dict[str, str]:
    pairs = [line.strip() for line in text.splitlines() if line.strip()]
    if not all("=" in pair.lstrip("=") for pair in pairs):
        raise ValueError(text)
    return dict(pair.split("=", 1) for pair in pairs)


def _environment(value: object) -> bool:
    return isinstance(value, Mapping) and all(_variable(name, text) for name, text in value.items())


def _variable(name: object, text: object) -> bool:
    return (
        isinstance(name, str)
        and name != ""
        and "=" not in name
        and is_encodable(name)
        and isinstance(text, str)
        and is_encodable(text)
    )


def _shown_environment(value: object) -> str:
    """Show what is wrong with it, and nothing else of it: what variables hold may be secret."""
    if isinstance(value, str):  # of an ini key
        lines = [line.strip() for line in value.splitlines() if line.strip()]
        names = [_shown_name(line.split()[0]) for line in lines if "=" not in line.lstrip("=")]
        return one_line(" ".join(names)) if names else "a str"
    if not isinstance(value, Mapping):
        return "None" if value is None else f"a {type(value).__name__}"
    wrong = [(name, text) for name, text in value.items() if not _variable(name, text)]
    return fitted("{" + ", ".join(f"{_shown_key(name)}: {_shown_text(text)}" for name, text in wrong) + "}")


def _shown_name(name: str) -> str:
    before, equals, _ = name.partition("=")
    return f"{before}=..." if equals else name


def _shown_key(name: object) -> str:
    return one_line(_shown_name(name)) if isinstance(name, str) else _shown_text(name)


def _shown_text(text: object) -> str:
    if isinstance(text, str) and not is_encodable(text):
        return "<a str that no environment can hold>"
    return one_line(text) if isinstance(text, (int, float, type(None))) else f"<{type(text).__name__}>"


SETTINGS: Final[Mapping[str, Setting]] = {
    setting.name: setting
    for setting in (
        Setting(
            name="nproc",
            default=2,
            allowed='an int >= 1, "auto", "cpu", "gpu", "xpu" or the name of torch\'s private backend',
            check=_nproc,
            parse=_number_or_word,
            help="ranks a node (torchrun's --nproc-per-node)",
            metavar="N",
        ),
        Setting(
            name="nnodes",
            default=1,
            allowed='an int >= 1, or "min:max" with 1 <= min <= max',
            check=_nnodes,
            parse=_number_or_word,
            help="number of nodes, each with an agent of its own",
            option=False,
        ),
        Setting(
            name="backend",
            default=None,
            allowed='None (no process group), "auto", or the name of a torch.distributed backend such as "gloo"',
            check=lambda value: value is None or _name(value),
            parse=_word_or_none,
            help="process group that is initialised before the test's fixtures: gloo, nccl, auto, none, ...",
            metavar="NAME",
        ),
        Setting(
            name="device",
            default="cpu",
            allowed='"cpu", "cuda" or another type of accelerator (without an index), or "auto"',
            check=_word,
            parse=str,
            help="device of the ranks: cpu, cuda, another accelerator of torch, or auto",
            metavar="NAME",
        ),
        Setting(
            name="timeout",
            default=300.0,
            allowed="seconds > 0, or None for no deadline",
            check=_seconds,
            parse=_number_or_none,
            help="deadline of each launch in seconds, or none",
            metavar="SECONDS",
        ),
        Setting(
            name="max_restarts",
            default=0,
            allowed="an int >= 0",
            check=_integer(0),
            parse=int,
            help="how often agents may restart failed workers",
            option=False,
        ),
        Setting(
            name="rdzv_backend",
            default=None,
            allowed='"local", "c10d", "static", "etcd" or "etcd-v2"',
            check=lambda value: value is None or _one_of("local", "c10d", "static", "etcd", "etcd-v2")(value),
            parse=_word_or_none,
            help="rendezvous backend: local, c10d, static, etcd or etcd-v2",
            option=False,
        ),
        Setting(
            name="isolation",
            default="function",
            allowed='"function" (fresh ranks for each test), "module" or "session" (tests share ranks)',
            check=_one_of("function", "module", "session"),
            parse=str,
            help="how long ranks live: function (fresh ones for each test), module or session (kept for the next)",
            metavar="{function,module,session}",
        ),
        Setting(
            name="start_method",
            default="forkserver",
            allowed='"forkserver" or "spawn"',
            check=_one_of("forkserver", "spawn"),
            parse=str,
            help="how ranks are started: forkserver (from a preloaded server) or spawn",
            metavar="METHOD",
        ),
        Setting(
            name="env",
            default={},
            allowed="a dict of str to str",
            check=_environment,
            parse=_variables,
            help="environment variables of the ranks, a line NAME=VALUE each",
            option=False,
            show=_shown_environment,
        ),
        Setting(
            name="seed",
            default=0,
            allowed="an int from 0 to 2**64 - 1, or None to leave the generators alone",
            check=lambda value: value is None or (type(value) is int and 0 <= value < 2**64),
            parse=_whole_or_none,
            help="seed of random, numpy and torch on every rank, or none",
            option=False,
        ),
        Setting(
            name="grace",
            default=2.0,
            allowed="seconds > 0",
            check=lambda value: value is not None and _seconds(value),
            parse=float,
            help="seconds that the other ranks get to end once one has failed, before they are killed",
            option=False,
            launch=False,
        ),
        Setting(
            name="log_dir",
            default=None,
            allowed="the path of a directory",
            check=lambda value: value is None or _path(value),
            parse=str,
            help="keep the logs of every rank in this directory",
            launch=False,
            metavar="DIR",
        ),
        Setting(
            name="record",
            default=None,
            allowed="the path of a file",
            check=lambda value: value is None or _path(value),
            parse=str,
            help="keep in this file which tests are over, and do not run them again where the same session is started "
            "again",
            launch=False,
            metavar="FILE",
        ),
        Setting(
            name="show_output",
            default="failed",
            allowed='"failed", "all" or "none"',
            check=_one_of("failed", "all", "none"),
            parse=str,
            help="ranks whose output a failure shows: those that failed, all, or none",
            launch=False,
            metavar="{failed,all,none}",
        ),
        Setting(
            name="report",
            default=None,
            allowed="the path of a file",
            check=lambda value: value is None or _path(value),
            parse=str,
            help="write a page that shows what the ranks of each test did: one file, for any browser",
            launch=False,
            metavar="FILE.html",
        ),
        Setting(
            name="serve",
            default=False,
            allowed="true or false",
            check=lambda value: isinstance(value, bool),
            parse=_boolean,
            help="serve that page while the session goes on, to browsers on this machine",
            launch=False,
            flag=True,
        ),
        Setting(
            name="trace",
            default=None,
            allowed="the path of a file",
            check=lambda value: value is None or _path(value),
            parse=str,
            help="write what the ranks did, and the memory that they held, as trace events, which Perfetto and "
            "chrome://tracing read",
            launch=False,
            metavar="FILE.json",
        ),
        Setting(
            name="durations",
            default=None,
            allowed="an int >= 0",
            check=_integer(0),
            parse=int,
            help="show where the time of the N slowest launches went (0: of all)",
            launch=False,
            metavar="N",
        ),
        Setting(
            name="debug",
            default=None,
            allowed='"collectives" or "none"',
            check=lambda value: value is None or _one_of("collectives")(value),
            parse=_word_or_none,
            help="what ranks keep for the case that they fail: collectives (which they began last, and where)",
            launch=False,
            metavar="{collectives,none}",
        ),
        Setting(
            name="pdb_rank",
            default=None,
            allowed="an int >= 0",
            check=_integer(0),
            parse=int,
            help="the rank that gets the terminal at a breakpoint, with --trace and with --pdb (default: the first to "
            "ask, with --pdb the one that failed first)",
            launch=False,
            metavar="N",
        ),
        Setting(
            name="strict",
            default=False,
            allowed="true or false",
            check=lambda value: isinstance(value, bool),
            parse=_boolean,
            help="fail a test for which there are too few accelerators, instead of skipping it",
            launch=False,
            flag=True,
        ),
        Setting(
            name="cpu_slots",
            default=None,
            allowed="an int >= 1",
            check=_integer(1),
            parse=int,
            help="how many ranks the workers of pytest-xdist run at a time (default: one on each core); a test with "
            "more of them runs alone",
            launch=False,
            metavar="N",
        ),
        Setting(
            name="group",
            default=False,
            allowed="true or false",
            check=lambda value: isinstance(value, bool),
            parse=_boolean,
            help="run tests that may share ranks (isolation module or session) one after the other",
            launch=False,
            flag=True,
        ),
        Setting(
            name="controller_fixtures",
            default=(),
            allowed="names of fixtures",
            check=lambda value: all(name.isidentifier() for name in value),
            parse=lambda text: tuple(text.replace(",", " ").split()),
            help="fixtures that are set up once, in the pytest process, and whose values ranks get",
            option=False,
            launch=False,
        ),
        Setting(
            name="spawn",
            default="spawn",
            allowed='"spawn" or "forkserver"',
            check=_one_of("spawn", "forkserver"),
            parse=str,
            help="how multiprocessing's start method spawn makes a process in the pytest process: spawn (as ever) or "
            "forkserver (forked from a preloaded server)",
            launch=False,
            metavar="{spawn,forkserver}",
        ),
        Setting(
            name="preload",
            default=("auto",),
            allowed='names of modules, and "auto" for those of torch and numpy that the test files import',
            check=lambda value: all(part.isidentifier() for name in value for part in name.split(".")),
            parse=lambda text: tuple(text.replace(",", " ").split()),
            help="modules that --elastic-spawn=forkserver imports beforehand",
            option=False,
            launch=False,
        ),
        Setting(
            name="nodes",
            default=None,
            allowed="an int >= 1",
            check=_integer(1),
            parse=int,
            help="on how many nodes this session runs, with one pytest on each (default: as the launcher says, be it "
            "torchrun, srun or mpirun; without one 1)",
            launch=False,
            metavar="N",
        ),
        Setting(
            name="node_rank",
            default=None,
            allowed="an int >= 0",
            check=_integer(0),
            parse=int,
            help="which of the --elastic-nodes this is, from 0",
            launch=False,
            metavar="R",
            in_ini=False,  # the nodes share the file
        ),
        Setting(
            name="rdzv_endpoint",
            default=None,
            allowed='"host:port" of the first node, with an IPv6 address in brackets',
            check=_endpoint,
            parse=str,
            help="where the pytest of the first node listens for those of the others (default: as the launcher says)",
            launch=False,
            metavar="HOST:PORT",
        ),
        Setting(
            name="key_file",
            default=None,
            allowed="the path of a file",
            check=lambda value: value is None or _path(value),
            parse=str,
            help="file with the key by which the nodes know each other (default: PYTEST_ELASTIC_KEY, or a key that is "
            "made once in ~/.cache/pytest-elastic)",
            launch=False,
            metavar="FILE",
        ),
        Setting(
            name="node_timeout",
            default=10.0,
            allowed="seconds > 0",
            check=lambda value: value is not None and _seconds(value),
            parse=float,
            help="after how many seconds of silence a node is lost",
            launch=False,
            metavar="SECONDS",
        ),
        Setting(
            name="join_timeout",
            default=300.0,
            allowed="seconds > 0",
            check=lambda value: value is not None and _seconds(value),
            parse=float,
            help="for how many seconds nodes wait for each other when the session begins",
            launch=False,
            metavar="SECONDS",
        ),
        Setting(
            name="pack",
            default=False,
            allowed="true or false",
            check=lambda value: isinstance(value, bool),
            parse=_boolean,
            help="run tests that need fewer nodes than there are side by side on different ones",
            launch=False,
            flag=True,
        ),
    )
}
BLOCK_PLUGINS: Final = "elastic_block_plugins"
"""Ini key with the names of plugins that are loaded in the controller only."""
LAUNCH_ARGUMENTS: Final = tuple(name for name, setting in SETTINGS.items() if setting.launch)


def add_options(parser: pytest.Parser) -> None:
    """Declare every option and ini key to pytest."""
    parser.addini(
        BLOCK_PLUGINS,
        "plugins that are not loaded in the server and in ranks, only in the pytest process itself",
        type="args",
        default=[],
    )
    group = parser.getgroup("elastic", "tests on many ranks (pytest-elastic)")
    for setting in SETTINGS.values():
        if setting.in_ini:
            parser.addini(setting.ini, f"{setting.help} (default: {setting.default!r})", type="string", default=None)
        if setting.flag:
            group.addoption(
                setting.flag_name,
                dest=setting.ini,
                action="store_const",
                const="true",
                default=None,
                help=setting.help,
            )
        elif setting.option:
            group.addoption(
                setting.flag_name, dest=setting.ini, metavar=setting.metavar, default=None, help=setting.help
            )


_SIGNS: Final = ("TORCHELASTIC_RUN_ID", "OMPI_COMM_WORLD_RANK", "PMI_RANK", "SLURM_STEP_ID")
_PLACES: Final = ("nodes", "node_rank", "rdzv_endpoint")


def may_be_member(environ: Mapping[str, str], given: Mapping[str, Given]) -> bool:
    """Tell whether this may be one of many pytest processes that make one session; most often there is no sign of it.

    What it really is tells :func:`pytest_elastic.cluster.membership.find_membership`, which is not imported before.
    """
    return any(name in environ for name in _SIGNS) or any(name in given for name in _PLACES)


class Given(NamedTuple):
    """A setting that an option or ini key gives.

    Attributes:
        value: Its value, checked.
        source: ``--elastic-nproc`` or ``ini elastic_nproc``.
    """

    value: Any
    source: str


def read_options(config: pytest.Config) -> dict[str, Given]:
    """Read and check the options and ini keys that are set.

    Raises:
        pytest.UsageError: One of them is not allowed; pytest prints that line and exits with 4.
    """
    import pytest

    given = {}
    for setting in SETTINGS.values():
        text, source = config.getoption(setting.ini, None), setting.flag_name
        if text is None and setting.in_ini:
            text, source = config.getini(setting.ini), f"ini {setting.ini}"
        if text is None or (text == "" and source != setting.flag_name):
            continue
        try:
            value = setting.parse(str(text).strip())
        except (ValueError, KeyError):
            raise pytest.UsageError(setting.refuse(source, text)) from None
        if not setting.check(value):
            raise pytest.UsageError(setting.refuse(source, text))
        given[setting.name] = Given(value=value, source=source)
    return given
