"""What an entry of a record looks like: JSON with a seal, so that nothing of it is run, and damage is seen."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import os
from collections.abc import Mapping
from typing import Any


def plain(value: object) -> Any:
    """Return a value as JSON can hold it; :func:`restored` makes it again.

    Args:
        value: Made of what JSON knows, and of tuples, bytes and mappings with any keys. Of anything else, such as a
            value that a test has given to ``record_property``, the text is kept.
    """
    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, tuple):
        return {"%tuple": [plain(part) for part in value]}
    if isinstance(value, list):
        return [plain(part) for part in value]
    if isinstance(value, bytes):
        return {"%bytes": base64.b64encode(value).decode("ascii")}
    if isinstance(value, Mapping):
        if all(type(key) is str and not key.startswith("%") for key in value):
            return {key: plain(part) for key, part in value.items()}
        return {"%dict": [[plain(key), plain(part)] for key, part in value.items()]}
    return str(value)


def restored(value: Any) -> Any:
    """Return what :func:`plain` was given.

    Raises:
        ValueError: It never came from there.
    """
    if isinstance(value, list):
        return [restored(part) for part in value]
    if not isinstance(value, dict):
        return value
    if not any(key.startswith("%") for key in value):
        return {key: restored(part) for key, part in value.items()}
    ((tag, inner),) = value.items()
    if tag == "%tuple":
        return tuple(restored(part) for part in inner)
    if tag == "%dict":
        return {restored(key): restored(part) for key, part in inner}
    if tag == "%bytes":
        return base64.b64decode(inner)
    raise ValueError(tag)


class Seal:
    """Closes entries, and opens those that were closed with the same key for the same run.

    Args:
        key: Whoever does not have it can make no entry. ``None`` where only chance is to be kept out: then a torn or
            damaged entry is seen all the same.
        run_id: Entries of another run are not opened.
    """

    def __init__(self, key: bytes | None, run_id: str = "") -> None:
        secret = b"no key" if key is None else b"key" + key
        self._key = hmac.digest(
            secret, b"pytest-elastic record " + run_id.encode("utf-8", "backslashreplace"), "sha256"
        )
        self._number = 0
        self._session = os.urandom(8).hex()

    def close(self, entry: Mapping[str, Any]) -> bytes:
        """Return an entry, a mapping that JSON can hold, as one line of ASCII without its end."""
        self._number += 1
        numbered = {"id": f"{self._session}-{self._number}", **entry}
        data = json.dumps(numbered, ensure_ascii=True, separators=(",", ":")).encode("ascii")
        return self._seal(data) + b" " + data

    def open(self, line: bytes) -> dict[str, Any] | None:
        """Return the entry of a line, or ``None`` if its seal is wrong."""
        seal, _, data = line.partition(b" ")
        if not hmac.compare_digest(seal, self._seal(data)):
            return None
        entry = json.loads(data)
        return entry if isinstance(entry, dict) else None

    def _seal(self, data: bytes) -> bytes:
        return hmac.digest(self._key, data, "sha256").hex().encode("ascii")


def digest(*texts: str) -> str:
    """Return a short name for texts: the same for the same ones, another one for others."""
    data = "".join(f"{len(text)}:{text}" for text in texts).encode("utf-8", "backslashreplace")
    return hashlib.sha256(data).hexdigest()
