"""Ellipses, which some tools draw: a dataset has the boxes around them."""

from __future__ import annotations

import math


def half_sides(wide: float, high: float, degrees: float) -> tuple[float, float]:
    """Half the width and height of the upright box around an ellipse of these radii, turned by ``degrees``."""
    cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return math.hypot(wide * cosine, high * sine), math.hypot(wide * sine, high * cosine)
