"""Entailment: whether the picture shows an entity."""

from __future__ import annotations

import draccus


class Entailment(draccus.PluginRegistry, discover_packages_path="rivegs_mllm.cascade"):
    """The settings of an entailment stage, chosen by ``type:``."""
