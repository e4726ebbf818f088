def pytest_configure(config):
    if not hasattr(config, "workerinput"):
        config.started = ["the database"]
