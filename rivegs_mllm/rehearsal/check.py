"""What a rehearsal found out: one line each, with its level and what to do."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field

OK, WARNING, FAULT = "ok", "warning", "fault"


@dataclass(frozen=True)
class Check:
    """What was found about ``subject``, and ``advice``, "" where nothing is to be done.

    ``figures`` are what a table or a program reads, by name, the unit in the name: "tokens_median", "memory_gb".
    """

    level: str
    subject: str
    found: str
    advice: str = ""
    figures: Mapping[str, float] = field(default_factory=dict)

    def line(self) -> str:
        """As it is printed."""
        return f"{self.level:<8}{self.subject:<14}{self.found}" + (f"; {self.advice}" if self.advice else "")

    def to_json(self) -> dict[str, object]:
        """As it is written to a file."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, content: Mapping[str, object]) -> Check:
        """What ``to_json`` gave."""
        return cls(**content)
