from __future__ import annotations

import pytest

from pytest_elastic.one_line import one_line


class Shown:
    def __init__(self, text: str) -> None:
        self.text = text

    def __repr__(self) -> str:
        return self.text


class Unshowable:
    def __repr__(self) -> str:
        raise RuntimeError("no")


@pytest.mark.parametrize("value", [0, "a  b", "a\nb", None, [1, 2], "\u00e9"], ids=repr)
def test_a_usual_value_is_shown_as_it_is(value: object) -> None:
    assert one_line(value) == repr(value)


@pytest.mark.parametrize("end", ["\n", "\r\n", "\x0b", "\u2028", "\x85"], ids=repr)
def test_lines_become_one(end: str) -> None:
    assert one_line(Shown(f"matrix([[1],{end}   [2]])")) == "matrix([[1], [2]])"


def test_a_long_text_is_cut_in_its_middle() -> None:
    text = one_line(Shown("begin " + "x" * 10_000 + " end"))
    assert len(text) <= 200
    assert text.startswith("begin xxx")
    assert text.endswith("xxx end")


def test_a_repr_that_raises_is_told() -> None:
    assert one_line(Unshowable()) == "<Unshowable whose repr raised RuntimeError>"
