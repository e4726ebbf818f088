"""What the documentation shows: its code blocks, and what commands print.

A page of the documentation takes its blocks from here. Folders have the name of the page whose code is in them; the
suite runs that code. What a command prints is in ``output``; the commands are in ``runs.py``.
``python -m tests.examples.write`` runs the commands again and fills the pages.
"""
