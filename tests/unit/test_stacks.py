from __future__ import annotations

from pathlib import Path

import pytest

from pytest_elastic.report import stacks
from pytest_elastic.report.stacks import fold, shown, where

BARRIER = """\
Thread 0x00007f (most recent call first):
  File "/x/threading.py", line 1 in wait

Current thread 0x00007e (most recent call first):
  File "/site-packages/torch/distributed/distributed_c10d.py", line 5356 in barrier
  File "/site-packages/torch/distributed/c10d_logger.py", line 83 in wrapper
  File "/project/test_x.py", line 17 in test_y
  File "/site-packages/_pytest/python.py", line 187 in pytest_pyfunc_call
  File "/site-packages/pluggy/_callers.py", line 100 in _multicall
"""


OF_THIS_PACKAGE = """\
Thread 0x00007d (most recent call first):
  File "/usr/lib/python3.12/threading.py", line 359 in wait
  File "/site-packages/pytest_elastic/worker/regularly.py", line 71 in _run

"""


def test_threads_of_this_package_are_not_shown() -> None:
    assert shown(OF_THIS_PACKAGE + BARRIER) == shown(BARRIER)


def test_where_names_the_call_and_the_users_line() -> None:
    assert where(BARRIER) == "barrier at test_x.py:17"


def test_where_in_the_users_own_code() -> None:
    assert where('Current thread 0x1:\n  File "/p/test_x.py", line 3 in spin\n') == "spin at test_x.py:3"


def test_where_sees_through_the_standard_library() -> None:
    stack = """Current thread 0x1:
  File "/usr/lib/python3.12/threading.py", line 327 in wait
  File "/usr/lib/python3.12/threading.py", line 629 in wait_for
  File "/p/test_x.py", line 3 in spin
"""
    assert where(stack) == "wait_for at test_x.py:3"


def test_where_sees_through_what_wraps_deprecated_functions() -> None:
    stack = """Current thread 0x1:
  File "/venv/lib/python3.12/site-packages/torch/distributed/distributed_c10d.py", line 327 in reduce_scatter_tensor
  File "/venv/lib/python3.12/site-packages/typing_extensions.py", line 3140 in wrapper
  File "/p/test_x.py", line 3 in spin
"""
    assert where(stack) == "reduce_scatter_tensor at test_x.py:3"


def test_where_knows_nothing_of_an_empty_stack() -> None:
    assert where("") == ""
    assert where("Fatal Python error: Segmentation fault\n") == ""


def test_shown_stacks_end_at_the_test() -> None:
    text = shown(BARRIER)
    assert "test_x.py" in text
    assert "threading.py" in text
    assert "_pytest" not in text
    assert "pluggy" not in text


def test_a_users_function_called_main_stays() -> None:
    text = shown(
        'Current thread 0x1:\n  File "/p/train.py", line 3 in main\n  File "/p/train.py", line 9 in <module>\n'
    )
    assert "line 9" in text


@pytest.mark.parametrize(
    ("ranks", "text"),
    [([2], "rank 2"), ([0, 1], "ranks 0-1"), ([0, 1, 3], "ranks 0-1,3"), ([5, 1, 3, 2], "ranks 1-3,5")],
)
def test_ranks_are_folded(ranks: list[int], text: str) -> None:
    assert fold(ranks) == text


@pytest.mark.parametrize("name", ["torch", "pluggy", "_pytest", "pytest_elastic"])
def test_a_users_directory_with_the_name_of_a_package_is_the_users(name: str) -> None:
    stack = f"""Current thread 0x1:
  File "/venv/lib/python3.12/site-packages/{name}/deep/inside.py", line 7 in call
  File "/home/me/{name}/train.py", line 3 in step
"""
    assert where(stack) == "call at train.py:3"
    assert "train.py" in shown(stack)


def test_this_package_is_none_of_the_users_wherever_it_lies() -> None:
    stack = f"""Current thread 0x1:
  File "{Path(stacks.__file__).parents[1] / "worker" / "rank.py"}", line 7 in main
  File "/p/test_x.py", line 3 in test_y
"""
    assert where(stack) == "main at test_x.py:3"
