"""The few-shot examples of a prompt: the most similar ones (MSEA, RiVEG section III-A), or a random sample."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import draccus
import numpy as np
import orjson

from rivegs_mllm.config.bounds import NonNegativeInt, Seed
from rivegs_mllm.data.images import file_stamp
from rivegs_mllm.llm.embeddings import FeatureExtractor, TextImagePair, pairs_of
from rivegs_mllm.llm.few_shot import FewShotExample, read_examples
from rivegs_mllm.llm.retrieval import nearest, own_examples, sample_random
from rivegs_mllm.runtime.files import complete_file
from rivegs_mllm.types import Sample, UserError


@dataclass
class ExampleSelection:
    """The examples in a knowledge prompt: ``count`` of ``file``, ``choose`` similar (MSEA), random or none."""

    file: Path | None = None
    choose: Literal["similar", "random", "none"] = "similar"
    count: NonNegativeInt = 5
    features: FeatureExtractor | None = None
    seed: Seed = 0

    def __post_init__(self) -> None:
        if self.choose not in ("similar", "random", "none"):
            raise UserError(f"task.examples.choose: {self.choose!r} is none of similar, random, none")
        if self.choose != "none" and (self.file is None or self.count < 1):
            raise UserError(
                f"task.examples: choose '{self.choose}' needs a file of examples, and a count of at least 1"
            )
        if self.choose == "similar" and self.features is None:
            raise UserError("task.examples.features: MSEA needs them, such as {type: text, model: ...}")

    def select(self, samples: Sequence[Sample], folder: Path, store: Path) -> list[list[FewShotExample]]:
        """The examples of each post, the most similar last, next to the post. None of them is the post itself.

        ``folder`` is what pictures are relative to; features are cached in ``store``. Raises UserError for too few
        examples, and for examples or features that cannot be had.
        """
        if self.choose == "none":
            return [[] for _ in samples]
        examples = read_examples(self.file)
        own = own_examples(samples, examples)
        if self.choose == "random":
            chosen = sample_random(samples, len(examples), self.count, self.seed, own)
        else:
            chosen = self._similar(samples, folder, store, examples, own)
        if (chosen < 0).any():
            raise UserError(
                f"{self.file}: {len(examples)} examples are too few for {self.count} a post, the post itself left out"
            )
        return [[examples[index] for index in reversed(row)] for row in chosen.tolist()]

    def _similar(self, samples, folder: Path, store: Path, examples: list[FewShotExample], own) -> np.ndarray:
        made = [TextImagePair(one.id, one.text, Path(one.image) if one.image else None) for one in examples]
        posts = pairs_of(samples, folder)
        how = [type(self.features).__name__, draccus.encode(self.features)]
        name = _digest([how, _fingerprints(made), _fingerprints(posts), self.count])
        kept = store / f"similar-{name}.npy"
        if (chosen := load_cached(kept, (len(posts), self.count))) is not None:
            return chosen
        features = store / f"examples-{_digest([how, _fingerprints(made)])}.npy"
        of_examples = load_cached(features, (len(made), None))
        if of_examples is None:
            of_examples = self.features.make(made)
            _save(features, of_examples)
        chosen = nearest(self.features.make(posts), of_examples, self.count, own)
        _save(kept, chosen)
        return chosen


def _fingerprints(contents: Sequence[TextImagePair]) -> list:
    """The inputs of features: texts, and pictures by size and time of modification."""
    fingerprints = []
    for content in contents:
        stamp = file_stamp(content.picture) if content.picture else None
        fingerprints.append([content.id, content.text, str(content.picture), stamp and list(stamp)])
    return fingerprints


def _digest(value: object) -> str:
    return hashlib.sha256(orjson.dumps(value, default=str)).hexdigest()[:16]


def load_cached(path: Path, shape: tuple[int, int | None]) -> np.ndarray | None:
    """An array that was saved before, of that shape (None: any size); None where it is missing or damaged."""
    try:
        array = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    fits = array.ndim == 2 and all(wanted in (None, size) for wanted, size in zip(shape, array.shape, strict=True))
    return array if fits and np.isfinite(array).all() else None


def _save(path: Path, array: np.ndarray) -> None:
    with complete_file(path) as file:
        np.save(file, array, allow_pickle=False)
