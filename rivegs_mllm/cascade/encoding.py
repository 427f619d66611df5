"""The pictures of a training split, encoded once: encoders that are not trained give the same in every epoch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from PIL import Image

from rivegs_mllm.data.images import open_for_model
from rivegs_mllm.runtime.batching import batches
from rivegs_mllm.runtime.progress import track

Key = TypeVar("Key")
Encoded = TypeVar("Encoded")

BATCH_SIZE = 32


def encode_pictures(
    pictures: Mapping[Key, Path],
    encode: Callable[[Sequence[Image.Image]], Sequence[Encoded]],
    max_side: int | None = None,
) -> dict[Key, Encoded]:
    """What ``encode`` makes of each picture, by its key; ``max_side`` is that of ``open_for_model``."""
    encoded: dict[Key, Encoded] = {}
    for keys in track(list(batches(list(pictures), BATCH_SIZE)), "pictures"):
        encoded.update(zip(keys, encode([open_for_model(pictures[key], max_side) for key in keys]), strict=True))
    return encoded
