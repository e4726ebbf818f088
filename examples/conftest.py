"""`project` is a project of its own, with its own settings: `cd examples/project && pytest` runs it."""

collect_ignore = ["project"]
