"""Knowledge and expressions from a language model that is asked while the cascade runs (RiVEG, section III).

The prompts are those of ``rivegs distill``; to ask once and use the answers many times, distil them into a store and
take the stage ``replay``. A question that gets no answer leaves its field empty, and ``errors`` says so.
"""

from __future__ import annotations

import dataclasses
import tempfile
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from rivegs_mllm.answer.prompt import expansion_messages, knowledge_messages
from rivegs_mllm.cascade.base import Stage
from rivegs_mllm.cascade.knowledge.base import Knowledge
from rivegs_mllm.cascade.knowledge.expansion import Expander, with_expressions
from rivegs_mllm.config.bounds import Concurrency
from rivegs_mllm.data.images import is_outside
from rivegs_mllm.llm.answer_checks import check_expression, check_knowledge
from rivegs_mllm.llm.client import Answer, Chat, ChatClient, Messages, Sampling
from rivegs_mllm.llm.example_selection import ExampleSelection
from rivegs_mllm.llm.few_shot import type_words
from rivegs_mllm.store.captions import Captions
from rivegs_mllm.types import Prediction, Sample

Check = Callable[[Sample, Answer], tuple[dict, list[str]]]


@Knowledge.register_subclass("llm")
@dataclass
class LlmKnowledge(Knowledge):
    """PLIM: which names the post holds and what is known of them, asked with similar annotated posts as examples.

    ``captions`` are stores or files that say what the pictures show, ``pictures`` shows the picture itself, to a
    teacher that sees; from outside the dataset's folder only those in ``image_root``. At most ``max_concurrency``
    questions are open at a time. ``types`` are the entity types, null for those of the cascade.
    """

    teacher: Chat
    examples: ExampleSelection = field(default_factory=lambda: ExampleSelection(choose="none"))
    captions: list[Path] = field(default_factory=list)
    pictures: bool = False
    image_root: Path | None = None
    sampling: Sampling = field(default_factory=Sampling)
    max_concurrency: Concurrency = 16
    types: list[str] | None = None
    SEES_GOLD: ClassVar[bool] = False

    def load(self, folder: Path) -> Stage:
        """The stage, its teacher opened. Raises UserError where teacher, examples or captions cannot be had."""
        return KnowledgeWriter(self, folder)


class KnowledgeWriter:
    """Fills ``knowledge``."""

    def __init__(self, settings: LlmKnowledge, folder: Path):
        self.settings = settings
        self.folder = folder
        self.captions = Captions(settings.captions)
        self.types = type_words(settings.types or ())
        self.features = tempfile.TemporaryDirectory(prefix="rivegs-examples-")  # those of the examples are made once
        self.ask = _opened(self, settings.teacher, settings.sampling, settings.max_concurrency)

    def __call__(self, samples: Sequence[Sample], partials: Sequence[Prediction]) -> list[Prediction]:
        if not samples:
            return []
        chosen = self.settings.examples.select(samples, self.folder, Path(self.features.name))
        pictures = [_picture(sample, self.folder, self.settings) for sample in samples]
        questions = [
            knowledge_messages(sample, shown, self.captions.of(sample), picture, self.types)
            for sample, shown, (picture, _) in zip(samples, chosen, pictures, strict=True)
        ]
        filled = []
        for sample, partial, answer, (_, unseen) in zip(samples, partials, self.ask(questions), pictures, strict=True):
            where = "knowledge (llm)"
            notes = [f"{where}: {note}" for note in unseen] + _notes(where, sample, answer, check_knowledge)
            filled.append(dataclasses.replace(partial, knowledge=answer.text.strip(), errors=(*partial.errors, *notes)))
        return filled


@Expander.register_subclass("llm")
@dataclass
class LlmExpander(Expander):
    """Entity expansion: "what is X in the Text?", asked in the light of what the picture shows.

    ``captions`` are stores or files that say that; ``knowledge``: whether the post's knowledge stands there too;
    ``pictures`` shows the picture itself, from outside the dataset's folder only those in ``image_root``. At most
    ``max_concurrency`` questions are open at a time.
    """

    teacher: Chat
    captions: list[Path] = field(default_factory=list)
    knowledge: bool = False
    pictures: bool = False
    image_root: Path | None = None
    sampling: Sampling = field(default_factory=Sampling)
    max_concurrency: Concurrency = 16
    SEES_GOLD: ClassVar[bool] = False

    def requires(self) -> Sequence[str]:
        """The knowledge, where it is part of the question."""
        return ("knowledge",) if self.knowledge else ()

    def load(self, folder: Path) -> Stage:
        """The stage, its teacher opened. Raises UserError where teacher or captions cannot be had."""
        return ExpressionWriter(self, folder)


class ExpressionWriter:
    """Fills ``expression``. Entities of a post with the same mention are asked about once."""

    def __init__(self, settings: LlmExpander, folder: Path):
        self.settings = settings
        self.folder = folder
        self.captions = Captions(settings.captions)
        self.ask = _opened(self, settings.teacher, settings.sampling, settings.max_concurrency)

    def __call__(self, samples: Sequence[Sample], partials: Sequence[Prediction]) -> list[Prediction]:
        questions: dict[tuple[str, str], Messages] = {}
        for sample, partial in zip(samples, partials, strict=True):
            known = partial.knowledge if self.settings.knowledge else ""
            background = " ".join(filter(None, (self.captions.of(sample), known)))
            picture, _ = _picture(sample, self.folder, self.settings)
            for entity in partial.entities:
                questions[sample.id, entity.text] = expansion_messages(sample, entity.text, background, picture)
        answers = dict(zip(questions, self.ask(list(questions.values())), strict=True)) if questions else {}
        return [self._filled(sample, partial, answers) for sample, partial in zip(samples, partials, strict=True)]

    def _filled(self, sample: Sample, partial: Prediction, answers: dict[tuple[str, str], Answer]) -> Prediction:
        own = {entity.text: answers[sample.id, entity.text] for entity in partial.entities}
        _, unseen = _picture(sample, self.folder, self.settings)
        notes = [f"expander (llm): {note}" for note in unseen if own]
        notes += [
            note
            for mention, answer in own.items()
            for note in _notes(f"expander (llm): {mention!r}", sample, answer, check_expression)
        ]
        partial = with_expressions(partial, [own[entity.text].text.strip() for entity in partial.entities])
        return dataclasses.replace(partial, errors=(*partial.errors, *notes))


def _opened(stage: object, teacher: Chat, sampling: Sampling, max_concurrency: int) -> ChatClient:
    """The teacher, closed when the stage is released."""
    asker = ChatClient(teacher, sampling, max_concurrency)
    weakref.finalize(stage, asker.close)
    return asker


def _notes(where: str, sample: Sample, answer: Answer, check: Check) -> list[str]:
    """The faults of an answer."""
    if answer.error:
        return [f"{where}: no answer: {answer.error}"]
    return [f"{where}: {fault}" for fault in check(sample, answer)[1]]


def _picture(sample: Sample, folder: Path, settings: LlmKnowledge | LlmExpander) -> tuple[Path | None, tuple[str, ...]]:
    """The picture to show to the teacher, or why it is not shown: one outside the dataset may be private."""
    if not (settings.pictures and sample.image):
        return None, ()
    if is_outside(sample.image, folder, settings.image_root):
        reason = f"its picture, {sample.image!r:.200}, lies outside the dataset's folder"
        return None, (f"{reason}: not sent, unless image_root names the folder it is in",)
    return folder / sample.image, ()
