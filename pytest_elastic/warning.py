"""The warning of this package."""

from __future__ import annotations


class ElasticWarning(UserWarning):
    """A rank left something behind, or something could not be kept."""
