"""What ``--elastic-record=FILE`` does at the beginning of a session."""

from __future__ import annotations

from typing import Final

import pytest

from pytest_elastic.cluster.arguments import distributes
from pytest_elastic.cluster.places import FilePlace, PlaceError
from pytest_elastic.cluster.record import Identity, Recorder
from pytest_elastic.cluster.replaying import RecordedSession
from pytest_elastic.options import read_options

PLUGIN: Final = "elastic-record"
_RECORDER: Final[pytest.StashKey[tuple[Recorder, Identity]]] = pytest.StashKey()


def open_record(config: pytest.Config) -> int | None:
    """Open the file that the option names, before anything is shown.

    Returns:
        The exit code of the session, if the record says that it is complete.

    Raises:
        pytest.UsageError: The file cannot be used, or is of another session.
    """
    if _RECORDER in config.stash:  # the first one of several sessions has opened it before
        return None
    given = read_options(config)["record"]
    if distributes(config):
        raise pytest.UsageError(
            f"{given.source}: workers of pytest-xdist have no record; leave it out, or run with -n0"
        )
    try:
        place = FilePlace(given.value, given.source)
        config.add_cleanup(place.close)
        recorder = Recorder(place)
    except PlaceError as error:
        raise pytest.UsageError(str(error)) from error
    return use_recorder(config, recorder)


def use_recorder(config: pytest.Config, recorder: Recorder) -> int | None:
    """Have the session go on where the one that is in a record was ended; before ``pytest_configure``.

    Returns:
        The exit code of the session, if the record says that it is complete: then there is nothing to do.

    Raises:
        pytest.UsageError: The record is of another session.
    """
    identity = Identity.of(config)
    refusal = recorder.refusal(identity)
    if refusal is not None:
        raise pytest.UsageError(refusal)
    if recorder.exit_code is None:
        config.stash[_RECORDER] = recorder, identity
    return recorder.exit_code


def use_record(config: pytest.Config) -> None:
    """Register the plugin that runs what is left of the session, where it has a record."""
    if _RECORDER in config.stash:
        config.pluginmanager.register(RecordedSession(*config.stash[_RECORDER]), PLUGIN)
