"""What is wrong with a field of a record, before file and line are known."""

from __future__ import annotations


class FieldError(Exception):
    """A field and what is wrong with it."""
