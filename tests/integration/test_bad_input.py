"""Whatever is given to a launch, a handle on one, a fixture or the marker: one line says what is allowed.

The rows are the names of the values that are allowed, which are not tried here. Arguments that have no row fail a test.
"""

from __future__ import annotations

import inspect
import itertools
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

from pytest_elastic import ElasticError
from pytest_elastic.controller.launcher import ElasticLaunch
from pytest_elastic.controller.running import RunningAgent, RunningLaunch
from pytest_elastic.options import LAUNCH_ARGUMENTS
from pytest_elastic.parametrizing import ALLOWED
from pytest_elastic.services.etcd import EtcdServer

from ..hostile import HOSTILE
from . import bad_input_cases
from .bad_input_cases import CONTRADICTIONS, FINE, VALUES

if TYPE_CHECKING:
    from pytest_elastic.controller.running import RunningLaunch as Running

DEADLINE = 60
STRINGS: Final = {name for name, value in HOSTILE.items() if isinstance(value, str)}
SECONDS: Final = {"None", "1", "2**31", "2**63", "2**64", "0.5", "2.0", "1e308"}
CALL: Final[dict[str, set[str]]] = {
    "entrypoint": {"class", "function", *STRINGS} - {"''", "null", "half a character"},
    "kwargs": {"None", "{}", "{'A': 1}", "{'A': 'a'}", "half a variable"},
    "check": {"True", "False"},
    "agents": {"None", "1"},
    "config": {"None"},
    "rdzv_configs": {"None", "{}", "{'A': 1}", "{'A': 'a'}", "half a variable"},
    "rdzv_endpoint": {"''"},
    "agent": set(),
    "agent_error": {"None", "error"},
    "faults": {"[]", "()"},
}
HANDLE: Final[dict[tuple[str, str], set[str]]] = {
    ("kill", "rank"): {"0"},
    ("signal", "rank"): {"0"},
    ("signal", "sig"): {"1", "enum"},
    ("stop", "rank"): {"0"},
    ("resume", "rank"): {"0"},
    ("wait_for_output", "pattern"): STRINGS - {"a pattern"},
    ("wait_for_output", "rank"): {"None", "0"},
    ("wait_for_output", "timeout"): SECONDS,
    ("wait_for_world", "world_size"): {"1"},
    ("wait_for_world", "timeout"): SECONDS,
    ("wait", "timeout"): SECONDS,
    ("wait", "check"): {"True", "False"},
    ("agent.join", "timeout"): SECONDS,
}
USUAL: Final[dict[str, Any]] = {"rank": 0, "sig": 1, "pattern": "x", "world_size": 1}
"""What beside a hostile value is given where something must be."""


def sleep() -> None:
    time.sleep(DEADLINE)


def parameters_of(function: Callable[..., object]) -> list[str]:
    kinds = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    found = inspect.signature(function).parameters.items()
    return [name for name, parameter in found if parameter.kind not in kinds and name != "self"]


def methods_of(kind: type) -> dict[str, list[str]]:
    public = inspect.getmembers(kind, inspect.isfunction)
    return {name: names for name, method in public if name[0] != "_" and (names := parameters_of(method))}


def test_every_argument_has_a_row() -> None:
    assert list(CALL) == parameters_of(ElasticLaunch.__call__)
    assert [name for name in CALL if name != "check"] == parameters_of(ElasticLaunch.start)
    agents = {f"agent.{name}": names for name, names in methods_of(RunningAgent).items()}
    methods = methods_of(RunningLaunch) | agents
    assert set(HANDLE) == {(method, name) for method, names in methods.items() for name in names}
    assert methods_of(EtcdServer) == {"output": ["lines"], "restart": ["timeout"]}


def refuse_all(call: Callable[[Any], object], allowed: set[str], source: str) -> None:
    """See that a call refuses all hostile values but some, each with one line that begins with its source."""
    for what, value in HOSTILE.items():
        if what in allowed:
            continue
        with pytest.raises(ElasticError) as caught:
            call(value)
        text = str(caught.value)
        assert text.isprintable(), what
        assert text.startswith(source), (what, text)
        assert len(text) < 700, what


@pytest.mark.parametrize("name", CALL)
def test_arguments_of_a_call(elastic_launch: ElasticLaunch, name: str) -> None:
    for source, launch in (("elastic_launch", elastic_launch), ("elastic_launch.start", elastic_launch.start)):
        if name == "entrypoint":
            # What is wrong with an entry point, or with what it is given, is told in one place.
            refuse_all(partial(launch, nproc=1), CALL[name], "elastic_launch: ")
        elif name == "kwargs":
            refuse_all(partial(with_argument, launch, name), CALL[name], "elastic_launch(kwargs=): ")
        elif name != "check" or source == "elastic_launch":
            refuse_all(partial(with_argument, launch, name), CALL[name], f"{source}({name}=): ")


def with_argument(launch: Callable[..., object], name: str, value: object) -> object:
    return launch(int, **{name: value})


