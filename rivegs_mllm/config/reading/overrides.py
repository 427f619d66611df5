"""Overrides of a recipe on the command line: ``--section.key=value``, or ``--section.key value``."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from rivegs_mllm.types import UserError


def take_overrides(arguments: Sequence[str], options: Collection[str]) -> tuple[list[str], list[str]]:
    """The arguments that are a command's own, and the overrides among them, each as ``--key=value``.

    ``options`` are those that the command has, such as ``--out``; all others are overrides. Raises UserError for one
    without a value.
    """
    own: list[str] = []
    overrides: list[str] = []
    words = iter(arguments)
    for word in words:
        key, equals, _ = word.partition("=")
        if not key.startswith("--") or key == "--" or key in options:
            own.append(word)
        elif equals:
            overrides.append(word)
        else:
            value = next(words, None)
            if value is None or value.startswith("--"):
                raise UserError(f"{key}: no such option, and as a key of the recipe it needs a value: {key}=VALUE")
            overrides.append(f"{key}={value}")
    return own, overrides
