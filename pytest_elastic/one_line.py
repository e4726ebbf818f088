"""How a value that somebody gave is shown in the one line of an error."""

from __future__ import annotations

from typing import Final

_LONGEST: Final = 200


def one_line(value: object) -> str:
    """Return ``repr(value)``, on one line and not too long, also where it has lines of its own or raises."""
    try:
        text = repr(value)
    except Exception as error:  # noqa: BLE001 (a user's __repr__ may raise anything)
        text = f"<{type(value).__qualname__} whose repr raised {type(error).__qualname__}>"
    return fitted(text)


def fitted(text: str) -> str:
    """Return a text on one line, and not too long."""
    if not text.isprintable():  # line breaks of any kind are not
        text = " ".join(text.split())
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 20]} ... {text[-15:]}"
