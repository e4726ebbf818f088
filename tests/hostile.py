"""Values that somebody may give where something else is expected, by a name each."""

from __future__ import annotations

import decimal
import enum
import fractions
import math
from typing import Any, Final

import numpy as np


class UnprintableError(Exception):
    """What the classes below raise."""


class _Silent:
    def __repr__(self) -> str:
        raise UnprintableError


class _Uncomparable:
    def __eq__(self, other: object) -> bool:
        raise UnprintableError

    def __hash__(self) -> int:
        raise UnprintableError

    def __bool__(self) -> bool:
        raise UnprintableError


class _Number(enum.IntEnum):
    TWO = 2


HOSTILE: Final[dict[str, Any]] = {
    "None": None,
    "True": True,
    "False": False,
    "0": 0,
    "-1": -1,
    "1": 1,
    "2**31": 2**31,
    "2**63": 2**63,
    "2**64": 2**64,
    "10**400": 10**400,  # no float
    "10**5000": 10**5000,  # Python refuses to print it
    "-10**5000": -(10**5000),
    "0.5": 0.5,
    "-0.5": -0.5,
    "2.0": 2.0,
    "1e308": 1e308,
    "nan": math.nan,
    "inf": math.inf,
    "-inf": -math.inf,
    "''": "",
    "' '": " ",
    "newline": "\n",
    "two lines": "a\nb",
    "null": "\0",
    "half a character": "\ud800",
    "unicode": "ж" * 3,
    "word": "none",
    "long": "a" * 100_000,
    "'1'": "1",
    "digits of another script": "٣",
    "a range": "1:2",
    "no range": "2:1",
    "digits": "9" * 5000,
    "a range of digits": "1:" + "9" * 5000,
    "an endpoint": "127.0.0.1:1",
    "a pattern": "(",
    "bytes": b"1",
    "[]": [],
    "[1]": [1],
    "[[]]": [[]],
    "{}": {},
    "{'A': 1}": {"A": 1},
    "{'A': 'a'}": {"A": "a"},
    "{1: 1}": {1: 1},
    "half a variable": {"A": "\ud800"},
    "()": (),
    "(1, 2)": (1, 2),
    "set()": set(),
    "object": object(),
    "class": object,
    "function": len,
    "error": RuntimeError("an error"),
    "numpy int": np.int64(2),
    "numpy float": np.float64(2),
    "numpy bool": np.bool_(True),
    "numpy array": np.arange(40).reshape(8, 5),  # its repr has lines
    "decimal": decimal.Decimal(2),
    "fraction": fractions.Fraction(2),
    "complex": 1j,
    "enum": _Number.TWO,
    "without repr": _Silent(),
    "without comparison": _Uncomparable(),
    "iterator": iter([1]),
    "...": ...,
}
TEXTS: Final[dict[str, str]] = {
    **{name: value for name, value in HOSTILE.items() if isinstance(value, str)},
    "0": "0",
    "-1": "-1",
    "2.5": "2.5",
    "1e999": "1e999",
    "nan": "nan",
    "inf": "inf",
    "0x10": "0x10",
    "2**31": str(2**31),
    "2**64": str(2**64),
    "true": "true",
    "a variable": "A=1",
    "a variable and none": "A=1\nB",
    "a module": "a.b",
    "no module": "a..b",
    "an option": "--x",
}
"""What options and ini keys may hold."""


def is_one_clear_line(text: str, source: str) -> bool:
    """Tell whether an error is one line that says who, what it got, and what is expected."""
    return text.isprintable() and text.startswith(source) and len(text) < 700 and "got " in text and "expected " in text
