"""The number of posts that a figure needs."""

from __future__ import annotations

FEW = 30
"""Posts, or gold entities, below which a warning stands beside the figures."""
FEWEST = 10
"""Posts with anything to count below which no interval is given: so few draws say nothing."""


def few(count: int, of: str = "posts") -> str:
    """The warning beside figures of few posts, "" where there are enough."""
    return f"only {count} {of}: figures of fewer than {FEW} say little" if count < FEW else ""
