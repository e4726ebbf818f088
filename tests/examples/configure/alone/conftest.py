import os


def pytest_elastic_configure_launch(spec, item):
    return {"timeout": 3 * spec.timeout} if "BUSY" in os.environ and spec.timeout else None


def pytest_elastic_launch_finished(result, item):
    if result.first is not None:
        print("for the dashboard:", item.nodeid, result.first.rank, result.first.message)


def pytest_elastic_rank_started(context):
    import torch  # here, so that pytest itself need not import it

    torch.use_deterministic_algorithms(True)
