"""The questions about the posts: ``type:`` is knowledge, expression or caption.

Samples reach ``prepare`` without their gold, except where an expression task asks about the gold names; of these it
uses nothing but the mention.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import draccus

from rivegs_mllm.answer.prompt import CAPTION_QUESTION, caption_messages, expansion_messages, knowledge_messages
from rivegs_mllm.cascade.base import without_labels
from rivegs_mllm.data.dataset_info import read_info
from rivegs_mllm.data.jsonl import read_predictions
from rivegs_mllm.llm.answer_checks import check_caption, check_expression, check_knowledge
from rivegs_mllm.llm.client import Answer, Messages
from rivegs_mllm.llm.example_selection import ExampleSelection
from rivegs_mllm.llm.few_shot import type_words
from rivegs_mllm.store.answer_store import read_store
from rivegs_mllm.store.captions import Captions
from rivegs_mllm.types import Sample, UserError


@dataclass(frozen=True)
class Questions:
    """The questions of a task. ``samples`` are without gold; ``mentions[i]`` is what is asked of ``samples[i]``.

    ``messages(i, mention)`` is the question, made at each call; ``check(sample, answer)`` gives what is read from an
    answer and its faults.
    """

    kind: str
    samples: Sequence[Sample]
    mentions: Sequence[Sequence[str]]
    messages: Callable[[int, str], Messages]
    check: Callable[[Sample, Answer], tuple[dict, list[str]]]


class Task(draccus.ChoiceRegistry):
    """The settings of a task."""

    @abstractmethod
    def prepare(self, samples: Sequence[Sample], folder: Path, store: Path) -> Questions:
        """The questions about the samples. What takes long to find out is kept in ``store``. Raises UserError."""


@Task.register_subclass("knowledge")
@dataclass
class KnowledgeTask(Task):
    """Auxiliary knowledge (PLIM, RiVEG section III-A): which names the post holds, and what is known of them.

    ``captions`` are stores with captions, or files as RiVEG publishes them; ``pictures`` shows the picture itself.
    """

    examples: ExampleSelection
    captions: list[Path] = field(default_factory=list)
    pictures: bool = False

    def prepare(self, samples: Sequence[Sample], folder: Path, store: Path) -> Questions:
        """One question a post."""
        samples = [without_labels(sample) for sample in samples]
        chosen = self.examples.select(samples, folder, store)
        captions = captions_of(samples, self.captions)
        info = read_info(folder)
        types = type_words(info.types if info else ())  # not those that entities have: gold is in no prompt

        def messages(index: int, mention: str) -> Messages:
            sample = samples[index]
            picture = _picture(sample, folder, self.pictures)
            return knowledge_messages(sample, chosen[index], captions.get(sample.id, ""), picture, types)

        return Questions("knowledge", samples, [("",)] * len(samples), messages, check_knowledge)


@Task.register_subclass("expression")
@dataclass
class ExpressionTask(Task):
    """Expressions (RiVEG section III-B): what each name stands for, briefly.

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
        samples = [without_labels(sample) for sample in samples]
        backgrounds = captions_of(samples, self.captions)
        for path in self.knowledge:
            for (sample, _), rows in read_store(path, "knowledge", clean=True).items():
                backgrounds[sample] = " ".join([backgrounds.get(sample, ""), rows[0].text]).strip()

        def messages(index: int, mention: str) -> Messages:
            sample = samples[index]
            picture = _picture(sample, folder, self.pictures)
            return expansion_messages(sample, mention, backgrounds.get(sample.id, ""), picture)

        return Questions("expression", samples, mentions, messages, check_expression)

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
    """Captions of the pictures. BLIP-2 and other models without a chat template want an empty question."""

    question: str = CAPTION_QUESTION

    def prepare(self, samples: Sequence[Sample], folder: Path, store: Path) -> Questions:
        """One question a post that has a picture."""
        samples = [without_labels(sample) for sample in samples]
        mentions = [("",) if sample.image else () for sample in samples]

        def messages(index: int, mention: str) -> Messages:
            return caption_messages(folder / samples[index].image, self.question)

        return Questions("caption", samples, mentions, messages, check_caption)


def captions_of(samples: Sequence[Sample], sources: Sequence[Path]) -> dict[str, str]:
    """Captions by sample id, "" where there is none. Raises UserError where the sources know none of the posts."""
    captions = Captions(sources)
    found = {sample.id: captions.of(sample) for sample in samples}
    if sources and not any(found.values()):
        raise UserError(f"task.captions: {', '.join(map(str, sources))} have a caption of none of these posts")
    return found


def _picture(sample: Sample, folder: Path, wanted: bool) -> Path | None:
    return folder / sample.image if wanted and sample.image else None
