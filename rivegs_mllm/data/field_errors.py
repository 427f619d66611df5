"""The fault of a field of a record, before file and line are known."""

from __future__ import annotations


class FieldError(Exception):
    """A field and its fault."""
