"""What the preloaded server runs in processes of their own; importable where torch is not loaded."""

from __future__ import annotations


def run_agent(order_file: str) -> None:
    """Run the agent that a file describes."""
    from pytest_elastic.agent.main import main

    main(order_file)


def vouch_for_server(order_file: str) -> None:
    """Tell the controller whether this server is fit to fork ranks, for an agent that runs inside pytest."""
    from pytest_elastic.agent.main import vouch

    vouch(order_file)


def host_store() -> None:
    """Host the store of a c10d rendezvous, outside of every agent, until the process is ended."""
    from pytest_elastic.agent.store_host import host

    host()


def tell_collection(file: str, order: str) -> None:
    """Collect all tests, and write which those are, for controllers on other machines to compare."""
    from pytest_elastic.worker.collection import tell

    tell(file, order)
