"""Knowledge: what is known of the names in a post.

A knowledge writer fills ``knowledge``, a text that the tagger reads beside the post.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import draccus

from data_builders.formats.conll import read_knowledge_posts
from rivegs_mllm.cascade.base import Stage, StageError, pass_through
from rivegs_mllm.cascade.knowledge.encyclopedia import read_encyclopedia
from rivegs_mllm.config.bounds import NonNegativeInt, Seed
from rivegs_mllm.store.answer_store import read_store
from rivegs_mllm.types import Prediction, Sample, UserError

Texts = Callable[[Sample], Sequence[str]]
"""The texts that are known of a post, one a teacher, none where nothing is."""


class Knowledge(draccus.PluginRegistry, discover_packages_path="rivegs_mllm.cascade"):
    """The settings of a knowledge writer, chosen by ``type:``."""


@Knowledge.register_subclass("none")
@dataclass
class NoKnowledge(Knowledge):
    """No knowledge."""

    SEES_GOLD: ClassVar[bool] = False

    def load(self, folder: Path) -> Stage:
        """The stage."""
        return pass_through


@Knowledge.register_subclass("replay")
@dataclass
class ReplayKnowledge(Knowledge):
    """Texts that were written before.

    ``source``: null for those in the samples themselves; a store of ``rivegs distill`` (a folder), of which answers
    with faults are left out; an encyclopedia (``.jsonl``), looked up by the names in the post; a file in RiVEG's CoNLL
    form (``.txt``), looked up by the post's words. ``teacher`` is the place, from 0, of
    the text among those of the post, null to draw one by ``seed`` and the post's id. ``fallback`` is the text of a
    post of which nothing is known; where it is null, such a post is an error.
    """

    source: Path | None = None
    teacher: NonNegativeInt | None = 0
    seed: Seed = 0
    fallback: str | None = None
    SEES_GOLD: ClassVar[bool] = False

    def load(self, folder: Path) -> Stage:
        """The stage. Raises UserError where the source cannot be read."""
        return KnowledgeReplay(_texts(self.source), self)


class KnowledgeReplay:
    """Fills ``knowledge`` with the one of a post's texts that ``settings`` ask for."""

    def __init__(self, texts: Texts, settings: ReplayKnowledge):
        self.texts = texts
        self.settings = settings

    def __call__(self, samples: Sequence[Sample], partials: Sequence[Prediction]) -> list[Prediction]:
        return [
            dataclasses.replace(partial, knowledge=self._text(sample))
            for sample, partial in zip(samples, partials, strict=True)
        ]

    def _text(self, sample: Sample) -> str:
        texts, teacher = self.texts(sample), self.settings.teacher
        if not texts:
            if self.settings.fallback is None:
                raise StageError(
                    f"knowledge (replay): nothing is known of post {sample.id!r} in {_name(self.settings.source)}; "
                    "give it a text there, or set `fallback` to the text to use instead"
                )
            return self.settings.fallback
        if teacher is None:
            return random.Random(f"{self.settings.seed}/{sample.id}").choice(texts)
        if teacher not in range(len(texts)):
            raise StageError(
                f"knowledge (replay): post {sample.id!r} has {len(texts)} texts in {_name(self.settings.source)}, "
                f"but `teacher` is {teacher}; it counts from 0"
            )
        return texts[teacher]


def _name(source: Path | None) -> str:
    return "the dataset" if source is None else str(source)


def _texts(source: Path | None) -> Texts:
    """The look-up of a post's texts. Raises UserError for a source that is not of a known form."""
    if source is None:
        return lambda sample: sample.knowledge
    if source.is_dir():
        answers = read_store(source, "knowledge", clean=True)
        return lambda sample: [row.text for row in answers.get((sample.id, ""), ())]
    if source.suffix == ".jsonl":
        return _encyclopedia_texts(source)
    if source.suffix == ".txt":
        posts = dict(reversed(read_knowledge_posts(source)))  # of posts with the same words the first one's
        return lambda sample: (posts[sample.tokens],) if sample.tokens in posts else ()
    raise UserError(
        f"knowledge (replay): source: {source} is no store (a folder), no encyclopedia (.jsonl) and no knowledge in "
        "CoNLL form (.txt)"
    )


def _encyclopedia_texts(source: Path) -> Texts:
    """The texts on all names of a post, joined teacher by teacher."""
    encyclopedia = read_encyclopedia(source)

    def texts(sample: Sample) -> list[str]:
        named = [entry.knowledge for entry in encyclopedia.names_in(sample.tokens) if entry.knowledge]
        return [" ".join(own) for own in zip(*named, strict=False)]

    return texts