def test_arguments_of_a_handle(elastic_launch: ElasticLaunch) -> None:
    with elastic_launch.start(sleep, nproc=1, timeout=DEADLINE) as run:
        run.wait_for_world(1)
        for (method, name), allowed in HANDLE.items():
            source = method if method.startswith("agent") else f"run.{method}"
            refuse_all(partial(call_on, run, method, name), allowed, f"{source}(")
        assert run.ranks[0].state == "RUNNING"


def call_on(run: Running, method: str, name: str, value: object) -> object:
    on: Any = run.agents[0] if method.startswith("agent.") else run
    call = getattr(on, method.rpartition(".")[2])
    usual = {each: USUAL[each] for each in parameters_of(call) if each in USUAL}
    given = {**usual, name: value}
    positional = [given.pop(each) for each in ("pattern", "world_size") if each in given]
    return call(*positional, **given)


def test_arguments_of_fixtures(
    etcd_server: EtcdServer,
    etcd_server_factory: Callable[..., EtcdServer],
    free_port_factory: Callable[..., list[int]],
    free_socket_factory: Callable[[], object],
) -> None:
    refuse_all(lambda value: etcd_server_factory(timeout=value), SECONDS - {"None"}, "etcd_server_factory(): got ")
    refuse_all(lambda value: etcd_server.output(value), {"1"}, "EtcdServer.output(): got ")
    refuse_all(free_port_factory, {"1", "enum"}, "free_port_factory(n): got ")
    assert not inspect.signature(free_socket_factory).parameters


# --- the marker, parameters and hooks, in one session -------------------------------------------------------

CONFTEST = """
from pytest_elastic.accelerators import Survey

def pytest_elastic_configure_launch(spec, item):
    return item.callspec.params.get("returned") if hasattr(item, "callspec") else None

def pytest_elastic_find_devices(config, environ):
    return Survey(kind="cpu", private="mine", counts={"cuda": "many"})
"""


def test_the_marker_parameters_and_hooks(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]), prepend=":")
    pytester.makeconftest(CONFTEST)
    pytester.makepyfile(test_it=Path(bad_input_cases.__file__).read_text())
    result = pytester.runpytest_subprocess("-p", "no:cacheprovider", "-p", "no:randomly")
    heads = [i for i, line in enumerate(result.outlines) if " ERROR at setup of " in line]
    lines = {result.outlines[i].strip("_ ").removeprefix("ERROR at setup of "): result.outlines[i + 1] for i in heads}
    # One line each, and nothing else is printed of them.
    assert all(later - earlier == 2 for earlier, later in itertools.pairwise(heads))
    for name, line in lines.items():
        assert line.startswith(source_of(name)), (name, line)
        assert line.isprintable(), name
    refused = len(ALLOWED) * len(VALUES) - len(FINE)
    assert len(lines) == refused + 3 * len(VALUES) + 2 + len(LAUNCH_ARGUMENTS) + len(CONTRADICTIONS)
    result.assert_outcomes(errors=len(lines), passed=2)


def source_of(name: str) -> str:
    """Return how the error of a test begins."""
    function, _, case = name.partition("[")
    what = case.rstrip("]").partition("=")[0]
    if function == "test_contradiction":
        return CONTRADICTIONS[int(what)][1]
    return {
        "test_argument": f"marker elastic({what}=): got ",
        "test_parameter": "parametrized argument 'world_size': got ",
        "test_rank": "parametrized argument 'rank': got ",
        "test_positional": "marker elastic takes keywords only, got ",
        "test_hook": "pytest_elastic_configure_launch: got ",
        "test_hook_value": f"pytest_elastic_configure_launch({what}=): got ",
        "test_list": "marker elastic(nproc=): got ",
    }[function]


@pytest.mark.parametrize(
    ("option", "line"),
    [
        ("--elastic-nproc=gpuu", '--elastic-nproc: got \'gpuu\', expected an int >= 1, "auto", "cpu", "gpu", "xpu" or'),
        (
            "--override-ini=elastic_device=tpu",
            'ini elastic_device: got \'tpu\', expected "cpu", "cuda", "xpu", "mps", ',
        ),
    ],
)
def test_a_word_that_torch_does_not_know_ends_the_session(pytester: pytest.Pytester, option: str, line: str) -> None:
    survey = "Survey(kind='cpu', private='mine', counts={})"
    pytester.makeconftest(
        "from pytest_elastic.accelerators import Survey\n"
        f"def pytest_elastic_find_devices(config, environ): return {survey}\n"
    )
    pytester.makepyfile(test_it="import pytest\n@pytest.mark.elastic(timeout=60)\ndef test_it(): pass\n")
    result = pytester.runpytest_inprocess(option, "-p", "no:cacheprovider")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    [told] = [text for text in result.errlines if "ERROR" in text]
    assert told.startswith(f"ERROR: {line}")
    assert "mine" in told
    result.stdout.no_fnmatch_line("*Traceback*")


def test_a_word_that_torch_does_not_know_does_not_disturb_others(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(test_it="def test_plain(): pass\n")
    result = pytester.runpytest_inprocess("--elastic-nproc=gpuu", "-p", "no:cacheprovider")
    result.assert_outcomes(passed=1)
