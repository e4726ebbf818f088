"""One module per question, each with a function ``measure``."""
