"""Tests are collected as pytest collects them, and asked what their launch is to be."""

from __future__ import annotations

from typing import Any

import pytest

from pytest_elastic.detection import arguments_of
from pytest_elastic.options import LAUNCH_ARGUMENTS, SETTINGS
from pytest_elastic.parametrizing import spec_of
from pytest_elastic.roles import GIVEN
from pytest_elastic.spec import ArgumentError, LaunchSpec

Launches = dict[str, LaunchSpec | str | None]


def collect(pytester: pytest.Pytester, source: str, *args: str) -> Launches:
    """Return the launch of each test by its name: a spec, the line that refuses it, or ``None`` for a plain test."""
    path = pytester.makepyfile(test_it="import unittest\nimport pytest\nelastic = pytest.mark.elastic\n" + source)
    # The plugin of hypothesis would import hypothesis anew at the end of each session.
    items, _ = pytester.inline_genitems(path, "-p", "no:randomly", "-p", "no:hypothesispytest", *args)
    found: Launches = {}
    for item in items:
        arguments, given = arguments_of(item), item.config.stash[GIVEN]
        name = item.nodeid.partition("::")[2]
        try:
            found[name] = None if arguments is None else spec_of(item, arguments, given)
        except ArgumentError as error:
            found[name] = str(error)
    return found


def sizes(launches: Launches) -> dict[str, Any]:
    return {
        name: (launch.nproc, launch.max_nodes) if isinstance(launch, LaunchSpec) else launch
        for name, launch in launches.items()
    }


