"""Whatever is given to an argument, option, ini key or fault: it is allowed, or one line says what is.

The rows are the names of the values that are allowed; everything else that is in the list of hostile ones is not. A
setting or field that is new has no row, and a test says so.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final

import pytest

from pytest_elastic import ArgumentError
from pytest_elastic.faults import KINDS, Fault, check_faults
from pytest_elastic.options import SETTINGS, read_options
from pytest_elastic.spec import make_spec

from ..hostile import HOSTILE, TEXTS, is_one_clear_line

WORDS: Final = {"word", "long"}
ARGUMENTS: Final[dict[str, set[str]]] = {
    "nproc": {"1", *WORDS},
    "nnodes": {"1", "'1'", "a range"},
    "backend": {
        *("None", "unicode", "'1'", "digits of another script", "a range", "no range", "digits", "a range of digits"),
        *("an endpoint", "a pattern", *WORDS),
    },
    "device": WORDS,
    "timeout": {"None", "1", "2**31", "2**63", "2**64", "0.5", "2.0", "1e308"},
    "max_restarts": {"0", "1"},
    "rdzv_backend": {"None"},
    "isolation": set(),
    "start_method": set(),
    "env": {"{}", "{'A': 'a'}"},
    "seed": {"None", "0", "1", "2**31", "2**63"},
}
NUMBERS: Final = {"'1'", "digits of another script"}
BLANK: Final = {"' '", "newline"}
"""Nothing is given by an ini key that is blank, where it holds a list."""
ANYTHING: Final = TEXTS.keys() - {"''", *BLANK}
OPTIONS: Final[dict[str, set[str]]] = {
    "nproc": {*NUMBERS, *WORDS, "nan", "inf", "true"},
    "nnodes": {*NUMBERS, "a range"},
    "backend": ANYTHING - {"two lines", "null", "half a character", "a variable and none"},
    "device": {*WORDS, "nan", "inf", "true"},
    "timeout": {*NUMBERS, "word", "2.5", "2**31", "2**64"},
    "max_restarts": {*NUMBERS, "0"},
    "rdzv_backend": {"word"},
    "isolation": set(),
    "start_method": set(),
    "env": {"a variable", *BLANK},
    "seed": {*NUMBERS, "word", "0", "2**31"},
    "grace": {*NUMBERS, "2.5", "2**31", "2**64"},
    "log_dir": ANYTHING - {"null", "half a character"},
    "show_output": {"word"},
    "pdb_rank": {*NUMBERS, "0"},
    "record": ANYTHING - {"null", "half a character"},
    "report": ANYTHING - {"null", "half a character"},
    "serve": {"'1'", "0", "true"},
    "trace": ANYTHING - {"null", "half a character"},
    "durations": {*NUMBERS, "0"},
    "debug": {"word"},
    "strict": {"'1'", "0", "true"},
    "cpu_slots": NUMBERS,
    "group": {"'1'", "0", "true"},
    "controller_fixtures": {"two lines", "unicode", *WORDS, "nan", "inf", "true", *BLANK},
    "spawn": set(),
    "preload": {"two lines", "unicode", *WORDS, "nan", "inf", "true", "a module", *BLANK},
    "nodes": NUMBERS,
    "node_rank": {*NUMBERS, "0"},
    "rdzv_endpoint": {"an endpoint"},
    "key_file": ANYTHING - {"null", "half a character"},
    "node_timeout": {*NUMBERS, "2.5", "2**31", "2**64"},
    "join_timeout": {*NUMBERS, "2.5", "2**31", "2**64"},
    "pack": {"'1'", "0", "true"},
}
INDEX: Final = {"0", "1"}
SECONDS: Final = {"0", "1", "2**31", "2**63", "2**64", "0.5", "2.0", "1e308"}
FAULTS: Final[dict[str, set[str]]] = {
    "rank": INDEX,
    "node": INDEX,
    "sig": {"1", "enum"},
    "for_": {"None", *SECONDS},
    "after": SECONDS,
    "of_rank": {"None", *INDEX},
    "when_output": {"None", *(name for name, value in HOSTILE.items() if isinstance(value, str))} - {"a pattern"},
}


def test_every_setting_and_field_has_a_row() -> None:
    assert set(ARGUMENTS) == {name for name, setting in SETTINGS.items() if setting.launch}
    assert set(OPTIONS) == set(SETTINGS)
    assert set(FAULTS) == {field.name for kind in KINDS for field in dataclasses.fields(kind)}
    for rows, values in ((ARGUMENTS, HOSTILE), (OPTIONS, TEXTS), (FAULTS, HOSTILE)):
        assert set().union(*rows.values()) <= values.keys()


def refusal(call: Callable[[], object]) -> str | None:
    """Return the text of the one error that a call may raise, or ``None`` if it raises nothing."""
    try:
        call()
    except (ArgumentError, pytest.UsageError) as error:
        return str(error)
    return None


def allowed_by(errors: Mapping[str, str | None]) -> set[str]:
    return {what for what, error in errors.items() if error is None}


@pytest.mark.parametrize("name", ARGUMENTS)
@pytest.mark.parametrize("source", ["marker elastic", "elastic_launch", "pytest_elastic_configure_launch"])
def test_arguments(name: str, source: str) -> None:
    errors = {what: refusal(partial(make_spec, source, {name: value}, {})) for what, value in HOSTILE.items()}
    assert allowed_by(errors) == ARGUMENTS[name]
    for what, error in errors.items():
        assert error is None or is_one_clear_line(error, f"{source}({name}=): "), what


class FakeConfig:
    """What ``read_options`` asks of pytest's configuration."""

    def __init__(self, options: Mapping[str, str], ini: Mapping[str, str]) -> None:
        self._options, self._ini = options, ini

    def getoption(self, name: str, default: object) -> object:
        return self._options.get(name, default)

    def getini(self, name: str) -> object:
        return self._ini.get(name)


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("where", ["option", "ini"])
def test_options_and_ini_keys(name: str, where: str) -> None:
    setting = SETTINGS[name]
    if where == "ini" and not setting.in_ini:
        return  # the other tests see to it that it is not read
    source = setting.flag_name if where == "option" else f"ini {setting.ini}"
    errors = {}
    for what, text in TEXTS.items():
        given = {setting.ini: text}
        config: Any = FakeConfig(given, {}) if where == "option" else FakeConfig({}, given)
        errors[what] = refusal(partial(read_options, config))
    # An ini key that is empty is not set; an option that is empty gives an empty list, where it is one.
    empty = {"''"} if where == "ini" or OPTIONS[name] >= BLANK else set()
    assert allowed_by(errors) == OPTIONS[name] | empty
    for what, error in errors.items():
        assert error is None or is_one_clear_line(error, f"{source}: "), what


@pytest.mark.parametrize("kind", KINDS)
def test_fields_of_faults(kind: type[Fault]) -> None:
    fields = dataclasses.fields(kind)
    usual = {field.name: 1 for field in fields if field.default is dataclasses.MISSING}
    for field in fields:
        # A line of output is what another rank is to write.
        beside = {"when_output": "a line"} if field.name == "of_rank" else {}
        errors = {}
        for what, value in HOSTILE.items():
            values: dict[str, Any] = {**usual, **beside, field.name: value}
            errors[what] = refusal(partial(check, kind(**values)))
        assert allowed_by(errors) == FAULTS[field.name], field.name
        for what, error in errors.items():
            assert error is None or is_one_clear_complaint(error, kind, field.name), (what, error)


def check(fault: Fault) -> None:
    check_faults("elastic_launch", [fault], may_add=True, agents_are_processes=True)


def is_one_clear_complaint(text: str, kind: type[Fault], field: str) -> bool:
    source = f"elastic_launch(faults=): {kind.__name__}("
    return text.isprintable() and text.startswith(source) and f" has {field}=" in text and "expected " in text
