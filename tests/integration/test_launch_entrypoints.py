"""What can be launched, what it finds in its process, and what comes back."""

from __future__ import annotations

import functools
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil
import pytest
import torch
import torch.distributed as dist

from pytest_elastic import ElasticError, LaunchResult, WorkerFailedError

if TYPE_CHECKING:
    from pytest_elastic.controller.launcher import ElasticLaunch

DEADLINE = 30


def own_rank() -> int:
    return int(os.environ["RANK"])


def plus_rank(value: int, *, factor: int = 1) -> int:
    return factor * (value + own_rank())


def variables(*names: str) -> dict[str, str | None]:
    return {name: os.environ.get(name) for name in names}


class Scaler:
    def __init__(self, factor: int) -> None:
        self.factor = factor

    def by_method(self, value: int) -> int:
        return self.factor * value + own_rank()

    @classmethod
    def by_class_method(cls, value: int) -> tuple[str, int]:
        return cls.__name__, value + own_rank()

    @staticmethod
    def by_static_method(value: int) -> int:
        return -value - own_rank()

    def __call__(self, value: int) -> int:
        return 100 * self.factor * value + own_rank()


def python(folder: Path, text: str, name: str = "script.py") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def words(output: Mapping[int, str]) -> dict[int, list[str]]:
    return {rank: text.split() for rank, text in output.items()}


# --- callables ----------------------------------------------------------------------------------------------


def test_a_function_with_arguments_and_keywords(elastic_launch: ElasticLaunch) -> None:
    result = elastic_launch(plus_rank, 5, kwargs={"factor": 3}, nproc=2, timeout=DEADLINE)
    assert result == {0: 15, 1: 18}
    assert result.name == "plus_rank"


def test_a_lambda(elastic_launch: ElasticLaunch) -> None:
    result = elastic_launch(lambda value: value * 2, "ab", nproc=2, timeout=DEADLINE)
    assert result == {0: "abab", 1: "abab"}
    assert result.name == "<lambda>"


def test_a_closure_over_the_tests_own_values(elastic_launch: ElasticLaunch, tmp_path: Path) -> None:
    class Local:
        number = 7

    def nested(value: int) -> tuple[int, int, str]:
        return Local.number, value + own_rank(), tmp_path.name

    assert elastic_launch(nested, 1, nproc=2, timeout=DEADLINE) == {0: (7, 1, tmp_path.name), 1: (7, 2, tmp_path.name)}


@pytest.mark.parametrize(
    ("entry", "values", "name"),
    [
        pytest.param(functools.partial(plus_rank, factor=2), [2, 4], "plus_rank", id="partial"),
        pytest.param(Scaler(10).by_method, [10, 11], "by_method", id="bound method"),
        pytest.param(Scaler.by_class_method, [("Scaler", 1), ("Scaler", 2)], "by_class_method", id="class method"),
        pytest.param(Scaler.by_static_method, [-1, -2], "by_static_method", id="static method"),
        pytest.param(Scaler(2), [200, 201], "Scaler", id="callable object"),
        pytest.param(abs, [1, 1], "abs", id="builtin"),
    ],
)
def test_callables_of_every_kind(
    elastic_launch: ElasticLaunch, entry: Callable[[int], Any], values: list[Any], name: str
) -> None:
    result = elastic_launch(entry, 1, nproc=2, timeout=DEADLINE)
    assert result == dict(enumerate(values))
    assert result.name == name


def test_a_static_method_of_a_class_within_the_test(elastic_launch: ElasticLaunch) -> None:
    class Inner:
        @staticmethod
        def run(value: int) -> int:
            return value + own_rank()

    assert elastic_launch(Inner.run, 3, nproc=2, timeout=DEADLINE) == {0: 3, 1: 4}


def test_a_megabyte_there_and_back(elastic_launch: ElasticLaunch) -> None:
    sent = os.urandom(1 << 20)
    result = elastic_launch(lambda data: data[::-1], sent, nproc=2, timeout=DEADLINE)
    assert result[0] == result[1] == sent[::-1]