def test_a_list_is_a_test_for_each_entry_and_last_in_the_id(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(
        "def pytest_generate_tests(metafunc):\n"
        "    if 'hooked' in metafunc.fixturenames: metafunc.parametrize('hooked', ['h'])\n"
    )
    source = """
@elastic(nproc=[1, 4])
def test_one(): pass
@pytest.mark.parametrize("letter", ["a"])
@elastic(nproc=[2, "gpu"])
@pytest.mark.parametrize("other", ["b"])
def test_more(letter, other, hooked): pass
@elastic(nproc=[2], nnodes=[1, "1:2"])
def test_both(): pass
"""
    assert sizes(collect(pytester, source)) == {
        "test_one[nproc=1]": (1, 1),
        "test_one[nproc=4]": (4, 1),
        "test_more[h-b-a-nproc=2]": (2, 1),
        "test_more[h-b-a-nproc=gpu]": ("gpu", 1),
        "test_both[nproc=2-nnodes=1]": (2, 1),
        "test_both[nproc=2-nnodes=1:2]": (2, 2),
    }


def test_marks_are_merged_before_lists_are_looked_at(pytester: pytest.Pytester) -> None:
    source = """
pytestmark = elastic(nproc=[1, 2], seed=7)
def test_module(): pass
@elastic(nnodes=[2])
class TestIt:
    def test_class(self): pass
    @elastic(nproc=3)
    def test_function(self): pass
"""
    launches = collect(pytester, source)
    assert sizes(launches) == {
        "test_module[nproc=1]": (1, 1),
        "test_module[nproc=2]": (2, 1),
        "TestIt::test_class[nproc=1-nnodes=2]": (1, 2),
        "TestIt::test_class[nproc=2-nnodes=2]": (2, 2),
        "TestIt::test_function[nnodes=2]": (3, 2),
    }
    assert {launch.seed for launch in launches.values() if isinstance(launch, LaunchSpec)} == {7}


NPROC = SETTINGS["nproc"].allowed
NNODES = SETTINGS["nnodes"].allowed
BAD_LISTS = {
    "nproc=[]": "marker elastic(nproc=): got [], expected a list with an entry for each test",
    "nproc=[2, 0]": f"marker elastic(nproc=): got 0, expected {NPROC}, in each entry of [2, 0]",
    "nproc=[2, True]": f"marker elastic(nproc=): got True, expected {NPROC}, in each entry of [2, True]",
    "nproc=[[1, 2]]": f"marker elastic(nproc=): got [1, 2], expected {NPROC}, in each entry of [[1, 2]]",
    "nproc=[2, 3, 2]": (
        "marker elastic(nproc=): got 2 twice in [2, 3, 2], expected different entries, each for one test"
    ),
    "nproc=(1, 2)": f"marker elastic(nproc=): got (1, 2), expected {NPROC}",
    "nnodes=[None]": f"marker elastic(nnodes=): got None, expected {NNODES}, in each entry of [None]",
    "nnodes=['2:1']": f"marker elastic(nnodes=): got '2:1', expected {NNODES}, in each entry of ['2:1']",
    "nproc=[1, 2], nnodes=[]": "marker elastic(nnodes=): got [], expected a list with an entry for each test",
    "seed=[1, 2]": f"marker elastic(seed=): got [1, 2], expected {SETTINGS['seed'].allowed}",
}


def test_a_bad_list_is_one_test_that_says_so(pytester: pytest.Pytester) -> None:
    source = "".join(f"@elastic({text})\ndef test_{i}(): pass\n" for i, text in enumerate(BAD_LISTS))
    assert list(collect(pytester, source).items()) == [
        (f"test_{i}", message) for i, message in enumerate(BAD_LISTS.values())
    ]


def test_positional_and_unknown_arguments_name_the_valid_ones(pytester: pytest.Pytester) -> None:
    source = "@elastic(4, nproc=[1, 2])\ndef test_one(): pass\n@elastic(nprocs=4)\ndef test_two(): pass\n"
    names = ", ".join((*LAUNCH_ARGUMENTS, "faults", "rdzv_configs"))
    assert collect(pytester, source) == {
        "test_one": f"marker elastic takes keywords only, got 4; allowed are {names}",
        "test_two": f"marker elastic has no argument 'nprocs' (did you mean nproc?); allowed are {names}",
    }


def test_a_list_where_pytest_cannot_parametrize_is_one_line(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(
        "import pytest\n"
        "def pytest_collection_modifyitems(items):\n"
        "    for item in items:\n"
        "        if item.name == 'test_added': item.add_marker(pytest.mark.elastic(nproc=[1, 2]))\n"
    )
    source = """
@elastic(nproc=[1, 2])
class TestIt(unittest.TestCase):
    def test_method(self): pass
@pytest.mark.parametrize("x", [pytest.param(1, marks=elastic(nnodes=[1, 2])), 2])
def test_param(x): pass
def test_added(): pass
"""
    cannot = "pytest cannot parametrize"
    marks = "by marks in pytest.param or added after collection"
    assert collect(pytester, source) == {
        "TestIt::test_method": f"marker elastic(nproc=[1, 2]): {cannot} unittest methods; give one value",
        "test_param[1]": f"marker elastic(nnodes=[1, 2]): {cannot} {marks}; give one value",
        "test_param[2]": None,
        "test_added": f"marker elastic(nproc=[1, 2]): {cannot} {marks}; give one value",
    }


def test_a_mark_in_pytest_param_is_the_closest(pytester: pytest.Pytester) -> None:
    source = """
@pytest.mark.parametrize("x", [pytest.param(1, marks=elastic(nproc=4)), 2])
@elastic(nproc=2, nnodes=3)
def test_one(x): pass
@pytest.mark.parametrize("x", [pytest.param(1, marks=elastic(nproc=4)), pytest.param(2, marks=elastic(nproc=[1]))])
@elastic(nproc=[2])
def test_list(x): pass
"""
    contradicts = "contradicts the list [2] that parametrizes this test; use one"
    marks = "by marks in pytest.param or added after collection"
    assert sizes(collect(pytester, source)) == {
        "test_one[1]": (4, 3),
        "test_one[2]": (2, 3),
        "test_list[1-nproc=2]": f"marker elastic(nproc=4): {contradicts}",
        "test_list[2-nproc=2]": f"marker elastic(nproc=[1]): pytest cannot parametrize {marks}; give one value",
    }


def test_parametrized_arguments_of_well_known_names_set_the_launch(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(
        "def pytest_generate_tests(metafunc):\n"
        "    if metafunc.function.__name__ == 'test_hook': metafunc.parametrize('nproc', [5])\n"
    )
    source = """
@pytest.mark.parametrize("world_size", [2, 4])
@elastic(nproc=3)
def test_world_size(world_size): pass
@pytest.mark.parametrize(("x", "nproc"), [(0, "gpu")])
@elastic(nproc=3)
def test_nproc(x, nproc): pass
@pytest.mark.parametrize("nnodes", ["1:2"])
@elastic(nproc=3)
def test_nnodes(nnodes): pass
@elastic(nnodes=2)
@pytest.mark.parametrize("world_size", [4])
class TestIt:
    def test_class(self, world_size): pass
    @pytest.mark.parametrize("nproc", [2])
    def test_agreed(self, world_size, nproc): pass
@elastic(nnodes=[1, 2])
@pytest.mark.parametrize("world_size", [4])
def test_swept(world_size): pass
@elastic(seed=1)
def test_hook(nproc): pass
@pytest.mark.parametrize("world_size", [4], indirect=True)
@elastic(seed=1)
def test_indirect(world_size): pass
"""
    assert sizes(collect(pytester, source)) == {
        "test_world_size[2]": (2, 1),
        "test_world_size[4]": (4, 1),
        "test_nproc[0-gpu]": ("gpu", 1),
        "test_nnodes[1:2]": (3, 2),
        "TestIt::test_class[4]": (2, 2),
        "TestIt::test_agreed[2-4]": (2, 2),
        "test_swept[4-nnodes=1]": (4, 1),
        "test_swept[4-nnodes=2]": (2, 2),
        "test_hook[5]": (5, 1),
        "test_indirect[4]": (4, 1),
    }


OTHER = "but each rank of an elastic test has a {0} of its own; use another name"
BAD_PARAMETERS = {
    ("nproc", "0", ""): f"parametrized argument 'nproc': got 0, expected {NPROC}",
    ("nproc", "[1, 2]", ""): f"parametrized argument 'nproc': got [1, 2], expected {NPROC}",
    ("nnodes", "'b:a'", ""): f"parametrized argument 'nnodes': got 'b:a', expected {NNODES}",
    ("world_size", "'2'", ""): "parametrized argument 'world_size': got '2', expected an int >= 1",
    ("world_size", "0", ""): "parametrized argument 'world_size': got 0, expected an int >= 1",
    ("world_size", "3", "nnodes=2"): (
        "parametrized argument 'world_size': got 3, expected a multiple of nnodes, which is 2"
    ),
    ("world_size", "2", "nnodes='1:2'"): (
        "parametrized argument 'world_size': got 2, but nnodes=\"1:2\" leaves the size of the world open; give a fixed "
        "number of nodes"
    ),
    ("world_size", "2", "nnodes=0"): f"marker elastic(nnodes=): got 0, expected {NNODES}",
    ("rank", "0", ""): f"parametrized argument 'rank': got 0, {OTHER.format('rank')}",
    ("local_rank", "0", ""): f"parametrized argument 'local_rank': got 0, {OTHER.format('local_rank')}",
    ("node_rank", "0", ""): f"parametrized argument 'node_rank': got 0, {OTHER.format('node_rank')}",
}


def test_bad_parameters_are_one_line(pytester: pytest.Pytester) -> None:
    source = "".join(
        f"@pytest.mark.parametrize('{name}', [{value}], ids=['x'])\n@elastic({mark or 'seed=1'})\n"
        f"def test_{i}({name}): pass\n"
        for i, (name, value, mark) in enumerate(BAD_PARAMETERS)
    )
    assert list(collect(pytester, source).items()) == [
        (f"test_{i}[x]", message) for i, message in enumerate(BAD_PARAMETERS.values())
    ]


def test_contradictions_are_one_line(pytester: pytest.Pytester) -> None:
    source = """
@pytest.mark.parametrize("world_size", [2])
@elastic(nproc=[2])
def test_list(world_size): pass
@pytest.mark.parametrize("nnodes", [2])
@elastic(nnodes=[2])
def test_nodes(nnodes): pass
@pytest.mark.parametrize("world_size", [4])
@pytest.mark.parametrize("nproc", [2])
@elastic(seed=1)
def test_both(world_size, nproc): pass
"""
    both = "and parametrized argument {1!r} both set {0}; use one"
    assert collect(pytester, source) == {
        "test_list[2-nproc=2]": f"marker elastic(nproc=[...]) {both.format('nproc', 'world_size')}",
        "test_nodes[2-nnodes=2]": f"marker elastic(nnodes=[...]) {both.format('nnodes', 'nnodes')}",
        "test_both[2-4]": (
            "parametrized argument 'world_size': got 4, but parametrized argument 'nproc' is 2 and nnodes 1"
        ),
    }


def test_fixtures_of_users_with_these_names_change_nothing(pytester: pytest.Pytester) -> None:
    source = """
@pytest.fixture(params=[5])
def world_size(request): return request.param
@pytest.fixture
def nproc(request): return request.param
@pytest.fixture(params=[0, 1])
def rank(request): return request.param
@elastic(nproc=3)
def test_fixture(world_size): pass
@elastic(nproc=3)
@pytest.mark.parametrize("nproc", [7], indirect=True)
def test_indirect(nproc): pass
@elastic(nproc=3)
def test_rank(rank): pass
@elastic(nproc=3)
@pytest.mark.parametrize("world_size", [2])
def test_direct(world_size): pass
"""
    assert sizes(collect(pytester, source)) == {
        "test_fixture[5]": (3, 1),
        "test_indirect[7]": (3, 1),
        "test_rank[0]": (3, 1),
        "test_rank[1]": (3, 1),
        "test_direct[2]": (2, 1),
    }


def test_a_bare_mark_is_left_alone_without_a_default_nproc(pytester: pytest.Pytester) -> None:
    source = """
@elastic
@pytest.mark.parametrize("world_size", [2])
def test_it(world_size): pass
@elastic
@pytest.mark.parametrize("rank", [1])
def test_rank(rank): pass
"""
    assert collect(pytester, source) == {"test_it[2]": None, "test_rank[1]": None}
    assert sizes(collect(pytester, source, "--elastic-nproc=3")) == {
        "test_it[2]": (2, 1),
        "test_rank[1]": f"parametrized argument 'rank': got 1, {OTHER.format('rank')}",
    }


SPELLED: dict[str, tuple[str, str, Any]] = {
    # The argument: as the mark, the command line and the ini file write it, and what the launch then has.
    "nproc": ("3", "4", 5),
    "backend": ("'nccl'", "mpi", "gloo"),
    "device": ("'cuda'", "xpu", "auto"),
    "timeout": ("3", "4", 5.0),
    "start_method": ("'forkserver'", "forkserver", "spawn"),
    "nnodes": ("3", "", 5),
    "max_restarts": ("3", "", 5),
    "rdzv_backend": ("'static'", "", "c10d"),
    "seed": ("3", "", 5),
}


@pytest.mark.parametrize("name", SPELLED)
def test_the_mark_wins_over_the_command_line_and_that_over_the_ini_file(pytester: pytest.Pytester, name: str) -> None:
    mark, option, ini = SPELLED[name]
    source = f"@elastic({name}={mark})\ndef test_mark(): pass\n@elastic(env={{}})\ndef test_rest(): pass\n"
    pytester.makeini(f"[pytest]\nelastic_{name} = {ini}\n")
    args = [f"{SETTINGS[name].flag_name}={option}"] if option else []
    launches = collect(pytester, source, *args)
    attribute = "max_nodes" if name == "nnodes" else name
    expected = SETTINGS[name].parse(option) if option else ini
    assert getattr(launches["test_rest"], attribute) == expected
    assert repr(getattr(launches["test_mark"], attribute)) == mark
    if option:
        assert getattr(collect(pytester, source)["test_rest"], attribute) == ini


@pytest.mark.parametrize("scope", ["module", "session"])
@pytest.mark.parametrize("unfit", ["max_restarts=1", 'nnodes="1:2"', "faults=[KillRank(0)]"])
def test_what_ranks_that_are_kept_cannot_have(pytester: pytest.Pytester, scope: str, unfit: str) -> None:
    source = f"""
from pytest_elastic import KillRank
@elastic(isolation="{scope}", {unfit})
def test_mark(): pass
@elastic({unfit})
def test_option(): pass
@elastic()
def test_other(): pass
"""
    launches = collect(pytester, source, f"--elastic-isolation={scope}", "--elastic-nproc=2")
    assert launches["test_mark"] == (
        f'marker elastic(isolation="{scope}"): ranks that are kept for other tests cannot have '
        f'{unfit.partition("=[")[0]}; use isolation="function"'
    )
    # An option means the tests that can.
    assert [getattr(launches[name], "isolation", None) for name in ("test_option", "test_other")] == ["function", scope]
