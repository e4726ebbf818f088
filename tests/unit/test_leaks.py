"""What a test leaves changed in a rank that is kept."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

import pytest

from pytest_elastic.worker.leaks import Leaks, LeakWatch

NOTHING = Leaks(told=(), spoilt=False)


class Group:
    """Stands for a process group."""


class Definition:
    """Stands for pytest's definition of a fixture."""

    def __init__(self, scope: str) -> None:
        self.scope = scope


class World:
    """Holds the default process group of a rank."""

    def __init__(self) -> None:
        self.group: Group | None = None


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def watch(world: World) -> LeakWatch:
    watch = LeakWatch()
    watch.begin(lambda: world.group)
    return watch


def set_up(watch: LeakWatch, scope: str, change: Any) -> Any:
    """Set up a fixture of a scope, as pytest's hook does; return its definition."""
    definition: Any = Definition(scope)
    around = watch.pytest_fixture_setup(definition)
    next(around)
    change()
    with pytest.raises(StopIteration):
        around.send(None)
    return definition


def test_variables_are_put_back(watch: LeakWatch, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REMOVED", "1")
    monkeypatch.setenv("CHANGED", "1")
    watch.begin(lambda: None)
    os.environ["ADDED"] = os.environ["CHANGED"] = "2"
    del os.environ["REMOVED"]
    assert watch.look() == Leaks(
        told=("left the environment changed (ADDED, CHANGED, REMOVED), which was put back",), spoilt=False
    )
    assert (os.environ.get("ADDED"), os.environ["CHANGED"], os.environ["REMOVED"]) == (None, "1", "1")
    assert watch.look() == NOTHING


def test_of_many_variables_some_are_named(watch: LeakWatch) -> None:
    os.environ.update({f"LEAK_{number}": "1" for number in range(7)})
    [told] = watch.look().told
    assert told.startswith("left the environment changed (LEAK_0, LEAK_1, LEAK_2, LEAK_3, LEAK_4 and 2 more)")
    assert "LEAK_6" not in os.environ


def test_what_torchs_compiler_sets_is_no_tests(watch: LeakWatch, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR"):
        monkeypatch.delenv(name, raising=False)
    watch.begin(lambda: None)
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "/cache")  # as the first DDP does
    assert watch.look() == NOTHING
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == "/cache"
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = "/another"
    assert watch.look().told == ("left the environment changed (TORCHINDUCTOR_CACHE_DIR), which was put back",)
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == "/cache"


def test_the_directory_is_put_back(watch: LeakWatch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = Path.cwd()
    monkeypatch.chdir(tmp_path)
    assert watch.look() == Leaks(told=("left the working directory changed, which was put back",), spoilt=False)
    assert Path.cwd() == before


def test_what_wider_fixtures_change_is_theirs(
    watch: LeakWatch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WIDE", raising=False)
    before = Path.cwd()
    os.environ["TEST"] = "1"  # by the test itself, before it asks for the fixture

    def change() -> None:
        os.environ["WIDE"] = "1"
        os.chdir(tmp_path)

    definition = set_up(watch, "module", change)
    assert watch.look().told == ("left the environment changed (TEST), which was put back",)
    assert (os.environ["WIDE"], Path.cwd()) == ("1", tmp_path)
    # It is torn down.
    del os.environ["WIDE"]
    os.chdir(before)
    watch.pytest_fixture_post_finalizer(definition)
    assert watch.look() == NOTHING
    # What was right while it was set up is so no longer.
    os.environ["WIDE"] = "1"
    os.chdir(tmp_path)
    assert len(watch.look().told) == 2
    assert ("WIDE" in os.environ, Path.cwd()) == (False, before)
    assert watch.look() == NOTHING


def test_a_directory_that_is_gone(watch: LeakWatch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "gone").mkdir()
    os.chdir("gone")
    watch.begin(lambda: None)
    os.chdir(tmp_path)
    (tmp_path / "gone").rmdir()
    told = "left the working directory changed, and the one before is gone"
    assert watch.look() == Leaks(told=(told,), spoilt=True)


def test_what_a_fixture_of_the_test_changes_is_the_tests(watch: LeakWatch) -> None:
    set_up(watch, "function", lambda: os.environ.update(NARROW="1"))
    assert watch.look().told == ("left the environment changed (NARROW), which was put back",)


@pytest.mark.parametrize("daemon", [True, False])
def test_threads(watch: LeakWatch, daemon: bool) -> None:
    end = threading.Event()
    thread = threading.Thread(target=end.wait, name="left", daemon=daemon)
    thread.start()
    try:
        # One that would hold the process is named when the rank ends.
        told = ("left daemon thread 'left' behind",) if daemon else ()
        assert watch.look() == Leaks(told=told, spoilt=not daemon)
        assert watch.look() == NOTHING
    finally:
        end.set()
        thread.join(10)


def test_groups(watch: LeakWatch, world: World) -> None:
    world.group = Group()
    assert watch.look() == Leaks(told=("left a default process group behind",), spoilt=True)
    world.group = None
    watch.own(lambda: setattr(world, "group", Group()))
    assert watch.look() == NOTHING
    kept, world.group = world.group, Group()
    name = "the default process group that is kept for other tests"
    assert watch.look() == Leaks(told=(f"replaced {name}",), spoilt=True)
    world.group = None
    assert watch.look() == Leaks(told=(f"destroyed {name}",), spoilt=True)
    world.group = kept
    assert watch.look() == NOTHING


def test_a_fixture_may_destroy_the_group_that_it_made(watch: LeakWatch, world: World) -> None:
    definition = set_up(watch, "session", lambda: setattr(world, "group", Group()))
    assert watch.look() == NOTHING
    world.group = None
    watch.pytest_fixture_post_finalizer(definition)
    assert watch.look() == NOTHING


def test_a_group_is_not_kept_alive(watch: LeakWatch, world: World) -> None:
    gone: list[int] = []

    class Told(Group):
        def __del__(self) -> None:
            gone.append(1)

    watch.own(lambda: setattr(world, "group", Told()))
    world.group = None
    assert gone == [1]


def test_a_rank_that_runs_one_test_is_not_watched() -> None:
    watch = LeakWatch()
    set_up(watch, "session", lambda: None)
    done: list[int] = []
    watch.own(lambda: done.append(1))
    assert done == [1]
