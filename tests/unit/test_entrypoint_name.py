from __future__ import annotations

import functools
import sys
from typing import Any

import pytest

from pytest_elastic.controller.entrypoint import name_of


def train() -> None:
    """Only here to be named."""


class Trainer:
    def fit(self) -> None:
        """Only here to be named."""

    def __call__(self) -> None:
        """Only here to be named."""


@pytest.mark.parametrize(
    ("entrypoint", "args", "name"),
    [
        (train, (), "train"),
        (functools.partial(train), (), "train"),
        (Trainer().fit, (), "fit"),
        (Trainer(), (), "Trainer"),
        (lambda: None, (), "<lambda>"),
        ("train.py", ("-u",), "train.py"),
        (sys.executable, ("-u", "train.py", "--lr"), "train.py"),
        (sys.executable, (), ""),
        (sys.executable, ("-u",), ""),
        ("", (), ""),
        (None, (), ""),
    ],
)
def test_the_name_is_torchruns(entrypoint: Any, args: tuple[str, ...], name: str) -> None:
    assert name_of(entrypoint, args) == name
