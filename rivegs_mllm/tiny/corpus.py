"""Plain English that every Python carries: the topics of its own help."""

from __future__ import annotations

import pydoc_data.topics


def paragraphs() -> list[str]:
    """The paragraphs, white space normalised, in a fixed order."""
    pages = pydoc_data.topics.topics
    return [" ".join(block.split()) for name in sorted(pages) for block in pages[name].split("\n\n") if block.strip()]
