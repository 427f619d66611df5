"""Numbers of things in messages."""

from __future__ import annotations


def plural(count: int, one: str, many: str = "") -> str:
    """The number and what it counts: "1 entity", "1,200 posts". ``many`` is by default ``one`` with an s."""
    return f"{count:,} {one if count == 1 else many or f'{one}s'}"