def test_a_tensor_there_and_back(elastic_launch: ElasticLaunch) -> None:
    result = elastic_launch(lambda tensor: tensor + own_rank(), torch.arange(3), nproc=2, timeout=DEADLINE)
    assert result[0].tolist() == [0, 1, 2]
    assert result[1].tolist() == [1, 2, 3]


@pytest.mark.parametrize("entry", [None, 5, ["python"], ""], ids=repr)
def test_what_is_no_entry_point_is_refused(elastic_launch: ElasticLaunch, entry: Any) -> None:
    with pytest.raises(ElasticError, match=r"expected a callable, the path of a \.py file, or a command") as caught:
        elastic_launch(entry, nproc=2, timeout=DEADLINE)
    assert repr(entry) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_argument_that_cannot_be_sent_is_refused(elastic_launch: ElasticLaunch) -> None:
    with pytest.raises(ElasticError, match=r"argument 1 \(lock\) cannot be sent .*lock"):
        elastic_launch(plus_rank, threading.Lock(), nproc=2, timeout=DEADLINE)


# --- scripts and commands -----------------------------------------------------------------------------------

SHOW = """
import os, sys
import sibling
print(__name__, os.path.basename(__file__), sys.path[0], sibling.VALUE, *sys.argv)
"""


def test_a_script_finds_what_python_gives_it(elastic_launch: ElasticLaunch, tmp_path: Path) -> None:
    python(tmp_path, "VALUE = 'beside'", "sibling.py")
    script = python(tmp_path, SHOW, "show.py")
    result = elastic_launch(script, "--out", tmp_path, 3, nproc=2, timeout=DEADLINE)
    seen = ["__main__", "show.py", str(tmp_path), "beside", str(script), "--out", str(tmp_path), "3"]
    assert words(result.stdout) == {0: seen, 1: seen}
    assert result == {0: None, 1: None}
    assert result.name == str(script)


