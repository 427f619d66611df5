"""What is asked about the posts: ``type:`` is knowledge, expression or caption.

Samples reach ``prepare`` without their gold. Only where the names to explain are the gold ones does an expression task
see these, and of them nothing but the mention.
"""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import draccus
import numpy as np
import orjson

from rivegs_mllm.answer.prompt import CAPTION_QUESTION, caption_messages, expansion_messages, knowledge_messages
from rivegs_mllm.cascade.base import blind
from rivegs_mllm.config.bounds import NonNegativeInt, Seed
from rivegs_mllm.data.files import complete_file
from rivegs_mllm.data.images import file_stamp
from rivegs_mllm.data.jsonl import read_predictions
from rivegs_mllm.llm.answer_checks import check_caption, check_expression, check_knowledge
from rivegs_mllm.llm.client import Answer, Turns
from rivegs_mllm.llm.embeddings import Content, Features, contents_of
from rivegs_mllm.llm.few_shot import Example, read_examples
from rivegs_mllm.llm.retrieval import drawn, nearest, own_examples
from rivegs_mllm.store.answer_store import read_store
from rivegs_mllm.store.captions import Captions
from rivegs_mllm.types import Sample, UserError


@dataclass(frozen=True)
class Questions:
    """The questions of a task. ``samples`` are without gold; ``mentions[i]`` is what is asked of ``samples[i]``.

    ``turns(i, mention)`` is the question, made anew at each call; ``check(sample, answer)`` gives what is read from an
    answer and its faults.
    """

    kind: str
    samples: Sequence[Sample]
    mentions: Sequence[Sequence[str]]
    turns: Callable[[int, str], Turns]
    check: Callable[[Sample, Answer], tuple[dict, list[str]]]


class Task(draccus.ChoiceRegistry):
    """The settings of a task."""

    @abstractmethod
    def prepare(self, samples: Sequence[Sample], folder: Path, store: Path) -> Questions:
        """The questions about the samples. What takes long to find out is kept in ``store``. Raises UserError."""


@dataclass
class Examples:
    """The examples in a knowledge prompt: ``count`` of ``file``, ``choose`` similar (MSEA), random or none."""

    file: Path | None = None
    choose: Literal["similar", "random", "none"] = "similar"
    count: NonNegativeInt = 5
    features: Features | None = None
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

    def select(self, samples: Sequence[Sample], folder: Path, store: Path) -> list[list[Example]]:
        """The examples of each post, the most similar last, next to the post. None of them is the post itself."""
        if self.choose == "none":
            return [[] for _ in samples]
        examples = read_examples(self.file)
        own = own_examples(samples, examples)
        if self.choose == "random":
            chosen = drawn(samples, len(examples), self.count, self.seed, own)
        else:
            chosen = self._similar(samples, folder, store, examples, own)
        if (chosen < 0).any():
            raise UserError(
                f"{self.file}: {len(examples)} examples are too few for {self.count} a post, the post itself left out"
            )
        return [[examples[index] for index in reversed(row)] for row in chosen.tolist()]

    def _similar(self, samples, folder: Path, store: Path, examples: list[Example], own) -> np.ndarray:
        made = [Content(one.id, one.text, Path(one.image) if one.image else None) for one in examples]
        posts = contents_of(samples, folder)
        how = [type(self.features).__name__, draccus.encode(self.features)]
        name = _digest([how, _stamps(made), _stamps(posts), self.count])
        kept = store / f"similar-{name}.npy"
        if (chosen := _kept(kept, (len(posts), self.count))) is not None:
            return chosen
        features = store / f"examples-{_digest([how, _stamps(made)])}.npy"
        of_examples = _kept(features, (len(made), None))
        if of_examples is None:
            of_examples = self.features.make(made)
            _save(features, of_examples)
        chosen = nearest(self.features.make(posts), of_examples, self.count, own)
        _save(kept, chosen)
        return chosen


@Task.register_subclass("knowledge")
@dataclass
class KnowledgeTask(Task):
    """Auxiliary knowledge (PLIM): which names the post holds, and what is known of them.

    ``captions`` are stores with captions, or files as RiVEG publishes them; ``pictures`` shows the picture itself.
    """

    examples: Examples
    captions: list[Path] = field(default_factory=list)
    pictures: bool = False

    def prepare(self, samples: Sequence[Sample], folder: Path, store: Path) -> Questions:
        """One question a post."""
        samples = [blind(sample) for sample in samples]
        chosen = self.examples.select(samples, folder, store)
        captions = captions_of(samples, self.captions)

        def turns(index: int, mention: str) -> Turns:
            sample = samples[index]
            return knowledge_messages(
                sample, chosen[index], captions.get(sample.id, ""), _picture(sample, folder, self.pictures)
            )

        return Questions("knowledge", samples, [("",)] * len(samples), turns, check_knowledge)


