"""Which stores of a teacher's answers a recipe trains with."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass
class Distilled:
    """Stores of ``rivegs distill`` whose texts posts are trained with, in place of those in the dataset.

    ``knowledge``: every teacher's text about a post, of which each epoch draws one; ``expressions``: a teacher's
    expression for each gold mention. ``teachers`` are the names of those that count, null for all. ``clean`` leaves out
    answers that the checks flagged. A post or name that a store has nothing for keeps what the dataset has.
    """

    knowledge: Path | None = None
    expressions: Path | None = None
    teachers: list[str] | None = None
    clean: bool = True
