from __future__ import annotations

import functools
import pickle
from collections.abc import Generator
from typing import Any

import pytest

from pytest_elastic.controller.entrypoint import make_entry_point
from pytest_elastic.errors import ElasticError
from pytest_elastic.pickling import dumps


def double(value: int) -> int:
    return 2 * value


@functools.lru_cache(maxsize=3)
def cached_by_decorator(value: int) -> int:
    return 3 * value


def numbers() -> Generator[int, None, None]:
    yield 1


def again(value: Any) -> Any:
    return pickle.loads(dumps(value))


def test_a_cached_function_that_its_name_leads_to_is_sent_by_name() -> None:
    assert again(cached_by_decorator) is cached_by_decorator


@pytest.mark.parametrize("wrap", [functools.lru_cache, functools.cache, functools.lru_cache(maxsize=5, typed=True)])
def test_a_cached_function_that_its_name_does_not_lead_to_is_sent_whole(wrap: Any) -> None:
    sent = wrap(double)
    copy = again(sent)
    assert copy(21) == 42
    assert copy.cache_parameters() == sent.cache_parameters()
    assert copy.cache_info().currsize == 1


def test_a_cached_closure_is_sent_whole() -> None:
    factor = 5
    assert again(functools.cache(lambda value: factor * value))(2) == 10


@pytest.mark.parametrize(
    ("function", "args", "kwargs", "what"),
    [
        (double, (1, 2, numbers()), {}, "argument 3 (generator)"),
        (double, (), {"g": numbers()}, "keyword argument g (generator)"),
        (numbers().send, (), {}, "send"),
    ],
    ids=["argument", "keyword", "function"],
)
def test_what_cannot_be_sent_is_named(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any], what: str) -> None:
    with pytest.raises(ElasticError) as caught:
        make_entry_point(function, args, kwargs)
    text = str(caught.value)
    assert text.startswith(f"elastic_launch: {what} cannot be sent to the ranks: TypeError: cannot pickle 'generator'")
    assert "\n" not in text


def test_a_word_that_no_program_can_be_given() -> None:
    with pytest.raises(ElasticError, match="a word with a NUL character"):
        make_entry_point("echo", ("a\0b",), {})