@Task.register_subclass("expression")
@dataclass
class ExpressionTask(Task):
    """Expressions: what each name stands for, briefly.

    ``mentions`` is ``gold`` or a file of predictions, whose entities are asked about. The background is what
    ``captions`` (stores, or files as RiVEG publishes them) and the stores in ``knowledge`` say about the post.
    """

    mentions: str = "gold"
    captions: list[Path] = field(default_factory=list)
    knowledge: list[Path] = field(default_factory=list)
    pictures: bool = False

    def prepare(self, samples: Sequence[Sample], folder: Path, store: Path) -> Questions:
        """One question a mention of a post."""
        mentions = self._mentions(samples)
        samples = [blind(sample) for sample in samples]
        backgrounds = captions_of(samples, self.captions)
        for path in self.knowledge:
            for (sample, _), rows in read_store(path, "knowledge", clean=True).items():
                backgrounds[sample] = " ".join([backgrounds.get(sample, ""), rows[0].text]).strip()

        def turns(index: int, mention: str) -> Turns:
            sample = samples[index]
            picture = _picture(sample, folder, self.pictures)
            return expansion_messages(sample, mention, backgrounds.get(sample.id, ""), picture)

        return Questions("expression", samples, mentions, turns, check_expression)

    def _mentions(self, samples: Sequence[Sample]) -> list[list[str]]:
        if self.mentions == "gold":
            entities = [sample.entities for sample in samples]
        else:
            predicted = {prediction.id: prediction.entities for prediction in read_predictions(self.mentions)}
            missing = [sample.id for sample in samples if sample.id not in predicted]
            if missing:
                raise UserError(
                    f"{self.mentions}: lacks {len(missing)} of the posts, {missing[0]} the first; predict them too"
                )
            entities = [predicted[sample.id] for sample in samples]
        return [list(dict.fromkeys(entity.text for entity in some)) for some in entities]


@Task.register_subclass("caption")
@dataclass
class CaptionTask(Task):
    """Captions of the pictures. BLIP-2 and its like, which have no chat template, want an empty question."""

    question: str = CAPTION_QUESTION

    def prepare(self, samples: Sequence[Sample], folder: Path, store: Path) -> Questions:
        """One question a post that has a picture."""
        samples = [blind(sample) for sample in samples]
        mentions = [("",) if sample.image else () for sample in samples]

        def turns(index: int, mention: str) -> Turns:
            return caption_messages(folder / samples[index].image, self.question)

        return Questions("caption", samples, mentions, turns, check_caption)


def captions_of(samples: Sequence[Sample], sources: Sequence[Path]) -> dict[str, str]:
    """Captions by sample id, "" where there is none. Raises UserError where the sources know none of the posts."""
    captions = Captions(sources)
    found = {sample.id: captions.of(sample) for sample in samples}
    if sources and not any(found.values()):
        raise UserError(f"task.captions: {', '.join(map(str, sources))} have a caption of none of these posts")
    return found


def _picture(sample: Sample, folder: Path, wanted: bool) -> Path | None:
    return folder / sample.image if wanted and sample.image else None


def _stamps(contents: Sequence[Content]) -> list:
    """What features are made of: texts, and pictures by size and time of change."""
    stamps = []
    for content in contents:
        stamp = file_stamp(content.picture) if content.picture else None
        stamps.append([content.id, content.text, str(content.picture), stamp and list(stamp)])
    return stamps


def _digest(value: object) -> str:
    return hashlib.sha256(orjson.dumps(value, default=str)).hexdigest()[:16]


def _kept(path: Path, shape: tuple[int, int | None]) -> np.ndarray | None:
    """An array that was saved before, of that shape (None: any size); None where it is not there or was damaged."""
    try:
        array = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    fits = array.ndim == 2 and all(wanted in (None, size) for wanted, size in zip(shape, array.shape, strict=True))
    return array if fits and np.isfinite(array).all() else None


def _save(path: Path, array: np.ndarray) -> None:
    with complete_file(path) as file:
        np.save(file, array, allow_pickle=False)
