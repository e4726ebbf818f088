from __future__ import annotations

import multiprocessing
import pickle

import pytest

from pytest_elastic import forking

NOWHERE = forking.ServerAddress("/nowhere/socket", -1)


def test_a_start_method_is_known_by_its_name_until_it_is_uninstalled() -> None:
    one, two = forking.install(NOWHERE, "elastic-test-1"), forking.install(NOWHERE, "elastic-test-2")
    assert multiprocessing.get_context("elastic-test-1") is one
    forking.uninstall(one)
    with pytest.raises(ValueError, match="elastic-test-1"):
        multiprocessing.get_context("elastic-test-1")
    assert multiprocessing.get_context("elastic-test-2") is two
    forking.uninstall(two)


def test_whoever_still_holds_an_uninstalled_start_method_starts_nothing() -> None:
    context = forking.install(NOWHERE, "elastic-test-3")
    process = context.Process(target=abs, args=(1,))
    forking.uninstall(context)
    with pytest.raises(RuntimeError, match="the launch is over"):
        process.start()


def test_a_process_is_sent_without_its_context() -> None:
    context = forking.install(NOWHERE, "elastic-test-4")
    process = context.Process(target=abs, args=(1,))
    forking.uninstall(context)
    assert "home" not in process.__getstate__()
    assert pickle.dumps(NOWHERE)