def test_a_script_by_a_relative_name(
    elastic_launch: ElasticLaunch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    python(tmp_path, "import os, sys; print(sys.argv[0], os.getcwd(), sys.path[0])", "here.py")
    monkeypatch.chdir(tmp_path)
    result = elastic_launch("here.py", nproc=1, timeout=DEADLINE)
    assert words(result.stdout) == {0: ["here.py", str(tmp_path), str(tmp_path)]}


def test_a_relative_script_knows_where_it_lies(
    elastic_launch: ElasticLaunch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Just as under ``python script.py``, to the last name."""
    shown = (
        "import os, sys\n"
        "os.chdir('/')\n"
        "print(__file__, sys.argv[0], __name__, __spec__, __package__, __cached__, __doc__)\n"
        "print(type(__loader__).__name__, __loader__.name, __loader__.path == __file__)\n"
        "print(*sorted({*globals()} - {'__annotations__'}), sys.modules['__main__'].__dict__ is globals())\n"
        "def f(x: int): pass\n"
        "print(f.__annotations__)  # text if a __future__ import of the plugin's reached it\n"
    )
    python(tmp_path, shown, "here.py")
    monkeypatch.chdir(tmp_path)
    plain = subprocess.run([sys.executable, "here.py"], capture_output=True, text=True, check=True)
    assert elastic_launch("here.py", nproc=1, timeout=DEADLINE).stdout[0] == plain.stdout
    assert plain.stdout.startswith(f"{tmp_path}/here.py here.py __main__")


def test_what_a_script_leaves_with(elastic_launch: ElasticLaunch, tmp_path: Path) -> None:
    script = python(tmp_path, "import os, sys; print('before'); sys.exit(3 * int(os.environ['RANK']))")
    result = elastic_launch(script, nproc=2, check=False, timeout=DEADLINE)
    assert result.exitcodes[1] == 3
    assert result.first is not None
    assert result.first.rank == 1
    assert "exited with code 3" in result.first.message
    assert result.stdout[1] == "before\n"


def test_a_script_that_raises(elastic_launch: ElasticLaunch, tmp_path: Path) -> None:
    script = python(tmp_path, "def deep():\n    raise LookupError('not here')\n\ndeep()\n", "raises.py")
    with pytest.raises(WorkerFailedError, match="LookupError: not here") as caught:
        elastic_launch(script, nproc=2, timeout=DEADLINE)
    first = caught.value.first
    assert isinstance(first.exception, LookupError)
    assert "raises.py" in first.traceback
    assert "runpy" not in first.traceback
    assert "LookupError: not here" in caught.value.result.stderr[first.rank]


def test_a_script_with_a_syntax_error(elastic_launch: ElasticLaunch, tmp_path: Path) -> None:
    script = python(tmp_path, "x = (\n", "broken.py")
    with pytest.raises(WorkerFailedError, match="SyntaxError") as caught:
        elastic_launch(script, nproc=1, timeout=DEADLINE)
    assert "broken.py" in caught.value.first.traceback


def test_a_script_reduces(elastic_launch: ElasticLaunch, tmp_path: Path) -> None:
    script = python(
        tmp_path,
        "import torch, torch.distributed as dist\n"
        "dist.init_process_group('gloo')\n"
        "total = torch.tensor(dist.get_rank() + 1)\n"
        "dist.all_reduce(total)\n"
        "print(int(total))\n"
        "dist.destroy_process_group()\n",
    )
    result = elastic_launch(script, nproc=2, timeout=DEADLINE)
    assert words(result.stdout) == {0: ["3"], 1: ["3"]}


def test_a_script_behind_the_interpreter(elastic_launch: ElasticLaunch, tmp_path: Path) -> None:
    script = python(tmp_path, "import os, sys; print(os.environ['RANK'], *sys.argv[1:])")
    result = elastic_launch(sys.executable, "-u", script, "more", nproc=2, timeout=DEADLINE)
    assert words(result.stdout) == {0: ["0", "more"], 1: ["1", "more"]}
    assert result.name == str(script)


def test_an_executable_shell_script(elastic_launch: ElasticLaunch, tmp_path: Path) -> None:
    shell = tmp_path / "run"
    shell.write_text('#!/bin/sh\necho "$RANK of $WORLD_SIZE: $1"\necho problem >&2\nexit $((4 * RANK))\n')
    shell.chmod(0o755)
    result = elastic_launch(shell, "word", nproc=2, check=False, timeout=DEADLINE)
    assert result.stdout[1] == "1 of 2: word\n"
    assert result.stderr[1] == "problem\n"
    assert result.exitcodes[1] == 4
    assert result.first is not None
    assert (result.first.rank, result.first.exitcode) == (1, 4)


def test_a_command_on_the_path(elastic_launch: ElasticLaunch) -> None:
    result = elastic_launch("echo", "local", "${local_rank}", nproc=2, timeout=DEADLINE)
    assert words(result.stdout) == {0: ["local", "0"], 1: ["local", "1"]}
    assert result.exitcodes == {0: 0, 1: 0}
    assert result.name == "echo"


def test_a_command_that_is_missing(elastic_launch: ElasticLaunch) -> None:
    with pytest.raises(WorkerFailedError, match="no-such-command-anywhere") as caught:
        elastic_launch("no-such-command-anywhere", nproc=1, timeout=DEADLINE)
    assert isinstance(caught.value.first.exception, FileNotFoundError)
    assert caught.value.first.exitcode == 127


def test_a_command_that_cannot_be_run_is_named_in_the_first_line(elastic_launch: ElasticLaunch, tmp_path: Path) -> None:
    text = tmp_path / "run"
    text.write_text("echo hi\n")
    text.chmod(0o755)
    for command, error in (
        ("no-such-command-anywhere", "FileNotFoundError"),
        (tmp_path, "PermissionError"),
        (text, "OSError: [Errno 8] Exec format error"),
    ):
        with pytest.raises(WorkerFailedError) as caught:
            elastic_launch(command, nproc=1, timeout=DEADLINE)
        first = str(caught.value).splitlines()[0]
        assert first.startswith(f"[rank 0] {error}")
        assert first.endswith(f": {str(command)!r}")


def test_a_script_that_is_missing(
    elastic_launch: ElasticLaunch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ElasticError, match=r"no file 'nowhere\.py'") as caught:
        elastic_launch("nowhere.py", nproc=1, timeout=DEADLINE)
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_command_takes_no_keywords(elastic_launch: ElasticLaunch) -> None:
    with pytest.raises(ElasticError, match="only a function takes keywords"):
        elastic_launch("echo", kwargs={"a": 1}, nproc=1, timeout=DEADLINE)


def test_a_command_reads_an_empty_standard_input(elastic_launch: ElasticLaunch) -> None:
    assert elastic_launch("cat", nproc=1, timeout=DEADLINE).stdout[0] == ""


# --- the surroundings of a rank -----------------------------------------------------------------------------


@pytest.fixture
def module_aside(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "aside"
    folder.mkdir()
    python(folder, "WHERE = 'aside'", "module_only_here.py")
    yield folder
    sys.modules.pop("module_only_here", None)


def where_is_the_module() -> str:
    import module_only_here  # type: ignore[import-not-found]

    return str(module_only_here.WHERE)


def test_the_tests_environment_and_directory_reach_functions(
    elastic_launch: ElasticLaunch, tmp_path: Path, module_aside: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ELASTIC_TEST_NOTE", "patched")
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(module_aside)

    def look() -> tuple[dict[str, str | None], str, str]:
        return variables("ELASTIC_TEST_NOTE", "HOME"), os.getcwd(), where_is_the_module()

    seen = ({"ELASTIC_TEST_NOTE": "patched", "HOME": None}, str(tmp_path), "aside")
    assert elastic_launch(look, nproc=2, timeout=DEADLINE) == {0: seen, 1: seen}


def test_the_tests_path_reaches_scripts(
    elastic_launch: ElasticLaunch, tmp_path: Path, module_aside: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = python(tmp_path, "import module_only_here as m; print(m.WHERE)")
    monkeypatch.syspath_prepend(module_aside)
    assert words(elastic_launch(script, nproc=1, timeout=DEADLINE).stdout) == {0: ["aside"]}


def test_what_one_launch_was_given_is_gone_in_the_next(
    elastic_launch: ElasticLaunch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ELASTIC_TEST_NOTE", raising=False)
    first = elastic_launch(variables, "ELASTIC_TEST_NOTE", env={"ELASTIC_TEST_NOTE": "x"}, nproc=1, timeout=DEADLINE)
    assert first == {0: {"ELASTIC_TEST_NOTE": "x"}}
    assert "ELASTIC_TEST_NOTE" not in os.environ
    second = elastic_launch(variables, "ELASTIC_TEST_NOTE", nproc=1, timeout=DEADLINE)
    assert second == {0: {"ELASTIC_TEST_NOTE": None}}


def test_env_wins_over_the_tests_environment(
    elastic_launch: ElasticLaunch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ELASTIC_TEST_NOTE", "patched")
    env = {"ELASTIC_TEST_NOTE": "given"}
    result = elastic_launch(variables, "ELASTIC_TEST_NOTE", env=env, nproc=2, timeout=DEADLINE)
    assert result == {0: env, 1: env}
    shell = elastic_launch("sh", "-c", "echo $ELASTIC_TEST_NOTE", env=env, nproc=1, timeout=DEADLINE)
    assert shell.stdout[0] == "given\n"


def test_variables_of_an_outer_torchrun_are_dropped(
    elastic_launch: ElasticLaunch, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"PET_NNODES": "9", "RANK": "17", "WORLD_SIZE": "99", "LOCAL_RANK": "5"}.items():
        monkeypatch.setenv(name, value)
    result = elastic_launch(variables, "PET_NNODES", "RANK", "WORLD_SIZE", "LOCAL_RANK", nproc=2, timeout=DEADLINE)
    assert result == {
        rank: {"PET_NNODES": None, "RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_RANK": str(rank)} for rank in (0, 1)
    }


def threads() -> tuple[str | None, int]:
    return os.environ.get("OMP_NUM_THREADS"), torch.get_num_threads()


def test_several_ranks_get_one_thread_each(elastic_launch: ElasticLaunch, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert elastic_launch(threads, nproc=2, timeout=DEADLINE) == {0: ("1", 1), 1: ("1", 1)}


def test_one_rank_keeps_its_threads(elastic_launch: ElasticLaunch, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert elastic_launch(threads, nproc=1, timeout=DEADLINE) == {0: (None, len(os.sched_getaffinity(0)))}


def test_the_users_number_of_threads_is_kept(elastic_launch: ElasticLaunch, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    most = min(3, os.cpu_count() or 1)  # torch starts no more than there are cores
    assert elastic_launch(threads, nproc=2, timeout=DEADLINE) == {0: ("3", most), 1: ("3", most)}
    assert elastic_launch(threads, env={"OMP_NUM_THREADS": "2"}, nproc=1, timeout=DEADLINE) == {0: ("2", 2)}


def test_the_debug_level_is_applied_in_forked_ranks(
    elastic_launch: ElasticLaunch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_DISTRIBUTED_DEBUG", "DETAIL")
    result = elastic_launch(lambda: dist.get_debug_level().name, nproc=2, timeout=DEADLINE)
    assert result == {0: "DETAIL", 1: "DETAIL"}


def started_by() -> str:
    return " ".join(psutil.Process().cmdline())


def test_ranks_are_forked_from_the_preloaded_server(elastic_launch: ElasticLaunch) -> None:
    result = elastic_launch(started_by, nproc=1, timeout=DEADLINE)
    assert "forkserver" in result[0]


def test_ranks_can_be_spawned(elastic_launch: ElasticLaunch, module_aside: Path, monkeypatch: Any) -> None:
    monkeypatch.syspath_prepend(module_aside)
    monkeypatch.setenv("ELASTIC_TEST_NOTE", "patched")

    def look() -> tuple[str, dict[str, str | None], str, int]:
        return started_by(), variables("ELASTIC_TEST_NOTE"), where_is_the_module(), plus_rank(1)

    result = elastic_launch(look, nproc=2, start_method="spawn", timeout=DEADLINE)
    for rank, (command, note, where, value) in result.items():
        assert "spawn_main" in command
        assert (note, where, value) == ({"ELASTIC_TEST_NOTE": "patched"}, "aside", 1 + rank)


def test_a_hash_seed_takes_effect(elastic_launch: ElasticLaunch, monkeypatch: pytest.MonkeyPatch) -> None:
    """Python reads it when it starts: ranks are spawned."""
    monkeypatch.setenv("PYTHONHASHSEED", "11")
    printed = subprocess.run(
        [sys.executable, "-c", "print(hash('elastic'))"], capture_output=True, text=True, check=True
    ).stdout
    result = elastic_launch(lambda: (hash("elastic"), started_by()), nproc=1, timeout=DEADLINE)
    assert result[0][0] == int(printed)
    assert "spawn_main" in result[0][1]


def draw() -> tuple[float, float, float]:
    return random.random(), float(np.random.random()), float(torch.rand(()))


def test_random_numbers_are_alike_on_all_ranks(elastic_launch: ElasticLaunch) -> None:
    default = elastic_launch(draw, nproc=2, timeout=DEADLINE)
    again = elastic_launch(draw, nproc=2, seed=0, timeout=DEADLINE)
    other = elastic_launch(draw, nproc=2, seed=2**63 + 1, timeout=DEADLINE)
    assert default[0] == default[1] == again[0] == again[1]
    assert other[0] == other[1]
    assert all(ours != others for ours, others in zip(default[0], other[0], strict=True))
    random.seed(0)
    assert default[0][0] == random.random()


# --- what comes back ----------------------------------------------------------------------------------------


def speak() -> str:
    rank = own_rank()
    print("out", rank)
    print("err", rank, file=sys.stderr)
    if rank == 1:
        time.sleep(0.2)  # what it takes is the matter of the test
    return f"value {rank}"


def test_a_result_tells_all(elastic_launch: ElasticLaunch) -> None:
    result = elastic_launch(speak, nproc=2, timeout=DEADLINE)
    assert isinstance(result, LaunchResult)
    assert isinstance(result, Mapping)
    assert result == {0: "value 0", 1: "value 1"}
    assert result != {0: "value 0"}
    assert result != {0: "value 0", 1: "another"}
    assert (list(result), len(result), result[1], result.get(2)) == ([0, 1], 2, "value 1", None)
    assert dict(result.stdout) == {0: "out 0\n", 1: "out 1\n"}
    assert dict(result.stderr) == {0: "err 0\n", 1: "err 1\n"}
    assert result.exitcodes == {0: 0, 1: 0}
    assert result.durations[1] >= 0.2
    assert 0 <= result.durations[0] < DEADLINE
    assert (result.failures, result.first, result.restarts, result.leftovers) == ((), None, 0, ())
    assert (result.name, result.world_size) == ("speak", 2)
    assert {path.name for path in result.log_dir.rglob("stdout.log")} == {"stdout.log"}
    assert {event.source for event in result.events} == {"AGENT", "WORKER"}
    with pytest.raises(KeyError):
        result[2]


def test_results_of_two_launches_are_compared_by_value(elastic_launch: ElasticLaunch) -> None:
    first = elastic_launch(own_rank, nproc=2, timeout=DEADLINE)
    assert first == elastic_launch(plus_rank, 0, nproc=2, timeout=DEADLINE)
    assert first != elastic_launch(plus_rank, 1, nproc=2, timeout=DEADLINE)


def test_bytes_that_are_no_text_are_replaced(elastic_launch: ElasticLaunch) -> None:
    def write() -> None:
        os.write(1, b"a\xff\xfeb\n")
        os.write(2, b"\xc3\n")

    result = elastic_launch(write, nproc=2, timeout=DEADLINE)
    assert result.stdout[1] == "a\ufffd\ufffdb\n"
    assert result.stderr[0] == "\ufffd\n"


def test_text_that_does_not_encode_is_escaped(elastic_launch: ElasticLaunch) -> None:
    result = elastic_launch(lambda: print("\udcff ü"), nproc=1, timeout=DEADLINE)
    assert result.stdout[0] == "\\udcff ü\n"


def lock_on_rank_one() -> Any:
    return threading.Lock() if own_rank() == 1 else "fine"


def test_a_value_that_cannot_be_sent_names_its_type_and_rank(elastic_launch: ElasticLaunch) -> None:
    with pytest.raises(WorkerFailedError, match=r"^\[rank 1\] returned a value of type 'lock'") as caught:
        elastic_launch(lock_on_rank_one, nproc=2, timeout=DEADLINE)
    assert caught.value.first.rank == 1
    assert [failure.rank for failure in caught.value.result.failures if not failure.collateral] == [1]


def returned() -> bool:
    """Tell, from another thread of a rank, whether the plugin has seen the function's value and is done with it."""
    frame: FrameType | None = sys._current_frames()[threading.main_thread().ident or 0]
    while frame is not None:
        if frame.f_code.co_filename.endswith("pytest_elastic/worker/rank.py"):
            return frame.f_code.co_name == "_leave_world"
        frame = frame.f_back
    return True


def test_ranks_that_have_returned_keep_their_values(elastic_launch: ElasticLaunch, tmp_path: Path) -> None:
    note = tmp_path / "returned"

    def value() -> Any:
        def watch() -> None:
            while not returned():
                time.sleep(0.001)
            note.touch()

        if own_rank() == 0:
            threading.Thread(target=watch, daemon=True).start()
            return "kept"
        until = time.monotonic() + DEADLINE
        while not note.exists():
            assert time.monotonic() < until
            time.sleep(0.001)
        return threading.Lock()

    result = elastic_launch(value, nproc=2, check=False, timeout=DEADLINE)
    assert result == {0: "kept"}
    assert [failure.rank for failure in result.failures] == [1]
    assert "'lock'" in result.failures[0].message


class NeedsTwoError(Exception):
    """Pickles, but cannot be read again."""

    def __init__(self, first: str, second: str) -> None:
        super().__init__(f"{first} and {second}")


class HoldsLockError(Exception):
    """Cannot be pickled."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.lock = threading.Lock()


class MuteError(Exception):
    """Cannot say what it is."""

    def __str__(self) -> str:
        raise ValueError("no words")


def raise_two() -> None:
    raise NeedsTwoError("one", "two")


def raise_lock() -> None:
    raise HoldsLockError("held")


def raise_mute() -> None:
    raise MuteError("never seen")


@pytest.mark.parametrize(
    ("entry", "name", "text"),
    [(raise_two, "NeedsTwoError", "one and two"), (raise_lock, "HoldsLockError", "held")],
)
def test_an_exception_that_does_not_pickle_is_told(
    elastic_launch: ElasticLaunch, entry: Callable[[], None], name: str, text: str
) -> None:
    with pytest.raises(WorkerFailedError, match=rf"^\[rank \d\] {name}: {text}\n") as caught:
        elastic_launch(entry, nproc=2, timeout=DEADLINE)
    first = caught.value.first
    assert f"{name}: {text}" in first.traceback
    assert entry.__name__ in first.traceback
    assert first.exception is not None
    assert name in str(first.exception)
    assert text in str(first.exception)


def test_an_exception_without_words_is_told(elastic_launch: ElasticLaunch) -> None:
    with pytest.raises(WorkerFailedError, match=r"^\[rank \d\] MuteError") as caught:
        elastic_launch(raise_mute, nproc=2, timeout=DEADLINE)
    assert type(caught.value.first.exception) is MuteError
    assert "raise_mute" in caught.value.first.traceback


def test_an_exception_of_a_local_class_comes_back(elastic_launch: ElasticLaunch) -> None:
    class LocalError(Exception):
        pass

    def fail() -> None:
        raise LocalError("local", 5)

    with pytest.raises(WorkerFailedError, match="LocalError") as caught:
        elastic_launch(fail, nproc=1, timeout=DEADLINE)
    assert caught.value.first.exception is not None
    assert caught.value.first.exception.args == ("local", 5)


def test_a_value_that_cannot_be_read_here_is_told(elastic_launch: ElasticLaunch) -> None:
    """It pickles on the rank, but reading it raises."""

    class Unreadable:
        def __reduce__(self) -> Any:
            return int, ("no number",)

    with pytest.raises(ElasticError, match=r"rank 0.*no number"):
        elastic_launch(Unreadable, nproc=1, timeout=DEADLINE)


def test_a_cached_function(elastic_launch: ElasticLaunch) -> None:
    result = elastic_launch(functools.lru_cache(plus_rank), 5, nproc=2, timeout=DEADLINE)
    assert result == {0: 5, 1: 6}
    assert result.name == "plus_rank"


@pytest.mark.parametrize(("given", "seen"), [(256, 0), (257, 1), (-1, 255), (True, 1)], ids=repr)
def test_an_exit_code_is_told_as_the_system_sees_it(
    elastic_launch: ElasticLaunch, tmp_path: Path, given: int, seen: int
) -> None:
    result = elastic_launch(sys.exit, given, nproc=1, check=False, timeout=DEADLINE)
    assert result.first is not None
    assert result.first.message == f"exited with code {seen} before the function ended"
    assert result.exitcodes == {0: seen}
    script = python(tmp_path, f"import sys; sys.exit({given!r})")
    result = elastic_launch(script, nproc=1, check=False, timeout=DEADLINE)
    assert result.exitcodes == {0: seen}
    assert (result.first is None) == (seen == 0)
